/**
 * The workload's mounts: which of them move, are made again, or can't move; and where a file comes from.
 *
 * A file that lies in the node's root file system must be the same on the destination; one on /data, on a volume, a tmpfs or in the
 * workload's own writable layer moves with it.
 */
import { lstat, stat, statfs } from "node:fs/promises";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { mountOf, mountOption, shown, type Mount } from "../../host/procfs.js";
import type { Finding } from "../../model/plan.js";
import { HIDDEN_PROC } from "../../runtimes/process/hidden.js";
import { finder, MIB, sizeText } from "./findings.js";
import { taskName } from "./tasks.js";
import type { Task, Tree } from "./tree.js";

const { block, warn } = finder("source");

/** File systems that criu makes anew, with their content where there is any. */
const RECREATED = new Set([
  "proc",
  "sysfs",
  "tmpfs",
  "devtmpfs",
  "devpts",
  "mqueue",
  "cgroup",
  "cgroup2",
  "securityfs",
  "debugfs",
  "tracefs",
  "pstore",
  "binfmt_misc",
  "fusectl",
]);
const REMOTE = /^(?:fuse(?:$|\.|blk)|nfs|cifs|smb|9p|ceph|afs|glusterfs|lustre|virtiofs|autofs)/;
/** The content of tmpfs mounts travels as a tar file inside the blackout. */
const TMPFS_NOTE_BYTES = 64 * MIB;

export interface MountView {
  mounts: Mount[];
  /** Mount ids that lie in the workload's volume. */
  volume: Set<number>;
  /** Writable layers of the root overlay, as paths on the node. */
  upper: string[];
}

const identity = (stats: { dev: number; ino: number }): string => `${stats.dev}:${stats.ino}`;

/** Directories of the volume that may be bound into the workload: itself and two levels below. */
async function volumeDirs(volumeDir: string): Promise<string[]> {
  const below = async (dir: string): Promise<string[]> =>
    (await readdir(dir, { withFileTypes: true }).catch(() => []))
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(dir, entry.name));
  const first = await below(volumeDir);
  return [volumeDir, ...first, ...(await below(join(volumeDir, "volumes")))];
}

/** Finds out which mounts of the tree are the volume's. `external`: mount points that the runtime passes by name. */
export async function viewMounts(tree: Tree, volumeDir: string, external: readonly string[]): Promise<MountView> {
  const { root, mounts } = tree;
  const volume = new Set<number>();
  const upper: string[] = [];
  if (root === undefined) return { mounts, volume, upper };
  const dirs = await volumeDirs(volumeDir);
  const own = new Set<string>();
  for (const dir of dirs) {
    const stats = await stat(dir).catch(() => undefined);
    if (stats) own.add(identity(stats));
  }
  await Promise.all(
    mounts.map(async (mount) => {
      if (external.includes(mount.point)) volume.add(mount.id);
      if (mount.point === "/" || RECREATED.has(mount.fsType)) return;
      const stats = await stat(`/proc/${root.pid}/root${mount.point}`).catch(() => undefined);
      if (stats && own.has(identity(stats))) volume.add(mount.id);
    }),
  );
  const rootMount = mountOf(mounts, "/");
  if (rootMount?.fsType === "overlay") {
    const named = mountOption(rootMount.superOptions, "upperdir");
    for (const dir of [named, join(volumeDir, "root"), join(volumeDir, "upper")]) {
      if (dir !== undefined && (await stat(dir).catch(() => undefined))?.isDirectory()) upper.push(dir);
    }
  }
  return { mounts, volume, upper };
}

/** Where a file that the workload uses lies. `mountId`: from fdinfo, when known. */
export async function originOf(view: MountView, path: string, mountId?: number): Promise<"node" | "moves"> {
  const mount = view.mounts.find((entry) => entry.id === mountId) ?? mountOf(view.mounts, path);
  if (mount === undefined) return "moves";
  if (view.volume.has(mount.id) || RECREATED.has(mount.fsType)) return "moves";
  if (mount.point !== "/") return "node";
  for (const layer of view.upper) {
    if ((await lstat(join(layer, path)).catch(() => undefined)) !== undefined) return "moves";
  }
  return "node";
}

export function checkMounts(view: MountView): Finding[] {
  const findings: Finding[] = [];
  for (const mount of view.mounts) {
    if (view.volume.has(mount.id) || RECREATED.has(mount.fsType)) continue;
    const what = `${shown(mount.point)} (${mount.fsType}, ${shown(mount.source)})`;
    if (REMOTE.test(mount.fsType)) {
      findings.push(
        block(
          "mounts",
          `${what} is a network or user file system, which the engine can't take along`,
          "unmount it in the workload, or use /data",
        ),
      );
    } else if (mount.point !== "/") {
      findings.push(
        block(
          "mounts",
          `${what} was mounted inside the workload and is not part of it`,
          "unmount it; files that shall move belong under /data",
        ),
      );
    }
  }
  return findings;
}

/** The engine leaves out what hides parts of /proc, so nothing may be open there. */
export function checkHiddenProc(tree: Tree): Finding[] {
  const points = HIDDEN_PROC.map((name) => `/proc/${name}`);
  const hiding = new Map(tree.mounts.filter(({ point }) => points.includes(point)).map((m) => [m.id, m.point]));
  const held = (task: Task, what: string, point: string): Finding =>
    block(
      "open files",
      `${taskName(task)}, ${what}: is open on ${point}, which is hidden from workloads and can't be saved`,
      "close it in the program",
    );
  return tree.tasks.flatMap((task) => [
    ...task.files.flatMap(({ fd, info }) => {
      const point = hiding.get(info.mountId);
      return point === undefined ? [] : [held(task, `descriptor ${fd}`, point)];
    }),
    ...task.links.flatMap(({ name, path }) => {
      const point = [...hiding.values()].find((hidden) => path === hidden);
      return point === undefined ? [] : [held(task, name, point)];
    }),
  ]);
}

/** What lies on tmpfs mounts (/tmp, /run, /dev/shm) is copied while the workload is frozen. */
export async function checkTmpfs(tree: Tree): Promise<Finding[]> {
  const { root } = tree;
  if (root === undefined) return [];
  const seen = new Map<string, string>();
  for (const mount of tree.mounts) if (mount.fsType === "tmpfs") seen.set(mount.device, mount.point);
  let total = 0;
  for (const point of seen.values()) {
    const stats = await statfs(`/proc/${root.pid}/root${point}`).catch(() => undefined);
    if (stats) total += (stats.blocks - stats.bfree) * stats.bsize;
  }
  if (total < TMPFS_NOTE_BYTES) return [];
  return [
    warn(
      "tmpfs",
      `${sizeText(total)} lie on tmpfs mounts (/tmp, /run, /dev/shm), which are copied while the workload is frozen`,
      "expect a longer blackout; keep large files under /data",
    ),
  ];
}

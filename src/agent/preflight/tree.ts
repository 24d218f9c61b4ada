/**
 * One look at the whole process tree: everything that the source's checks need, read once, without stopping anything.
 *
 * The checks over it (tasks.ts, open-files.ts, sockets.ts, memory.ts, mounts.ts) are pure. The tree runs on while it is
 * read: a process or file that vanishes meanwhile is left out, what appears later is not seen.
 */
import { stat } from "node:fs/promises";
import type { Stats } from "node:fs";
import {
  ifThere,
  namespaceOf,
  openFiles,
  parseKeyed,
  parseMaps,
  parseMountinfo,
  parseStat,
  readProc,
  type MapEntry,
  type Mount,
  type OpenFile,
  type TaskStat,
} from "../../host/procfs.js";
import { readlink, readdir } from "node:fs/promises";

export const NAMESPACE_KINDS = ["mnt", "pid", "net", "user", "uts", "ipc", "time", "cgroup"] as const;
export type NamespaceKind = (typeof NAMESPACE_KINDS)[number];

/** A file (not anonymous memory) that a process has mapped. */
export interface MappedFile {
  /** As the link in map_files says: exact, with " (deleted)" when it was. */
  path: string;
  perms: string;
  /** What is behind the mapping itself, whatever is at the path now. */
  stats?: Stats;
  /** Path through which the content can be read now. */
  at: string;
}

export interface Task {
  /** Pid inside the workload's namespace, and on the node. */
  vpid: number;
  pid: number;
  stat: TaskStat;
  status: Map<string, string>;
  /** Thread ids in uninterruptible sleep. */
  blockedThreads: number;
  namespaces: Partial<Record<NamespaceKind, string>>;
  files: OpenFile[];
  mapped: MappedFile[];
  /** Names in maps that are no files: [heap], /SYSV..., anon_inode:... */
  special: string[];
  /** Targets and stats of cwd, root and exe. */
  links: { name: "cwd" | "root" | "exe"; path: string; stats?: Stats }[];
  ioUring: boolean;
  cgroups: string;
}

export interface Tree {
  tasks: Task[];
  /** Host pids that `pids` named and that are no more. */
  vanished: number[];
  /** The task whose parent is outside: what the engine is told to dump. */
  root?: Task;
  mounts: Mount[];
  /** Namespaces of the agent itself. */
  own: Partial<Record<NamespaceKind, string>>;
}

async function namespaces(pid: number | "self"): Promise<Partial<Record<NamespaceKind, string>>> {
  const found: Partial<Record<NamespaceKind, string>> = {};
  await Promise.all(
    NAMESPACE_KINDS.map(async (kind) => {
      const name = await namespaceOf(pid, kind);
      if (name !== undefined) found[kind] = name;
    }),
  );
  return found;
}

/** Each file once per process: hundreds of mappings are a few dozen files. */
async function mappedFiles(pid: number, maps: readonly MapEntry[]): Promise<MappedFile[]> {
  const first = new Map<string, MapEntry>();
  for (const entry of maps) {
    if (entry.inode === "0" || !entry.path.startsWith("/")) continue;
    const key = `${entry.device} ${entry.inode} ${entry.path}`;
    const known = first.get(key);
    if (known === undefined || (!known.perms.includes("x") && entry.perms.includes("x"))) first.set(key, entry);
  }
  const files = await Promise.all(
    [...first.values()].map(async (entry): Promise<MappedFile | undefined> => {
      const at = `/proc/${pid}/map_files/${entry.range}`;
      const [path, stats] = await Promise.all([ifThere(() => readlink(at)), ifThere(() => stat(at))]);
      if (path === undefined) return undefined;
      return { path, perms: entry.perms, at, ...(stats === undefined ? {} : { stats }) };
    }),
  );
  return files.filter((file) => file !== undefined);
}

async function link(pid: number, name: "cwd" | "root" | "exe"): Promise<Task["links"]> {
  const at = `/proc/${pid}/${name}`;
  const [path, stats] = await Promise.all([ifThere(() => readlink(at)), ifThere(() => stat(at))]);
  if (path === undefined) return [];
  return [{ name, path, ...(stats === undefined ? {} : { stats }) }];
}

async function blockedThreads(pid: number): Promise<number> {
  const ids = (await ifThere(() => readdir(`/proc/${pid}/task`))) ?? [];
  const stats = await Promise.all(ids.map((id) => readProc(pid, `task/${id}/stat`)));
  return stats.filter((text) => parseStat(text ?? "")?.state === "D").length;
}

async function inspectTask(vpid: number, pid: number): Promise<Task | undefined> {
  const [statText, statusText] = await Promise.all([readProc(pid, "stat"), readProc(pid, "status")]);
  const parsed = parseStat(statText ?? "");
  if (parsed === undefined || statusText === undefined || parsed.state === "X") return undefined;
  const zombie = parsed.state === "Z";
  const [spaces, files, mapsText, cwd, root, exe, cgroups, blocked] = await Promise.all([
    namespaces(pid),
    zombie ? [] : openFiles(pid),
    zombie ? "" : readProc(pid, "maps"),
    link(pid, "cwd"),
    link(pid, "root"),
    link(pid, "exe"),
    readProc(pid, "cgroup"),
    blockedThreads(pid),
  ]);
  const maps = parseMaps(mapsText ?? "");
  const mapped = await mappedFiles(pid, maps);
  return {
    vpid,
    pid,
    stat: parsed,
    status: parseKeyed(statusText),
    blockedThreads: blocked,
    namespaces: spaces,
    files,
    mapped,
    special: [...new Set(maps.map((entry) => entry.path).filter((path) => path !== ""))],
    links: [...cwd, ...root, ...exe],
    ioUring: maps.some((entry) => entry.path.startsWith("anon_inode:[io_uring]")),
    cgroups: cgroups ?? "",
  };
}

/**
 * Links of another mount namespace are paths from the top of all its mounts: above the workload's root when the agent
 * itself runs in a chroot. Everything here (and mountinfo) speaks of paths from the workload's root.
 */
function belowRoot(task: Task, top: string): Task {
  const cut = (path: string): string =>
    path === top ? "/" : path.startsWith(`${top}/`) ? path.slice(top.length) : path;
  return {
    ...task,
    files: task.files.map((file) => ({ ...file, link: cut(file.link) })),
    mapped: task.mapped.map((file) => ({ ...file, path: cut(file.path) })),
    links: task.links.map((link) => ({ ...link, path: cut(link.path) })),
  };
}

/** Reads every process of the tree. `pids`: pid inside the namespace -> pid on the node. */
export async function inspectTree(pids: Readonly<Record<string, number>>): Promise<Tree> {
  const own = await namespaces("self");
  let tasks: Task[] = [];
  const vanished: number[] = [];
  const entries = Object.entries(pids);
  // A few at a time: a hundred processes with a hundred files each would be ten thousand reads at once.
  for (let at = 0; at < entries.length; at += 16) {
    await Promise.all(
      entries.slice(at, at + 16).map(async ([vpid, pid]) => {
        const task = await inspectTask(Number(vpid), pid);
        if (task === undefined) vanished.push(pid);
        else tasks.push(task);
      }),
    );
  }
  tasks.sort((a, b) => a.vpid - b.vpid);
  const inside = new Set(tasks.map((task) => task.pid));
  const isRoot = (task: Task): boolean => !inside.has(task.stat.ppid);
  const top = tasks.find(isRoot)?.links.find((link) => link.name === "root")?.path ?? "/";
  if (top !== "/") tasks = tasks.map((task) => belowRoot(task, top));
  const root = tasks.find(isRoot);
  const mounts = root === undefined ? [] : parseMountinfo((await readProc(root.pid, "mountinfo")) ?? "");
  return { tasks, vanished, mounts, own, ...(root === undefined ? {} : { root }) };
}

/**
 * What workloads must not see of the node: files of its root, which they all have below their own, and what its kernel shows in
 * /proc. Root inside a workload reads any file there is.
 *
 * Two layers of the overlay of their own, above the node's: nothing is mounted for them, so criu has nothing to save, and
 * each node hides its own, whatever a peer's images say. The lower one has a whiteout for each path. The upper one has an
 * empty directory for those that stay as such: what is mounted at a workload's start is mounted there at its restore, too.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { arch } from "node:os";
import { basename, dirname, join } from "node:path";

/** Ferry's keys and policy, and other ways in. */
const HIDDEN = [
  "/etc/ferry",
  "/etc/gshadow",
  "/etc/gshadow-",
  "/etc/shadow",
  "/etc/shadow-",
  "/etc/ssh",
  "/root/.ssh",
  "/var/lib/systemd/random-seed",
];

/**
 * In /proc, such as are there: of the node's devices, file systems and other workloads, some of it writable by root
 * (/proc/scsi detaches disks). Docker hides about the same. See deploy/hooks/hide-proc.pl.
 */
export const HIDDEN_PROC = [
  "acpi",
  "asound",
  "fs",
  "kcore",
  "keys",
  "latency_stats",
  "sched_debug",
  "scsi",
  "timer_list",
  "timer_stats",
];

/** Last words of hide-proc.pl. */
export const HIDE_PROC = [arch(), ...HIDDEN_PROC].join(" ");

export interface ToHide {
  /** Not there for a workload. */
  gone: readonly string[];
  /** Empty directories for a workload. */
  empty: readonly string[];
}

/**
 * The layers, topmost first, made if they are not there: mounted ones must not change, so each list has its own.
 * @param more absolute paths besides the usual ones; what lies in a directory that is not there needs no hiding
 */
export function hiddenLayers(runDir: string, more: ToHide): string[] {
  const empty = more.empty.flatMap(places);
  // What lies in something hidden is hidden with it.
  const paths = [...new Set([...empty, ...[...HIDDEN, ...more.gone].flatMap(places)])].sort();
  const tops = paths.filter((path) => !paths.some((other) => path.startsWith(`${other}/`)));
  const kept = tops.filter((path) => empty.includes(path));
  const said = [...tops, "", ...kept].join("\n");
  const digest = createHash("sha256").update(said).digest("hex").slice(0, 16);
  const dir = join(runDir, `hidden-${digest}`);
  const layers = [join(dir, "empty"), join(dir, "gone")];
  if (existsSync(dir)) return layers;
  mkdirSync(runDir, { recursive: true, mode: 0o750 });
  const fresh = mkdtempSync(join(runDir, "hidden.new-"));
  for (const path of kept) {
    likeTheNode(join(fresh, "empty"), dirname(path));
    mkdirSync(join(fresh, "empty", path), { mode: 0o700 });
  }
  for (const path of tops) {
    likeTheNode(join(fresh, "gone"), dirname(path));
    execFileSync("mknod", [join(fresh, "gone", path), "c", "0", "0"], { stdio: "pipe" });
  }
  for (const layer of ["empty", "gone"]) likeTheNode(join(fresh, layer), "/");
  try {
    renameSync(fresh, dir);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    if (!existsSync(dir)) throw error;
  }
  return layers;
}

/** Where a path is, with no link on the way, and what it leads to if it is a link itself. */
function places(path: string): string[] {
  if (!existsSync(dirname(path))) return [];
  const here = join(realpathSync(dirname(path)), basename(path));
  const there = existsSync(here) ? realpathSync(here) : here;
  return [here, there].filter((place) => place !== "/");
}

/** Directories that several layers have look like the topmost's: so they get the node's owner and mode. */
function likeTheNode(layer: string, path: string): void {
  if (path !== "/") likeTheNode(layer, dirname(path));
  const { mode, uid, gid } = statSync(path);
  const dir = join(layer, path);
  mkdirSync(dir, { recursive: true });
  chownSync(dir, uid, gid);
  chmodSync(dir, mode & 0o7777);
}

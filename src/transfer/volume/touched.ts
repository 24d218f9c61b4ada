/**
 * Files that tasks may be changing without a trace in their times, by name. Tasks that are gone are skipped.
 *
 * Names are the last part of the path only: a task's view of paths (its mounts, its overlay) is not the node's.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { arch } from "node:os";
import { basename } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseMaps } from "../../host/procfs.js";

/** A task in a long call sleeps in it (for the disk) or copies; while it copies, its call can't be told. */
const LOOKS = 3;
const LOOK_AGAIN_MS = 15;

/** Calls that write: the number of the argument that is the descriptor written to, by system call number. */
const WRITES: Record<string, Readonly<Record<string, number>>> = {
  // write, pwrite64, writev, pwritev, pwritev2, fallocate, ftruncate, sendfile; splice and copy_file_range
  x64: { 1: 0, 18: 0, 20: 0, 296: 0, 328: 0, 285: 0, 77: 0, 40: 0, 275: 2, 326: 2 },
  arm64: { 64: 0, 68: 0, 66: 0, 70: 0, 287: 0, 47: 0, 46: 0, 71: 0, 76: 2, 285: 2 },
};

const read = (path: string): string => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};

function threads(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

/** Last part of a path, also without the kernel's word that it was deleted: another name of it may be there. */
const names = (path: string): string[] => [basename(path), basename(path.replace(/ \(deleted\)$/, ""))];

/** `pids` and everything that they have forked by now. */
function withChildren(pids: Iterable<number>): Set<number> {
  const all = new Set(pids);
  for (const pid of all) {
    for (const tid of threads(pid)) {
      for (const child of read(`/proc/${pid}/task/${tid}/children`).split(" "))
        if (child !== "") all.add(Number(child));
    }
  }
  return all;
}

function mappedBy(pid: number): string[] {
  return parseMaps(read(`/proc/${pid}/maps`)).flatMap((entry) =>
    entry.perms.endsWith("s") && entry.path.startsWith("/") ? names(entry.path) : [],
  );
}

/**
 * Files that the tree has mapped shared. Who has a mapping may fork and end while this looks: so it looks until no new
 * task is found. A mapping that was there before and is there afterwards is found.
 */
export function sharedMappings(pids: readonly number[]): Set<string> {
  const found = new Set<string>();
  const seen = new Set<number>();
  for (;;) {
    const fresh = [...withChildren(pids)].filter((pid) => !seen.has(pid));
    if (fresh.length === 0) return found;
    for (const pid of fresh) {
      seen.add(pid);
      for (const name of mappedBy(pid)) found.add(name);
    }
  }
}

function writtenBy(pid: number): string[] {
  const calls = WRITES[arch()] ?? {};
  return threads(pid).flatMap((tid) => {
    // "running", or the call's number and its arguments
    const [call = "", ...args] = read(`/proc/${pid}/task/${tid}/syscall`).split(" ");
    const at = calls[call];
    if (at === undefined) return [];
    try {
      const path = readlinkSync(`/proc/${pid}/fd/${Number(args[at])}`);
      return path.startsWith("/") ? names(path) : [];
    } catch {
      return [];
    }
  });
}

/** Files with a write under way: the kernel stamps a file before it copies, and a long call may copy for seconds. */
export async function writesUnderWay(pids: readonly number[]): Promise<Set<string>> {
  const found = new Set<string>();
  for (let look = 0; look < LOOKS; look += 1) {
    if (look > 0) await sleep(LOOK_AGAIN_MS);
    for (const pid of withChildren(pids)) for (const name of writtenBy(pid)) found.add(name);
  }
  return found;
}

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

/** Enough for threads that wait for a core; a call that takes longer is one to mind. */
const LOOKS = 30;
const LOOK_AGAIN_MS = 10;

/** Calls that write: the number of the argument that is the descriptor written to, by system call number. */
const WRITES: Record<string, Readonly<Record<string, number>>> = {
  // write, pwrite64, writev, pwritev, pwritev2, fallocate, ftruncate, sendfile; splice and copy_file_range
  x64: { 1: 0, 18: 0, 20: 0, 296: 0, 328: 0, 285: 0, 77: 0, 40: 0, 275: 2, 326: 2 },
  arm64: { 64: 0, 68: 0, 66: 0, 70: 0, 287: 0, 47: 0, 46: 0, 71: 0, 76: 2, 285: 2 },
};

/** Calls that open a file. */
const OPENS: Record<string, readonly string[]> = { x64: ["2", "257", "437"], arm64: ["56", "437"] };

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

/** Files that a process has open for writing. */
function writable(pid: number): string[] {
  let fds: string[] = [];
  try {
    fds = readdirSync(`/proc/${pid}/fd`);
  } catch {
    // it is gone
  }
  return fds.flatMap((fd) => {
    const flags = /^flags:\s*([0-7]+)$/m.exec(read(`/proc/${pid}/fdinfo/${fd}`))?.[1] ?? "";
    return (Number.parseInt(flags, 8) & 3) === 0 ? [] : namesOf(pid, fd);
  });
}

function namesOf(pid: number, fd: string): string[] {
  try {
    const path = readlinkSync(`/proc/${pid}/fd/${fd}`);
    return path.startsWith("/") ? names(path) : [];
  } catch {
    return [];
  }
}

/** What a thread can show that it has done since: time in its own code, calls of write that have ended. */
function deeds(thread: string): string {
  const stat = read(`${thread}/stat`);
  const userTicks = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[11];
  return `${userTicks} ${/^syscw: (\d+)$/m.exec(read(`${thread}/io`))?.[1]}`;
}

/**
 * Files with a write under way that began before this looked, and may go on when it has: the kernel stamps a file before it
 * copies, and a long call may copy for seconds. A thread that is seen outside of such a call is in none that is that old.
 */
export async function writesUnderWay(pids: readonly number[]): Promise<Set<string>> {
  const calls = WRITES[arch()] ?? {};
  let open: { pid: number; thread: string; deeds: string; call: string }[] | undefined;
  for (let look = 0; look < LOOKS && open?.length !== 0; look += 1) {
    if (look > 0) await sleep(LOOK_AGAIN_MS);
    open ??= [...withChildren(pids)].flatMap((pid) =>
      threads(pid).map((tid) => {
        const thread = `/proc/${pid}/task/${tid}`;
        return { pid, thread, deeds: deeds(thread), call: "" };
      }),
    );
    open = open.filter((one) => {
      // "running", or the call's number and its arguments
      one.call = read(`${one.thread}/syscall`).trim();
      const writes = one.call === "running" || calls[one.call.split(" ", 1)[0] ?? ""] !== undefined;
      return writes && deeds(one.thread) === one.deeds;
    });
  }
  const found = new Set<string>();
  for (const { pid, call } of open ?? []) {
    const [number = "", ...args] = call.split(" ");
    const at = calls[number];
    const fd = at === undefined ? Number.NaN : Number(args[at]);
    for (const name of Number.isNaN(fd) ? writable(pid) : namesOf(pid, String(fd))) found.add(name);
  }
  return found;
}

/** What a process waits in when it opens a file, by its call and arguments; else undefined. And the processor's time that it had. */
export function whatItDoes(pid: number): { opens: string | undefined; ticks: string } {
  const call = read(`/proc/${pid}/syscall`);
  const stat = read(`/proc/${pid}/stat`);
  const opens = OPENS[arch()]?.includes(call.split(" ", 1)[0] ?? "") === true ? call : undefined;
  return {
    opens,
    ticks: stat
      .slice(stat.lastIndexOf(")") + 2)
      .split(" ")
      .slice(11, 13)
      .join(" "),
  };
}

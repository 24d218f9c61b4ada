/** What /proc tells of a thread that is to be stopped: its state, the call it is in, where it has a syscall instruction. */
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from "node:fs";

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

/** One letter, "Z" when there is no such thread. */
export function threadState(tid: number): string {
  return /^State:\t(\S)/m.exec(read(`/proc/${tid}/status`) ?? "")?.[1] ?? "Z";
}

/** Is there a signal in `status` (/proc/<tid>/status) that is not blocked? */
export function hasPendingSignal(status: string): boolean {
  const mask = (key: string): bigint =>
    BigInt(`0x${new RegExp(`^${key}:\\t([0-9a-f]+)$`, "m").exec(status)?.[1] ?? "0"}`);
  return ((mask("SigPnd") | mask("ShdPnd")) & ~mask("SigBlk")) !== 0n;
}

/** Number of the system call that a thread waits in; -1: it runs, or is in none; undefined: not to be known. */
export function currentCall(pid: number, tid: number): number | undefined {
  const text = read(`/proc/${pid}/task/${tid}/syscall`);
  if (text === undefined) return undefined;
  return text.startsWith("running") ? -1 : Number(text.split(" ")[0]);
}

/**
 * Does the freezer of cgroup v2 hold it? It comes out for a stop, but would not run a single instruction. One that sleeps where
 * signals are taken is there for that: stops and tracing have states of their own.
 */
const isFrozen = (tid: number, state: string): boolean =>
  state === "S" && /^(?:get_signal|do_freezer_trap)/.test(read(`/proc/${tid}/wchan`) ?? "");

/**
 * Threads of a process, best first for a short stop: one that waits in a call that the kernel restarts unnoticed, then one that
 * runs, then the others. Threads that can't be stopped (D), are frozen or have ended are left out.
 */
export function threadsToStop(pid: number, fragile: ReadonlySet<number>): number[] {
  let names: string[];
  try {
    names = readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
  const rank = (tid: number): number => {
    const state = threadState(tid);
    if (state === "Z" || state === "X" || state === "D" || isFrozen(tid, state)) return 9;
    const call = currentCall(pid, tid);
    if (call === undefined) return 2;
    if (call < 0) return 1;
    return fragile.has(call) ? 2 : 0;
  };
  const ranked: { tid: number; rank: number }[] = [];
  for (const name of names) {
    const found = { tid: Number(name), rank: rank(Number(name)) };
    ranked.push(found);
    // a process of a thousand threads: the first good one will do
    if (found.rank === 0) break;
  }
  return ranked
    .filter((thread) => thread.rank < 9)
    .sort((a, b) => a.rank - b.rank)
    .map((thread) => thread.tid);
}

/** Bytes of one area that are searched at most: libc's text is half of that. */
const SEARCH_BYTES = 4 * 1024 * 1024;

/** Address of an existing `syscall` instruction (0f 05) in the vdso, else in other text. undefined: none was found. */
export function findSyscall(pid: number): number | undefined {
  const areas = (read(`/proc/${pid}/maps`) ?? "")
    .split("\n")
    .map((line) => /^([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ \d+ *(.*)$/.exec(line))
    .filter((match) => match !== null)
    .map(([, start = "", end = "", name = ""]) => ({
      start: Number.parseInt(start, 16),
      end: Number.parseInt(end, 16),
      vdso: name === "[vdso]",
    }))
    .sort((a, b) => Number(b.vdso) - Number(a.vdso));
  let fd: number;
  try {
    fd = openSync(`/proc/${pid}/mem`, "r");
  } catch {
    return undefined;
  }
  try {
    for (const { start, end } of areas) {
      const text = Buffer.alloc(Math.min(end - start, SEARCH_BYTES));
      let length: number;
      try {
        length = readSync(fd, text, 0, text.length, start);
      } catch {
        continue;
      }
      const found = text.subarray(0, length).indexOf(Buffer.from([0x0f, 0x05]));
      if (found >= 0) return start + found;
    }
    return undefined;
  } finally {
    closeSync(fd);
  }
}

/** Children of all threads of a process. */
export function childrenOf(pid: number): Set<number> {
  const children = new Set<number>();
  let tids: string[] = [];
  try {
    tids = readdirSync(`/proc/${pid}/task`);
  } catch {
    // it has ended
  }
  for (const tid of tids) {
    for (const child of (read(`/proc/${pid}/task/${tid}/children`) ?? "").trim().split(" ")) {
      if (child !== "") children.add(Number(child));
    }
  }
  return children;
}

/** What a descriptor of a process is, as its link in /proc says; undefined: there is none. */
export function descriptorLink(pid: number, fd: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`);
  } catch {
    return undefined;
  }
}

/** Does a seccomp filter watch over the process's system calls? */
export const isFiltered = (pid: number): boolean => /^Seccomp:\t[12]$/m.test(read(`/proc/${pid}/status`) ?? "");

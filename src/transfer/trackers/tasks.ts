/** What the trackers have in common: which tasks there are, which share their memory, and the shape of what was found. */
import { openSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import { processId } from "../../host/proc.js";
import { compareMemory } from "../../host/syscall.js";
import { ferryError, type FerryError } from "../../model/failure.js";
import type { TrackerKind } from "../../model/mover.js";
import { PAGE_SIZE } from "../pages/api.js";
import type { PageRun, Scan, Tracker } from "./tracker.js";

export interface Task {
  pid: number;
  startTicks: number;
  /** Pids inside, of every task that has this memory: one, unless a child of vfork has not gone its way yet. */
  vpids: number[];
}

/** One entry per memory. Tasks that have ended are left out. */
export function tasksOf(pids: Readonly<Record<string, number>>): Task[] {
  const tasks: Task[] = [];
  for (const [vpid, pid] of Object.entries(pids)) {
    const id = processId(pid);
    if (id !== undefined) tasks.push({ ...id, vpids: [Number(vpid)] });
  }
  if (tasks.length < 2) return tasks;
  const order = (a: Task, b: Task): number => {
    const compared = compareMemory(a.pid, b.pid);
    return compared === 0 ? 0 : compared === 1 ? -1 : compared === 2 ? 1 : a.pid - b.pid;
  };
  // the kernel's order is by address, mixed up: the lowest pid speaks for its memory, so that it stays the same one
  const sorted = tasks.toSorted(order);
  const merged: Task[] = [];
  for (const task of sorted) {
    const last = merged.at(-1);
    if (last === undefined || compareMemory(last.pid, task.pid) !== 0) {
      merged.push(task);
      continue;
    }
    const vpids = [...last.vpids, ...task.vpids];
    merged[merged.length - 1] = { ...(task.pid < last.pid ? task : last), vpids };
  }
  return merged;
}

/** Collects pages of one task in the order of addresses; adjoining ones become one run. */
export class RunList {
  readonly runs: { start: number; pages: number }[] = [];
  pages = 0;

  readonly add = (start: number, pages: number): void => {
    this.pages += pages;
    const last = this.runs.at(-1);
    if (last !== undefined && last.start + last.pages * PAGE_SIZE === start) last.pages += pages;
    else this.runs.push({ start, pages });
  };

  mark(): { runs: number; pages: number; last: number } {
    return { runs: this.runs.length, pages: this.pages, last: this.runs.at(-1)?.pages ?? 0 };
  }

  /** Forgets what was added since. */
  backTo({ runs, pages, last }: { runs: number; pages: number; last: number }): void {
    this.runs.length = runs;
    this.pages = pages;
    const end = this.runs.at(-1);
    if (end !== undefined) end.pages = last;
  }
}

/** Sums up one look; `found` by task. */
export function scanOf(found: { task: Task; list: RunList; looked: number }[], startedAt: number): Scan {
  const dirty: PageRun[] = [];
  const byVpid = found
    .flatMap(({ task, list }) => task.vpids.map((vpid) => ({ vpid, list })))
    .toSorted((a, b) => a.vpid - b.vpid);
  let pages = 0;
  for (const { vpid, list } of byVpid) {
    for (const { start, pages } of list.runs) dirty.push({ vpid, start, pages });
    pages += list.pages;
  }
  const looked = found.reduce((sum, { looked }) => sum + looked, 0);
  return { dirty, pages, looked: Math.max(looked, pages), durationMs: performance.now() - startedAt };
}

/** /proc/<pid>/<name>, opened anew for what the task is now; undefined: it has ended. */
export function openProc(pid: number, name: string): number | undefined {
  try {
    return openSync(`/proc/${pid}/${name}`, "r");
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes(String((error as NodeJS.ErrnoException).code))) return undefined;
    throw error;
  }
}

export function trackerError(kind: TrackerKind, message: string, cause?: unknown): FerryError {
  return ferryError("E_PAGES", `the tracker ${kind} can't go on: ${message}`, {
    side: "source",
    phase: "pre-copy",
    remedy: "the workload runs on untouched; use another tracker (compare works everywhere)",
    ...(cause instanceof Error ? { evidence: { lines: [cause.message] } } : {}),
  });
}

/** How long a look may keep the event loop before others get a turn. */
const TURN_MS = 8;

export class Turns {
  #since = performance.now();
  async give(): Promise<void> {
    if (performance.now() - this.#since < TURN_MS) return;
    await nextTurn();
    this.#since = performance.now();
  }
}

/** Scans one after the other, and `end` after the last: whatever the caller does at the same time. */
export abstract class SerialTracker implements Tracker {
  abstract readonly kind: TrackerKind;
  #last: Promise<unknown> = Promise.resolve();
  #over: Promise<void> | undefined;

  protected abstract look(pids: Readonly<Record<string, number>>): Promise<Scan>;
  protected abstract leave(): Promise<void>;

  scan(pids: Readonly<Record<string, number>>): Promise<Scan> {
    if (this.#over !== undefined) return Promise.reject(trackerError(this.kind, "it was ended"));
    const scan = this.#last.then(async () => {
      try {
        return await this.look(pids);
      } catch (error) {
        // nothing of us stays in a tree that we can't follow
        await this.leave();
        throw error;
      }
    });
    this.#last = scan.catch(() => undefined);
    return scan;
  }

  end(): Promise<void> {
    this.#over ??= this.#last.then(() => this.leave()).catch(() => undefined);
    return this.#over;
  }
}

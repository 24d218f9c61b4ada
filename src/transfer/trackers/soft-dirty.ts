/**
 * The tracker for kernels with CONFIG_MEM_SOFT_DIRTY: bit 55 of /proc/<pid>/pagemap says what was written since "4" was last written to
 * /proc/<pid>/clear_refs; the frame beside it says what was moved (entries.ts). Between the reading and the clearing a write would be
 * lost, so the task's threads are held meanwhile (by ptrace, a few ms per GiB); where they can't be held nothing is cleared, and the
 * same pages are told again.
 */
import { closeSync, openSync, readSync, writeFileSync } from "node:fs";
import { NO_ZERO_PAGE, PAGE, pagesOfEntries, zeroPageFrame } from "../../host/pagemap.js";
import { PtraceHelper } from "../../host/ptrace-helper.js";
import { mapAnonymous } from "../../host/syscall.js";
import { readLazyAreas } from "./areas.js";
import { PageEntries } from "./entries.js";
import { openProc, RunList, scanOf, SerialTracker, tasksOf, trackerError, type Task } from "./tasks.js";
import type { Scan } from "./tracker.js";

const CLEAR_SOFT_DIRTY = "4";

export class SoftDirtyTracker extends SerialTracker {
  readonly kind = "soft-dirty";
  /** Longest stop of a task, for showing. */
  readonly figures = { stops: 0, stoppedMsMax: 0 };
  readonly #helper = new PtraceHelper();
  readonly #zeroFrame = ownZeroFrame();
  /** Tasks whose bits were cleared by us: when they started, and their pages at the last look. */
  readonly #known = new Map<number, { startTicks: number; entries: PageEntries }>();

  protected async look(pids: Readonly<Record<string, number>>): Promise<Scan> {
    const startedAt = performance.now();
    const tasks = tasksOf(pids);
    const now = new Map(tasks.map((task) => [task.pid, task.startTicks]));
    for (const [pid, { startTicks }] of this.#known) if (now.get(pid) !== startTicks) this.#known.delete(pid);
    const found: Parameters<typeof scanOf>[0] = [];
    for (const task of tasks) {
      const seen = await this.#lookAt(task);
      if (seen !== undefined) found.push({ task, ...seen });
    }
    return scanOf(found, startedAt);
  }

  protected async leave(): Promise<void> {
    this.#known.clear();
    await this.#helper.end();
  }

  async #lookAt(task: Task): Promise<{ list: RunList; looked: number } | undefined> {
    const { pid, startTicks } = task;
    const before = this.#known.get(pid)?.entries;
    // What is written after the first clearing is told the next time as well; a child's bits are its parent's, so they say nothing.
    if (before === undefined) this.#clear(pid);
    const entries = before === undefined ? this.#read(pid) : await this.#readAndClear(task);
    if (entries === undefined) {
      this.#known.delete(pid);
      return undefined;
    }
    this.#known.set(pid, { startTicks, entries });
    const list = new RunList();
    const looked = entries.changed(before, this.#zeroFrame, list.add);
    return { list, looked };
  }

  async #readAndClear({ pid, vpids }: Task): Promise<PageEntries | undefined> {
    // Another process that has this memory too would not be held.
    if (vpids.length > 1) return this.#read(pid);
    let entries: PageEntries | undefined;
    const held = await this.#helper.whileHeld(pid, () => {
      entries = this.#read(pid);
      this.#clear(pid);
    });
    if (!("problem" in held)) {
      this.figures.stops += 1;
      this.figures.stoppedMsMax = Math.max(this.figures.stoppedMsMax, held.stoppedMs);
      return entries;
    }
    if (held.problem === "gone") return undefined;
    if (held.problem === "busy") return this.#read(pid);
    throw trackerError(this.kind, held.message);
  }

  #clear(pid: number): void {
    try {
      writeFileSync(`/proc/${pid}/clear_refs`, CLEAR_SOFT_DIRTY);
    } catch (error) {
      const code = String((error as NodeJS.ErrnoException).code);
      if (code !== "ENOENT" && code !== "ESRCH") throw trackerError(this.kind, `clear_refs of process ${pid}`, error);
    }
  }

  #read(pid: number): PageEntries | undefined {
    const areas = readLazyAreas(pid);
    const pagemap = areas === undefined ? undefined : openProc(pid, "pagemap");
    if (areas === undefined || pagemap === undefined) return undefined;
    const entries = new PageEntries();
    try {
      for (const { start, end } of areas) entries.read(pagemap, start, end);
    } finally {
      closeSync(pagemap);
    }
    return entries;
  }
}

function ownZeroFrame(): number {
  const own = openSync("/proc/self/pagemap", "r");
  try {
    return zeroPageFrame(own);
  } finally {
    closeSync(own);
  }
}

/** Why it can't be used here: found out by clearing and writing a page of our own. */
export function softDirtyProblem(): string | undefined {
  if (ownZeroFrame() === NO_ZERO_PAGE)
    return "page frames can't be seen (CAP_SYS_ADMIN), so moved pages would be missed";
  const { address, bytes } = mapAnonymous(PAGE);
  const pagemap = openSync("/proc/self/pagemap", "r");
  const isDirty = (): boolean => {
    const entry = Buffer.alloc(8);
    readSync(pagemap, entry, 0, 8, (address / PAGE) * 8);
    let dirty = false;
    pagesOfEntries(entry, address, -1, true, () => (dirty = true));
    return dirty;
  };
  try {
    bytes[0] = 1;
    const before = isDirty();
    writeFileSync("/proc/self/clear_refs", CLEAR_SOFT_DIRTY);
    const cleared = !isDirty();
    bytes[0] = 2;
    if (before && cleared && isDirty()) return undefined;
    return "the kernel keeps no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)";
  } catch (error) {
    return `soft-dirty bits can't be cleared: ${error instanceof Error ? error.message : String(error)}`;
  } finally {
    closeSync(pagemap);
  }
}

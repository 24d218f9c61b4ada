/**
 * The tracker for kernels with CONFIG_MEM_SOFT_DIRTY: bit 55 of /proc/<pid>/pagemap says what was written since "4" was last written to
 * /proc/<pid>/clear_refs. Between the reading and the clearing a write would be lost, so the task's threads are held meanwhile (by ptrace,
 * a few ms per GiB); where they can't be held nothing is cleared, and the same pages are told again.
 */
import { closeSync, openSync, readSync, writeFileSync } from "node:fs";
import { PAGE, pagesOfEntries, readPages, zeroPageFrame } from "../../host/pagemap.js";
import { PtraceHelper } from "../../host/ptrace-helper.js";
import { mapAnonymous } from "../../host/syscall.js";
import { readLazyAreas } from "./areas.js";
import { openProc, RunList, scanOf, SerialTracker, tasksOf, trackerError, type Task } from "./tasks.js";
import type { Scan } from "./tracker.js";

const CLEAR_SOFT_DIRTY = "4";

export class SoftDirtyTracker extends SerialTracker {
  readonly kind = "soft-dirty";
  readonly #helper = new PtraceHelper();
  readonly #zeroFrame: number;
  /** Start times of the tasks whose bits were cleared by us. */
  readonly #known = new Map<number, number>();

  constructor() {
    super();
    const own = openSync("/proc/self/pagemap", "r");
    this.#zeroFrame = zeroPageFrame(own);
    closeSync(own);
  }

  protected async look(pids: Readonly<Record<string, number>>): Promise<Scan> {
    const startedAt = performance.now();
    const tasks = tasksOf(pids);
    const now = new Map(tasks.map((task) => [task.pid, task.startTicks]));
    for (const [pid, startTicks] of this.#known) if (now.get(pid) !== startTicks) this.#known.delete(pid);
    const found: Parameters<typeof scanOf>[0] = [];
    for (const task of tasks) {
      const seen = await this.#lookAt(task);
      if (seen !== undefined) found.push({ task, list: seen, looked: seen.pages });
    }
    return scanOf(found, startedAt);
  }

  protected async leave(): Promise<void> {
    this.#known.clear();
    await this.#helper.end();
  }

  async #lookAt({ pid, startTicks }: Task): Promise<RunList | undefined> {
    if (!this.#known.has(pid)) {
      // What is written after this is told the next time as well; a child's bits are its parent's, so they say nothing.
      this.#clear(pid);
      const all = this.#read(pid, false);
      if (all !== undefined) this.#known.set(pid, startTicks);
      return all;
    }
    let list: RunList | undefined;
    const held = await this.#helper.whileHeld(pid, () => {
      list = this.#read(pid, true);
      this.#clear(pid);
    });
    if (!("problem" in held)) return list;
    if (held.problem === "gone") return undefined;
    if (held.problem === "busy") return this.#read(pid, true);
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

  #read(pid: number, softDirtyOnly: boolean): RunList | undefined {
    const areas = readLazyAreas(pid);
    const pagemap = areas === undefined ? undefined : openProc(pid, "pagemap");
    if (areas === undefined || pagemap === undefined) return undefined;
    const list = new RunList();
    try {
      for (const { start, end } of areas) readPages(pagemap, start, end, this.#zeroFrame, softDirtyOnly, list.add);
    } finally {
      closeSync(pagemap);
    }
    return list;
  }
}

/** Why it can't be used here: found out by clearing and writing a page of our own. */
export function softDirtyProblem(): string | undefined {
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

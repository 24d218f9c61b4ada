/**
 * The tracker for kernels from 6.7: a userfaultfd in mode WP_ASYNC, made inside each task by a stop of some tenths of a
 * millisecond (src/host/ptrace-arm.ts), then everything from outside. About 1 ms per GiB and look; the first write to a page
 * after a look costs the task about 1 us more. docs/decisions/0010-trackers.md has the figures and the reasons.
 *
 * The kernel's own state is the only truth. An area is registered with our userfaultfd or not; one that appeared, moved or
 * belongs to a program that was exec'ed is not, the kernel says so (EPERM), and all its pages count as dirty. In a registered
 * area a page is clean only while it carries the write protection that we gave it when we told of it.
 */
import { readFileSync, closeSync } from "node:fs";
import { isArea, scanPages } from "../../host/pagemap.js";
import { parseKeyed, kibBytes } from "../../host/procfs.js";
import { PtraceHelper } from "../../host/ptrace-helper.js";
import {
  closeFd,
  EBUSY,
  EINVAL,
  ENOMEM,
  ENOENT,
  EPERM,
  errnoName,
  ESRCH,
  ioctl,
  mapAnonymous,
  type Mapping,
} from "../../host/syscall.js";
import { PAGE_SIZE } from "../pages/api.js";
import { readLazyAreas, type LazyArea } from "./areas.js";
import { openProc, RunList, scanOf, SerialTracker, tasksOf, trackerError, Turns, type Task } from "./tasks.js";
import type { Scan } from "./tracker.js";

const UFFDIO_API = 0xc018aa3f;
const UFFDIO_REGISTER = 0xc020aa00;
const UFFDIO_WRITEPROTECT = 0xc018aa06;
const MODE_WP = 2;
/** UFFD_API with PAGEFAULT_FLAG_WP, WP_HUGETLBFS_SHMEM, WP_UNPOPULATED and WP_ASYNC (linux/userfaultfd.h). */
const FEATURES = (1n << 0n) | (1n << 12n) | (1n << 13n) | (1n << 15n);
/** One call looks at this much at most: others on the event loop wait for it. */
const STEP_BYTES = 1024 ** 3;

interface Armed {
  startTicks: number;
  uffd: number;
  /** Areas that were there at the last look (the first: a moment ago), as "start-end". */
  seen: ReadonlySet<string>;
  /** Areas of which we know that nobody else has them. */
  readonly claimed: Set<string>;
}

const nameOf = ({ start, end }: LazyArea): string => `${start}-${end}`;
const namesOf = (areas: readonly LazyArea[]): Set<string> => new Set(areas.map(nameOf));

/** What arming the tasks has cost them so far. */
export interface ArmFigures {
  stops: number;
  stoppedMsMax: number;
  alteredMsMax: number;
}

let memory: Mapping | undefined;
function argument(...values: number[]): number {
  memory ??= mapAnonymous(PAGE_SIZE);
  for (const [index, value] of values.entries()) memory.bytes.writeBigUInt64LE(BigInt(value), index * 8);
  return memory.address;
}

/** 0 or a negative errno. Pages that were protected count as written then. */
function register(uffd: number, start: number, end: number): number {
  const failed = ioctl(uffd, UFFDIO_REGISTER, argument(start, end - start, MODE_WP, 0));
  if (failed < 0) return failed;
  // Kernels before 6.14 left marks of an old registration on pages that mremap moved: such a page would look clean.
  return ioctl(uffd, UFFDIO_WRITEPROTECT, argument(start, end - start, 0));
}

const USED_BY_OTHERS = "the workload (or a page daemon) uses userfaultfd on its memory itself";

/** The memory that an armed task's userfaultfd belongs to is not the one that it has now. */
class OtherMemory extends Error {}

export class PagemapScanTracker extends SerialTracker {
  readonly kind = "pagemap-scan";
  readonly figures: ArmFigures = { stops: 0, stoppedMsMax: 0, alteredMsMax: 0 };
  readonly #helper = new PtraceHelper();
  readonly #armed = new Map<number, Armed>();
  #scans = 0;

  protected async look(pids: Readonly<Record<string, number>>): Promise<Scan> {
    const startedAt = performance.now();
    const tasks = tasksOf(pids);
    const now = new Map(tasks.map((task) => [task.pid, task.startTicks]));
    for (const [pid, { startTicks }] of this.#armed) if (now.get(pid) !== startTicks) this.#disarm(pid);
    const found: Parameters<typeof scanOf>[0] = [];
    const turns = new Turns();
    for (const task of tasks) {
      const list = await this.#lookAt(task, turns);
      if (list !== undefined) found.push({ task, list, looked: presentPages(task.pid) });
    }
    this.#scans += 1;
    return scanOf(found, startedAt);
  }

  protected async leave(): Promise<void> {
    for (const pid of this.#armed.keys()) this.#disarm(pid);
    await this.#helper.end();
  }

  #disarm(pid: number): void {
    const armed = this.#armed.get(pid);
    // the kernel unregisters every area and lifts every protection with the last descriptor
    if (armed !== undefined) closeFd(armed.uffd);
    this.#armed.delete(pid);
  }

  async #lookAt(task: Task, turns: Turns): Promise<RunList | undefined> {
    for (let attempt = 0; ; attempt++) {
      const armed = this.#armed.get(task.pid) ?? (await this.#arm(task));
      if (armed === "gone") return undefined;
      const pagemap = openProc(task.pid, "pagemap");
      if (pagemap === undefined) return undefined;
      try {
        // what is there now: an exec in between shows as areas that are not registered
        const areas = readLazyAreas(task.pid);
        if (areas === undefined) return undefined;
        const list = new RunList();
        const fresh = armed === "busy" ? undefined : this.#claim(pagemap, armed, areas, task.pid);
        for (const area of areas) {
          for (let start = area.start; start < area.end; start += STEP_BYTES) {
            const step = { start, end: Math.min(area.end, start + STEP_BYTES) };
            // a task that can't be followed now: all of it, and again the next time
            if (fresh === undefined) this.#all(pagemap, step, false, list);
            else if (fresh.has(nameOf(area))) this.#all(pagemap, step, true, list);
            else this.#step(pagemap, step, list);
            await turns.give();
          }
        }
        return list;
      } catch (error) {
        if (!(error instanceof OtherMemory)) throw error;
        this.#disarm(task.pid);
        if (attempt >= 2) throw trackerError(this.kind, `process ${task.pid} changes its program all the time`, error);
      } finally {
        closeSync(pagemap);
      }
    }
  }

  /**
   * Registers what is new, before anything is awaited, and each only if it is still as it was read (before Linux 6.11: as it was
   * at the last look): where a program has mapped anew meanwhile, its new area would be cut in two, and a later mremap of
   * it would fail. Returns the areas that were registered just now.
   */
  #claim(pagemap: number, armed: Armed, areas: readonly LazyArea[], pid: number): ReadonlySet<string> {
    const fresh = new Set<string>();
    const maps = openProc(pid, "maps");
    if (maps === undefined) return fresh;
    try {
      this.#claimAll(pagemap, maps, armed, areas, fresh);
      if (fresh.size > 0) this.#mend(pagemap, maps, armed.uffd, namesOf(areas), pid);
    } finally {
      closeSync(maps);
    }
    const names = namesOf(areas);
    armed.seen = names;
    for (const name of armed.claimed) if (!names.has(name)) armed.claimed.delete(name);
    return fresh;
  }

  #claimAll(pagemap: number, maps: number, armed: Armed, areas: readonly LazyArea[], fresh: Set<string>): void {
    for (const area of areas) {
      const name = nameOf(area);
      if (this.#isRegistered(pagemap, area)) {
        if (armed.claimed.has(name)) continue;
        // By us or by others, whose marks a look would take away? One page says it.
        if (isArea(maps, area.start, area.end) === false) continue;
        const asked = ioctl(armed.uffd, UFFDIO_REGISTER, argument(area.start, PAGE_SIZE, MODE_WP, 0));
        if (asked === -EBUSY) throw trackerError(this.kind, USED_BY_OTHERS);
        if (asked === 0) armed.claimed.add(name);
      } else if (isArea(maps, area.start, area.end) ?? armed.seen.has(name)) {
        if (!this.#register(armed.uffd, area)) continue;
        fresh.add(name);
        armed.claimed.add(name);
      }
    }
  }

  /** What was cut in two all the same becomes one again: the kernel joins neighbours that are registered alike. */
  #mend(pagemap: number, maps: number, uffd: number, before: ReadonlySet<string>, pid: number): void {
    const now = readLazyAreas(pid) ?? [];
    for (const [index, area] of now.entries()) {
      if (before.has(nameOf(area)) || this.#isRegistered(pagemap, area)) continue;
      const beside = [now[index - 1], now[index + 1]].some(
        (other) =>
          other !== undefined &&
          (other.end === area.start || other.start === area.end) &&
          this.#isRegistered(pagemap, other),
      );
      if (beside && isArea(maps, area.start, area.end) !== false) this.#register(uffd, area);
    }
  }

  #isRegistered(pagemap: number, { start }: LazyArea): boolean {
    const probe = { written: true, protect: false, check: true };
    return scanPages(pagemap, start, start + PAGE_SIZE, probe, () => undefined) === 0;
  }

  /** false: there is a hole by now, the next look sees what is there then. */
  #register(uffd: number, { start, end }: LazyArea): boolean {
    const failed = register(uffd, start, end);
    if (failed === 0) return true;
    if (failed === -EBUSY) throw trackerError(this.kind, USED_BY_OTHERS);
    // what the kernel says of a memory that has ended (an exec); also where there are too many areas
    if (failed === -ESRCH || failed === -ENOMEM) throw new OtherMemory(errnoName(-failed));
    if (failed === -ENOENT || failed === -EINVAL) return false;
    throw trackerError(this.kind, `UFFDIO_REGISTER: ${errnoName(-failed)}`);
  }

  /** Part of an area: what was written; all of it when that can't be told. */
  #step(pagemap: number, step: LazyArea, list: RunList): void {
    const mark = list.mark();
    const failed = scanPages(pagemap, step.start, step.end, { written: true, protect: true }, list.add);
    if (failed === 0) return;
    list.backTo(mark);
    if (failed === -ESRCH) return;
    if (failed !== -EPERM) throw trackerError(this.kind, `PAGEMAP_SCAN: ${errnoName(-failed)}`);
    // Not (all) registered. A part that is may be protected by now without having been told: all of it is dirty.
    this.#all(pagemap, step, false, list);
  }

  #all(pagemap: number, { start, end }: LazyArea, protect: boolean, list: RunList): void {
    const mark = list.mark();
    const failed = scanPages(pagemap, start, end, { written: false, protect }, list.add);
    if (failed === 0 || failed === -ESRCH) return;
    list.backTo(mark);
    if (failed === -EPERM && protect) {
      // It was mapped anew this very moment, or we registered it in a memory that the task has no more.
      this.#all(pagemap, { start, end }, false, list);
      return;
    }
    throw trackerError(this.kind, `PAGEMAP_SCAN: ${errnoName(-failed)}`);
  }

  async #arm(task: Task): Promise<Armed | "busy" | "gone"> {
    const armed = await this.#helper.arm(task.pid);
    if ("problem" in armed) {
      if (armed.problem === "gone") return "gone";
      // at the first look nobody but a debugger holds a task; later it may be criu, or a freezer
      const first = this.#scans === 0 && /traced by/.test(armed.message);
      if (armed.problem === "busy" && !first) return "busy";
      throw trackerError(this.kind, armed.message);
    }
    const { fd, stoppedMs, alteredMs } = armed;
    this.figures.stops += 1;
    this.figures.stoppedMsMax = Math.max(this.figures.stoppedMsMax, stoppedMs);
    this.figures.alteredMsMax = Math.max(this.figures.alteredMsMax, alteredMs);
    const address = argument(0xaa, 0, 0);
    memory?.bytes.writeBigUInt64LE(FEATURES, 8);
    const failed = ioctl(fd, UFFDIO_API, address);
    if (failed < 0) {
      closeFd(fd);
      throw trackerError(this.kind, `the kernel refuses WP_ASYNC: ${errnoName(-failed)}`);
    }
    const seen = namesOf(readLazyAreas(task.pid) ?? []);
    const record = { startTicks: task.startTicks, uffd: fd, seen, claimed: new Set<string>() };
    this.#armed.set(task.pid, record);
    return record;
  }
}

/** Anonymous pages that a task has, in memory or swapped out: more than the lazy ones by those of private file mappings. */
function presentPages(pid: number): number {
  try {
    const status = parseKeyed(readFileSync(`/proc/${pid}/status`, "utf8"));
    return (kibBytes(status.get("RssAnon")) + kibBytes(status.get("VmSwap"))) / PAGE_SIZE;
  } catch {
    return 0;
  }
}

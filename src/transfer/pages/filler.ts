/**
 * Puts pages from the store into tasks: one for a fault, many for the fill. Owns the rules for what the kernel answers.
 */
import { openSync } from "node:fs";
import { join } from "node:path";
import {
  EAGAIN,
  EEXIST,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ESRCH,
  errnoName,
  MADV_DONTFORK,
  MADV_POPULATE_READ,
  madvise,
  mapFile,
  mapFileAddress,
  PROT_READ,
  punchHole,
} from "../../host/syscall.js";
import { PAGE_SIZE } from "./api.js";
import { DATA, MISSING, ZERO } from "./store.js";
import { FIRST_WINDOW, Streams } from "./streams.js";
import { PAGES_FILE, STATES_FILE } from "./table.js";
import type { Task, TaskSet } from "./tasks.js";
import { TouchedLog } from "./touched.js";
import { copyPages, wake, zeroPages, type Placed } from "./uffd.js";

/** done; again: events must be read first; memory: none left, wait; gone: the task has ended; broken: it said so. */
export type Outcome = "done" | "again" | "memory" | "gone" | "broken";

/** The fill takes this many pages at once right after a fault, and doubles up to the second as long as none comes. */
const MIN_CHUNK = 128;
const MAX_CHUNK = 512;
/** Memory of the store is given back in pieces of at least this many pages. */
const RELEASE = 2048;
/** Runs that may come before all others. */
const MAX_FIRST = 4096;

export interface FillerHooks {
  /** These pages of the task are in place. */
  filled(task: Task, start: number, pages: number): void;
  /** A thread waits for a page that is not in the store: one of the first 16 of these, the others are likely to be next. */
  missing(slot: number, pages: number): void;
  /** The task has ended: nothing of it is needed any more. */
  gone(task: Task): void;
  /** The kernel said something that means that this task can't be completed. */
  broken(task: Task, why: string): void;
}

export class Filler {
  readonly #tasks: TaskSet;
  readonly #hooks: FillerHooks;
  readonly #pagesFd: number;
  readonly #source: number;
  readonly #states: Buffer;
  #queue: { slot: number; pages: number }[] = [];
  /** Goes before the queue, which has it too. */
  #first: { slot: number; pages: number }[] = [];
  #chunk = MIN_CHUNK;
  #release = { slot: 0, pages: 0 };
  readonly #streams = new WeakMap<Task, Streams>();
  readonly #touched: TouchedLog | undefined;

  constructor(dir: string, tasks: TaskSet, hooks: FillerHooks) {
    this.#tasks = tasks;
    this.#hooks = hooks;
    const slots = Math.max(tasks.table.slots, 1);
    this.#pagesFd = openSync(join(dir, PAGES_FILE), "r+");
    this.#source = mapFileAddress(this.#pagesFd, slots * PAGE_SIZE, PROT_READ);
    madvise(this.#source, slots * PAGE_SIZE, MADV_DONTFORK);
    this.#states = mapFile(openSync(join(dir, STATES_FILE), "r+"), slots).bytes;
    this.#touched = TouchedLog.open(dir);
  }

  get hasWork(): boolean {
    return this.#queue.length > 0;
  }

  get hasFirst(): boolean {
    return this.#first.length > 0;
  }

  /** Likely to be needed next: when filling begins, these slots come before all others. */
  first(slot: number, pages: number): void {
    const { slots } = this.#tasks.table;
    const end = Math.min(slot + pages, slots);
    if (slot < end && this.#first.length < MAX_FIRST) this.#first.push({ slot, pages: end - slot });
  }

  /** Everything in the store is to be looked at (again). */
  enqueueAll(): void {
    this.#touched?.runs();
    this.#queue = [{ slot: 0, pages: this.#tasks.table.slots }];
  }

  enqueue(slot: number, pages: number): void {
    const last = this.#queue.at(-1);
    if (last !== undefined && last.slot + last.pages === slot) last.pages += pages;
    else this.#queue.push({ slot, pages });
  }

  clear(): void {
    this.#queue = [];
    this.#release = { slot: 0, pages: 0 };
  }

  /** A thread of the task waits at this page. */
  fault(task: Task, page: number): Outcome {
    this.#chunk = MIN_CHUNK;
    const run = task.pending.at(page);
    const state = run === undefined ? ZERO : (this.#states[run.slot] ?? MISSING);
    const likely = run === undefined ? 1 : Math.min(this.#likely(task, page), run.pages);
    if (run !== undefined) this.#touched?.note(run.slot, likely);
    if (run !== undefined && state === MISSING) {
      task.waiting.set(page, run.slot);
      this.#ask(run.slot, likely);
      return "done";
    }
    const outcome = this.#place(task, page, 1, run === undefined || state === ZERO ? -1 : run.slot);
    if (outcome !== "done") return outcome;
    task.waiting.delete(page);
    if (run === undefined) return "done";
    const here = this.#runOf(state, run.slot, likely);
    // only a guess at what comes next: whatever is in its way does not matter
    if (here > 1) this.#place(task, page + 1, here - 1, state === ZERO ? -1 : run.slot + 1);
    // where a guess has proved right, what it lacks is asked for before a thread waits for it
    const lacking = likely > FIRST_WINDOW ? this.#runOf(MISSING, run.slot + here, likely - here) : 0;
    if (lacking > 0) this.#hooks.missing(run.slot + here, lacking);
    return "done";
  }

  /** How many pages from this one on a thread of the task will want. */
  #likely(task: Task, page: number): number {
    let streams = this.#streams.get(task);
    if (streams === undefined) this.#streams.set(task, (streams = new Streams()));
    return streams.fault(page);
  }

  /** Asks for what is missing from this slot on, and for its neighbours in front as long as nothing is known of what comes. */
  #ask(slot: number, pages: number): void {
    let first = slot;
    let last = slot + pages;
    if (pages <= FIRST_WINDOW) {
      const aligned = slot - (slot % FIRST_WINDOW);
      while (first > aligned && this.#states[first - 1] === MISSING) first--;
      last = Math.min(last, aligned + FIRST_WINDOW);
    }
    // at least the page itself: the mover may be about to say that it has come
    this.#hooks.missing(first, slot - first + Math.max(1, this.#runOf(MISSING, slot, last - slot)));
  }

  /** The store got these slots: answer who waits for them. */
  arrived(slot: number, pages: number): void {
    for (const task of this.#tasks.tasks.values()) {
      // of a copy: what is still missing is put back, and an iteration over the map itself would meet it again for ever
      const waiting = Array.from(task.waiting).filter(([, wanted]) => wanted >= slot && wanted < slot + pages);
      for (const [page] of waiting) {
        task.waiting.delete(page);
        // the thread tries again, and its new fault finds the page or is put off by what is being changed
        if (this.fault(task, page) !== "done" && task.fd >= 0) wake(task.fd, page, 1);
      }
    }
  }

  /** Fill one piece of what is queued. "done" also when there was nothing to do. */
  step(): Outcome {
    const queue = this.#first.length > 0 ? this.#first : this.#queue;
    const head = queue[0];
    if (head === undefined) return "done";
    const state = this.#states[head.slot] ?? MISSING;
    const pages = this.#runOf(state, head.slot, state === DATA ? Math.min(head.pages, this.#chunk) : head.pages);
    if (state === DATA) this.#chunk = Math.min(this.#chunk * 2, MAX_CHUNK);
    if (state !== MISSING) {
      const needing = this.#tasks.needing(head.slot, pages);
      if (state === DATA && needing.length > 0) {
        madvise(this.#source + head.slot * PAGE_SIZE, pages * PAGE_SIZE, MADV_POPULATE_READ);
      }
      let complete = true;
      for (const { task, runs } of needing) {
        for (const run of runs) {
          if (state === ZERO) {
            // no page is needed: what is not filled reads as zeros, through a fault now and by itself later
            this.#filled(task, run.start, run.pages);
            continue;
          }
          const outcome = this.#place(task, run.start, run.pages, run.slot);
          if (outcome === "again" || outcome === "memory") return outcome;
          if (outcome === "broken") complete = false;
          if (outcome !== "done") break;
        }
      }
      if (state === DATA && complete) this.#given(head.slot, pages);
    }
    head.slot += pages;
    head.pages -= pages;
    if (head.pages <= 0) queue.shift();
    if (this.#queue.length === 0) this.#giveBack();
    return "done";
  }

  /** How many of the slots from `slot` on, at most `limit`, are in this state. */
  #runOf(state: number, slot: number, limit: number): number {
    let pages = 0;
    while (pages < limit && this.#states[slot + pages] === state) pages++;
    return pages;
  }

  #filled(task: Task, start: number, pages: number): void {
    if (task.pending.cut(start, pages).length > 0) this.#hooks.filled(task, start, pages);
  }

  /** Copy from the slots, or zero pages (slot -1), to [start, start + pages). */
  #place(task: Task, start: number, pages: number, slot: number): Outcome {
    if (task.fd < 0) return "gone";
    let done = 0;
    let limit = pages;
    let doubted = -1;
    while (done < pages) {
      const count = Math.min(limit, pages - done);
      const page = start + done;
      const placed: Placed =
        slot < 0
          ? zeroPages(task.fd, page, count)
          : copyPages(task.fd, page, this.#source + (slot + done) * PAGE_SIZE, count);
      if (placed.pages > 0) {
        this.#filled(task, page, placed.pages);
        done += placed.pages;
        limit = Math.min(limit * 2, pages);
      }
      switch (placed.errno) {
        case 0:
          continue;
        case EAGAIN:
          return "again";
        case EEXIST:
          // there already: by another fault's neighbours, or by the daemon before this one
          this.#filled(task, start + done, 1);
          wake(task.fd, start + done, 1);
          done++;
          limit = Math.min(limit * 2, pages);
          continue;
        case ENOENT:
          // not inside one area of the task: the run spans two, or has left it (not copied on fork, unmapped just now)
          if (count > 1) {
            limit = count >> 1;
            continue;
          }
          // Never on the first word: the area may have moved a moment ago. The kernel looks for the area before it
          // looks for changes under way, but it refuses (EAGAIN) to begin while the event of a change is unread.
          if (doubted !== page) {
            doubted = page;
            continue;
          }
          this.#filled(task, page, 1);
          wake(task.fd, page, 1);
          done++;
          continue;
        case ESRCH:
        case ENOSPC: // what kernels before 4.16 said
          this.#hooks.gone(task);
          return "gone";
        case ENOMEM:
          return "memory";
        default:
          this.#hooks.broken(
            task,
            `pages can't be placed at 0x${((start + done) * PAGE_SIZE).toString(16)}: ${errnoName(placed.errno)}`,
          );
          return "broken";
      }
    }
    return "done";
  }

  /** These slots are in every task that needs them. */
  #given(slot: number, pages: number): void {
    const { slot: from, pages: length } = this.#release;
    if (length > 0 && from + length === slot) this.#release.pages += pages;
    else {
      this.#giveBack();
      this.#release = { slot, pages };
    }
    if (this.#release.pages >= RELEASE) this.#giveBack();
  }

  #giveBack(): void {
    const { slot, pages } = this.#release;
    if (pages > 0) punchHole(this.#pagesFd, slot * PAGE_SIZE, pages * PAGE_SIZE);
    this.#release = { slot: 0, pages: 0 };
  }
}

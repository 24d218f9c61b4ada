/**
 * Bulk pages on their way into the store: written by libuv's threads, while this one decrypts the next frames. What lies
 * between is bounded, and so is the memory that it borrows from the link.
 */
import { FerryError, ferryError, toFailure, type FailureData } from "../../model/failure.js";
import { PAGE_SIZE, type PageStore } from "../pages/api.js";
import type { FrameMeta } from "./messages.js";

type Pages = FrameMeta<"pages">;

/** Frames (1 MiB each) that are written at the same time: one per core would do, one more hides the hand-over. */
const MAX_UNDER_WAY = 3;
/** Acknowledgements are sent together, as long as more frames are under way: each is a record and a system call. */
const CREDIT_FRAMES = 4;

export class PageIntake {
  #underWay = 0;
  #credits = 0;
  #failure: FailureData | undefined;
  #waiting: (() => void)[] = [];

  /**
   * Has `write` done aside, then `done`, then `credit` with the number of frames that are stored. Resolves as soon as
   * the next frame may be taken; rejects with what an earlier one has failed with.
   */
  async take(work: {
    write: () => Promise<void>;
    done: () => void;
    credit: (frames: number) => void;
    failed: (failure: FailureData) => void;
  }): Promise<void> {
    this.#check();
    this.#underWay += 1;
    this.#run(work).catch(() => undefined);
    while (this.#underWay >= MAX_UNDER_WAY) await this.#change();
    this.#check();
  }

  /** Resolves when nothing is under way; rejects with what a frame has failed with. */
  async settled(): Promise<void> {
    while (this.#underWay > 0) await this.#change();
    this.#check();
  }

  async #run({ write, done, credit, failed }: Parameters<PageIntake["take"]>[0]): Promise<void> {
    try {
      await write();
      done();
    } catch (error) {
      const failure = toFailure(error, "E_PAGES");
      if (this.#failure === undefined) failed(failure);
      this.#failure ??= failure;
    }
    this.#underWay -= 1;
    this.#credits += 1;
    if (this.#failure === undefined && (this.#underWay === 0 || this.#credits >= CREDIT_FRAMES)) {
      const frames = this.#credits;
      this.#credits = 0;
      credit(frames);
    }
    for (const waiting of this.#waiting.splice(0)) waiting();
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #check(): void {
    if (this.#failure !== undefined) throw new FerryError(this.#failure);
  }
}

/** The runs of a frame, with their data: none for zeros. */
function* contents(
  { slot, runs }: Pages,
  payload: Buffer,
): Generator<{ slot: number; count: number; data?: Buffer }, undefined> {
  let at = slot;
  let offset = 0;
  for (const [index, count] of runs.entries()) {
    if (count > 0 && index % 2 === 0) {
      yield { slot: at, count, data: payload.subarray(offset, offset + count * PAGE_SIZE) };
      offset += count * PAGE_SIZE;
    } else if (count > 0) yield { slot: at, count };
    at += count;
  }
  return undefined;
}

/** Throws E_FRAME when the runs are not the payload's, or not the store's. */
export function checkFits({ slot, runs }: Pages, payload: Buffer, store: PageStore): void {
  const content = runs.reduce((sum, run, index) => (index % 2 === 0 ? sum + run : sum), 0);
  const pages = runs.reduce((sum, run) => sum + run, 0);
  if (content * PAGE_SIZE === payload.length && slot + pages <= store.table.slots) return;
  throw ferryError("E_FRAME", `${pages} pages from slot ${slot} on: ${payload.length} bytes do not fit`);
}

export function writeNow(store: PageStore, pages: Pages, payload: Buffer): void {
  for (const { slot, count, data } of contents(pages, payload)) {
    if (data === undefined) store.writeZero(slot, count);
    else store.write(slot, data);
  }
}

/** Stores pages in libuv's threads. When it has ended, however, nobody looks at the payload any more. */
export async function writeAside(store: PageStore, pages: Pages, payload: Buffer): Promise<void> {
  const writes: Promise<void>[] = [];
  for (const { slot, count, data } of contents(pages, payload)) {
    if (data === undefined) store.writeZero(slot, count);
    else writes.push(store.writeAside(slot, data));
  }
  const failed = (await Promise.allSettled(writes)).find((end) => end.status === "rejected");
  if (failed !== undefined) throw failed.reason;
}

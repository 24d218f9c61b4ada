/** The destination's end of pre-copy: pages of a tree that still runs elsewhere, staged until its images are here. */
import { buildTable, areasDigest, type TaskMemory } from "../images/areas.js";
import { needSpace } from "../images/receive.js";
import { PAGE_SIZE, type PageStore } from "../pages/api.js";
import { StageStore } from "../pages/index.js";
import { ferryError, type FerryError } from "../../model/failure.js";
import type { FrameMeta } from "./messages.js";

const STALE_RECORD = 8;
const wrong = (message: string): FerryError => ferryError("E_FRAME", message, { side: "destination" });

export class StageReceiver {
  readonly #dir: string;
  /** Of the stage that was adopted: what to fill first. */
  hot: { slot: number; pages: number }[] = [];
  #current: { id: string; store: StageStore } | undefined;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** What is staged, for the source. */
  get told(): FrameMeta<"state">["stage"] {
    const current = this.#current;
    return current === undefined ? null : { id: current.id, regions: current.store.regions.regions.length };
  }

  begin({ stage }: FrameMeta<"stage-begin">): void {
    this.drop();
    this.#current = { id: stage, store: new StageStore(this.#dir) };
  }

  regions({ from, regions }: FrameMeta<"regions">): void {
    this.#store().announce(
      from,
      regions.map(([vpid, start, pages, slot]) => ({ vpid, start, pages, slot })),
    );
  }

  pages({ data, zero }: FrameMeta<"stage-pages">, payload: Buffer): void {
    const store = this.#store();
    let offset = 0;
    for (const [slot, pages] of pairs(data)) {
      const end = offset + pages * PAGE_SIZE;
      if (end > payload.length) throw wrong(`staged pages: ${payload.length} bytes are too few`);
      store.write(slot, payload.subarray(offset, end));
      offset = end;
    }
    if (offset !== payload.length) throw wrong(`staged pages: ${payload.length} bytes where ${offset} were announced`);
    let zeros = 0;
    for (const [slot, pages] of pairs(zero)) {
      zeros += pages;
      if (zeros > store.regions.slots) throw wrong("more pages are zero than there are");
      store.writeZero(slot, pages);
    }
  }

  stale({ stage }: FrameMeta<"stale">, payload: Buffer): void {
    const store = this.#store(stage);
    if (payload.length % STALE_RECORD !== 0) throw wrong(`a list of ${payload.length} bytes`);
    let forgotten = 0;
    for (let at = 0; at < payload.length; at += STALE_RECORD) {
      const pages = payload.readUInt32LE(at + 4);
      forgotten += pages;
      if (forgotten > store.regions.slots) throw wrong("more pages are old than there are");
      store.forget(payload.readUInt32LE(at), pages);
    }
  }

  /**
   * The page store of these tasks, with what was staged. Throws E_IMAGE_DIGEST when its table is not the one that the
   * source has, E_NO_SPACE.
   */
  adopt(
    { id, regions }: NonNullable<FrameMeta<"ready">["stage"]>,
    tasks: readonly TaskMemory[],
    digest: string,
  ): PageStore {
    const store = this.#store(id);
    if (regions > store.regions.regions.length) throw wrong(`${regions} regions, ${store.regions.regions.length} came`);
    const map = store.regions.prefix(regions);
    const table = buildTable(tasks, map);
    if (areasDigest(table) !== digest) {
      throw ferryError("E_IMAGE_DIGEST", "the table made of images and staged regions is not the one the source has");
    }
    needSpace(this.#dir, store.lacks(table, map.slots) * PAGE_SIZE, "the workload's pages");
    this.#current = undefined;
    this.hot = store.hot;
    return store.adopt(table, map.slots);
  }

  /** Forgets what is staged and gives its memory back. */
  drop(): void {
    this.#current?.store.drop();
    this.#current = undefined;
  }

  #store(id?: string): StageStore {
    const current = this.#current;
    if (current === undefined) throw wrong("no stage was begun");
    if (id !== undefined && id !== current.id) throw wrong(`stage ${id} was named, ${current.id} is here`);
    return current.store;
  }
}

function* pairs(numbers: readonly number[]): Generator<[number, number], undefined> {
  if (numbers.length % 2 !== 0) throw wrong("a run without its length");
  for (let at = 0; at < numbers.length; at += 2) yield [numbers[at] ?? 0, numbers[at + 1] ?? 0];
  return undefined;
}

/**
 * The page store before there is a table: during pre-copy pages arrive, and arrive again, for regions that are announced
 * as they are found. Only the pages are in a file; what is known of them dies with this process, and then pre-copy begins
 * anew. `adopt` makes a page store of it without touching a page.
 */
import { closeSync, mkdirSync, openSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { ferryError } from "../../model/failure.js";
import { PAGE_SIZE, type AreaTable, type PageStore } from "./api.js";
import { RegionMap, type Region } from "./regions.js";
import { adoptStore, DATA, MISSING, putPages, ZERO } from "./store.js";
import { checkTable, PAGES_FILE } from "./table.js";

/** 8 MiB: some milliseconds of filling. */
const HOT_PAGES = 2048;
const HOT_RUNS = 2048;

export class StageStore {
  readonly #dir: string;
  readonly #pages: number;
  readonly regions = new RegionMap();
  /** One byte per slot, with room to grow. */
  #states = Buffer.alloc(0);
  /** Runs that were here when they came again, or were called old, in that order. */
  #again: { slot: number; pages: number }[] = [];

  /** In `dir` (0700; should be on tmpfs); pages that are there are forgotten. */
  constructor(dir: string) {
    this.#dir = dir;
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    this.#pages = openSync(join(dir, PAGES_FILE), "w", 0o600);
  }

  /** Regions from the `from`th of the peer's list on; those that are known must be the same. Throws E_FRAME. */
  announce(from: number, regions: readonly Region[]): void {
    const known = this.regions.regions;
    if (from > known.length) throw ferryError("E_FRAME", `region ${from} came where ${known.length} was expected`);
    for (const [index, region] of regions.entries()) {
      const same = known[from + index];
      if (same === undefined) this.regions.add(region);
      else if (
        same.vpid !== region.vpid ||
        same.start !== region.start ||
        same.pages !== region.pages ||
        same.slot !== region.slot
      ) {
        throw ferryError("E_FRAME", `region ${from + index} is not what it was`);
      }
    }
    const { slots } = this.regions;
    if (slots <= this.#states.length) return;
    // zeroed by the kernel, page by page as it is used
    const grown = Buffer.alloc(Math.max(slots, this.#states.length * 2));
    this.#states.copy(grown);
    this.#states = grown;
  }

  /**
   * The latest pages that came again, at most HOT_PAGES, the last first: what changes all the time is what the workload
   * works on.
   */
  get hot(): { slot: number; pages: number }[] {
    const runs: { slot: number; pages: number }[] = [];
    let room = HOT_PAGES;
    for (let i = this.#again.length - 1; i >= 0 && room > 0; i -= 1) {
      const { slot = 0, pages = 0 } = this.#again[i] ?? {};
      runs.push({ slot, pages: Math.min(pages, room) });
      room -= pages;
    }
    return runs;
  }

  #came(slot: number, pages: number): void {
    if (this.#states[slot] === MISSING) return;
    this.#again.push({ slot, pages });
    if (this.#again.length > 2 * HOT_RUNS) this.#again = this.#again.slice(-HOT_RUNS);
  }

  /** Puts whole pages from `slot` on, over what is there. */
  write(slot: number, data: Buffer): void {
    const pages = data.length / PAGE_SIZE;
    this.#check(slot, pages);
    this.#came(slot, pages);
    putPages(this.#pages, data, 0, data.length, slot * PAGE_SIZE);
    this.#states.fill(DATA, slot, slot + pages);
  }

  /** These are zero now. Memory of what they were is given back when the store is filled from, not before. */
  writeZero(slot: number, pages: number): void {
    this.#check(slot, pages);
    this.#states.fill(ZERO, slot, slot + pages);
  }

  /** What is here of these slots is old. */
  forget(slot: number, pages: number): void {
    this.#check(slot, pages);
    this.#came(slot, pages);
    this.#states.fill(MISSING, slot, slot + pages);
  }

  #check(slot: number, pages: number): void {
    const fits =
      Number.isSafeInteger(slot) &&
      Number.isSafeInteger(pages) &&
      slot >= 0 &&
      pages >= 0 &&
      slot + pages <= this.regions.slots;
    if (!fits) {
      throw ferryError("E_FRAME", `slots ${slot} to ${slot + pages} are outside the regions' ${this.regions.slots}`);
    }
  }

  /** Pages of the table that are not here: what is still to come. `known`: slots of the regions that the table uses. */
  lacks(table: AreaTable, known: number): number {
    let pages = 0;
    for (const area of table.areas) {
      const end = area.slot + area.pages;
      const staged = Math.min(end, Math.max(known, area.slot));
      for (let slot = area.slot; slot < staged; slot += 1) if (this.#states[slot] === MISSING) pages += 1;
      pages += end - staged;
    }
    return pages;
  }

  /**
   * The store of `table`, which was made with the regions that own the first `known` slots. This object is spent.
   * Throws E_PAGES when the table is wrong, E_NO_SPACE.
   */
  adopt(table: AreaTable, known: number): PageStore {
    checkTable(table);
    const states = Buffer.alloc(table.slots);
    this.#states.copy(states, 0, 0, Math.min(known, table.slots));
    const fillVoid = (from: number, to: number): void => {
      for (let slot = states.indexOf(MISSING, from); slot >= 0 && slot < to; slot = states.indexOf(MISSING, slot + 1))
        states[slot] = ZERO;
    };
    let next = 0;
    for (const area of table.areas) {
      fillVoid(next, area.slot);
      next = area.slot + area.pages;
    }
    fillVoid(next, table.slots);
    closeSync(this.#pages);
    return adoptStore(this.#dir, table, states);
  }

  /** Gives the memory back. Not after `adopt`. */
  drop(): void {
    closeSync(this.#pages);
    unlinkSync(join(this.#dir, PAGES_FILE));
  }
}

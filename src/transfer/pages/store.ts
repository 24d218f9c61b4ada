/**
 * The page store: three files in a directory on tmpfs that outlive every process that works on them.
 *
 *   areas   which pages of which task the slots are (written once)
 *   pages   slot i at i * 4096; sparse; memory is given back (a hole) once a slot is in every task that needs it
 *   states  one byte per slot: missing, data, zero. Written after the slot's data
 *
 * Only the mover writes `pages` and `states`; the page daemon maps both. Plain writes, not stores into mapped memory: a
 * full tmpfs is then an error that can be reported, not a SIGBUS.
 */
import { closeSync, existsSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { ferryError, toFailure } from "../../model/failure.js";
import { PAGE_SIZE, type AreaTable, type PageStore } from "./api.js";
import { PAGES_FILE, readTable, STATES_FILE, TABLE_FILE, writeTable } from "./table.js";

export const MISSING = 0;
export const DATA = 1;
export const ZERO = 2;

class FileStore implements PageStore {
  readonly table: AreaTable;
  #pages: number;
  #states: number;
  /** What the states file says; only this process writes it. */
  #known: Buffer;
  #received: number;
  /** No slot before this one is missing. */
  #firstMissing = 0;

  constructor(dir: string, table: AreaTable, known: Buffer) {
    this.table = table;
    this.#pages = openSync(join(dir, PAGES_FILE), "r+");
    this.#states = openSync(join(dir, STATES_FILE), "r+");
    this.#known = known;
    let missing = 0;
    for (let at = known.indexOf(MISSING); at >= 0; at = known.indexOf(MISSING, at + 1)) missing++;
    this.#received = known.length - missing;
  }

  get received(): number {
    return this.#received;
  }

  has(slot: number): boolean {
    return (this.#known[slot] ?? MISSING) !== MISSING;
  }

  write(slot: number, data: Buffer): void {
    if (data.length % PAGE_SIZE !== 0) {
      throw ferryError("E_FRAME", `pages from slot ${slot} on: ${data.length} bytes are not whole pages`, {
        side: "destination",
      });
    }
    this.#each(slot, data.length / PAGE_SIZE, DATA, (from, pages) => {
      const offset = (from - slot) * PAGE_SIZE;
      this.#put(this.#pages, data, offset, pages * PAGE_SIZE, from * PAGE_SIZE);
    });
  }

  writeZero(slot: number, pages: number): void {
    this.#each(slot, pages, ZERO, () => undefined);
  }

  /** Calls `store` for every run of missing slots, then marks it. */
  #each(slot: number, pages: number, state: number, store: (from: number, pages: number) => void): void {
    const end = slot + pages;
    if (
      !Number.isSafeInteger(slot) ||
      !Number.isSafeInteger(pages) ||
      slot < 0 ||
      pages < 0 ||
      end > this.#known.length
    ) {
      throw ferryError("E_FRAME", `slots ${slot} to ${end} are outside the store of ${this.#known.length}`, {
        side: "destination",
      });
    }
    for (let from = slot; from < end;) {
      if (this.has(from)) {
        from++;
        continue;
      }
      let to = from + 1;
      while (to < end && !this.has(to)) to++;
      store(from, to - from);
      this.#known.fill(state, from, to);
      this.#put(this.#states, this.#known, from, to - from, from);
      this.#received += to - from;
      from = to;
    }
  }

  #put(fd: number, data: Buffer, offset: number, length: number, position: number): void {
    try {
      for (let done = 0; done < length;) done += writeSync(fd, data, offset + done, length - done, position + done);
    } catch (error) {
      throw ferryError(
        toFailure(error).code === "E_NO_SPACE" ? "E_NO_SPACE" : "E_PAGES",
        `storing pages: ${toFailure(error).message}`,
        {
          side: "destination",
          remedy: "free memory on the destination: the store is a tmpfs as large as the workload's memory",
        },
      );
    }
  }

  missing(limit: number): { slot: number; pages: number }[] {
    const runs: { slot: number; pages: number }[] = [];
    let at = this.#known.indexOf(MISSING, this.#firstMissing);
    this.#firstMissing = at < 0 ? this.#known.length : at;
    while (at >= 0 && runs.length < limit) {
      let end = at + 1;
      while (end < this.#known.length && this.#known[end] === MISSING) end++;
      runs.push({ slot: at, pages: end - at });
      at = end < this.#known.length ? this.#known.indexOf(MISSING, end) : -1;
    }
    return runs;
  }

  close(): void {
    closeSync(this.#pages);
    closeSync(this.#states);
  }
}

/** Makes an empty store in `dir` (0700; should be on tmpfs). Throws E_PAGES when the table is wrong or a store is there. */
export function createStore(dir: string, table: AreaTable): PageStore {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  if (existsSync(join(dir, TABLE_FILE))) {
    throw ferryError("E_PAGES", `there is a page store in ${dir} already`, { side: "destination" });
  }
  const states = Buffer.alloc(table.slots);
  const pagesFd = openSync(join(dir, PAGES_FILE), "w", 0o600);
  ftruncateSync(pagesFd, Math.max(table.slots, 1) * PAGE_SIZE);
  closeSync(pagesFd);
  const statesFd = openSync(join(dir, STATES_FILE), "w", 0o600);
  // written, not only sized: marking a slot later can't fail for want of space, and the daemon's view of it can't fault
  for (let done = 0; done < states.length;) done += writeSync(statesFd, states, done);
  if (states.length === 0) ftruncateSync(statesFd, 1);
  closeSync(statesFd);
  // last: a store is there once its table is
  writeTable(dir, table);
  return new FileStore(dir, table, states);
}

/** The store that an earlier process made in `dir`, with what it had received. */
export function openStore(dir: string): PageStore {
  const table = readTable(dir);
  const states = readFileSync(join(dir, STATES_FILE));
  if (states.length !== Math.max(table.slots, 1)) {
    throw ferryError(
      "E_PAGES",
      `the page store in ${dir} is damaged: ${states.length} states for ${table.slots} slots`,
      {
        side: "destination",
      },
    );
  }
  return new FileStore(dir, table, states.subarray(0, table.slots));
}

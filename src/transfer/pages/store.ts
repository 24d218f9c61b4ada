/**
 * The page store: three files in a directory on tmpfs that outlive every process that works on them.
 *
 *   areas   which pages of which task the slots are (written once; its being there makes it a store)
 *   pages   slot i at i * 4096; sparse; memory is given back (a hole) once a slot is in every task that needs it
 *   states  one byte per slot: missing, data, zero. Written after the slot's data
 *
 * Only the mover writes `pages` and `states`; the page daemon maps both. Plain writes, not stores into mapped memory: a
 * full tmpfs is then an error that can be reported, not a SIGBUS.
 */
import { closeSync, existsSync, ftruncateSync, mkdirSync, openSync, readFileSync, write, writeSync } from "node:fs";
import { join } from "node:path";
import { ferryError, toFailure, type FerryError } from "../../model/failure.js";
import { PAGE_SIZE, tablePages, type AreaTable, type PageStore } from "./api.js";
import { checkTable, PAGES_FILE, readTable, STATES_FILE, TABLE_FILE, writeTable } from "./table.js";

export const MISSING = 0;
export const DATA = 1;
export const ZERO = 2;

const notStored = (error: unknown): FerryError => {
  const { code, message } = toFailure(error);
  return ferryError(code === "E_NO_SPACE" ? "E_NO_SPACE" : "E_PAGES", `storing pages: ${message}`, {
    side: "destination",
    remedy: "free memory on the destination: the store is a tmpfs as large as the workload's memory",
  });
};

/** Writes all of it. Throws E_NO_SPACE when the tmpfs is full, else E_PAGES. */
export function putPages(fd: number, data: Buffer, offset: number, length: number, position: number): void {
  try {
    for (let done = 0; done < length;) done += writeSync(fd, data, offset + done, length - done, position + done);
  } catch (error) {
    throw notStored(error);
  }
}

class FileStore implements PageStore {
  readonly table: AreaTable;
  #pages: number;
  #states: number;
  /** What the states file says; only this process writes it. */
  #known: Buffer;
  /** Slots that no area owns: never missing. */
  readonly #void: number;
  readonly total: number;
  #knownSlots: number;
  /** No slot before this one is missing. */
  #firstMissing = 0;
  /** Calls of writeAside that have not ended. */
  #aside = 0;
  #closing = false;

  constructor(dir: string, table: AreaTable, known: Buffer) {
    this.table = table;
    this.#pages = openSync(join(dir, PAGES_FILE), "r+");
    this.#states = openSync(join(dir, STATES_FILE), "r+");
    this.#known = known;
    let missing = 0;
    for (let at = known.indexOf(MISSING); at >= 0; at = known.indexOf(MISSING, at + 1)) missing++;
    this.#knownSlots = known.length - missing;
    this.total = tablePages(table);
    this.#void = table.slots - this.total;
  }

  get received(): number {
    return this.#knownSlots - this.#void;
  }

  has(slot: number): boolean {
    return (this.#known[slot] ?? MISSING) !== MISSING;
  }

  write(slot: number, data: Buffer): void {
    const pages = this.#wholePages(slot, data);
    for (const { from, pages: count } of this.#lacking(slot, pages)) {
      putPages(this.#pages, data, (from - slot) * PAGE_SIZE, count * PAGE_SIZE, from * PAGE_SIZE);
      this.#mark(from, count, DATA);
    }
  }

  async writeAside(slot: number, data: Buffer): Promise<void> {
    const pages = this.#wholePages(slot, data);
    const runs = this.#lacking(slot, pages);
    if (this.#closing) throw ferryError("E_CANCELLED", "the page store is closed");
    this.#aside += 1;
    // allSettled: when one fails the others still use `data`
    const ends = await Promise.allSettled(
      runs.map(({ from, pages: count }) =>
        this.#putAside(data, (from - slot) * PAGE_SIZE, count * PAGE_SIZE, from * PAGE_SIZE),
      ),
    );
    this.#aside -= 1;
    if (this.#closing) {
      this.close();
      throw ferryError("E_CANCELLED", "the page store is closed");
    }
    const failed = ends.find((end) => end.status === "rejected");
    if (failed !== undefined) throw failed.reason;
    // a fault may have brought some of them meanwhile, with the same content
    for (const { from, pages: count } of this.#lacking(slot, pages)) this.#mark(from, count, DATA);
  }

  writeZero(slot: number, pages: number): void {
    for (const { from, pages: count } of this.#lacking(slot, pages)) this.#mark(from, count, ZERO);
  }

  #wholePages(slot: number, data: Buffer): number {
    if (data.length % PAGE_SIZE === 0) return data.length / PAGE_SIZE;
    throw ferryError("E_FRAME", `pages from slot ${slot} on: ${data.length} bytes are not whole pages`, {
      side: "destination",
    });
  }

  /** Runs of missing slots. Throws E_FRAME when the slots are not the store's. */
  #lacking(slot: number, pages: number): { from: number; pages: number }[] {
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
    const runs: { from: number; pages: number }[] = [];
    for (let from = slot; from < end;) {
      if (this.has(from)) {
        from++;
        continue;
      }
      let to = from + 1;
      while (to < end && !this.has(to)) to++;
      runs.push({ from, pages: to - from });
      from = to;
    }
    return runs;
  }

  #mark(from: number, pages: number, state: number): void {
    this.#known.fill(state, from, from + pages);
    putPages(this.#states, this.#known, from, pages, from);
    this.#knownSlots += pages;
  }

  #putAside(data: Buffer, offset: number, length: number, position: number): Promise<void> {
    return new Promise((resolve, reject) => {
      write(this.#pages, data, offset, length, position, (error, wrote) => {
        if (error !== null) reject(notStored(error));
        else if (wrote === length) resolve();
        // the next write says what is in the way
        else this.#putAside(data, offset + wrote, length - wrote, position + wrote).then(resolve, reject);
      });
    });
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

  /** With writes aside under way, once they have ended: the number of a closed file is soon another's. */
  close(): void {
    this.#closing = true;
    if (this.#aside > 0) return;
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
  checkTable(table);
  const pagesFd = openSync(join(dir, PAGES_FILE), "w", 0o600);
  closeSync(pagesFd);
  const states = Buffer.alloc(table.slots);
  let next = 0;
  for (const area of table.areas) {
    states.fill(ZERO, next, area.slot);
    next = area.slot + area.pages;
  }
  return adoptStore(dir, table, states.fill(ZERO, next));
}

/**
 * Makes a store in `dir` of the pages file that is there. `states`: one byte per slot, none of a void slot is missing.
 * Throws E_PAGES when the table is wrong, E_NO_SPACE.
 */
export function adoptStore(dir: string, table: AreaTable, states: Buffer): PageStore {
  const pagesFd = openSync(join(dir, PAGES_FILE), "r+");
  ftruncateSync(pagesFd, Math.max(table.slots, 1) * PAGE_SIZE);
  closeSync(pagesFd);
  const statesFd = openSync(join(dir, STATES_FILE), "w", 0o600);
  // written, not only sized: marking a slot later can't fail for want of space, and the daemon's view of it can't fault
  putPages(statesFd, states, 0, states.length, 0);
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

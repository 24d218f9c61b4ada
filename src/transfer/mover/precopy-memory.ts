/**
 * What the source knows of the memory that it copies before the freeze: a slot for every page that was ever found
 * dirty, and whether the destination has it as it is. A byte per slot, whatever happens in between.
 */
import { closeSync, openSync, read, readSync } from "node:fs";
import { PAGE_SIZE } from "../pages/api.js";
import { RegionMap } from "../pages/regions.js";
import { checkPid } from "../pages/source.js";
import type { PageRun } from "../trackers/tracker.js";

/** States of a slot; 0: never found. Sent as it was at the last scan, or later. */
const SENT = 1;
const UNSENT = 2;
/** Not there any more when it was to be read. */
const GONE = 3;
/** Runs up to this length are read on this thread: going through another one costs more than the copy. */
const READ_HERE_PAGES = 16;
/** After so many unreadable pages in a row the rest of a run is taken to be gone, too. */
const GONE_IN_A_ROW = 8;
const STALE_RECORD = 8;

/** Consecutive slots whose pages are consecutive in one task. */
export interface Span {
  slot: number;
  pages: number;
  vpid: number;
  start: number;
}

export class PrecopyMemory {
  readonly regions = new RegionMap();
  #states = Buffer.alloc(0);
  /** Slots in the state UNSENT. */
  #unsent = 0;
  /** Slots in the state SENT. */
  #sent = 0;
  /** Dirty pages of the last scan for which there was no slot. */
  #beyond = 0;
  #files = new Map<number, number>();

  get unsentPages(): number {
    return this.#unsent + this.#beyond;
  }

  /** Pages that the destination holds for us, those that have vanished since included. */
  get sentPages(): number {
    return this.#sent;
  }

  /** Opens the memory of the tasks as they are now. A task that has ended or is another one has no pages. */
  open(pids: Readonly<Record<string, number>>): void {
    this.close();
    for (const [vpid, hostPid] of Object.entries(pids)) {
      try {
        // in this order: the file stays with the task that it was opened for
        const fd = openSync(`/proc/${hostPid}/mem`, "r");
        this.#files.set(Number(vpid), fd);
        checkPid(Number(vpid), hostPid);
      } catch {
        this.#closeOne(Number(vpid));
      }
    }
  }

  close(): void {
    for (const vpid of this.#files.keys()) this.#closeOne(vpid);
  }

  #closeOne(vpid: number): void {
    const fd = this.#files.get(vpid);
    if (fd !== undefined) closeSync(fd);
    this.#files.delete(vpid);
  }

  /** The result of a scan. */
  dirty(runs: readonly PageRun[]): void {
    this.#beyond = 0;
    for (const run of runs) {
      for (const piece of this.regions.cover(run.vpid, run.start, run.pages)) {
        if (piece.slot === undefined) this.#beyond += piece.pages;
        else this.#mark(piece.slot, piece.pages, UNSENT);
      }
    }
  }

  /** The destination has nothing any more. */
  lost(): void {
    for (let slot = this.#states.indexOf(SENT); slot >= 0; slot = this.#states.indexOf(SENT, slot)) {
      let end = slot + 1;
      while (this.#states[end] === SENT) end += 1;
      this.#mark(slot, end - slot, UNSENT);
      slot = end;
    }
  }

  /** These have not arrived. */
  unsend(spans: readonly Pick<Span, "slot" | "pages">[]): void {
    for (const { slot, pages } of spans) this.#mark(slot, pages, UNSENT);
  }

  #mark(slot: number, pages: number, state: number): void {
    if (slot + pages > this.#states.length) {
      const grown = Buffer.alloc(Math.max(this.regions.slots, this.#states.length * 2));
      this.#states.copy(grown);
      this.#states = grown;
    }
    for (let at = slot; at < slot + pages; at += 1) {
      if (this.#states[at] === UNSENT) this.#unsent -= 1;
      else if (this.#states[at] === SENT) this.#sent -= 1;
      this.#states[at] = state;
    }
    if (state === UNSENT) this.#unsent += pages;
    else if (state === SENT) this.#sent += pages;
  }

  /**
   * Takes up to `limit` unsent pages from `from` on and counts them as sent: what is found dirty from now on is unsent
   * again, though it may have been read already.
   */
  claim(from: number, limit: number, maxSpans: number): { spans: Span[]; next: number } {
    const spans: Span[] = [];
    let left = limit;
    let next = from;
    while (left > 0 && spans.length < maxSpans) {
      const slot = this.#states.indexOf(UNSENT, next);
      const place = slot < 0 ? undefined : this.regions.place(slot);
      if (place === undefined) return { spans, next: this.#states.length };
      let pages = 1;
      while (pages < Math.min(left, place.pages) && this.#states[slot + pages] === UNSENT) pages += 1;
      this.#mark(slot, pages, SENT);
      spans.push({ slot, pages, vpid: place.vpid, start: place.start });
      left -= pages;
      next = slot + pages;
    }
    return { spans, next };
  }

  /** Reads spans into `buffer`, one behind the other. Returns what was there; the rest is gone until it is dirty again. */
  async read(spans: readonly Span[], buffer: Buffer): Promise<{ span: Span; at: number }[]> {
    const found: { span: Span; at: number }[] = [];
    let at = 0;
    for (const span of spans) {
      const fd = this.#files.get(span.vpid);
      let failed = fd === undefined ? GONE_IN_A_ROW : 0;
      for (let page = 0; page < span.pages;) {
        const bytes = (span.pages - page) * PAGE_SIZE;
        const got =
          fd === undefined || failed >= GONE_IN_A_ROW
            ? 0
            : await this.#readAt(fd, buffer, at, bytes, span.start + page * PAGE_SIZE);
        const pages = Math.floor(got / PAGE_SIZE);
        const slot = span.slot + page;
        if (pages > 0) {
          found.push({ span: { ...span, slot, pages, start: span.start + page * PAGE_SIZE }, at });
          at += pages * PAGE_SIZE;
          page += pages;
          failed = 0;
        } else {
          const gone = failed >= GONE_IN_A_ROW ? span.pages - page : 1;
          this.#mark(slot, gone, GONE);
          page += gone;
          failed += 1;
        }
      }
    }
    return found;
  }

  /** Bytes that could be read, 0: none. */
  #readAt(fd: number, into: Buffer, offset: number, bytes: number, position: number): Promise<number> | number {
    if (bytes <= READ_HERE_PAGES * PAGE_SIZE) {
      try {
        return readSync(fd, into, offset, bytes, position);
      } catch {
        return 0;
      }
    }
    return new Promise((resolve) => {
      read(fd, into, offset, bytes, position, (error, got) => {
        resolve(error === null ? got : 0);
      });
    });
  }

  /** Slots before `limit` of which the destination may have an older version: pairs of slot and pages, u32, in pieces. */
  *stale(limit: number, pieceBytes: number): Generator<Buffer, undefined> {
    const records = Math.floor(pieceBytes / STALE_RECORD);
    let piece = Buffer.alloc(records * STALE_RECORD);
    let used = 0;
    for (const state of [UNSENT, GONE]) {
      for (let slot = this.#states.indexOf(state); slot >= 0 && slot < limit;) {
        let end = slot + 1;
        while (end < limit && this.#states[end] === state) end += 1;
        piece.writeUInt32LE(slot, used);
        piece.writeUInt32LE(end - slot, used + 4);
        used += STALE_RECORD;
        if (used === piece.length) {
          yield piece;
          piece = Buffer.alloc(records * STALE_RECORD);
          used = 0;
        }
        slot = this.#states.indexOf(state, end);
      }
    }
    if (used > 0) yield piece.subarray(0, used);
    return undefined;
  }
}

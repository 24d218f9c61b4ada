/**
 * Which slot a page of a running tree has, before criu has said which pages there are: blocks of 512 pages, aligned to
 * 2 MiB, get slots in the order in which they are first seen. Both movers keep the same list of regions; it only grows,
 * and what has been announced never changes, so that a slot means the same page for ever. Pure.
 */
import { ferryError, type FerryError } from "../../model/failure.js";
import { PAGE_SIZE } from "./api.js";

export const BLOCK_PAGES = 512;
const BLOCK_BYTES = BLOCK_PAGES * PAGE_SIZE;
/**
 * 512 GiB of blocks, 262,144 of them: what lies beyond is moved when the tree is frozen. Bounds what a list of regions
 * costs on either side (a byte per slot, some 100 bytes per block), however sparse the memory or hostile the peer.
 */
export const MAX_REGION_SLOTS = 2 ** 27;
const ADDRESS_END = 2 ** 47;
const MAX_PID = 0x7fffffff;

/** Whole blocks, consecutive in addresses and in slots. */
export interface Region {
  vpid: number;
  start: number;
  pages: number;
  slot: number;
}

/** Pages of one task within one block; `slot` undefined: no region has them. */
export interface Piece {
  start: number;
  pages: number;
  slot: number | undefined;
}

const wrong = (message: string): FerryError => ferryError("E_FRAME", `regions: ${message}`);

export class RegionMap {
  readonly #regions: Region[] = [];
  /** Regions before this one have been announced. */
  #sealed = 0;
  /** By task: number of the block in the address space to its first slot. */
  readonly #slots = new Map<number, Map<number, number>>();
  /** By slot / 512. */
  readonly #places: { vpid: number; start: number }[] = [];

  get regions(): readonly Readonly<Region>[] {
    return this.#regions;
  }

  /** Slots of all regions together: the regions tile [0, slots). */
  get slots(): number {
    return this.#places.length * BLOCK_PAGES;
  }

  /** The regions so far do not change any more. */
  seal(): void {
    this.#sealed = this.#regions.length;
  }

  /** The next region of the peer's list. Throws E_FRAME when it can't be one. */
  add({ vpid, start, pages, slot }: Region): void {
    if (!Number.isSafeInteger(vpid) || vpid <= 0 || vpid > MAX_PID) throw wrong(`pid ${vpid}`);
    if (!Number.isSafeInteger(pages) || pages <= 0 || pages % BLOCK_PAGES !== 0) throw wrong(`${pages} pages`);
    if (slot !== this.slots) throw wrong(`slot ${slot} where ${this.slots} was expected`);
    if (pages > MAX_REGION_SLOTS - slot) throw wrong(`more than ${MAX_REGION_SLOTS} slots`);
    if (
      !Number.isSafeInteger(start) ||
      start < 0 ||
      start % BLOCK_BYTES !== 0 ||
      start + pages * PAGE_SIZE > ADDRESS_END
    ) {
      throw wrong(`${pages} pages at ${start}`);
    }
    const blocks = this.#blocksOf(vpid);
    const first = start / BLOCK_BYTES;
    for (let block = first; block < first + pages / BLOCK_PAGES; block += 1) {
      if (blocks.has(block)) throw wrong(`task ${vpid} has ${(block * BLOCK_BYTES).toString(16)} in a region already`);
      this.#give(blocks, vpid, block);
    }
    this.#regions.push({ vpid, start, pages, slot });
    this.#sealed = this.#regions.length;
  }

  /** Pieces of a run in address order; blocks that have no slots get some, as long as there are any. */
  cover(vpid: number, start: number, pages: number): Piece[] {
    const blocks = this.#blocksOf(vpid);
    const last = Math.floor((start + pages * PAGE_SIZE - 1) / BLOCK_BYTES);
    for (let block = Math.floor(start / BLOCK_BYTES); block <= last; block += 1) {
      if (blocks.has(block) || this.slots >= MAX_REGION_SLOTS) continue;
      const slot = this.slots;
      this.#give(blocks, vpid, block);
      const region = this.#regions.at(-1);
      const at = block * BLOCK_BYTES;
      const open = region !== undefined && this.#regions.length > this.#sealed;
      if (open && region.vpid === vpid && region.start + region.pages * PAGE_SIZE === at) region.pages += BLOCK_PAGES;
      else this.#regions.push({ vpid, start: at, pages: BLOCK_PAGES, slot });
    }
    return this.pieces(vpid, start, pages);
  }

  /** Pieces of a run in address order; neighbours that are consecutive in slots, too, are one piece. */
  pieces(vpid: number, start: number, pages: number): Piece[] {
    const blocks = this.#slots.get(vpid);
    const found: Piece[] = [];
    const end = start + pages * PAGE_SIZE;
    for (let at = start; at < end;) {
      const block = Math.floor(at / BLOCK_BYTES);
      const until = Math.min(end, (block + 1) * BLOCK_BYTES);
      const first = blocks?.get(block);
      const slot = first === undefined ? undefined : first + (at - block * BLOCK_BYTES) / PAGE_SIZE;
      const count = (until - at) / PAGE_SIZE;
      const before = found.at(-1);
      const follows =
        before !== undefined && (before.slot === undefined ? slot === undefined : before.slot + before.pages === slot);
      if (follows) before.pages += count;
      else found.push({ start: at, pages: count, slot });
      at = until;
    }
    return found;
  }

  /** The page of a slot, and how many follow it in its block. */
  place(slot: number): { vpid: number; start: number; pages: number } | undefined {
    const block = this.#places[Math.floor(slot / BLOCK_PAGES)];
    const offset = slot % BLOCK_PAGES;
    return block && { vpid: block.vpid, start: block.start + offset * PAGE_SIZE, pages: BLOCK_PAGES - offset };
  }

  /** The map as it was when it had the first `count` regions. */
  prefix(count: number): RegionMap {
    if (count === this.#regions.length) return this;
    const map = new RegionMap();
    for (const region of this.#regions.slice(0, count)) map.add(region);
    return map;
  }

  #blocksOf(vpid: number): Map<number, number> {
    let blocks = this.#slots.get(vpid);
    if (blocks === undefined) this.#slots.set(vpid, (blocks = new Map()));
    return blocks;
  }

  #give(blocks: Map<number, number>, vpid: number, block: number): void {
    blocks.set(block, this.slots);
    this.#places.push({ vpid, start: block * BLOCK_BYTES });
  }
}

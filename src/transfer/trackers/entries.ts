/**
 * Entries of a task's /proc/<pid>/pagemap, kept from one look to the next: 8 bytes a page, only where pages are.
 *
 * A soft-dirty bit alone does not tell all that changes what is at an address. mremap moves whole page tables (2 MiB, aligned
 * alike) with the bits as they are, and a huge zero page that a read brings in after MADV_DONTNEED has none. In both cases
 * another frame is at the address, so a page is clean only when its bit is clear and its frame is the one that it was.
 */
import { readSync } from "node:fs";
import { PAGE, type Found } from "../../host/pagemap.js";

/** Pages of one piece: what one page table covers. */
const PIECE_PAGES = 512;
const PIECE_BYTES = PIECE_PAGES * PAGE;
/** An entry is two words of 32 bits. */
const WORDS = 2;
const ENTRY_BYTES = 8;
const ENTRIES_AT_ONCE = 64 * 1024;

/** Bits 63, 62 and 55 of an entry, in its upper word, and those of the frame (or of the place in swap). */
const PRESENT = 2 ** 31;
const SWAPPED = 2 ** 30;
const SOFT_DIRTY = 2 ** 23;
const FRAME = 2 ** 23 - 1;
/** What must be as it was. */
// oxlint-disable-next-line unicorn/prefer-math-trunc -- a word with bit 31, as bit operators want it
const SAME = PRESENT | SWAPPED | FRAME | 0;

let scratch: Uint32Array | undefined;

export class PageEntries {
  /** Lower and upper words of the entries of a piece, by its number; in the order of addresses. */
  readonly #pieces = new Map<number, Uint32Array>();

  /** Takes over the entries of a range, which lies above those that were taken before. `fd`: an open pagemap. */
  read(fd: number, start: number, end: number): void {
    scratch ??= new Uint32Array(ENTRIES_AT_ONCE * WORDS);
    for (let at = start; at < end;) {
      const wanted = Math.min(ENTRIES_AT_ONCE, (end - at) / PAGE) * ENTRY_BYTES;
      const got = Math.floor(readSync(fd, scratch, 0, wanted, (at / PAGE) * ENTRY_BYTES) / ENTRY_BYTES);
      if (got === 0) return;
      this.add(at, scratch.subarray(0, got * WORDS));
      at += got * PAGE;
    }
  }

  /** The same, of words that were read. */
  add(start: number, words: Uint32Array): void {
    const count = words.length / WORDS;
    for (let from = 0; from < count;) {
      const address = start + from * PAGE;
      const number = Math.floor(address / PIECE_BYTES);
      const inPiece = (address - number * PIECE_BYTES) / PAGE;
      const to = Math.min(count, from + PIECE_PAGES - inPiece);
      if (hasPages(words, from, to)) {
        let piece = this.#pieces.get(number);
        if (piece === undefined) this.#pieces.set(number, (piece = new Uint32Array(PIECE_PAGES * WORDS)));
        piece.set(words.subarray(from * WORDS, to * WORDS), inPiece * WORDS);
      }
      from = to;
    }
  }

  /**
   * Pages that are there (never the shared zero page) and may not be what they were when `before` was read; without it all of
   * them. Answers how many are there.
   */
  changed(before: PageEntries | undefined, zeroFrame: number, found: Found): number {
    let there = 0;
    for (const [number, piece] of this.#pieces) {
      const old = before === undefined ? undefined : before.#pieces.get(number);
      let first = -1;
      for (let index = 0; index <= PIECE_PAGES; index++) {
        const low = piece[index * WORDS] ?? 0;
        const high = piece[index * WORDS + 1] ?? 0;
        const isThere = high >= SWAPPED && !(high >= PRESENT && low + (high & FRAME) * 2 ** 32 === zeroFrame);
        if (isThere) there += 1;
        const isNew =
          isThere &&
          (old === undefined ||
            (high & SOFT_DIRTY) !== 0 ||
            low !== old[index * WORDS] ||
            ((high ^ (old[index * WORDS + 1] ?? 0)) & SAME) !== 0);
        if (isNew && first < 0) first = index;
        if (!isNew && first >= 0) {
          found(number * PIECE_BYTES + first * PAGE, index - first);
          first = -1;
        }
      }
    }
    return there;
  }
}

function hasPages(words: Uint32Array, from: number, to: number): boolean {
  for (let index = from; index < to; index++) if ((words[index * WORDS + 1] ?? 0) >= SWAPPED) return true;
  return false;
}

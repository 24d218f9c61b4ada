/**
 * Guesses which pages a task will want next: threads that go through memory ask for one page behind the other, and a run
 * asked for in one go costs little more than a page. Like the kernel's readahead: 16 pages at first, twice as many each time
 * half of what was asked for is used, up to 256. Pure.
 */

export const FIRST_WINDOW = 16;
const MAX_WINDOW = 256;
/** Threads of one task that can be followed at the same time. */
const STREAMS = 8;

interface Stream {
  /** Page of the fault that set the window. */
  from: number;
  window: number;
}

export class Streams {
  /** The one that was met last comes first. */
  #streams: Stream[] = [];

  /** A thread needs this page. Returns how many pages from it on are likely to be wanted. */
  fault(page: number): number {
    const index = this.#streams.findIndex(({ from, window }) => page >= from && page < from + 2 * window);
    const [stream = { from: page, window: FIRST_WINDOW }] = index < 0 ? [] : this.#streams.splice(index, 1);
    if (page - stream.from >= stream.window / 2) {
      stream.from = page;
      stream.window = Math.min(stream.window * 2, MAX_WINDOW);
    }
    this.#streams.unshift(stream);
    if (this.#streams.length > STREAMS) this.#streams.pop();
    return stream.window;
  }
}

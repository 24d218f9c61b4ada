/**
 * The pages that one task still waits for: ordered, non-overlapping runs of page numbers (address / 4096), each with the
 * slot of its first page in the store. Pure; mutated by what the kernel tells of the task's address space.
 */

export interface Run {
  /** First page number. */
  start: number;
  pages: number;
  /** Slot of the first page. */
  slot: number;
}

export class PendingRanges {
  #runs: Run[] = [];
  #pages = 0;
  #moved = false;

  /** Pages that are pending. */
  get pages(): number {
    return this.#pages;
  }

  /** Whether some run has left the address it had in the image (mremap). */
  get moved(): boolean {
    return this.#moved;
  }

  get runs(): readonly Readonly<Run>[] {
    return this.#runs;
  }

  /** Independent copy, for a forked child. */
  clone(): PendingRanges {
    const copy = new PendingRanges();
    copy.#runs = this.#runs.map((run) => ({ ...run }));
    copy.#pages = this.#pages;
    copy.#moved = this.#moved;
    return copy;
  }

  /** Index of the first run that ends after `page`. */
  #after(page: number): number {
    let low = 0;
    let high = this.#runs.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const run = this.#runs[middle];
      if (run !== undefined && run.start + run.pages > page) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** The part of a run from `page` on, undefined when the page is not pending. */
  at(page: number): Run | undefined {
    const run = this.#runs[this.#after(page)];
    if (run === undefined || run.start > page) return undefined;
    const offset = page - run.start;
    return { start: page, pages: run.pages - offset, slot: run.slot + offset };
  }

  /** Adds a run; whatever was pending there is replaced. */
  add(start: number, pages: number, slot: number): void {
    if (pages <= 0) return;
    this.cut(start, pages);
    const index = this.#after(start);
    const before = this.#runs[index - 1];
    if (before !== undefined && before.start + before.pages === start && before.slot + before.pages === slot) {
      before.pages += pages;
    } else {
      this.#runs.splice(index, 0, { start, pages, slot });
    }
    this.#pages += pages;
  }

  /** Removes [start, start + pages) and returns what was pending there. */
  cut(start: number, pages: number): Run[] {
    const end = start + pages;
    const first = this.#after(start);
    const taken: Run[] = [];
    const kept: Run[] = [];
    let last = first;
    for (; last < this.#runs.length; last++) {
      const run = this.#runs[last];
      if (run === undefined || run.start >= end) break;
      const runEnd = run.start + run.pages;
      const from = Math.max(run.start, start);
      const to = Math.min(runEnd, end);
      taken.push({ start: from, pages: to - from, slot: run.slot + from - run.start });
      this.#pages -= to - from;
      if (run.start < from) kept.push({ start: run.start, pages: from - run.start, slot: run.slot });
      if (to < runEnd) kept.push({ start: to, pages: runEnd - to, slot: run.slot + to - run.start });
    }
    if (taken.length > 0) this.#runs.splice(first, last - first, ...kept);
    return taken;
  }

  /** mremap: what is pending in [from, from + pages) is now at the same place from `to` on. */
  move(from: number, to: number, pages: number): void {
    if (from === to) return;
    const taken = this.cut(from, pages);
    // a page that was mapped over is gone
    this.cut(to, pages);
    for (const run of taken) this.add(run.start - from + to, run.pages, run.slot);
    if (taken.length > 0) this.#moved = true;
  }

  /** Pending pages whose content is in the slots [slot, slot + pages), whose address in the image was `start`. */
  ofSlots(start: number, slot: number, pages: number): Run[] {
    const found: Run[] = [];
    const slotEnd = slot + pages;
    const take = (run: Run): void => {
      const from = Math.max(run.slot, slot);
      const to = Math.min(run.slot + run.pages, slotEnd);
      if (from < to) found.push({ start: run.start + from - run.slot, pages: to - from, slot: from });
    };
    if (this.#moved) {
      for (const run of this.#runs) take(run);
      return found;
    }
    for (let index = this.#after(start); index < this.#runs.length; index++) {
      const run = this.#runs[index];
      if (run === undefined || run.start >= start + pages) break;
      take(run);
    }
    return found;
  }
}

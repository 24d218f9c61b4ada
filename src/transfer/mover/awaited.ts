/** Slots that were asked for because a thread waits for them, or soon will, and that are not here yet. */

export interface Run {
  slot: number;
  pages: number;
}

export class Awaited {
  readonly #slots = new Set<number>();

  /** What of this run is neither here nor was asked for yet: it now counts as asked for. */
  add({ slot, pages }: Run, here: (slot: number) => boolean): Run[] {
    const fresh: Run[] = [];
    for (let at = slot; at < slot + pages; at += 1) {
      if (this.#slots.has(at) || here(at)) continue;
      this.#slots.add(at);
      const last = fresh.at(-1);
      if (last !== undefined && last.slot + last.pages === at) last.pages += 1;
      else fresh.push({ slot: at, pages: 1 });
    }
    return fresh;
  }

  /** These are here. */
  came({ slot, pages }: Run): void {
    if (this.#slots.size === 0) return;
    for (let at = slot; at < slot + pages; at += 1) this.#slots.delete(at);
  }

  /** Everything that was asked for and has not come. */
  get runs(): Run[] {
    const runs: Run[] = [];
    for (const at of [...this.#slots].sort((a, b) => a - b)) {
      const last = runs.at(-1);
      if (last !== undefined && last.slot + last.pages === at) last.pages += 1;
      else runs.push({ slot: at, pages: 1 });
    }
    return runs;
  }
}

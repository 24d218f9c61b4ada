/** Unpacked segments, the latest used ones within a limit of bytes; what is under way is asked for once. */
export class SegmentCache {
  readonly #limitBytes: number;
  readonly #kept = new Map<string, Buffer>();
  readonly #coming = new Map<string, Promise<Buffer>>();
  #bytes = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** Segments from..to (inclusive) of a pack; `load` is called for each run of those that are not here. */
  async get(
    pack: string,
    from: number,
    to: number,
    load: (from: number, to: number) => Promise<Buffer[]>,
  ): Promise<Buffer[]> {
    const wanted: Promise<Buffer>[] = [];
    for (let at = from; at <= to;) {
      const here = this.#find(pack, at);
      if (here !== undefined) {
        wanted.push(here);
        at += 1;
        continue;
      }
      let last = at;
      while (last < to && this.#find(pack, last + 1) === undefined) last += 1;
      const first = at;
      const loading = load(first, last);
      for (; at <= last; at += 1) wanted.push(this.#keep(`${pack} ${at}`, loading, at - first));
    }
    return Promise.all(wanted);
  }

  clear(): void {
    this.#kept.clear();
    this.#bytes = 0;
  }

  #find(pack: string, segment: number): Promise<Buffer> | undefined {
    const name = `${pack} ${segment}`;
    const kept = this.#kept.get(name);
    if (kept === undefined) return this.#coming.get(name);
    this.#kept.delete(name);
    this.#kept.set(name, kept);
    return Promise.resolve(kept);
  }

  #keep(name: string, loading: Promise<Buffer[]>, index: number): Promise<Buffer> {
    const coming = (async () => {
      try {
        const segment = (await loading)[index];
        if (segment === undefined) throw new Error("a segment is missing in the answer");
        this.#kept.set(name, segment);
        this.#bytes += segment.length;
        for (const [oldest, { length }] of this.#kept) {
          if (this.#bytes <= this.#limitBytes) break;
          this.#kept.delete(oldest);
          this.#bytes -= length;
        }
        return segment;
      } finally {
        this.#coming.delete(name);
      }
    })();
    this.#coming.set(name, coming);
    return coming;
  }
}

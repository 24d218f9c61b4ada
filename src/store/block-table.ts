/**
 * Which blocks are known, and where they lie: id (16 bytes) -> pack and block, 24 bytes an entry, open addressing. Ids
 * are HMACs, so any part of them is a good hash.
 */
const WORDS = 6;

export class BlockTable {
  readonly #limit: number;
  #slots: Uint32Array;
  #size = 0;

  /** @param limit most blocks that are kept in mind; what comes later is stored, but not found again */
  constructor(limit: number) {
    this.#limit = limit;
    this.#slots = new Uint32Array(1024 * WORDS);
  }

  get size(): number {
    return this.#size;
  }

  get(id: Buffer): { pack: number; block: number } | undefined {
    const at = find(this.#slots, word(id, 0), word(id, 4), word(id, 8), word(id, 12));
    const pack = this.#slots[at + 4] ?? 0;
    return pack === 0 ? undefined : { pack: pack - 1, block: this.#slots[at + 5] ?? 0 };
  }

  /** The first place that is told stays. */
  add(id: Buffer, pack: number, block: number): void {
    if (this.#size >= this.#limit) return;
    if (this.#size * 10 >= (this.#slots.length / WORDS) * 7) this.#grow();
    const words = [word(id, 0), word(id, 4), word(id, 8), word(id, 12)] as const;
    const at = find(this.#slots, ...words);
    if (this.#slots[at + 4] !== 0) return;
    // A pack is kept as its number + 1: 0 is an empty slot.
    this.#slots.set([...words, pack + 1, block], at);
    this.#size += 1;
  }

  #grow(): void {
    const old = this.#slots;
    const slots = new Uint32Array(old.length * 2);
    for (let at = 0; at < old.length; at += WORDS) {
      if (old[at + 4] === 0) continue;
      const to = find(slots, old[at] ?? 0, old[at + 1] ?? 0, old[at + 2] ?? 0, old[at + 3] ?? 0);
      slots.set(old.subarray(at, at + WORDS), to);
    }
    this.#slots = slots;
  }
}

const word = (id: Buffer, at: number): number => id.readUInt32LE(at);

/** Where this id is, or the empty slot where it belongs. */
function find(slots: Uint32Array, a: number, b: number, c: number, d: number): number {
  const mask = slots.length / WORDS - 1;
  for (let slot = a & mask; ; slot = (slot + 1) & mask) {
    const at = slot * WORDS;
    if (slots[at + 4] === 0) return at;
    if (slots[at] === a && slots[at + 1] === b && slots[at + 2] === c && slots[at + 3] === d) return at;
  }
}

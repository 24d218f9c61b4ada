/**
 * Where the blocks of a stream lie. A stream is cut into windows of WINDOW_BLOCKS; each has a leaf: runs of blocks that
 * lie one after the other in one pack. A block in no run is zero. A leaf names its packs itself, so that checkpoints
 * share it as it is.
 *
 *   u8 1 | packs, 16 bytes each (count first) | runs (count first): gap, blocks, pack, block relative to the pack's last
 *
 * All numbers are LEB128, the last one zigzag.
 */
import { ferryError } from "../model/failure.js";

export const WINDOW_BLOCKS = 8192;

export interface Run {
  /** First block of the window. */
  at: number;
  blocks: number;
  /** Index into the leaf's packs. */
  pack: number;
  /** First block in the pack. */
  block: number;
}

export interface Leaf {
  /** Ids, 32 hexadecimal digits each. */
  packs: string[];
  /** In order, not overlapping. */
  runs: Run[];
}

export function encodeLeaf({ packs, runs }: Leaf): Buffer {
  const bytes: number[] = [1];
  const push = (value: number): void => {
    let rest = value;
    for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
    bytes.push(rest);
  };
  push(packs.length);
  for (const id of packs) bytes.push(...Buffer.from(id, "hex"));
  push(runs.length);
  const ends = packs.map(() => 0);
  let end = 0;
  for (const { at, blocks, pack, block } of runs) {
    push(at - end);
    push(blocks);
    push(pack);
    const step = block - (ends[pack] ?? 0);
    push(step < 0 ? -2 * step - 1 : 2 * step);
    end = at + blocks;
    ends[pack] = block + blocks;
  }
  return Buffer.from(bytes);
}

const corrupt = (what: string): Error =>
  ferryError("E_STORE_CORRUPT", `a map of the checkpoint is not as it must be: ${what}`);

/** Parses strictly. @throws FerryError E_STORE_CORRUPT */
export function decodeLeaf(body: Buffer): Leaf {
  let offset = 1;
  const pull = (): number => {
    let value = 0;
    for (let scale = 1; scale < 2 ** 42; scale *= 128) {
      const byte = body[offset];
      if (byte === undefined) throw corrupt("it is cut");
      offset += 1;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw corrupt("a number is too large");
  };
  if (body[0] !== 1) throw corrupt("its format is not known");
  const packs: string[] = [];
  for (let left = pull(); left > 0; left -= 1) {
    if (offset + 16 > body.length) throw corrupt("it is cut");
    packs.push(body.toString("hex", offset, offset + 16));
    offset += 16;
  }
  const ends = packs.map(() => 0);
  const runs: Run[] = [];
  let end = 0;
  for (let left = pull(); left > 0; left -= 1) {
    const at = end + pull();
    const blocks = pull();
    const pack = pull();
    const zigzag = pull();
    const block = (ends[pack] ?? Number.NaN) + (zigzag % 2 === 0 ? zigzag / 2 : -(zigzag + 1) / 2);
    end = at + blocks;
    if (blocks === 0 || end > WINDOW_BLOCKS) throw corrupt("a run does not fit into its window");
    if (!(block >= 0 && block + blocks <= 2 ** 32)) throw corrupt("a run lies in no pack");
    ends[pack] = block + blocks;
    runs.push({ at, blocks, pack, block });
  }
  if (offset !== body.length) throw corrupt("something follows it");
  return { packs, runs };
}

/** A window while it is written: one entry a block. */
export class WindowMap {
  /** Number of the pack + 1; 0: the block is zero. */
  readonly #packs = new Uint32Array(WINDOW_BLOCKS);
  readonly #blocks = new Uint32Array(WINDOW_BLOCKS);

  set(at: number, pack: number, block: number): void {
    this.#packs[at] = pack + 1;
    this.#blocks[at] = block;
  }

  clear(at: number, blocks: number): void {
    this.#packs.fill(0, at, at + blocks);
  }

  /** @param number of each pack of the leaf, in its order */
  load(leaf: Leaf, numbers: readonly number[]): void {
    for (const { at, blocks, pack, block } of leaf.runs) {
      for (let i = 0; i < blocks; i += 1) this.set(at + i, numbers[pack] ?? 0, block + i);
    }
  }

  /** Whether a run goes on here; zeros need no place. */
  #follows(at: number, pack: number, block: number): boolean {
    return this.#packs[at] === pack && (pack === 0 || this.#blocks[at] === block);
  }

  /** @param idOf a pack's number -> its id. `blocks`: how many are not zero */
  leaf(idOf: (pack: number) => string): { leaf: Leaf; numbers: number[]; blocks: number } {
    const numbers: number[] = [];
    const runs: Run[] = [];
    let blocks = 0;
    for (let at = 0; at < WINDOW_BLOCKS;) {
      const pack = this.#packs[at] ?? 0;
      const block = this.#blocks[at] ?? 0;
      let count = 1;
      while (at + count < WINDOW_BLOCKS && this.#follows(at + count, pack, block + count)) count += 1;
      if (pack !== 0) {
        let index = numbers.indexOf(pack - 1);
        if (index === -1) index = numbers.push(pack - 1) - 1;
        runs.push({ at, blocks: count, pack: index, block });
        blocks += count;
      }
      at += count;
    }
    return { leaf: { packs: numbers.map(idOf), runs }, numbers, blocks };
  }
}

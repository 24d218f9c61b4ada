/** What differs between two checkpoints, block by block, without reading any content: places first, then ids. */
import { BLOCK_BYTES } from "./pack-format.js";
import { idAt, type PackReader } from "./pack-reader.js";
import type { CheckpointReader, Piece } from "./reader.js";
import type { TreeStream } from "./tree.js";

export interface StreamDiff {
  stream: string;
  kind: TreeStream["kind"];
  change: "added" | "removed" | "changed";
  bytesBefore: number;
  bytesAfter: number;
  /** Bytes in blocks that differ, those that became zero or came to be included. */
  changedBytes: number;
  /** Where, in order, neighbours together. At most MAX_RANGES; then `more` is set. */
  ranges: { offset: number; bytes: number }[];
  more: boolean;
}

export const MAX_RANGES = 10_000;

/** Offsets of memory are addresses: where it ends says nothing of its size. */
const sizeOf = (stream: TreeStream | undefined): number =>
  (stream?.kind === "memory" ? stream.dataBytes : stream?.bytes) ?? 0;

/**
 * Streams that differ, in the order of their names.
 * @param seen told of every block that differs, in order: `ranges` is cut
 */
export async function* diffCheckpoints(
  before: CheckpointReader,
  after: CheckpointReader,
  packs: PackReader,
  seen: (stream: string, offset: number) => void = () => undefined,
): AsyncGenerator<StreamDiff> {
  const old = new Map(before.streams.map((stream) => [stream.name, stream]));
  const now = new Map(after.streams.map((stream) => [stream.name, stream]));
  const ids = new BlockIds(packs);
  for (const name of [...new Set([...old.keys(), ...now.keys()])].sort()) {
    const a = old.get(name);
    const b = now.get(name);
    const present = b ?? a;
    if (present === undefined) continue;
    const diff: StreamDiff = {
      stream: name,
      kind: present.kind,
      change: a === undefined ? "added" : b === undefined ? "removed" : "changed",
      bytesBefore: sizeOf(a),
      bytesAfter: sizeOf(b),
      changedBytes: 0,
      ranges: [],
      more: false,
    };
    const windowsA = new Map(a?.windows.map((window) => [window.w, window]));
    const windowsB = new Map(b?.windows.map((window) => [window.w, window]));
    for (const w of [...new Set([...windowsA.keys(), ...windowsB.keys()])].sort((x, y) => x - y)) {
      const inA = windowsA.get(w);
      const inB = windowsB.get(w);
      // An inline leaf names its packs itself: equal text is equal content.
      if (inA?.leaf !== undefined && inA.leaf === inB?.leaf) continue;
      const piecesA = a === undefined || inA === undefined ? [] : await before.runs(a, inA);
      const piecesB = b === undefined || inB === undefined ? [] : await after.runs(b, inB);
      await compare(piecesA, piecesB, ids, diff, seen);
    }
    if (diff.change !== "changed" || diff.changedBytes > 0 || diff.bytesBefore !== diff.bytesAfter) yield diff;
  }
}

async function compare(
  a: Piece[],
  b: Piece[],
  ids: BlockIds,
  diff: StreamDiff,
  seen: (stream: string, offset: number) => void,
): Promise<void> {
  const placesA = places(a);
  const placesB = places(b);
  for (const block of [...new Set([...placesA.keys(), ...placesB.keys()])].sort((x, y) => x - y)) {
    const one = placesA.get(block);
    const other = placesB.get(block);
    if (one !== undefined && other !== undefined) {
      if (one.pack.id === other.pack.id && one.block === other.block) continue;
      // Written twice, by two writers or beyond what one keeps in mind: the id tells.
      if ((await ids.of(one)).equals(await ids.of(other))) continue;
    }
    diff.changedBytes += BLOCK_BYTES;
    const last = diff.ranges.at(-1);
    const offset = block * BLOCK_BYTES;
    seen(diff.stream, offset);
    if (last !== undefined && last.offset + last.bytes === offset) last.bytes += BLOCK_BYTES;
    else if (diff.ranges.length < MAX_RANGES) diff.ranges.push({ offset, bytes: BLOCK_BYTES });
    else diff.more = true;
  }
}

type Place = Pick<Piece, "pack" | "block">;

function places(pieces: Piece[]): Map<number, Place> {
  const found = new Map<number, Place>();
  for (const { at, blocks, pack, block } of pieces) {
    for (let i = 0; i < blocks; i += 1) found.set(at + i, { pack, block: block + i });
  }
  return found;
}

/**
 * How many blocks differ between a part of one checkpoint and a part of another, wherever they lie in their streams.
 * @param a in order; `fromA`: the block of the stream that the part begins with
 */
export async function differingBlocks(
  a: readonly Piece[],
  fromA: number,
  b: readonly Piece[],
  fromB: number,
  ids: BlockIds,
): Promise<number> {
  let differ = 0;
  let [i, j] = [0, 0];
  const last = (pieces: readonly Piece[], from: number): number => {
    const piece = pieces.at(-1);
    return piece === undefined ? 0 : piece.at + piece.blocks - from;
  };
  const end = Math.max(last(a, fromA), last(b, fromB));
  for (let at = 0; at < end;) {
    while (i < a.length && ends(a[i], fromA) <= at) i += 1;
    while (j < b.length && ends(b[j], fromB) <= at) j += 1;
    const one = partAt(a[i], fromA, at, end);
    const other = partAt(b[j], fromB, at, end);
    const blocks = Math.min(one.until, other.until) - at;
    if (one.place !== undefined && other.place !== undefined) {
      const same = one.place.pack.id === other.place.pack.id && one.place.block === other.place.block;
      for (let k = same ? blocks : 0; k < blocks; k += 1) {
        const [x, y] = await Promise.all([ids.of(one.place, k), ids.of(other.place, k)]);
        if (!x.equals(y)) differ += 1;
      }
    } else if (one.place !== undefined || other.place !== undefined) differ += blocks;
    at += blocks;
  }
  return differ;
}

const ends = (piece: Piece | undefined, from: number): number =>
  piece === undefined ? 0 : piece.at + piece.blocks - from;

/** Where the block `at` lies (zeros lie nowhere), and up to where it goes on so. */
function partAt(piece: Piece | undefined, from: number, at: number, end: number): { place?: Place; until: number } {
  if (piece === undefined) return { until: end };
  const start = piece.at - from;
  if (at < start) return { until: start };
  return { place: { pack: piece.pack, block: piece.block + at - start }, until: start + piece.blocks };
}

/** Ids of the packs used last: 64 KiB each. */
export class BlockIds {
  readonly #packs: PackReader;
  readonly #ids = new Map<string, Promise<Buffer>>();

  constructor(packs: PackReader) {
    this.#packs = packs;
  }

  /** @param further so many blocks behind it */
  async of({ pack, block }: Place, further = 0): Promise<Buffer> {
    let ids = this.#ids.get(pack.id);
    if (ids === undefined) {
      ids = this.#packs.index(pack).then((index) => this.#packs.ids(index));
      this.#ids.set(pack.id, ids);
      for (const oldest of this.#ids.keys()) {
        if (this.#ids.size <= 256) break;
        this.#ids.delete(oldest);
      }
    }
    return idAt(await ids, block + further);
  }
}

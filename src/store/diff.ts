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

/** Streams that differ, in the order of their names. */
export async function* diffCheckpoints(
  before: CheckpointReader,
  after: CheckpointReader,
  packs: PackReader,
): AsyncGenerator<StreamDiff> {
  const old = new Map(before.streams.map((stream) => [stream.name, stream]));
  const now = new Map(after.streams.map((stream) => [stream.name, stream]));
  const ids = new IdCache(packs);
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
      await compare(piecesA, piecesB, ids, diff);
    }
    if (diff.change !== "changed" || diff.changedBytes > 0 || diff.bytesBefore !== diff.bytesAfter) yield diff;
  }
}

async function compare(a: Piece[], b: Piece[], ids: IdCache, diff: StreamDiff): Promise<void> {
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

/** Ids of the packs used last: 64 KiB each. */
class IdCache {
  readonly #packs: PackReader;
  readonly #ids = new Map<string, Promise<Buffer>>();

  constructor(packs: PackReader) {
    this.#packs = packs;
  }

  async of({ pack, block }: Place): Promise<Buffer> {
    let ids = this.#ids.get(pack.id);
    if (ids === undefined) {
      ids = this.#packs.index(pack).then((index) => this.#packs.ids(index));
      this.#ids.set(pack.id, ids);
      for (const oldest of this.#ids.keys()) {
        if (this.#ids.size <= 256) break;
        this.#ids.delete(oldest);
      }
    }
    return idAt(await ids, block);
  }
}

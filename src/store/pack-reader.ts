/** Reads packs: their directories, single segments, ids. Every byte is checked before it is believed. */
import type { Backend } from "./backend.js";
import { getExisting } from "./backend.js";
import { decompress } from "./codec.js";
import type { KeyRing } from "./config.js";
import { corruptPack, decodeTail, FOOT_BYTES, ID_BYTES, packKey, sha256, tailBytes, unseal } from "./pack-format.js";
import type { PackIndex, SegmentEntry } from "./pack-format.js";
import { FerryError } from "../model/failure.js";

/** The directory of a full pack of 4 KiB blocks and some more: one request is enough nearly always. */
const TAIL_GUESS_BYTES = 32 * 1024;
const MAX_OPEN_PACKS = 2048;

/** A pack as a checkpoint names it. */
export interface PackRef {
  id: string;
  bytes: number;
  /** sha256 of its directory and foot; undefined only for packs that no checkpoint names yet. */
  digest: string | undefined;
}

export class PackReader {
  readonly #backend: Backend;
  readonly #ring: KeyRing;
  readonly #open = new Map<string, Promise<PackIndex>>();

  constructor(backend: Backend, ring: KeyRing) {
    this.#backend = backend;
    this.#ring = ring;
  }

  /** @throws FerryError E_STORE_CORRUPT when it is not there, or not the one that was signed */
  async index(pack: PackRef): Promise<PackIndex> {
    const opening = this.#open.get(pack.id) ?? this.#load(pack);
    this.#open.delete(pack.id);
    this.#open.set(pack.id, opening);
    for (const oldest of this.#open.keys()) {
      if (this.#open.size <= MAX_OPEN_PACKS) break;
      this.#open.delete(oldest);
    }
    opening.catch(() => this.#open.delete(pack.id));
    return checked(await opening, pack);
  }

  /** Read again, whatever was read before: for who looks whether it is still there. */
  async freshIndex(pack: PackRef): Promise<PackIndex> {
    return checked(await this.#load(pack), pack);
  }

  async #load({ id, bytes }: PackRef): Promise<PackIndex> {
    if (bytes < FOOT_BYTES) throw corruptPack(id, "it is too short");
    const guess = Math.min(bytes, TAIL_GUESS_BYTES);
    let tail = await getExisting(this.#backend, packKey(id), { offset: bytes - guess, bytes: guess });
    const need = tailBytes(id, tail.subarray(guess - FOOT_BYTES), bytes);
    if (need > guess) {
      tail = await getExisting(this.#backend, packKey(id), { offset: bytes - need, bytes: need });
    }
    // A copy: the guess has much more in it, and an index lives long.
    return decodeTail(id, Buffer.from(tail.subarray(tail.length - need)), bytes);
  }

  /** Segments from..to (inclusive), by one request, decrypted and unpacked. */
  async segments(index: PackIndex, from: number, to: number): Promise<Buffer[]> {
    const wanted = index.segments.slice(from, to + 1);
    const [first] = wanted;
    const last = wanted.at(-1);
    if (first === undefined || last === undefined) throw corruptPack(index.id, `it has no segment ${from}`);
    const range = { offset: first.offset, bytes: last.offset + last.storedBytes - first.offset };
    const stored = await getExisting(this.#backend, packKey(index.id), range);
    return Promise.all(
      wanted.map((entry, at) => {
        const start = entry.offset - first.offset;
        return this.#unpack(index, entry, from + at, stored.subarray(start, start + entry.storedBytes));
      }),
    );
  }

  /** A block that has a segment of its own: a leaf, a tree. */
  async whole(pack: PackRef, block: number): Promise<Buffer> {
    const index = await this.index(pack);
    const segment = segmentOf(index, block);
    const [body = Buffer.alloc(0)] = await this.segments(index, segment, segment);
    return body;
  }

  async #unpack(index: PackIndex, entry: SegmentEntry, number: number, stored: Buffer): Promise<Buffer> {
    if (!sha256(stored).equals(entry.digest)) throw corruptPack(index.id, `the digest of segment ${number} differs`);
    const key = index.encrypted ? await this.#ring.objectKey(index.dataKeyId, Buffer.from(index.id, "hex")) : undefined;
    try {
      const body = key === undefined ? stored : unseal(key, index.id, "segment", number, stored);
      return await decompress(entry.codec, body, entry.rawBytes);
    } catch (error) {
      if (error instanceof FerryError) throw error;
      throw corruptPack(index.id, `segment ${number}: ${error instanceof Error ? error.message : "unreadable"}`);
    }
  }

  /** The ids of all its blocks, ID_BYTES each. */
  async ids(index: PackIndex): Promise<Buffer> {
    const { offset, bytes, digest } = index.ids;
    const stored = await getExisting(this.#backend, packKey(index.id), { offset, bytes });
    if (!sha256(stored).equals(digest)) throw corruptPack(index.id, "the digest of its ids differs");
    if (!index.encrypted) return stored;
    const key = await this.#ring.objectKey(index.dataKeyId, Buffer.from(index.id, "hex"));
    try {
      return unseal(key, index.id, "ids", 0, stored);
    } catch {
      throw corruptPack(index.id, "its ids can't be decrypted");
    }
  }
}

function checked(index: PackIndex, pack: PackRef): PackIndex {
  if (pack.digest === undefined || index.digest === pack.digest) return index;
  throw corruptPack(pack.id, "its directory is not the one that was signed");
}

/** Which segment holds a block. @throws FerryError E_STORE_CORRUPT when the pack has no such block */
export function segmentOf(index: PackIndex, block: number): number {
  let low = 0;
  let high = index.segments.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const entry = index.segments[middle];
    if (entry === undefined) break;
    if (block < entry.firstBlock) high = middle - 1;
    else if (block >= entry.firstBlock + entry.blocks) low = middle + 1;
    else return middle;
  }
  throw corruptPack(index.id, `it has no block ${block}`);
}

export const idAt = (ids: Buffer, block: number): Buffer => ids.subarray(block * ID_BYTES, (block + 1) * ID_BYTES);

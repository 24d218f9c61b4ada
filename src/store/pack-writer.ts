/** Builds one pack in memory: segments are compressed aside while more come. */
import { randomBytes, type KeyObject } from "node:crypto";
import { compress, type Compression } from "./codec.js";
import type { KeyRing } from "./config.js";
import {
  encodeTail,
  head,
  HEAD_BYTES,
  ID_BYTES,
  seal,
  sha256,
  type PackIndex,
  type SegmentEntry,
} from "./pack-format.js";

export interface PackBody {
  id: string;
  body: Buffer;
  digest: string;
}

export class PackBuilder {
  readonly id: string;
  readonly #ring: KeyRing;
  readonly #key: Promise<KeyObject> | undefined;
  readonly #dataKeyId: string;
  readonly #compression: Compression;
  readonly #segments: Promise<{ stored: Buffer; raw: number; codec: number; blocks: number }>[] = [];
  readonly #ids: Buffer[] = [];
  #blocks = 0;

  /** @param session 16 hexadecimal digits that all packs of one writer begin with */
  constructor(ring: KeyRing, session: string, compression: Compression) {
    this.id = session + randomBytes(8).toString("hex");
    this.#ring = ring;
    this.#dataKeyId = ring.current;
    this.#compression = compression;
    this.#key = ring.cipher === "none" ? undefined : ring.objectKey(this.#dataKeyId, Buffer.from(this.id, "hex"));
  }

  get blocks(): number {
    return this.#blocks;
  }

  /** `raw` must stay as it is until the promise, which says that this segment is ready, resolves. */
  add(raw: Buffer, ids: readonly Buffer[]): Promise<unknown> {
    const number = this.#segments.length;
    const work = async (): Promise<{ stored: Buffer; raw: number; codec: number; blocks: number }> => {
      const { codec, body } = await compress(raw, this.#compression);
      const key = await this.#key;
      // Without encryption the body may be the caller's own memory.
      const stored = key === undefined ? Buffer.from(body) : seal(key, this.id, "segment", number, body);
      return { stored, raw: raw.length, codec, blocks: ids.length };
    };
    const segment = work();
    this.#segments.push(segment);
    for (const id of ids) this.#ids.push(Buffer.from(id));
    this.#blocks += ids.length;
    return segment;
  }

  async finish(): Promise<PackBody> {
    const done = await Promise.all(this.#segments);
    const segments: SegmentEntry[] = [];
    let offset = HEAD_BYTES;
    let firstBlock = 0;
    for (const { stored, raw, codec, blocks } of done) {
      const digest = sha256(stored);
      segments.push({ offset, storedBytes: stored.length, rawBytes: raw, firstBlock, blocks, codec, digest });
      offset += stored.length;
      firstBlock += blocks;
    }
    const key = await this.#key;
    const plainIds = Buffer.concat(this.#ids, this.#ids.length * ID_BYTES);
    const ids = key === undefined ? plainIds : seal(key, this.id, "ids", 0, plainIds);
    const index: Omit<PackIndex, "bytes" | "digest"> = {
      id: this.id,
      encrypted: key !== undefined,
      dataKeyId: this.#dataKeyId,
      idKeyId: this.#ring.idKeyId,
      blocks: this.#blocks,
      segments,
      ids: { offset, bytes: ids.length, digest: sha256(ids) },
    };
    const tail = encodeTail(index);
    const body = Buffer.concat([head(this.id), ...done.map(({ stored }) => stored), ids, tail]);
    return { id: this.id, body, digest: sha256(tail).toString("hex") };
  }
}

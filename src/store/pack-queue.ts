/**
 * Blocks on their way into the store: they are gathered into segments, segments into packs, and full packs are uploaded
 * aside, a few at a time. Whoever adds blocks waits in `room` for as long as too much is under way: memory is bounded.
 */
import type { Backend } from "./backend.js";
import type { Compression } from "./codec.js";
import type { KeyRing } from "./config.js";
import { BLOCK_BYTES, packKey, SEGMENT_BLOCKS } from "./pack-format.js";
import { PackBuilder } from "./pack-writer.js";
import type { PackRef } from "./pack-reader.js";

/** Every pack that a checkpoint under way may refer to, by a number. */
export class PackList {
  readonly #packs: PackRef[] = [];
  readonly #numbers = new Map<string, number>();

  /** The number of this pack; a pack that is known already keeps what is known of it. */
  add(pack: PackRef): number {
    const known = this.#numbers.get(pack.id);
    if (known !== undefined) return known;
    this.#numbers.set(pack.id, this.#packs.length);
    return this.#packs.push(pack) - 1;
  }

  get(number: number): PackRef {
    const pack = this.#packs[number];
    if (pack === undefined) throw new Error(`no pack has the number ${number}`);
    return pack;
  }
}

export interface QueueOptions {
  backend: Backend;
  ring: KeyRing;
  packs: PackList;
  session: string;
  compression: Compression;
  /** Blocks of a full pack, and of a segment. */
  packBlocks: number;
  segmentBlocks?: number;
  /** Packs that may be on their way besides the one that is filled. */
  uploads: number;
}

export class PackQueue {
  readonly #options: QueueOptions;
  readonly #segmentBlocks: number;
  #builder: PackBuilder | undefined;
  #number = 0;
  #raw: Buffer | undefined;
  #ids: Buffer[] = [];
  readonly #compressing = new Set<Promise<unknown>>();
  readonly #uploading = new Set<Promise<void>>();
  #failure: { error: unknown } | undefined;
  /** Stored by this queue, in bytes. */
  storedBytes = 0;

  constructor(options: QueueOptions) {
    this.#options = options;
    this.#segmentBlocks = options.segmentBlocks ?? SEGMENT_BLOCKS;
  }

  /** Takes a copy of one block. @returns where it will lie */
  add(id: Buffer, data: Buffer): { pack: number; block: number } {
    const builder = this.#open();
    this.#raw ??= Buffer.allocUnsafeSlow(this.#segmentBlocks * BLOCK_BYTES);
    const at = this.#ids.length * BLOCK_BYTES;
    data.copy(this.#raw, at);
    // Only the last block of a stream is shorter.
    if (data.length < BLOCK_BYTES) this.#raw.fill(0, at + data.length, at + BLOCK_BYTES);
    const place = { pack: this.#number, block: builder.blocks + this.#ids.length };
    this.#ids.push(id);
    if (this.#ids.length === this.#segmentBlocks) this.#closeSegment(builder);
    return place;
  }

  /** A block of any size, in a segment of its own. */
  addWhole(id: Buffer, data: Buffer): { pack: number; block: number } {
    const builder = this.#open();
    const place = { pack: this.#number, block: builder.blocks };
    this.#compress(builder, data, [id]);
    return place;
  }

  /** Waits until little enough is under way. @throws what an upload failed with */
  async room(): Promise<void> {
    while (this.#compressing.size > 16) await Promise.race(this.#compressing);
    while (this.#uploading.size > this.#options.uploads) await Promise.race(this.#uploading);
    this.#check();
  }

  /** Everything added is stored when it resolves. */
  async flush(): Promise<void> {
    if (this.#builder !== undefined) {
      if (this.#ids.length > 0) this.#closeSegment(this.#builder);
      this.#closePack();
    }
    while (this.#uploading.size > 0) await Promise.race(this.#uploading);
    this.#check();
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  #open(): PackBuilder {
    if (this.#builder !== undefined && this.#builder.blocks + this.#ids.length >= this.#options.packBlocks) {
      this.#closePack();
    }
    if (this.#builder === undefined) {
      const { ring, session, compression, packs } = this.#options;
      this.#builder = new PackBuilder(ring, session, compression);
      // Size and digest are known when it is full.
      this.#number = packs.add({ id: this.#builder.id, bytes: 0, digest: undefined });
    }
    return this.#builder;
  }

  #closeSegment(builder: PackBuilder): void {
    const raw = this.#raw?.subarray(0, this.#ids.length * BLOCK_BYTES) ?? Buffer.alloc(0);
    const ids = this.#ids;
    this.#raw = undefined;
    this.#ids = [];
    this.#compress(builder, raw, ids);
  }

  #compress(builder: PackBuilder, raw: Buffer, ids: readonly Buffer[]): void {
    const work = builder.add(raw, ids).catch((error: unknown) => {
      this.#failure ??= { error };
    });
    const done = work.finally(() => this.#compressing.delete(done));
    this.#compressing.add(done);
  }

  #closePack(): void {
    const builder = this.#builder;
    if (builder === undefined) return;
    if (this.#ids.length > 0) this.#closeSegment(builder);
    const pack = this.#options.packs.get(this.#number);
    this.#builder = undefined;
    const upload = async (): Promise<void> => {
      try {
        const { id, body, digest } = await builder.finish();
        await this.#options.backend.put(packKey(id), body);
        this.storedBytes += body.length;
        pack.bytes = body.length;
        pack.digest = digest;
      } catch (error) {
        this.#failure ??= { error };
      }
    };
    const done = upload().finally(() => this.#uploading.delete(done));
    this.#uploading.add(done);
  }
}

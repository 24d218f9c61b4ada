/**
 * Writes one stream of a checkpoint. Blocks may come in any order and again: the last one counts (a round of pre-copy
 * writes over the one before). In order is cheapest.
 */
import { createHash, type Hash, type KeyObject } from "node:crypto";
import { ferryError } from "../model/failure.js";
import type { BlockTable } from "./block-table.js";
import { decodeLeaf, encodeLeaf, WINDOW_BLOCKS, WindowMap } from "./extents.js";
import { BLOCK_BYTES, blockId } from "./pack-format.js";
import type { PackList, PackQueue } from "./pack-queue.js";
import type { CheckpointReader } from "./reader.js";
import type { StreamKind, StreamMeta, TreeStream, TreeWindow } from "./tree.js";

const ZERO_BLOCK = Buffer.alloc(BLOCK_BYTES);

const isZero = (data: Buffer): boolean => data.equals(ZERO_BLOCK.subarray(0, data.length));

/** What all streams of one writer share. */
export interface WriterParts {
  queue: PackQueue;
  packs: PackList;
  known: BlockTable;
  idKey: KeyObject;
}

/** A finished window: its leaf, and the numbers of its packs; or one of the parent's as it is. */
export interface DoneWindow {
  w: number;
  leaf: Buffer;
  packs: number[];
  blocks: number;
}

export class StreamWriter {
  readonly name: string;
  readonly kind: StreamKind;
  readonly meta: StreamMeta | undefined;
  readonly #parts: WriterParts;
  readonly #inherited: { reader: CheckpointReader; windows: Map<number, TreeWindow> } | undefined;
  readonly #done = new Map<number, DoneWindow>();
  #open: { w: number; map: WindowMap } | undefined;
  #bytes = 0;
  /** Digest of the content, for as long as it is written from start to end. */
  #hash: { hash: Hash; at: number } | undefined;
  #working: Promise<void> = Promise.resolve();

  /** @param inherit begin with what this stream was in the parent, and write only what changed */
  constructor(
    parts: WriterParts,
    options: { name: string; kind: StreamKind; meta?: StreamMeta | undefined },
    inherit?: { reader: CheckpointReader; stream: TreeStream },
  ) {
    this.name = options.name;
    this.kind = options.kind;
    this.meta = options.meta;
    this.#parts = parts;
    if (inherit !== undefined) {
      const windows = new Map(inherit.stream.windows.map((window) => [window.w, window]));
      this.#inherited = { reader: inherit.reader, windows };
      this.#bytes = inherit.stream.bytes;
    } else if (options.kind !== "memory") {
      this.#hash = { hash: createHash("sha256"), at: 0 };
    }
  }

  /**
   * @param offset a multiple of 4096
   * @param data its length too, but for the end of the stream; not looked at any more when it resolves
   */
  async write(offset: number, data: Buffer): Promise<void> {
    checkOffset(this.name, offset, data.length);
    await this.#next(async () => {
      this.#digest(offset, data);
      for (let at = 0; at < data.length;) {
        const block = (offset + at) / BLOCK_BYTES;
        const map = await this.#window(Math.floor(block / WINDOW_BLOCKS));
        const end = Math.min(data.length, at + (WINDOW_BLOCKS - (block % WINDOW_BLOCKS)) * BLOCK_BYTES);
        // A MiB at a time, so that others have their turn.
        for (; at < end; await this.#parts.queue.room()) {
          const stop = Math.min(end, at + 256 * BLOCK_BYTES);
          for (; at < stop; at += BLOCK_BYTES) {
            const place = ((offset + at) / BLOCK_BYTES) % WINDOW_BLOCKS;
            this.#block(map, place, data.subarray(at, Math.min(at + BLOCK_BYTES, data.length)));
          }
        }
      }
      this.#bytes = Math.max(this.#bytes, offset + data.length);
    });
  }

  /** These bytes are zero. Costs nothing; only needed where something else was before. */
  async clear(offset: number, bytes: number): Promise<void> {
    checkOffset(this.name, offset, bytes);
    await this.#next(async () => {
      this.#hash = undefined;
      const last = Math.ceil((offset + bytes) / BLOCK_BYTES);
      for (let block = offset / BLOCK_BYTES; block < last;) {
        const w = Math.floor(block / WINDOW_BLOCKS);
        const end = Math.min(last, (w + 1) * WINDOW_BLOCKS);
        const map = await this.#window(w);
        map.clear(block - w * WINDOW_BLOCKS, end - block);
        block = end;
      }
      this.#bytes = Math.max(this.#bytes, offset + bytes);
    });
  }

  /** @param bytes size of the stream when it is not the end of what was written: what lies behind is forgotten */
  async resize(bytes: number): Promise<void> {
    const end = Math.ceil(this.#bytes / BLOCK_BYTES) * BLOCK_BYTES;
    const from = Math.ceil(bytes / BLOCK_BYTES) * BLOCK_BYTES;
    if (end > from) await this.clear(from, end - from);
    await this.#next(async () => {
      if (this.#hash?.at !== bytes) this.#hash = undefined;
      this.#bytes = bytes;
    });
  }

  /** For the writer, when nothing more comes. */
  async finish(): Promise<{ bytes: number; sha256?: string; windows: DoneWindow[] }> {
    await this.#next(() => this.#close());
    const inherited = this.#inherited;
    for (const [w, window] of inherited?.windows ?? []) {
      if (inherited === undefined || this.#done.has(w)) continue;
      const leaf = await inherited.reader.leaf(window);
      this.#done.set(w, {
        w,
        leaf: encodeLeaf(leaf),
        packs: this.#numbers(leaf.packs),
        blocks: leaf.runs.reduce((sum, run) => sum + run.blocks, 0),
      });
    }
    const windows = [...this.#done.values()].filter(({ blocks }) => blocks > 0).toSorted((a, b) => a.w - b.w);
    const sha256 = this.#hash?.at === this.#bytes ? this.#hash.hash.digest("hex") : undefined;
    return { bytes: this.#bytes, windows, ...(sha256 === undefined ? {} : { sha256 }) };
  }

  /** Calls of one stream follow each other, whoever makes them. */
  #next(work: () => Promise<void>): Promise<void> {
    const turn = this.#working.then(work);
    this.#working = turn.catch(() => undefined);
    return turn;
  }

  #block(map: WindowMap, place: number, data: Buffer): void {
    const { known, queue, idKey } = this.#parts;
    if (isZero(data)) {
      map.clear(place, 1);
      return;
    }
    const whole = data.length === BLOCK_BYTES ? data : Buffer.concat([data, ZERO_BLOCK], BLOCK_BYTES);
    const id = blockId(idKey, whole);
    let at = known.get(id);
    if (at === undefined) {
      at = queue.add(id, whole);
      known.add(id, at.pack, at.block);
    }
    map.set(place, at.pack, at.block);
  }

  #digest(offset: number, data: Buffer): void {
    if (this.#hash?.at === offset) {
      this.#hash.hash.update(data);
      this.#hash.at += data.length;
    } else {
      this.#hash = undefined;
    }
  }

  async #window(w: number): Promise<WindowMap> {
    if (this.#open?.w === w) return this.#open.map;
    await this.#close();
    const map = new WindowMap();
    const before = this.#done.get(w);
    const window = this.#inherited?.windows.get(w);
    if (before !== undefined) {
      map.load(decodeLeaf(before.leaf), before.packs);
    } else if (this.#inherited !== undefined && window !== undefined) {
      const leaf = await this.#inherited.reader.leaf(window);
      map.load(leaf, this.#numbers(leaf.packs));
    }
    this.#open = { w, map };
    return map;
  }

  async #close(): Promise<void> {
    if (this.#open === undefined) return;
    const { w, map } = this.#open;
    this.#open = undefined;
    const { leaf, numbers, blocks } = map.leaf((pack) => this.#parts.packs.get(pack).id);
    this.#done.set(w, { w, leaf: encodeLeaf(leaf), packs: numbers, blocks });
  }

  #numbers(ids: readonly string[]): number[] {
    const refs = new Map(this.#inherited?.reader.tree.packs.map((pack) => [pack.id, pack]));
    return ids.map((id) => this.#parts.packs.add(refs.get(id) ?? { id, bytes: 0, digest: undefined }));
  }
}

function checkOffset(stream: string, offset: number, bytes: number): void {
  if (
    !Number.isSafeInteger(offset) ||
    offset < 0 ||
    offset % BLOCK_BYTES !== 0 ||
    !Number.isSafeInteger(offset + bytes)
  ) {
    throw ferryError("E_INTERNAL", `${bytes} bytes at ${offset} of ${stream} are no blocks of ${BLOCK_BYTES}`);
  }
}

/**
 * Reads one checkpoint: whole streams in order, or any part of one at once. What was unpacked lately is kept, within a
 * limit; two who want the same segment ask for it once.
 */
import { createHash } from "node:crypto";
import { ferryError } from "../model/failure.js";
import { eachAtOnce } from "./at-once.js";
import { decodeLeaf, WINDOW_BLOCKS, type Leaf } from "./extents.js";
import type { Lease } from "./lease.js";
import type { Manifest } from "./manifest.js";
import { BLOCK_BYTES, type PackIndex } from "./pack-format.js";
import { segmentOf, type PackReader, type PackRef } from "./pack-reader.js";
import { SegmentCache } from "./segment-cache.js";
import type { Tree, TreeStream, TreeWindow } from "./tree.js";

/** Neighbouring segments that are wanted together come by one request, up to this many (4 MiB unpacked). */
const SEGMENTS_AT_ONCE = 64;
const REQUESTS_AT_ONCE = 8;
/** What `chunks` reads ahead. */
const CHUNK_BLOCKS = 1024;
const CHUNKS_AHEAD = 2;
const MAX_LEAVES = 512;

export interface StreamRange {
  stream: string;
  offset: number;
  bytes: number;
}

export interface Chunk {
  offset: number;
  data: Buffer;
}

/** A run of blocks of a stream and where it lies. */
export interface Piece {
  /** Block of the stream. */
  at: number;
  blocks: number;
  pack: PackRef;
  block: number;
}

export class CheckpointReader {
  readonly manifest: Manifest;
  readonly tree: Tree;
  readonly #packs: PackReader;
  readonly #refs: Map<string, PackRef>;
  readonly #streams: Map<string, TreeStream>;
  readonly #windows = new Map<TreeStream, Map<number, TreeWindow>>();
  readonly #leaves = new Map<TreeWindow, Promise<Leaf>>();
  readonly #cache: SegmentCache;
  readonly #lease: Lease | undefined;

  constructor(manifest: Manifest, tree: Tree, packs: PackReader, cacheBytes: number, lease?: Lease) {
    this.manifest = manifest;
    this.tree = tree;
    this.#packs = packs;
    this.#refs = new Map(tree.packs.map((pack) => [pack.id, pack]));
    this.#streams = new Map(tree.streams.map((stream) => [stream.name, stream]));
    this.#cache = new SegmentCache(cacheBytes);
    this.#lease = lease;
  }

  get streams(): readonly TreeStream[] {
    return this.tree.streams;
  }

  /** @throws FerryError E_CHECKPOINT_UNKNOWN */
  stream(name: string): TreeStream {
    const stream = this.#streams.get(name);
    if (stream !== undefined) return stream;
    throw ferryError("E_CHECKPOINT_UNKNOWN", `checkpoint ${this.manifest.id} has no stream ${JSON.stringify(name)}`);
  }

  /**
   * Any part of a stream; what is zero or beyond its end reads as zeros.
   * @throws FerryError E_STORE_CORRUPT before a byte that is not the one that was written
   */
  async read(name: string, offset: number, bytes: number): Promise<Buffer> {
    const stream = this.stream(name);
    const from = Math.floor(offset / BLOCK_BYTES);
    const to = Math.ceil((offset + bytes) / BLOCK_BYTES);
    const data = Buffer.alloc(bytes);
    const pieces = await this.#pieces(stream, from, to);
    await this.#each(pieces, (at, block) => {
      block.copy(data, Math.max(0, at * BLOCK_BYTES - offset), Math.max(0, offset - at * BLOCK_BYTES));
    });
    return data.fill(0, Math.min(bytes, Math.max(0, stream.bytes - offset)));
  }

  /** Gets these into the cache, neighbours together; what does not fit there is dropped again, oldest first. */
  async prefetch(ranges: readonly StreamRange[]): Promise<void> {
    const pieces: Piece[] = [];
    for (const { stream, offset, bytes } of ranges) {
      const to = Math.ceil((offset + bytes) / BLOCK_BYTES);
      pieces.push(...(await this.#pieces(this.stream(stream), Math.floor(offset / BLOCK_BYTES), to)));
    }
    await this.#each(pieces, () => undefined);
  }

  /** Everything of a stream that is not zero, in order, read ahead. A `sha256` that was kept is checked at the end. */
  async *chunks(name: string): AsyncGenerator<Chunk> {
    const stream = this.stream(name);
    const ahead: Promise<Chunk[]>[] = [];
    const check = new ContentCheck(stream);
    try {
      for (const start of this.#starts(stream)) {
        const data = this.#chunk(stream, start);
        // Looked at when its turn comes, or never when an earlier one failed.
        data.catch(() => undefined);
        ahead.push(data);
        if (ahead.length > CHUNKS_AHEAD) yield* check.pass((await ahead.shift()) ?? []);
      }
      while (ahead.length > 0) yield* check.pass((await ahead.shift()) ?? []);
      check.finish(this.manifest.id);
    } finally {
      await Promise.allSettled(ahead);
    }
  }

  /** A whole stream: for small ones. */
  async content(name: string): Promise<Buffer> {
    const data = Buffer.alloc(this.stream(name).bytes);
    for await (const chunk of this.chunks(name)) chunk.data.copy(data, chunk.offset);
    return data;
  }

  /** Runs of blocks that are not zero, in order: for `diff` and for whoever needs a page table. */
  async runs(stream: TreeStream, window: TreeWindow): Promise<Piece[]> {
    return this.#pieces(stream, window.w * WINDOW_BLOCKS, (window.w + 1) * WINDOW_BLOCKS);
  }

  /** Where a part of a stream lies, in order: for who compares without reading. Zeros lie nowhere. */
  async places(name: string, offset: number, bytes: number): Promise<Piece[]> {
    return this.#pieces(this.stream(name), Math.floor(offset / BLOCK_BYTES), Math.ceil((offset + bytes) / BLOCK_BYTES));
  }

  async leaf(window: TreeWindow): Promise<Leaf> {
    const known = this.#leaves.get(window);
    if (known !== undefined) return known;
    const loading = this.#loadLeaf(window);
    this.#leaves.set(window, loading);
    loading.catch(() => this.#leaves.delete(window));
    for (const oldest of this.#leaves.keys()) {
      if (this.#leaves.size <= MAX_LEAVES) break;
      this.#leaves.delete(oldest);
    }
    return loading;
  }

  async close(): Promise<void> {
    this.#cache.clear();
    await this.#lease?.end();
  }

  async #loadLeaf(window: TreeWindow): Promise<Leaf> {
    if (window.leaf !== undefined) return decodeLeaf(Buffer.from(window.leaf, "base64"));
    const [pack = 0, block = 0] = window.at ?? [];
    const ref = this.tree.packs[pack];
    if (ref === undefined) throw ferryError("E_STORE_CORRUPT", "a leaf lies in a pack that the tree does not name");
    return decodeLeaf(await this.#packs.whole(ref, block));
  }

  async #pieces(stream: TreeStream, from: number, to: number): Promise<Piece[]> {
    let windows = this.#windows.get(stream);
    if (windows === undefined) {
      windows = new Map(stream.windows.map((window) => [window.w, window]));
      this.#windows.set(stream, windows);
    }
    const pieces: Piece[] = [];
    for (let w = Math.floor(from / WINDOW_BLOCKS); w * WINDOW_BLOCKS < to; w += 1) {
      const window = windows.get(w);
      if (window === undefined) continue;
      const leaf = await this.leaf(window);
      const base = w * WINDOW_BLOCKS;
      for (const run of leaf.runs) {
        const start = Math.max(from, base + run.at);
        const end = Math.min(to, base + run.at + run.blocks);
        const pack = this.#refs.get(leaf.packs[run.pack] ?? "");
        if (start >= end) continue;
        if (pack === undefined) throw ferryError("E_STORE_CORRUPT", "a leaf names a pack that the tree does not");
        pieces.push({ at: start, blocks: end - start, pack, block: run.block + (start - base - run.at) });
      }
    }
    return pieces;
  }

  /** Fetches the segments that the pieces lie in, neighbours by one request, and hands on every block. */
  async #each(pieces: readonly Piece[], use: (at: number, block: Buffer) => void): Promise<void> {
    const jobs = await this.#jobs(pieces);
    await eachAtOnce(REQUESTS_AT_ONCE, jobs, async ({ index, from, to, pieces: wanted }) => {
      const segments = await this.#cache.get(index.id, from, to, (a, b) => this.#packs.segments(index, a, b));
      for (const piece of wanted) {
        for (let i = 0; i < piece.blocks; i += 1) {
          const number = segmentOf(index, piece.block + i);
          const entry = index.segments[number];
          const raw = segments[number - from];
          if (entry === undefined || raw === undefined) continue;
          const start = (piece.block + i - entry.firstBlock) * BLOCK_BYTES;
          if (start + BLOCK_BYTES > raw.length) throw ferryError("E_STORE_CORRUPT", `a block of ${index.id} is cut`);
          use(piece.at + i, raw.subarray(start, start + BLOCK_BYTES));
        }
      }
    });
  }

  async #jobs(pieces: readonly Piece[]): Promise<{ index: PackIndex; from: number; to: number; pieces: Piece[] }[]> {
    const jobs: { index: PackIndex; from: number; to: number; pieces: Piece[] }[] = [];
    const sorted = pieces.toSorted((a, b) =>
      a.pack.id === b.pack.id ? a.block - b.block : a.pack.id < b.pack.id ? -1 : 1,
    );
    const ids = [...new Set(sorted.map((piece) => piece.pack))];
    const indexes = new Map<string, PackIndex>();
    await Promise.all(ids.map(async (pack) => indexes.set(pack.id, await this.#packs.index(pack))));
    for (const whole of sorted) {
      const index = indexes.get(whole.pack.id);
      if (index === undefined) continue;
      for (let piece = whole; piece.blocks > 0;) {
        const from = segmentOf(index, piece.block);
        const lastOfJob = index.segments[Math.min(from + SEGMENTS_AT_ONCE, index.segments.length) - 1];
        const room = (lastOfJob?.firstBlock ?? 0) + (lastOfJob?.blocks ?? 0) - piece.block;
        const blocks = Math.min(piece.blocks, room);
        const part = { ...piece, blocks };
        const to = segmentOf(index, piece.block + blocks - 1);
        const job = jobs.at(-1);
        if (job?.index === index && from <= job.to + 1 && to - job.from < SEGMENTS_AT_ONCE) {
          job.to = Math.max(job.to, to);
          job.pieces.push(part);
        } else {
          jobs.push({ index, from, to, pieces: [part] });
        }
        piece = { ...piece, at: piece.at + blocks, block: piece.block + blocks, blocks: piece.blocks - blocks };
      }
    }
    return jobs;
  }

  *#starts(stream: TreeStream): Generator<number> {
    for (const { w } of stream.windows) {
      for (let at = 0; at < WINDOW_BLOCKS; at += CHUNK_BLOCKS) yield w * WINDOW_BLOCKS + at;
    }
  }

  async #chunk(stream: TreeStream, start: number): Promise<Chunk[]> {
    const pieces = await this.#pieces(stream, start, start + CHUNK_BLOCKS);
    const chunks: Chunk[] = [];
    const places = new Map<number, Buffer>();
    for (let i = 0; i < pieces.length;) {
      const first = pieces[i]?.at ?? 0;
      let end = first;
      for (; i < pieces.length && pieces[i]?.at === end; i += 1) end += pieces[i]?.blocks ?? 0;
      const data = Buffer.allocUnsafeSlow((end - first) * BLOCK_BYTES);
      for (let at = first; at < end; at += 1) {
        places.set(at, data.subarray((at - first) * BLOCK_BYTES, (at - first + 1) * BLOCK_BYTES));
      }
      const offset = first * BLOCK_BYTES;
      chunks.push({ offset, data: data.subarray(0, Math.max(0, Math.min(data.length, stream.bytes - offset))) });
    }
    await this.#each(pieces, (at, block) => {
      const place = places.get(at);
      if (place !== undefined) block.copy(place);
    });
    return chunks;
  }
}

const ZEROS = Buffer.alloc(256 * 1024);

/** The digest over the whole content, holes included, while its chunks pass. */
class ContentCheck {
  readonly #stream: TreeStream;
  readonly #hash = createHash("sha256");
  #at = 0;

  constructor(stream: TreeStream) {
    this.#stream = stream;
  }

  pass(chunks: Chunk[]): Chunk[] {
    if (this.#stream.sha256 === undefined) return chunks;
    for (const { offset, data } of chunks) {
      this.#zeros(offset);
      this.#hash.update(data);
      this.#at = offset + data.length;
    }
    return chunks;
  }

  finish(checkpoint: string): void {
    if (this.#stream.sha256 === undefined) return;
    this.#zeros(this.#stream.bytes);
    if (this.#hash.digest("hex") === this.#stream.sha256) return;
    throw ferryError("E_STORE_CORRUPT", `the content of ${this.#stream.name} in ${checkpoint} has another digest`);
  }

  #zeros(until: number): void {
    for (; this.#at < until; this.#at += Math.min(ZEROS.length, until - this.#at)) {
      this.#hash.update(ZEROS.subarray(0, Math.min(ZEROS.length, until - this.#at)));
    }
  }
}

/**
 * Writes one checkpoint. Nothing of it is there until `commit` has put its manifest, as the last object; who is killed
 * before leaves packs that the same session finds again, or that are collected later.
 */
import { setImmediate as turn } from "node:timers/promises";
import type { KeyObject } from "node:crypto";
import { ferryError } from "../model/failure.js";
import type { Backend } from "./backend.js";
import type { Lease } from "./lease.js";
import { CheckpointFacts, manifestKey, readManifest, signManifest, type Manifest } from "./manifest.js";
import { BLOCK_BYTES, blockId } from "./pack-format.js";
import type { CheckpointReader } from "./reader.js";
import { StreamWriter, type DoneWindow, type WriterParts } from "./stream-writer.js";
import { encodeTree, INLINE_BYTES, isStreamName } from "./tree.js";
import type { StreamKind, StreamMeta, Tree, TreeStream, TreeWindow } from "./tree.js";
import type { PackQueue } from "./pack-queue.js";

export interface StreamOptions {
  kind: StreamKind;
  meta?: StreamMeta;
  /** Begin with what the stream of this name was in the parent, if it was there; then write only what changed. */
  fromParent?: boolean;
}

/** Pieces of a file are gathered to this before they are written. */
const FILE_BYTES = 1024 * 1024;

export interface WriterSetup {
  backend: Backend;
  id: string;
  workload: string;
  lease: Lease;
  parts: WriterParts;
  /** For leaves and the tree. */
  metaQueue: PackQueue;
  parent: CheckpointReader | undefined;
  signer: KeyObject;
}

export class CheckpointWriter {
  /** Of the checkpoint to be. */
  readonly id: string;
  readonly #setup: WriterSetup;
  readonly #streams = new Map<string, StreamWriter>();
  #state: "open" | "closed" = "open";

  constructor(setup: WriterSetup) {
    this.id = setup.id;
    this.#setup = setup;
  }

  /** @throws FerryError E_REQUEST: the name can't be used, or is used already */
  stream(name: string, options: StreamOptions): StreamWriter {
    if (this.#state !== "open") throw ferryError("E_INTERNAL", `checkpoint ${this.id} takes no more streams`);
    if (!isStreamName(name)) throw ferryError("E_REQUEST", `${JSON.stringify(name)} is no name for a stream`);
    if (this.#streams.has(name)) throw ferryError("E_REQUEST", `checkpoint ${this.id} has a stream ${name} already`);
    const { parent, parts } = this.#setup;
    const before = options.fromParent ? parent?.streams.find((stream) => stream.name === name) : undefined;
    const stream = new StreamWriter(
      parts,
      { name, kind: options.kind, meta: options.meta },
      parent === undefined || before === undefined ? undefined : { reader: parent, stream: before },
    );
    this.#streams.set(name, stream);
    return stream;
  }

  /** A stream from start to end. */
  async file(name: string, options: StreamOptions, source: Buffer | AsyncIterable<Buffer>): Promise<void> {
    const stream = this.stream(name, options);
    const pieces = Buffer.isBuffer(source) ? [source] : source;
    let waiting: Buffer[] = [];
    let bytes = 0;
    let offset = 0;
    const pass = async (all: boolean): Promise<void> => {
      const data = waiting.length === 1 && waiting[0] !== undefined ? waiting[0] : Buffer.concat(waiting, bytes);
      const whole = all ? data.length : data.length - (data.length % BLOCK_BYTES);
      await stream.write(offset, data.subarray(0, whole));
      offset += whole;
      waiting = [data.subarray(whole)];
      bytes = data.length - whole;
    };
    for await (const piece of pieces) {
      waiting.push(piece);
      bytes += piece.length;
      if (bytes >= FILE_BYTES) await pass(false);
    }
    await pass(true);
  }

  /**
   * Makes the checkpoint. Either it is there as a whole afterwards, or not at all.
   * @throws FerryError E_STORE_LEASE: this process stood still for too long; do it again
   */
  async commit(facts: CheckpointFacts): Promise<Manifest> {
    const { backend, workload, lease, parts, metaQueue, parent, signer } = this.#setup;
    const said = CheckpointFacts.safeParse(facts);
    if (!said.success || facts.workload !== workload) {
      const issue = said.error?.issues[0];
      throw ferryError("E_REQUEST", `what is said of the checkpoint can't be: ${issue?.path.join(".") ?? "workload"}`, {
        remedy: issue?.message ?? `it was begun for ${workload}`,
      });
    }
    this.#state = "closed";
    const finished = [];
    for (const stream of this.#streams.values()) {
      finished.push({ stream, ...(await stream.finish()) });
      // Tens of thousands of small files must not keep the process from everything else.
      await turn();
    }
    await parts.queue.flush();
    const names = new TreePacks(parts);
    const leafPlaces = new Map<DoneWindow, { pack: number; block: number }>();
    for (const window of finished.flatMap(({ windows }) => windows)) {
      if (window.leaf.length <= INLINE_BYTES) continue;
      const id = blockId(parts.idKey, window.leaf);
      const place = parts.known.get(id) ?? metaQueue.addWhole(id, window.leaf);
      parts.known.add(id, place.pack, place.block);
      leafPlaces.set(window, place);
      await metaQueue.room();
    }
    // The leaves' packs must be known before the tree can name them.
    await metaQueue.flush();
    const streams = finished.map(({ stream, windows, bytes, sha256 }): TreeStream => {
      const blocks = windows.reduce((sum, window) => sum + window.blocks, 0);
      return {
        name: stream.name,
        kind: stream.kind,
        bytes,
        dataBytes: blocks * BLOCK_BYTES,
        ...(sha256 === undefined ? {} : { sha256 }),
        ...(stream.meta === undefined ? {} : { meta: stream.meta }),
        windows: windows.map((window) => names.window(window, leafPlaces.get(window))),
      };
    });
    const tree: Tree = { format: 1, streams, packs: names.packs };
    const body = encodeTree(tree);
    const place = metaQueue.addWhole(blockId(parts.idKey, body), body);
    await metaQueue.flush();
    const treePack = parts.packs.get(place.pack);
    const manifest: Manifest = {
      format: 1,
      id: this.id,
      createdAt: new Date().toISOString(),
      ...said.data,
      parent: parent?.manifest.id ?? null,
      streams: streams.length,
      bytes: streams.reduce((sum, stream) => sum + stream.bytes, 0),
      dataBytes: streams.reduce((sum, stream) => sum + stream.dataBytes, 0),
      newBytes: parts.queue.storedBytes + metaQueue.storedBytes,
      tree: { pack: treePack.id, packBytes: treePack.bytes, packDigest: treePack.digest ?? "", block: place.block },
    };
    await lease.assertHeld();
    const key = manifestKey(workload, this.id);
    const stored = await backend.put(key, signManifest(manifest, signer));
    const done = stored === "stored" ? manifest : await this.#other(key);
    await lease.end();
    return done;
  }

  /** Gives up. What was stored stays for a later run of the same session, until it is collected. */
  async abort(): Promise<void> {
    this.#state = "closed";
    await this.#setup.parts.queue.flush().catch(() => undefined);
    await this.#setup.lease.end();
  }

  /** Another process with the same session was first: what it made is the checkpoint. */
  async #other(key: string): Promise<Manifest> {
    const body = await this.#setup.backend.get(key);
    if (body === undefined) throw ferryError("E_STORE", `checkpoint ${this.id} was there, and is gone again`);
    return readManifest(body, key, undefined);
  }
}

/** The packs that a tree names: only those that it needs, in the order of first use. */
class TreePacks {
  readonly packs: Tree["packs"] = [];
  readonly #parts: WriterParts;
  readonly #numbers = new Map<number, number>();

  constructor(parts: WriterParts) {
    this.#parts = parts;
  }

  window(window: DoneWindow, place: { pack: number; block: number } | undefined): TreeWindow {
    const p = window.packs.map((pack) => this.#number(pack));
    if (place === undefined) return { w: window.w, p, leaf: window.leaf.toString("base64") };
    return { w: window.w, p, at: [this.#number(place.pack), place.block] };
  }

  #number(pack: number): number {
    const known = this.#numbers.get(pack);
    if (known !== undefined) return known;
    const { id, bytes, digest } = this.#parts.packs.get(pack);
    if (digest === undefined) throw ferryError("E_INTERNAL", `pack ${id} was not stored`);
    this.#numbers.set(pack, this.packs.length);
    return this.packs.push({ id, bytes, digest }) - 1;
  }
}

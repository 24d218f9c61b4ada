/**
 * The checkpoint store: one directory or one prefix of a bucket, for many workloads and many nodes at once.
 *
 *   store.json        cipher, id key                 keys/          data keys, wrapped with a master key
 *   packs/            blocks                         checkpoints/   manifests: a checkpoint is there when its manifest is
 *   trash/            manifests of deleted ones      pins/          checkpoints that must not be deleted
 *   leases/ sessions/ condemned/   who is at work, and what is about to be collected (lease.ts, gc.ts)
 */
import { createHash, randomBytes, type KeyObject } from "node:crypto";
import { z } from "zod";
import { ferryError, toFailure, type FailureData } from "../model/failure.js";
import { isWorkloadName } from "../model/names.js";
import type { Backend } from "./backend.js";
import { getExisting } from "./backend.js";
import { eachAtOnce } from "./at-once.js";
import { BlockTable } from "./block-table.js";
import { bestCompression, type Compression } from "./codec.js";
import { KeyRing } from "./config.js";
import type { MasterKey } from "./keys.js";
import { condemnedKey, Lease } from "./lease.js";
import { CHECKPOINT_ID, manifestKey, readManifest, trashKey, type Manifest } from "./manifest.js";
import { decodeObject, encodeObject } from "./objects.js";
import { PackList, PackQueue } from "./pack-queue.js";
import { idAt, PackReader, type PackRef } from "./pack-reader.js";
import { CheckpointReader } from "./reader.js";
import { decodeTree, type Tree } from "./tree.js";
import { workingSetKey } from "./working-set.js";
import { CheckpointWriter } from "./writer.js";

export interface StoreOptions {
  backend: Backend;
  /** The first wraps new data keys; the others can still be read with. None: a store without encryption. */
  masterKeys?: readonly MasterKey[];
  /** Makes the store where there is none. Default true. */
  make?: boolean;
  /** Ed25519 public keys whose manifests are believed. */
  trusted: readonly KeyObject[];
  /** Ed25519 private key of this node, for writing. Its public key is trusted too. */
  signer?: KeyObject;
  compression?: Compression;
  /** Blocks of 4 KiB in a pack. Default 4096: 16 MiB before compression. */
  packBlocks?: number;
  /** Blocks in a segment: what is compressed together, and read for one page. Default 16. */
  segmentBlocks?: number;
  /** Packs that are uploaded at once. Default 3. */
  uploads?: number;
  /** Blocks that a writer keeps in mind to find them again, at 24 to 48 bytes each. Default 4 Mi: 16 GiB of content. */
  knownBlocks?: number;
  /** Unpacked segments that a reader keeps. Default 64 MiB. */
  cacheBytes?: number;
}

export interface BeginOptions {
  workload: string;
  /** A name that is the same when it is tried again: then what was stored is used, and it is made once. */
  operation?: string;
  /** Whose blocks are shared. Default the newest of the workload that can be read; null: none, everything is stored anew. */
  parent?: string | null;
}

/** A checkpoint in a list: its manifest, or why there is none to be read. */
export type Listed = { id: string; manifest: Manifest } | { id: string; failure: FailureData };

const SessionFile = z.strictObject({ format: z.literal(1), id: z.string().regex(CHECKPOINT_ID) });

const LISTED_AT_ONCE = 16;
const LEARNED_AT_ONCE = 8;

export class Store {
  readonly backend: Backend;
  readonly ring: KeyRing;
  readonly packs: PackReader;
  readonly #options: StoreOptions;

  private constructor(options: StoreOptions, ring: KeyRing) {
    this.backend = options.backend;
    this.ring = ring;
    this.packs = new PackReader(options.backend, ring);
    this.#options = options;
  }

  /**
   * Opens the store, and makes it when there is none.
   * @throws FerryError E_STORE_KEY: the wrong key; E_STORE: there is none, and it was not to be made
   */
  static async open(options: StoreOptions): Promise<Store> {
    return new Store(options, await KeyRing.open(options.backend, options.masterKeys ?? [], options.make));
  }

  /**
   * Begins a checkpoint, or says that this operation has made its checkpoint already.
   * @throws FerryError E_CHECKPOINT_UNKNOWN: no such parent
   */
  async begin(options: BeginOptions): Promise<{ writer: CheckpointWriter } | { done: Manifest }> {
    const { workload, operation } = options;
    const signer = this.#options.signer;
    if (signer === undefined) throw ferryError("E_STORE_SIGNATURE", "no key is given to sign checkpoints with");
    if (!isWorkloadName(workload)) throw ferryError("E_NAME", `${JSON.stringify(workload)} is no name of a workload`);
    const session = sessionOf(workload, operation);
    const lease = await Lease.take(this.backend, session);
    try {
      const ids = await this.ids(workload);
      const made = ids.find((id) => id.endsWith(`-${session}`));
      if (made !== undefined) {
        await lease.end();
        return { done: await this.manifest(workload, made) };
      }
      const id = await this.#sessionId(session);
      const parent = await this.#parent(workload, ids, options.parent);
      const packs = new PackList();
      const known = new BlockTable(this.#options.knownBlocks ?? 4 * 1024 * 1024);
      const left = operation === undefined ? [] : await this.#leftBehind(session);
      const wanted = [...left, ...(parent?.tree.packs ?? [])];
      await eachAtOnce(LEARNED_AT_ONCE, wanted, (pack) => this.#learn(pack, packs, known));
      const queueOptions = {
        backend: this.backend,
        ring: this.ring,
        packs,
        session,
        compression: this.#options.compression ?? bestCompression(),
        packBlocks: this.#options.packBlocks ?? 4096,
        uploads: this.#options.uploads ?? 3,
        ...(this.#options.segmentBlocks === undefined ? {} : { segmentBlocks: this.#options.segmentBlocks }),
      };
      const idKey = await this.ring.idKey(this.ring.idKeyId);
      const parts = { queue: new PackQueue(queueOptions), packs, known, idKey };
      const metaQueue = new PackQueue(queueOptions);
      const { backend } = this;
      return { writer: new CheckpointWriter({ backend, id, workload, lease, parts, metaQueue, parent, signer }) };
    } catch (error) {
      await lease.end();
      throw error;
    }
  }

  /**
   * Opens a checkpoint for reading: its signature and its tree are checked.
   * @param hold keep it readable even if it is deleted meanwhile, until `close`
   * @throws FerryError E_CHECKPOINT_UNKNOWN, E_STORE_SIGNATURE, E_STORE_CORRUPT
   */
  async read(workload: string, id: string, hold = true): Promise<CheckpointReader> {
    const lease = hold ? await Lease.take(this.backend, randomBytes(8).toString("hex")) : undefined;
    try {
      const manifest = await this.manifest(workload, id);
      const tree = await this.tree(manifest);
      return new CheckpointReader(manifest, tree, this.packs, this.#options.cacheBytes ?? 64 * 1024 ** 2, lease);
    } catch (error) {
      await lease?.end();
      throw error;
    }
  }

  /** @throws FerryError E_CHECKPOINT_UNKNOWN, E_STORE_SIGNATURE, E_STORE_CORRUPT */
  async manifest(workload: string, id: string): Promise<Manifest> {
    const { key, body } = await this.#stored(workload, id);
    return readManifest(body, key, this.trusted);
  }

  /** A manifest as it lies there. @throws FerryError E_CHECKPOINT_UNKNOWN */
  async #stored(workload: string, id: string): Promise<{ key: string; body: Buffer }> {
    const known = isWorkloadName(workload) && CHECKPOINT_ID.test(id);
    const key = known ? manifestKey(workload, id) : "";
    const body = known ? await this.backend.get(key) : undefined;
    if (body !== undefined) return { key, body };
    throw ferryError("E_CHECKPOINT_UNKNOWN", `there is no checkpoint ${id} of ${workload} in ${this.backend.name}`, {
      remedy: "`checkpoints ls` shows those that are there",
    });
  }

  get trusted(): readonly KeyObject[] {
    const { trusted, signer } = this.#options;
    return signer === undefined ? trusted : [...trusted, signer];
  }

  /** @throws FerryError E_STORE_CORRUPT */
  async tree({ id, tree }: Manifest): Promise<Tree> {
    const pack = { id: tree.pack, bytes: tree.packBytes, digest: tree.packDigest };
    return decodeTree(await this.packs.whole(pack, tree.block), id);
  }

  /** The checkpoint that this operation has made, if it has come to that. */
  async made(workload: string, operation: string): Promise<Manifest | undefined> {
    const session = sessionOf(workload, operation);
    const id = (await this.ids(workload)).find((id) => id.endsWith(`-${session}`));
    return id === undefined ? undefined : this.manifest(workload, id);
  }

  /** Ids of a workload's checkpoints, oldest first: one listing, nothing is opened. */
  async ids(workload: string): Promise<string[]> {
    const prefix = `checkpoints/${workload}/`;
    const ids: string[] = [];
    for await (const { key } of this.backend.list(prefix)) {
      const id = key.slice(prefix.length, -".json".length);
      if (CHECKPOINT_ID.test(id)) ids.push(id);
    }
    return ids;
  }

  /** Oldest first. One that can't be believed is listed with why. */
  async list(workload: string): Promise<Listed[]> {
    const ids = await this.ids(workload);
    const listed: Listed[] = [];
    await eachAtOnce(LISTED_AT_ONCE, ids, async (id, at) => {
      try {
        listed[at] = { id, manifest: await this.manifest(workload, id) };
      } catch (error) {
        listed[at] = { id, failure: toFailure(error) };
      }
    });
    return listed;
  }

  /** Workloads that have checkpoints. */
  async workloads(): Promise<string[]> {
    const names = new Set<string>();
    for await (const { key } of this.backend.list("checkpoints/")) names.add(key.split("/")[1] ?? "");
    return [...names].filter(isWorkloadName);
  }

  /**
   * Takes a checkpoint away, at once; `collect` frees its space later. No other checkpoint depends on it.
   * @throws FerryError E_CHECKPOINT_UNKNOWN, E_STATE when it is pinned
   */
  async delete(workload: string, id: string): Promise<void> {
    const { key, body } = await this.#stored(workload, id);
    if ((await this.backend.stat(pinKey(workload, id))) !== undefined) {
      throw ferryError("E_STATE", `checkpoint ${id} of ${workload} is pinned`, { remedy: "unpin it first" });
    }
    // In this order: the collector looks here first and there second, and always finds it in one of them.
    await this.backend.replace(trashKey(workload, id), body);
    await this.backend.delete(key);
    await this.backend.delete(workingSetKey(workload, id));
  }

  async pin(workload: string, id: string): Promise<void> {
    await this.manifest(workload, id);
    await this.backend.put(pinKey(workload, id), encodeObject({ format: 1, id }));
  }

  async unpin(workload: string, id: string): Promise<void> {
    await this.manifest(workload, id);
    await this.backend.delete(pinKey(workload, id));
  }

  close(): void {
    this.backend.close();
  }

  /** The id of the checkpoint that this session makes: the same for every process that tries. */
  async #sessionId(session: string): Promise<string> {
    const time = new Date().toISOString().replaceAll(/[-:.]/g, "");
    const key = `sessions/${session}.json`;
    await this.backend.put(key, encodeObject({ format: 1, id: `${time}-${session}` }));
    return decodeObject(SessionFile, await getExisting(this.backend, key), key).id;
  }

  async #parent(workload: string, ids: readonly string[], wanted: string | null | undefined) {
    if (wanted === null) return undefined;
    if (wanted !== undefined) return this.read(workload, wanted, false);
    for (const id of ids.toReversed()) {
      try {
        return await this.read(workload, id, false);
      } catch (error) {
        // One that can't be believed is no parent; a store that is away is no reason to store everything anew.
        if (toFailure(error).code === "E_STORE") throw error;
      }
    }
    return undefined;
  }

  /** Packs that an earlier run of this session stored, and that are not about to be collected. */
  async #leftBehind(session: string): Promise<PackRef[]> {
    if ((await this.backend.stat(condemnedKey(session))) !== undefined) return [];
    const left: PackRef[] = [];
    for await (const { key, bytes } of this.backend.list(`packs/${session.slice(0, 2)}/${session}`)) {
      left.push({ id: key.split("/")[2] ?? "", bytes, digest: undefined });
    }
    return left;
  }

  /** Keeps in mind where the blocks of a pack lie. A pack that can't be read is passed over: its blocks are stored anew. */
  async #learn(pack: PackRef, packs: PackList, known: BlockTable): Promise<void> {
    try {
      const index = await this.packs.index(pack);
      if (index.idKeyId !== this.ring.idKeyId) return;
      // After a rotation with a new data key everything is stored anew: the old one goes with the checkpoints that need it.
      if (index.dataKeyId !== this.ring.current) return;
      const ids = await this.packs.ids(index);
      const number = packs.add({ ...pack, digest: index.digest });
      for (let block = 0; block < index.blocks; block += 1) {
        known.add(idAt(ids, block), number, block);
      }
    } catch (error) {
      if (toFailure(error).code !== "E_STORE_CORRUPT") throw error;
    }
  }
}

export const pinKey = (workload: string, id: string): string => `pins/${workload}/${id}`;

function sessionOf(workload: string, operation: string | undefined): string {
  if (operation === undefined) return randomBytes(8).toString("hex");
  return createHash("sha256").update(`${workload}\n${operation}`).digest("hex").slice(0, 16);
}

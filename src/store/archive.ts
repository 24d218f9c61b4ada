/**
 * One checkpoint as one file: its objects one after the other, as they lie in the store, so that its signature holds and
 * nothing is decrypted on the way. Whoever imports it needs the same master key.
 *
 *   "FERRYAR1" | entries: u32 length of the key, key, u64 length of the body, body | u32 0 | sha256 of all before
 *
 * Numbers are little endian. Data keys come first, the manifest is the last entry.
 */
import { createHash } from "node:crypto";
import { ferryError } from "../model/failure.js";
import { eachAtOnce } from "./at-once.js";
import { getExisting } from "./backend.js";
import { importedKey } from "./config.js";
import { condemnedKey, Lease } from "./lease.js";
import { manifestKey, readManifest, type Manifest } from "./manifest.js";
import { packKey } from "./pack-format.js";
import type { Store } from "./store.js";

const MAGIC = Buffer.from("FERRYAR1");
const MAX_BODY_BYTES = 2 ** 30;
const KEY =
  /^(keys\/[0-9a-f]{32}\/([0-9a-f]{16}|plain)|packs\/[0-9a-f]{2}\/[0-9a-f]{32}|checkpoints\/[a-z0-9-]+\/[0-9TZa-f-]+\.json)$/;

/** The file's bytes, in order. The packs that it shares with other checkpoints are in it as a whole. */
export async function* exportCheckpoint(store: Store, workload: string, id: string): AsyncGenerator<Buffer> {
  const reader = await store.read(workload, id);
  const hash = createHash("sha256");
  const pass = (part: Buffer): Buffer => {
    hash.update(part);
    return part;
  };
  try {
    yield pass(MAGIC);
    const { pack, packBytes, packDigest } = reader.manifest.tree;
    const packs = [...reader.tree.packs, { id: pack, bytes: packBytes, digest: packDigest }];
    const dataKeys = new Set<string>();
    await eachAtOnce(8, packs, async (ref) => {
      const index = await store.packs.index(ref);
      dataKeys.add(index.dataKeyId).add(index.idKeyId);
    });
    const keys: string[] = [];
    for (const dataKey of dataKeys) {
      for await (const { key } of store.backend.list(`keys/${dataKey}/`)) keys.push(key);
    }
    keys.push(...new Set(packs.map((ref) => packKey(ref.id))), manifestKey(workload, id));
    for (const key of keys) {
      const body = await getExisting(store.backend, key);
      const start = Buffer.alloc(4 + key.length + 8);
      start.writeUInt32LE(key.length);
      start.write(key, 4, "latin1");
      start.writeBigUInt64LE(BigInt(body.length), 4 + key.length);
      yield pass(start);
      yield pass(body);
    }
    yield pass(Buffer.alloc(4));
    yield hash.digest();
  } finally {
    await reader.close();
  }
}

/**
 * Takes a checkpoint in. It is there when all of it is, and its signature, its tree and all its packs were looked at.
 * @throws FerryError E_STORE_CORRUPT, E_STORE_SIGNATURE, E_STORE_KEY
 */
export async function importCheckpoint(store: Store, source: AsyncIterable<Buffer>): Promise<Manifest> {
  const input = new ArchiveReader(source);
  const leases = new Map<string, Lease>();
  try {
    if (!(await input.take(MAGIC.length)).equals(MAGIC)) throw wrong("it does not begin as one");
    let last: { key: string; body: Buffer } | undefined;
    for (;;) {
      const keyBytes = (await input.take(4)).readUInt32LE();
      if (keyBytes === 0) break;
      if (last !== undefined) throw wrong("something follows the manifest");
      if (keyBytes > 512) throw wrong("a name in it is too long");
      const key = (await input.take(keyBytes)).toString("latin1");
      if (!KEY.test(key)) throw wrong(`${JSON.stringify(key)} is no object of a checkpoint`);
      const bodyBytes = Number((await input.take(8)).readBigUInt64LE());
      if (bodyBytes > MAX_BODY_BYTES) throw wrong(`${key} is too large`);
      const body = await input.take(bodyBytes);
      if (key.startsWith("keys/")) await store.backend.put(key, importedKey(body, key));
      else if (key.startsWith("packs/")) await takePack(store, key, body, leases);
      else last = { key, body };
    }
    await input.end();
    if (last === undefined) throw wrong("it has no manifest");
    const manifest = readManifest(last.body, last.key, store.trusted);
    const tree = await store.tree(manifest);
    await eachAtOnce(8, tree.packs, async (pack) => {
      const index = await store.packs.index(pack);
      if (index.encrypted !== (store.ring.cipher !== "none")) {
        throw ferryError("E_STORE_KEY", "the checkpoint is encrypted and the store is not, or the other way round", {
          remedy: "import it into a store of its own kind",
        });
      }
      if (index.encrypted) await store.packs.ids(index);
    });
    for (const lease of leases.values()) await lease.assertHeld();
    await store.backend.put(last.key, last.body);
    return manifest;
  } finally {
    for (const lease of leases.values()) await lease.end();
  }
}

/** Under the lease of the session that the pack is of, so that it is not collected before the manifest is there. */
async function takePack(store: Store, key: string, body: Buffer, leases: Map<string, Lease>): Promise<void> {
  const session = key.slice("packs/00/".length, "packs/00/".length + 16);
  if (key.slice("packs/".length, "packs/00".length) !== session.slice(0, 2))
    throw wrong(`${key} is in the wrong place`);
  if (!leases.has(session)) {
    leases.set(session, await Lease.take(store.backend, session));
    if ((await store.backend.stat(condemnedKey(session))) !== undefined) {
      throw ferryError("E_BUSY", `the store ${store.backend.name} is about to collect packs of this checkpoint`, {
        remedy: "collect once more when the grace period is over, then import again",
      });
    }
  }
  await store.backend.put(key, body);
}

const wrong = (what: string): Error =>
  ferryError("E_STORE_CORRUPT", `the file is no checkpoint of Ferry's: ${what}`, { remedy: "export it again" });

/** Exact numbers of bytes from pieces of any size, and their digest. */
class ArchiveReader {
  readonly #source: AsyncIterator<Buffer>;
  readonly #hash = createHash("sha256");
  #rest: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  async take(bytes: number): Promise<Buffer> {
    const data = await this.#pull(bytes);
    this.#hash.update(data);
    return data;
  }

  async end(): Promise<void> {
    const digest = this.#hash.digest();
    if (!(await this.#pull(digest.length)).equals(digest)) throw wrong("its digest differs");
    if (this.#rest.length > 0 || !(await this.#source.next()).done) throw wrong("something follows its end");
  }

  async #pull(bytes: number): Promise<Buffer> {
    const parts = [this.#rest];
    let have = this.#rest.length;
    while (have < bytes) {
      const next = await this.#source.next();
      if (next.done) throw wrong("it is cut");
      parts.push(next.value);
      have += next.value.length;
    }
    const all = parts.length === 1 ? this.#rest : Buffer.concat(parts, have);
    this.#rest = all.subarray(bytes);
    return all.subarray(0, bytes);
  }
}

/**
 * A checkpoint that was exported, into a store. All of it is looked at before anything is stored: who signed it, every map,
 * every byte of every block. Its manifest is stored last. Again is harmless, and mends what is damaged in the store.
 */
import { ferryError, toFailure } from "../model/failure.js";
import type { ImportedFile } from "../model/store-report.js";
import { Archive, wrongFile } from "./archive.js";
import { eachAtOnce } from "./at-once.js";
import { getExisting } from "./backend.js";
import { otherKind, type KeyRing } from "./config.js";
import type { MasterKey } from "./keys.js";
import { condemnedKey, Lease } from "./lease.js";
import { readManifest, type Manifest } from "./manifest.js";
import { checkMaps, checkPack, demandSigned } from "./pack-check.js";
import { packKey } from "./pack-format.js";
import { PackReader, type PackRef } from "./pack-reader.js";
import { CheckpointReader } from "./reader.js";
import { decodeTree } from "./tree.js";
import type { Store } from "./store.js";

export interface ImportOptions {
  /** Master keys that may open it, besides the store's own. */
  keys?: readonly MasterKey[];
  /** Between two packs it is given up: again goes on. */
  signal?: AbortSignal;
}

const CHECKED_AT_ONCE = 4;

/** What was found good. */
interface Checked {
  object: string;
  manifest: Manifest;
  body: Buffer;
  packs: PackRef[];
  ring: KeyRing;
  dataKeys: Set<string>;
}

/**
 * @param path of the file
 * @throws FerryError E_STORE_CORRUPT, E_STORE_SIGNATURE, E_STORE_KEY, E_REQUEST: nothing of it was stored. E_BUSY: the
 * collector is about to take packs of it. E_STATE: another checkpoint has its name. E_STORE, E_NO_SPACE: blocks may have been
 * stored, no checkpoint; again goes on
 */
export async function importCheckpoint(store: Store, path: string, options: ImportOptions = {}): Promise<ImportedFile> {
  const archive = await Archive.open(path);
  try {
    const checked = await check(store, archive, options.keys ?? []);
    return await takeIn(store, archive, checked, options.signal);
  } finally {
    await archive.close();
  }
}

async function check(store: Store, archive: Archive, more: readonly MasterKey[]): Promise<Checked> {
  const [object = ""] = archive.names("manifest");
  const body = await archive.content(object);
  // First of all: nothing else of it is looked into for a stranger.
  const manifest = readManifest(body, object, store.trusted);
  const keys = await Promise.all(archive.names("key").map(async (key) => ({ key, body: await archive.content(key) })));
  const ring = store.ring.withImported(keys, more);
  const backend = archive.backend();
  const place = { backend, ring, packs: new PackReader(backend, ring) };
  const { pack: id, packBytes: bytes, packDigest: digest, block } = manifest.tree;
  const treePack = { id, bytes, digest };
  const tree = decodeTree(await place.packs.whole(treePack, block), manifest.id);
  const packs = [...new Map([treePack, ...tree.packs].map((pack) => [pack.id, pack])).values()];
  const names = new Set(packs.map((pack) => packKey(pack.id)));
  for (const name of archive.names("pack")) if (!names.has(name)) throw wrongFile(`nothing in it needs ${name}`);
  for (const pack of packs) {
    const there = archive.sizeOf(packKey(pack.id));
    if (there === undefined) throw wrongFile(`pack ${pack.id} is missing in it`);
    if (there !== pack.bytes) throw wrongFile(`pack ${pack.id} has ${there} bytes instead of ${pack.bytes}`);
  }
  const dataKeys = new Set<string>();
  await eachAtOnce(CHECKED_AT_ONCE, packs, async (pack) => {
    const index = await checkPack(place, pack);
    if (index.encrypted !== (store.ring.cipher !== "none")) throw otherKind();
    dataKeys.add(index.dataKeyId).add(index.idKeyId);
  });
  for (const { key } of keys) {
    if (!dataKeys.has(key.split("/")[1] ?? "")) throw wrongFile(`nothing in it needs ${key}`);
  }
  await checkMaps(place, new CheckpointReader(manifest, tree, place.packs, 0));
  return { object, manifest, body, packs, ring, dataKeys };
}

async function takeIn(
  store: Store,
  archive: Archive,
  checked: Checked,
  signal: AbortSignal | undefined,
): Promise<ImportedFile> {
  const { backend } = store;
  const { object, manifest, body, packs, ring, dataKeys } = checked;
  const { workload, id, node } = manifest;
  const done: ImportedFile = { workload, checkpoint: id, node, already: false, newPacks: 0, newBytes: 0, mended: 0 };
  const before = await backend.get(object);
  if (before !== undefined && !before.equals(body) && isWhole(store, before, object)) {
    throw ferryError("E_STATE", `the store ${backend.name} has another checkpoint ${id} of ${workload}`, {
      remedy: `look at it: ferry checkpoints show ${workload} ${id}; remove it if this one is to take its place`,
    });
  }
  const leases = new Map<string, Lease>();
  try {
    for (const session of new Set(packs.map(({ id }) => id.slice(0, 16)))) {
      leases.set(session, await Lease.take(backend, session));
      if ((await backend.stat(condemnedKey(session))) === undefined) continue;
      throw ferryError("E_BUSY", `the store ${backend.name} is about to collect packs of this checkpoint`, {
        remedy: "an hour after it was removed: ferry checkpoints gc --store FILE, then import again",
      });
    }
    await store.ring.adopt(ring, dataKeys);
    for (const pack of packs) {
      if (signal?.aborted === true) throw ferryError("E_CANCELLED", "the import was called off; again goes on");
      const key = packKey(pack.id);
      const content = await archive.content(key);
      // Looked at once more: the file may have changed since.
      demandSigned(content, pack);
      if ((await backend.put(key, content)) === "stored") {
        done.newPacks += 1;
        done.newBytes += content.length;
      } else if (!(await getExisting(backend, key)).equals(content)) {
        await backend.replace(key, content);
        done.mended += 1;
      }
    }
    for (const lease of leases.values()) await lease.assertHeld();
    if (before === undefined) await backend.put(object, body);
    else if (!before.equals(body)) {
      await backend.replace(object, body);
      done.mended += 1;
    }
    done.already = before !== undefined && done.newPacks === 0 && done.mended === 0;
    return done;
  } finally {
    for (const lease of leases.values()) await lease.end();
  }
}

function isWhole(store: Store, body: Buffer, object: string): boolean {
  try {
    readManifest(body, object, store.trusted);
    return true;
  } catch (error) {
    const { code } = toFailure(error);
    if (code === "E_STORE_CORRUPT" || code === "E_STORE_SIGNATURE") return false;
    throw error;
  }
}

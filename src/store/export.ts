/** A checkpoint as one file, out of a store. */
import { createHash } from "node:crypto";
import { ferryError } from "../model/failure.js";
import { eachAtOnce } from "./at-once.js";
import { ARCHIVE_MAGIC, entryHead } from "./archive.js";
import { getExisting } from "./backend.js";
import type { MasterKey } from "./keys.js";
import { manifestKey } from "./manifest.js";
import { demandSigned } from "./pack-check.js";
import { packKey } from "./pack-format.js";
import type { Store } from "./store.js";

export interface ExportOptions {
  /** Wraps the data keys for this master key instead of the store's own. */
  forKey?: MasterKey;
}

/**
 * The file's bytes, in order. Packs are in it as a whole, with what other checkpoints have in them. Each is looked at
 * before it is handed on: what comes out can be taken in.
 * @throws FerryError E_CHECKPOINT_UNKNOWN, E_STORE_SIGNATURE, E_STORE_CORRUPT, E_STORE_KEY
 */
export async function* exportCheckpoint(
  store: Store,
  workload: string,
  id: string,
  options: ExportOptions = {},
): AsyncGenerator<Buffer> {
  if (options.forKey !== undefined && store.ring.cipher === "none") {
    throw ferryError("E_STORE_KEY", `the store ${store.backend.name} is not encrypted: there is no key to change`, {
      remedy: "leave --for-key out",
    });
  }
  const reader = await store.read(workload, id);
  const hash = createHash("sha256");
  const pass = (part: Buffer): Buffer => {
    hash.update(part);
    return part;
  };
  function* entry(name: string, body: Buffer): Generator<Buffer> {
    yield pass(entryHead(name, body.length));
    yield pass(body);
  }
  try {
    const { pack, packBytes, packDigest } = reader.manifest.tree;
    const named = [{ id: pack, bytes: packBytes, digest: packDigest }, ...reader.tree.packs];
    const packs = [...new Map(named.map((ref) => [ref.id, ref])).values()];
    const dataKeys = new Set<string>();
    await eachAtOnce(8, packs, async (ref) => {
      const index = await store.packs.freshIndex(ref);
      dataKeys.add(index.dataKeyId).add(index.idKeyId);
    });
    yield pass(Buffer.from(ARCHIVE_MAGIC, "latin1"));
    const name = manifestKey(workload, id);
    yield* entry(name, await getExisting(store.backend, name));
    for (const dataKey of [...dataKeys].toSorted()) {
      const { key, body } = await store.ring.exportedKey(dataKey, options.forKey);
      yield* entry(key, body);
    }
    for (const ref of packs) {
      const body = await getExisting(store.backend, packKey(ref.id));
      demandSigned(body, ref);
      yield* entry(packKey(ref.id), body);
    }
    yield pass(Buffer.alloc(4));
    yield hash.digest();
  } finally {
    await reader.close();
  }
}

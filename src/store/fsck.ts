/** Looks whether every checkpoint is what was signed: each object that it needs is there, and, when asked, every byte. */
import { ferryError, toFailure, type FailureData } from "../model/failure.js";
import { eachAtOnce } from "./at-once.js";
import { readManifest } from "./manifest.js";
import { blockId, BLOCK_BYTES, corruptPack, head, HEAD_BYTES, packKey, type PackIndex } from "./pack-format.js";
import { idAt, type PackRef } from "./pack-reader.js";
import { CheckpointReader } from "./reader.js";
import { getExisting } from "./backend.js";
import type { Store } from "./store.js";

export interface FsckOptions {
  /** Reads every byte, not only what there is and how large. Default true. */
  deep?: boolean;
  /** Only these: "workload/id". Default all. */
  only?: readonly string[];
}

export interface FsckProblem {
  /** "workload/id" of every checkpoint that needs it. */
  checkpoints: string[];
  failure: FailureData;
}

export interface FsckReport {
  checkpoints: number;
  packs: number;
  bytes: number;
  /** Packs that no checkpoint needs: of writers at work, or for the collector. */
  unusedPacks: number;
  unusedBytes: number;
  problems: FsckProblem[];
}

const PACKS_AT_ONCE = 4;
/** Segments that are read by one request: up to 4 MiB unpacked. */
const SEGMENTS_AT_ONCE = 64;

/** @throws FerryError E_STORE: the store can't be reached; what it holds is in the report */
export async function fsck(store: Store, options: FsckOptions = {}): Promise<FsckReport> {
  const deep = options.deep ?? true;
  const sizes = new Map<string, number>();
  for await (const { key, bytes } of store.backend.list("packs/")) sizes.set(key.split("/")[2] ?? "", bytes);
  const report: FsckReport = { checkpoints: 0, packs: 0, bytes: 0, unusedPacks: 0, unusedBytes: 0, problems: [] };
  const users = new Map<string, { pack: PackRef; checkpoints: string[] }>();
  const note = (checkpoints: string[], error: unknown): void => {
    const failure = toFailure(error);
    if (failure.code === "E_STORE") throw error;
    report.problems.push({ checkpoints, failure });
  };

  for await (const { key } of store.backend.list("checkpoints/")) {
    const name = key.slice("checkpoints/".length, -".json".length);
    if (options.only !== undefined && !options.only.includes(name)) continue;
    report.checkpoints += 1;
    try {
      const manifest = readManifest(await getExisting(store.backend, key), key, store.trusted);
      const tree = await store.tree(manifest);
      const { pack: id, packBytes: bytes, packDigest: digest } = manifest.tree;
      for (const pack of [...tree.packs, { id, bytes, digest }]) {
        const user = users.get(pack.id) ?? { pack, checkpoints: [] };
        users.set(pack.id, user);
        if (user.pack.digest !== pack.digest) throw corruptPack(pack.id, "two checkpoints name it differently");
        if (!user.checkpoints.includes(name)) user.checkpoints.push(name);
      }
      await checkMaps(store, new CheckpointReader(manifest, tree, store.packs, 0));
    } catch (error) {
      note([name], error);
    }
  }

  await eachAtOnce(PACKS_AT_ONCE, [...users.values()], async ({ pack, checkpoints }) => {
    try {
      const bytes = sizes.get(pack.id) ?? (await store.backend.stat(packKey(pack.id)))?.bytes;
      if (bytes === undefined) throw ferryError("E_STORE_CORRUPT", `pack ${pack.id} is missing`);
      if (bytes !== pack.bytes) throw corruptPack(pack.id, `it has ${bytes} bytes instead of ${pack.bytes}`);
      report.packs += 1;
      report.bytes += bytes;
      if (deep) await checkPack(store, pack);
    } catch (error) {
      note(checkpoints, error);
    }
  });
  for (const [id, bytes] of sizes) {
    if (users.has(id)) continue;
    report.unusedPacks += 1;
    report.unusedBytes += bytes;
  }
  return report;
}

/** Every run of every stream lies within a pack that is known. */
async function checkMaps(store: Store, reader: CheckpointReader): Promise<void> {
  for (const stream of reader.streams) {
    for (const window of stream.windows) {
      for (const { pack, block, blocks } of await reader.runs(stream, window)) {
        const index = await store.packs.index(pack);
        if (block + blocks > index.blocks) throw corruptPack(pack.id, `it has no block ${block + blocks - 1}`);
      }
    }
  }
}

/** Every byte of a pack, and that each block has the content that its id says. */
async function checkPack(store: Store, pack: PackRef): Promise<void> {
  // Not from what was opened before: the object as it is now.
  const index: PackIndex = await store.packs.freshIndex(pack);
  const start = await getExisting(store.backend, packKey(pack.id), { offset: 0, bytes: HEAD_BYTES });
  if (!start.equals(head(pack.id))) throw corruptPack(pack.id, "its head differs");
  const ids = await store.packs.ids(index);
  const idKey = await store.ring.idKey(index.idKeyId);
  for (let from = 0; from < index.segments.length; from += SEGMENTS_AT_ONCE) {
    const to = Math.min(from + SEGMENTS_AT_ONCE, index.segments.length) - 1;
    const segments = await store.packs.segments(index, from, to);
    for (const [at, raw] of segments.entries()) {
      const entry = index.segments[from + at];
      if (entry === undefined) continue;
      for (let i = 0; i < entry.blocks; i += 1) {
        const block = entry.blocks === 1 ? raw : raw.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
        if (!blockId(idKey, block).equals(idAt(ids, entry.firstBlock + i))) {
          throw corruptPack(pack.id, `block ${entry.firstBlock + i} is not what its id says`);
        }
      }
    }
  }
}

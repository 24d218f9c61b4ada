/** Looks whether every checkpoint is what was signed: each object that it needs is there, and, when asked, every byte. */
import { ferryError, toFailure } from "../model/failure.js";
import type { FsckReport } from "../model/store-report.js";
import { eachAtOnce } from "./at-once.js";
import { readManifest } from "./manifest.js";
import { checkMaps, checkPack } from "./pack-check.js";
import { corruptPack, packKey } from "./pack-format.js";
import type { PackRef } from "./pack-reader.js";
import { CheckpointReader } from "./reader.js";
import type { Store } from "./store.js";

export interface FsckOptions {
  /** Reads every byte, not only what there is and how large. Default true. */
  deep?: boolean;
  /** Only these: "workload/id", or "workload". Default all. */
  only?: readonly string[];
}

const PACKS_AT_ONCE = 4;

interface User {
  pack: PackRef;
  checkpoints: string[];
}

/** Changes nothing. @throws FerryError E_STORE: the store can't be reached; what it holds is in the report */
export async function fsck(store: Store, options: FsckOptions = {}): Promise<FsckReport> {
  const deep = options.deep ?? true;
  const sizes = new Map<string, number>();
  for await (const { key, bytes } of store.backend.list("packs/")) sizes.set(key.split("/")[2] ?? "", bytes);
  const report: FsckReport = {
    checkpoints: 0,
    packs: 0,
    bytes: 0,
    unusedPacks: 0,
    unusedBytes: 0,
    keys: [],
    problems: [],
  };
  const users = new Map<string, User>();
  const note = (checkpoints: string[], error: unknown): void => {
    const failure = toFailure(error);
    if (failure.code === "E_STORE") throw error;
    report.problems.push({ checkpoints, failure });
  };

  for await (const { key } of store.backend.list("checkpoints/")) {
    const name = key.slice("checkpoints/".length, -".json".length);
    const asked = options.only?.some((one) => one === name || name.startsWith(`${one}/`)) ?? true;
    if (!asked) continue;
    report.checkpoints += 1;
    try {
      const body = await store.backend.get(key);
      // Removed since it was listed.
      if (body === undefined) {
        report.checkpoints -= 1;
        continue;
      }
      const manifest = readManifest(body, key, store.trusted);
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

  /** By data key: what needs it. */
  const needs = new Map<string, { packs: number; bytes: number; checkpoints: Set<string> }>();
  const need = (dataKey: string, checkpoints: string[], packs: number, bytes: number): void => {
    const known = needs.get(dataKey) ?? { packs: 0, bytes: 0, checkpoints: new Set() };
    known.packs += packs;
    known.bytes += bytes;
    for (const name of checkpoints) known.checkpoints.add(name);
    needs.set(dataKey, known);
  };
  await eachAtOnce(PACKS_AT_ONCE, [...users.values()], async ({ pack, checkpoints }) => {
    try {
      const bytes = sizes.get(pack.id) ?? (await store.backend.stat(packKey(pack.id)))?.bytes;
      if (bytes === undefined) throw ferryError("E_STORE_CORRUPT", `pack ${pack.id} is missing`);
      if (bytes !== pack.bytes) throw corruptPack(pack.id, `it has ${bytes} bytes instead of ${pack.bytes}`);
      report.packs += 1;
      report.bytes += bytes;
      const index = deep ? await checkPack(store, pack) : await store.packs.index(pack);
      need(index.dataKeyId, checkpoints, 1, bytes);
      if (index.idKeyId !== index.dataKeyId) need(index.idKeyId, checkpoints, 0, 0);
    } catch (error) {
      note(checkpoints, error);
    }
  });
  for (const [id, bytes] of sizes) {
    if (users.has(id) || options.only !== undefined) continue;
    report.unusedPacks += 1;
    report.unusedBytes += bytes;
  }

  for (const [dataKey, error] of await store.ring.check()) note([...(needs.get(dataKey)?.checkpoints ?? [])], error);
  for (const [dataKey, masterKeys] of await store.ring.wrappings()) {
    const { packs, bytes, checkpoints = [] } = needs.get(dataKey) ?? { packs: 0, bytes: 0 };
    const opened = store.ring.opens(dataKey);
    // Else it was noted when they were read.
    if (!opened && !deep && packs > 0) {
      note(
        [...checkpoints],
        ferryError(
          "E_STORE_KEY",
          `data key ${dataKey} is wrapped with ${masterKeys.join(" or ")}, which is not given`,
          {
            remedy: "add that key to `oldKeys` of the store's configuration",
          },
        ),
      );
    }
    report.keys.push({ dataKey, masterKeys, opened, current: dataKey === store.ring.current, packs, bytes });
  }
  await dropRemoved(store, report);
  return report;
}

/** What was removed while this looked is nobody's problem any more. */
async function dropRemoved(store: Store, report: FsckReport): Promise<void> {
  const named = new Set(report.problems.flatMap(({ checkpoints }) => checkpoints));
  const gone = new Set<string>();
  for (const name of named) {
    if ((await store.backend.stat(`checkpoints/${name}.json`)) === undefined) gone.add(name);
  }
  report.problems = report.problems.flatMap(({ checkpoints, failure }) => {
    const left = checkpoints.filter((name) => !gone.has(name));
    return left.length === 0 && checkpoints.length > 0 ? [] : [{ checkpoints: left, failure }];
  });
}

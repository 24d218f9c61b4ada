/** What a workload touched first lies beside its checkpoint: kept, found again, never believed, gone with it. */
import assert from "node:assert/strict";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, it } from "node:test";
import type { FerryError } from "../../src/model/failure.js";
import { collect, keepWorkingSet, readWorkingSet, type Store, type TouchedRun } from "../../src/store/index.js";
import { MAX_PAGES, MAX_RUNS, workingSetKey } from "../../src/store/working-set.js";
import { begin, facts, keysOf, openLocal, pages, tempDir } from "./kit.js";

const RUNS: TouchedRun[] = [
  { vpid: 7, page: 0x7f12_3456_7, pages: 16 },
  { vpid: 1, page: 0x400, pages: 1 },
];
const corrupt = (error: FerryError): boolean => error.code === "E_STORE_CORRUPT";

async function saved(store: Store, workload: string, first: number): Promise<string> {
  const writer = await begin(store, workload);
  await writer.stream("memory/1", { kind: "memory" }).write(0, pages(first, 4));
  return (await writer.commit(facts(workload))).id;
}

describe("working sets", () => {
  it("are kept for a checkpoint; the next one has that of the newest before it has its own", async (t) => {
    const store = await openLocal(await tempDir(t));
    const one = await saved(store, "web", 1);
    assert.equal(await readWorkingSet(store, "web", one), undefined);
    await keepWorkingSet(store, "web", one, RUNS);
    assert.deepEqual(await readWorkingSet(store, "web", one), { own: true, runs: RUNS });
    const two = await saved(store, "web", 2);
    assert.deepEqual(await readWorkingSet(store, "web", two), { own: false, runs: RUNS });
    const other = await saved(store, "other", 3);
    assert.equal(await readWorkingSet(store, "other", other), undefined);
    await keepWorkingSet(store, "web", two, RUNS.slice(1));
    assert.deepEqual(await readWorkingSet(store, "web", two), { own: true, runs: RUNS.slice(1) });
    assert.deepEqual(await readWorkingSet(store, "web", one), { own: true, runs: RUNS });
  });

  it("say nothing to who has no key, and are another's when they are moved", async (t) => {
    const dir = await tempDir(t);
    const store = await openLocal(dir);
    const one = await saved(store, "web", 1);
    await keepWorkingSet(store, "web", one, RUNS);
    const body = await readFile(join(dir, workingSetKey("web", one)));
    const address = Buffer.alloc(8);
    address.writeBigUInt64LE(BigInt(RUNS[0]?.page ?? 0));
    assert.equal(body.indexOf(address), -1);
    const other = await saved(store, "other", 2);
    const place = join(dir, workingSetKey("other", other));
    await mkdir(dirname(place), { recursive: true });
    await copyFile(join(dir, workingSetKey("web", one)), place);
    await assert.rejects(readWorkingSet(store, "other", other), corrupt);
  });

  it("are refused with any byte changed, cut, or made longer; in a store without encryption by their form", async (t) => {
    for (const masterKeys of [undefined, []]) {
      const dir = await tempDir(t);
      const store = await openLocal(dir, masterKeys === undefined ? {} : { masterKeys });
      const id = await saved(store, "web", 1);
      await keepWorkingSet(store, "web", id, RUNS);
      assert.deepEqual((await readWorkingSet(store, "web", id))?.runs, RUNS);
      const path = join(dir, workingSetKey("web", id));
      const good = await readFile(path);
      const refused = async (body: Buffer): Promise<void> => {
        await writeFile(path, body);
        await assert.rejects(readWorkingSet(store, "web", id), (error: FerryError) =>
          ["E_STORE_CORRUPT", "E_STORE_KEY"].includes(error.code),
        );
      };
      await refused(good.subarray(0, good.length - 1));
      await refused(Buffer.concat([good, Buffer.alloc(1)]));
      await refused(Buffer.alloc(0));
      await refused(Buffer.concat([good.subarray(0, 41), Buffer.alloc(16 * (MAX_RUNS + 2), 1)]));
      const fromWhere = masterKeys === undefined ? good.length : 9;
      for (let at = 0; at < fromWhere; at += 1) {
        const bad = Buffer.from(good);
        bad[at] = (bad[at] ?? 0) ^ 4;
        await refused(bad);
      }
      const many = Buffer.from(good);
      if (masterKeys !== undefined) {
        many.writeUInt32LE(MAX_PAGES + 1, 41 + 4);
        await refused(many);
      }
    }
  });

  it("are not written where they would not be read", async (t) => {
    const store = await openLocal(await tempDir(t));
    const id = await saved(store, "web", 1);
    const many = Array.from({ length: MAX_RUNS + 1 }, (_, page) => ({ vpid: 1, page, pages: 1 }));
    await assert.rejects(keepWorkingSet(store, "web", id, many));
    await assert.rejects(keepWorkingSet(store, "web", id, [{ vpid: 0, page: 1, pages: 1 }]));
    await assert.rejects(keepWorkingSet(store, "../web", id, RUNS));
  });

  it("go with their checkpoint; the collector takes those that were left", async (t) => {
    const store = await openLocal(await tempDir(t));
    const [one, two] = [await saved(store, "web", 1), await saved(store, "web", 2)];
    for (const id of [one, two]) await keepWorkingSet(store, "web", id, RUNS);
    await store.delete("web", one);
    assert.deepEqual(await keysOf(store, "workingsets/"), [workingSetKey("web", two)]);
    // A restore that ended after its checkpoint was removed.
    await keepWorkingSet(store, "web", one, RUNS);
    await collect(store);
    assert.deepEqual(await keysOf(store, "workingsets/"), [workingSetKey("web", two)]);
  });
});

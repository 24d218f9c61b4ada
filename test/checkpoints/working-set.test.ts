/** What was touched, by slot, and what is kept of it, by address; a store that is not mounted is not a damaged one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { whileAway } from "../../src/checkpoints/feed/memory.js";
import { mergeRuns, slotsOf, touchedRuns } from "../../src/checkpoints/working-set.js";
import { ferryError, type FerryError } from "../../src/model/failure.js";
import type { AreaTable } from "../../src/transfer/pages/api.js";

const at = (page: number): bigint => BigInt(page) * 4096n;
const TABLE: AreaTable = {
  areas: [
    { vpid: 1, start: at(1000), pages: 100, slot: 0 },
    { vpid: 1, start: at(5), pages: 3, slot: 100 },
    { vpid: 2, start: at(1000), pages: 64, slot: 103 },
  ],
  slots: 200,
};

test("touched slots become pieces around them, within their area, once each, in the order of the first touch", () => {
  const runs = touchedRuns(TABLE, [
    { slot: 50, pages: 1 },
    { slot: 101, pages: 16 },
    { slot: 51, pages: 16 },
    { slot: 0, pages: 1 },
    // Of no area.
    { slot: 190, pages: 4 },
    { slot: 4_000_000_000, pages: 1 },
  ]);
  assert.deepEqual(runs, [
    { vpid: 1, page: 1040, pages: 16 },
    { vpid: 1, page: 5, pages: 3 },
    { vpid: 1, page: 1056, pages: 16 },
    { vpid: 1, page: 1000, pages: 8 },
  ]);
});

test("they become slots again, also where the areas are others by then; nothing comes twice", () => {
  const slots = slotsOf(TABLE, [
    { vpid: 2, page: 1040, pages: 40 },
    { vpid: 1, page: 1090, pages: 100 },
    { vpid: 1, page: 0, pages: 6 },
    { vpid: 1, page: 1095, pages: 2 },
    { vpid: 9, page: 1000, pages: 10 },
  ]);
  assert.deepEqual(slots, [
    { slot: 143, pages: 24 },
    { slot: 90, pages: 11 },
  ]);
  assert.deepEqual(slotsOf({ areas: [], slots: 0 }, [{ vpid: 1, page: 0, pages: 5 }]), []);
});

test("what was known stays in front; what is too much is begun anew", () => {
  const run = (page: number) => ({ vpid: 1, page, pages: 16 });
  assert.deepEqual(mergeRuns([run(32), run(0)], [run(0), run(64)]), [run(32), run(0), run(64)]);
  const many = Array.from({ length: 4096 }, (_, i) => run(i * 16));
  assert.deepEqual(mergeRuns(many, [run(16 * 5000)]), [run(16 * 5000)]);
  assert.equal(mergeRuns(many, [run(16)]).length, 4096);
});

test("an object that is missing is waited for while all of the store is missing, and final when it is there", async () => {
  const missing = (): Promise<never> => Promise.reject(ferryError("E_STORE_CORRUPT", "object packs/x is missing"));
  let there = false;
  let calls = 0;
  let heard = 0;
  const patience = { away: () => void (heard += 1), isThere: () => Promise.resolve(there) };
  const work = (): Promise<string> => {
    calls += 1;
    return calls < 3 ? missing() : Promise.resolve("read");
  };
  assert.equal(await whileAway(work, patience), "read");
  assert.deepEqual([calls, heard], [3, 2]);
  there = true;
  await assert.rejects(whileAway(missing, patience), (error: FerryError) => error.code === "E_STORE_CORRUPT");
});

/** Slots of pages before criu has said which there are, and the table that is made of both: against a plain model. */
import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { areasDigest, buildTable, type TaskMemory } from "../../src/transfer/images/areas.js";
import type { PagemapEntry } from "../../src/transfer/images/criu.js";
import { StageStore } from "../../src/transfer/pages/index.js";
import { BLOCK_PAGES, MAX_REGION_SLOTS, RegionMap } from "../../src/transfer/pages/regions.js";
import { checkTable } from "../../src/transfer/pages/table.js";
import { PAGE, scratchDir } from "./pages-kit.js";

const SEED = Number(process.env["FERRY_TEST_SEED"] ?? Date.now() % 1_000_000);

function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const entry = (start: number, pages: number, lazy = true): PagemapEntry => ({ start, pages, lazy, present: !lazy });

test(`a page keeps its slot, both ends make the same table, void slots are nobody's (seed ${SEED})`, () => {
  for (let run = 0; run < 40; run += 1) {
    const below = random(SEED + run);
    const ours = new RegionMap();
    const theirs = new RegionMap();
    const slots = new Map<string, number>();
    for (let scan = 0; scan < 6; scan += 1) {
      for (let count = 0; count < 8; count += 1) {
        const [vpid, first, pages] = [1 + below(3), below(6000), 1 + below(1200)];
        for (const piece of ours.cover(vpid, first * PAGE, pages)) {
          for (let page = 0; page < piece.pages; page += 1) {
            const key = `${vpid} ${piece.start / PAGE + page}`;
            const slot = (piece.slot ?? Number.NaN) + page;
            assert.equal(slots.get(key) ?? slot, slot, key);
            slots.set(key, slot);
            const { vpid: owner, start } = ours.place(slot)!;
            assert.equal(`${owner} ${start / PAGE}`, key);
          }
        }
      }
      // announced: from now on it stays
      ours.seal();
      for (const region of ours.regions.slice(theirs.regions.length)) theirs.add({ ...region });
      assert.deepEqual(theirs.regions, ours.regions);
    }
    assert.equal(new Set(slots.values()).size, slots.size);
    const tasks: TaskMemory[] = [1, 2, 4].map((vpid) => {
      const entries: PagemapEntry[] = [];
      for (let at = below(50); at < 8000; at += 1 + below(300)) {
        const pages = 1 + below(900);
        entries.push(entry(at * PAGE, pages, below(5) > 0));
        at += pages;
      }
      return { vpid, entries };
    });
    const confirmed = below(ours.regions.length + 1);
    const [a, b] = [ours, theirs].map((map) => buildTable(tasks, map.prefix(confirmed)));
    checkTable(a!);
    assert.equal(areasDigest(a!), areasDigest(b!));
    const known = ours.prefix(confirmed).slots;
    const wanted = tasks.flatMap(({ vpid, entries }) =>
      entries.flatMap(({ start, pages, lazy }) =>
        lazy ? Array.from({ length: pages }, (_, page) => `${vpid} ${start / PAGE + page}`) : [],
      ),
    );
    const given = new Map<string, number>();
    for (const area of a!.areas) {
      for (let page = 0; page < area.pages; page += 1) {
        const key = `${area.vpid} ${Number(area.start) / PAGE + page}`;
        assert.ok(!given.has(key));
        given.set(key, area.slot + page);
      }
    }
    assert.deepEqual([...given.keys()].toSorted(), wanted.toSorted());
    for (const [key, slot] of given) {
      const before = slots.get(key);
      if (before !== undefined && before < known) assert.equal(slot, before);
      else assert.ok(slot >= known || before === undefined);
    }
  }
});

test("without regions the table is what it always was", () => {
  const tasks = [{ vpid: 3, entries: [entry(0x10000, 3), entry(0x13000, 700), entry(0x800000, 1)] }];
  assert.deepEqual(buildTable(tasks), {
    areas: [
      { vpid: 3, start: 0x10000n, pages: 703, slot: 0 },
      { vpid: 3, start: 0x800000n, pages: 1, slot: 703 },
    ],
    slots: 704,
  });
});

test("there is an end to the slots, and what lies beyond has none", () => {
  const map = new RegionMap();
  map.add({ vpid: 1, start: 0, pages: MAX_REGION_SLOTS - BLOCK_PAGES, slot: 0 });
  const [first, second, ...more] = map.cover(2, 0, 2 * BLOCK_PAGES);
  assert.deepEqual(first, { start: 0, pages: BLOCK_PAGES, slot: MAX_REGION_SLOTS - BLOCK_PAGES });
  assert.deepEqual(second, { start: BLOCK_PAGES * PAGE, pages: BLOCK_PAGES, slot: undefined });
  assert.deepEqual(more, []);
});

test("a stage becomes a store: newest content, old pages missing, void ones not", () => {
  const dir = scratchDir();
  try {
    const stage = new StageStore(dir);
    stage.announce(0, [{ vpid: 1, start: 0, pages: 512, slot: 0 }]);
    stage.announce(1, [{ vpid: 1, start: 0x400000, pages: 512, slot: 512 }]);
    stage.write(0, Buffer.alloc(4 * PAGE, 1));
    stage.write(1, Buffer.alloc(PAGE, 2));
    stage.writeZero(2, 1);
    stage.forget(3, 1);
    stage.write(100, Buffer.alloc(PAGE, 3));
    stage.write(512, Buffer.alloc(PAGE, 4));
    // slots 0 to 4 and 512 are in the images, and one page that no region has; the second region is not confirmed
    const tasks = [{ vpid: 1, entries: [entry(0, 5), entry(0x400000, 1), entry(0x900000, 1)] }];
    const map = stage.regions.prefix(1);
    const table = buildTable(tasks, map);
    assert.equal(stage.lacks(table, map.slots), 4);
    const store = stage.adopt(table, map.slots);
    assert.equal(store.total, 7);
    assert.equal(store.received, 3);
    assert.deepEqual(store.missing(9), [
      { slot: 3, pages: 2 },
      { slot: 512, pages: 2 },
    ]);
    store.write(3, Buffer.alloc(2 * PAGE, 5));
    store.write(512, Buffer.alloc(2 * PAGE, 6));
    assert.equal(store.received, store.total);
    assert.deepEqual(store.missing(9), []);
    store.close();
    const pages = readFileSync(join(dir, "pages"));
    assert.deepEqual(
      [0, 1, 3, 4, 512, 513].map((slot) => pages[slot * PAGE]),
      [1, 2, 5, 5, 6, 6],
    );
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("what came again is hot: the latest first, a bounded number of pages", () => {
  const dir = scratchDir();
  try {
    const stage = new StageStore(dir);
    stage.announce(0, [{ vpid: 1, start: 0, pages: BLOCK_PAGES * 8, slot: 0 }]);
    const pages = (count: number): Buffer => Buffer.alloc(count * PAGE, 1);
    stage.write(0, pages(BLOCK_PAGES * 8));
    assert.deepEqual(stage.hot, []);
    stage.write(7, pages(2));
    stage.writeZero(20, 1);
    stage.forget(100, 3);
    stage.write(20, pages(1));
    assert.deepEqual(stage.hot, [
      { slot: 20, pages: 1 },
      { slot: 100, pages: 3 },
      { slot: 7, pages: 2 },
    ]);
    stage.write(0, pages(BLOCK_PAGES * 8));
    assert.deepEqual(stage.hot, [{ slot: 0, pages: 2048 }]);
    stage.drop();
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

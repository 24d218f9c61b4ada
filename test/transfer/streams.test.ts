import assert from "node:assert/strict";
import { test } from "node:test";
import { Awaited } from "../../src/transfer/mover/awaited.js";
import { FIRST_WINDOW, Streams } from "../../src/transfer/pages/streams.js";

test("who asks for one page behind the other gets more each time, up to 256", () => {
  const streams = new Streams();
  const windows: number[] = [];
  for (let page = 1000; windows.length < 8;) {
    const window = streams.fault(page);
    windows.push(window);
    page += window;
  }
  assert.deepEqual(windows, [16, 32, 64, 128, 256, 256, 256, 256]);
});

test("the same page again, or one nearby, asks for no more than before", () => {
  const streams = new Streams();
  for (const page of [500, 500, 503, 501, 500]) assert.equal(streams.fault(page), FIRST_WINDOW);
});

test("faults here and there ask for little", () => {
  const streams = new Streams();
  for (let page = 0; page < 100; page++) assert.equal(streams.fault((page * 7919 * 64) % 1_000_003), FIRST_WINDOW);
});

test("several threads are followed at the same time", () => {
  const streams = new Streams();
  const at = [0, 100_000, 200_000, 300_000];
  for (let round = 0; round < 5; round++) {
    for (const [thread, page] of at.entries()) {
      const window = streams.fault(page);
      assert.equal(window, Math.min(16 * 2 ** round, 256));
      at[thread] = page + window;
    }
  }
});

test("what was asked for is not asked for again until it has come, whatever its borders", () => {
  const awaited = new Awaited();
  const here = (slot: number): boolean => slot === 14;
  assert.deepEqual(awaited.add({ slot: 10, pages: 4 }, here), [{ slot: 10, pages: 4 }]);
  assert.deepEqual(awaited.add({ slot: 11, pages: 2 }, here), []);
  assert.deepEqual(awaited.add({ slot: 8, pages: 10 }, here), [
    { slot: 8, pages: 2 },
    { slot: 15, pages: 3 },
  ]);
  awaited.came({ slot: 9, pages: 3 });
  assert.deepEqual(awaited.runs, [
    { slot: 8, pages: 1 },
    { slot: 12, pages: 2 },
    { slot: 15, pages: 3 },
  ]);
  assert.deepEqual(awaited.add({ slot: 9, pages: 3 }, here), [{ slot: 9, pages: 3 }]);
  awaited.came({ slot: 0, pages: 100 });
  assert.deepEqual(awaited.runs, []);
});

import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { test } from "node:test";
import * as fc from "fast-check";
import { createStore, openStore } from "../../src/transfer/pages/index.js";
import { EventLog, TYPE } from "../../src/transfer/pages/event-log.js";
import { PendingRanges } from "../../src/transfer/pages/ranges.js";
import { imagePages, scratchDir } from "./pages-kit.js";

type Op = { op: "add" | "cut" | "move"; start: number; to: number; pages: number; slot: number };

test("pending ranges do what a table of single pages does", () => {
  const ops = fc.array(
    fc.record({
      op: fc.constantFrom<Op["op"]>("add", "cut", "move"),
      start: fc.nat(60),
      to: fc.nat(60),
      pages: fc.nat(20),
      slot: fc.nat(1000),
    }),
  );
  fc.assert(
    fc.property(ops, (list) => {
      const ranges = new PendingRanges();
      const model = new Map<number, number>();
      for (const { op, start, to, pages, slot } of list) {
        // mremap never overlaps itself
        if (op === "move" && Math.abs(to - start) < pages) continue;
        if (op === "add") ranges.add(start, pages, slot);
        else if (op === "cut") ranges.cut(start, pages);
        else ranges.move(start, to, pages);
        const moved = Array.from({ length: pages }, (_, i) => model.get(start + i));
        for (let i = 0; i < pages; i++) {
          if (op === "add") model.set(start + i, slot + i);
          else model.delete(start + i);
        }
        if (op !== "move" || to === start) continue;
        for (const [i, was] of moved.entries()) {
          if (was === undefined) model.delete(to + i);
          else model.set(to + i, was);
        }
      }
      assert.equal(ranges.pages, model.size);
      for (let page = 0; page < 100; page++) assert.equal(ranges.at(page)?.slot, model.get(page));
      const starts = ranges.runs.map((run) => run.start);
      assert.deepEqual(
        starts,
        starts.toSorted((a, b) => a - b),
      );
    }),
  );
});

test("a store keeps the first content of a slot, and is found again", () => {
  const dir = scratchDir();
  try {
    const table = { areas: [{ vpid: 1, start: 0x10000n, pages: 10, slot: 0 }], slots: 10 };
    const store = createStore(dir, table);
    store.write(2, imagePages(2, 3));
    store.writeZero(4, 2);
    assert.equal(store.received, 4);
    assert.deepEqual(store.missing(9), [
      { slot: 0, pages: 2 },
      { slot: 6, pages: 4 },
    ]);
    assert.throws(() => store.write(9, Buffer.alloc(8192)), /outside the store/);
    assert.throws(() => store.write(0, Buffer.alloc(100)), /whole pages/);
    assert.throws(() => createStore(dir, table), /already/);
    store.close();
    const again = openStore(dir);
    assert.deepEqual(again.table, table);
    assert.equal(again.received, 4);
    assert.ok(again.has(5) && !again.has(6));
    again.close();
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("areas that overlap, in slots or in addresses, or are no pages are refused", () => {
  const area = { vpid: 1, start: 0x10000n, pages: 2, slot: 0 };
  const dir = scratchDir();
  for (const table of [
    { areas: [area], slots: 1 },
    { areas: [area, { ...area, start: 0x20000n, slot: 1 }], slots: 3 },
    { areas: [{ ...area, slot: 2 }], slots: 3 },
    { areas: [{ ...area, slot: -1 }], slots: 3 },
    { areas: [{ ...area, slot: 0.5 }], slots: 3 },
    { areas: [area, { ...area, start: 0x11000n, slot: 2 }], slots: 4 },
    { areas: [{ ...area, start: 0x10001n }], slots: 2 },
    { areas: [{ ...area, vpid: 0 }], slots: 2 },
    { areas: [{ ...area, pages: 0 }], slots: 0 },
  ]) {
    assert.throws(() => createStore(dir, table), /not usable/);
  }
  rmSync(dir, { recursive: true });
});

test("the event log gives back what was committed and what was being received", () => {
  const dir = scratchDir();
  try {
    const { log, entries } = EventLog.open(dir);
    assert.deepEqual(entries, []);
    log.append(TYPE.CONNECTED, 0, 7);
    log.prepare(TYPE.MESSAGES, 1, 64).payload.fill(0x12, 0, 64);
    log.discard(2);
    log.filled(1, 100, 5);
    log.filled(1, 105, 5);
    log.filled(2, 110, 1);
    // over the end of more than one segment
    for (let index = 0; index < 1100; index++) {
      log.prepare(TYPE.MESSAGES, index, 64).payload.fill(index & 0xff);
      log.commit(60);
    }
    log.prepare(TYPE.UFFD, 0, 3).payload.fill(9, 32, 40);
    const again = EventLog.open(dir);
    assert.deepEqual(
      again.entries.slice(0, 3).map(({ type, task, a, b }) => [type, task, a, b]),
      [
        [TYPE.CONNECTED, 0, 7, 0],
        [TYPE.FILLED, 1, 100, 10],
        [TYPE.FILLED, 2, 110, 1],
      ],
    );
    assert.equal(again.entries.length, 1104);
    assert.ok(
      again.entries.slice(3, 1103).every(({ task, payload }) => payload.equals(Buffer.alloc(1920, task & 0xff))),
    );
    assert.equal(again.entries.at(-1)?.payload[33], 9);
    again.log.append(TYPE.DONE);
    const third = EventLog.open(dir).entries;
    assert.equal(third.length, 1105);
    assert.equal(third.at(-1)?.type, TYPE.DONE);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

/** What may go, and what is chosen: properties over any list of checkpoints. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as fc from "fast-check";
import { byAge, byEpoch, byPrefix, chooseCheckpoint, isBroken } from "../../src/model/checkpoint-choice.js";
import { journalSays } from "../../src/model/checkpoint-report.js";
import type { ListedCheckpoint, StoredCheckpoint } from "../../src/model/checkpoints.js";
import { FerryError } from "../../src/model/failure.js";
import { HOLD_STATES, isOpen } from "../../src/model/ownership.js";
import { prunable, type Retention } from "../../src/model/retention.js";

const NOW = 1_000_000;
const stored = (id: string, takenAt: number, pinned: boolean, newBytes: number, epoch = 1): StoredCheckpoint => ({
  id,
  workload: "web",
  epoch,
  takenAt,
  where: "here",
  node: "node-a",
  runtime: "process",
  criuVersion: "4.2",
  kernel: "6",
  arch: "x64",
  cpu: "c",
  reason: "",
  requestedBy: "me",
  labels: {},
  pinned,
  dataBytes: newBytes,
  newBytes,
});
const bad = (id: string): ListedCheckpoint => ({
  id,
  workload: "web",
  failure: { code: "E_STORE_CORRUPT", message: "cut" },
});

const one = fc.record({
  epoch: fc.integer({ min: 1, max: 3 }),
  at: fc.nat(NOW),
  pinned: fc.boolean(),
  bytes: fc.nat(1000),
  broken: fc.boolean(),
});
const lists = fc
  .array(one, { maxLength: 30 })
  .map((all): ListedCheckpoint[] =>
    all.map(({ epoch, at, pinned, bytes, broken }, i) =>
      broken ? bad(`b${i}`) : stored(`c${i}`, at, pinned, bytes, epoch),
    ),
  );
const retentions: fc.Arbitrary<Retention> = fc.record(
  { keep: fc.integer({ min: 1, max: 20 }), olderThanMs: fc.nat(NOW), maxBytes: fc.nat(20_000) },
  { requiredKeys: [] },
);
const whole = (listed: readonly ListedCheckpoint[]): StoredCheckpoint[] =>
  listed.filter((each): each is StoredCheckpoint => !isBroken(each)).sort(byAge);
/** By the clocks, and by the epochs. */
const newestOf = (all: readonly StoredCheckpoint[]) => [all.at(-1), all.toSorted(byEpoch).at(-1)];

describe("retention", () => {
  test("what is pinned, the newest, and what can't be read always stay; nothing goes twice, oldest first", () => {
    fc.assert(
      fc.property(lists, retentions, (listed, retention) => {
        const go = prunable(listed, retention, NOW).map(({ checkpoint }) => checkpoint);
        const all = whole(listed);
        assert.equal(new Set(go).size, go.length);
        assert.ok(go.every((each) => all.includes(each) && !each.pinned && !newestOf(all).includes(each)));
        assert.deepEqual(go, [...go].sort(byAge));
      }),
    );
  });

  test("each demand is met by what stays, as far as it may go", () => {
    fc.assert(
      fc.property(lists, retentions, (listed, retention) => {
        const go = new Set(prunable(listed, retention, NOW).map(({ checkpoint }) => checkpoint));
        const all = whole(listed);
        const stay = all.filter((each) => !go.has(each));
        const free = stay.filter((each) => !each.pinned && !newestOf(all).includes(each));
        const { keep, olderThanMs, maxBytes } = retention;
        if (keep !== undefined) assert.ok(free.every((each) => all.indexOf(each) >= all.length - keep));
        if (olderThanMs !== undefined) assert.ok(free.every((each) => NOW - each.takenAt <= olderThanMs));
        if (maxBytes !== undefined && free.length > 0) {
          assert.ok(stay.reduce((sum, each) => sum + each.newBytes, 0) <= maxBytes);
        }
      }),
    );
  });

  test("what goes has a reason; without a demand nothing goes; what went once leaves nothing more to go", () => {
    fc.assert(
      fc.property(lists, retentions, (listed, retention) => {
        const go = prunable(listed, retention, NOW);
        assert.deepEqual(prunable(listed, {}, NOW), []);
        const left = listed.filter((each) => !go.some(({ checkpoint }) => checkpoint === each));
        assert.deepEqual(prunable(left, retention, NOW), []);
        const all = whole(listed);
        for (const { checkpoint } of go) {
          const byCount = retention.keep !== undefined && all.indexOf(checkpoint) < all.length - retention.keep;
          const byTime = retention.olderThanMs !== undefined && NOW - checkpoint.takenAt > retention.olderThanMs;
          assert.ok(byCount || byTime || retention.maxBytes !== undefined);
        }
      }),
    );
  });
});

describe("which checkpoint", () => {
  test("the newest is of the last epoch, whatever the clocks say; until a time it is the newest by the clocks", () => {
    const [early, late] = [stored("c1", 100, false, 1, 6), stored("c2", 900, false, 1, 5)];
    assert.equal(chooseCheckpoint("web", [early, late], {}), early);
    assert.equal(chooseCheckpoint("web", [early, late], { at: 950 }), late);
    // Of a workload that had the name before, if there is one of its own.
    assert.equal(chooseCheckpoint("web", [early, late], { epoch: 5 }), late);
    assert.equal(chooseCheckpoint("web", [early], { epoch: 5 }), early);
    const kept = prunable([early, stored("c0", 50, false, 1, 5), late], { keep: 1 }, NOW);
    assert.deepEqual(
      kept.map(({ checkpoint }) => checkpoint.id),
      ["c0"],
    );
  });

  test("the newest that was taken by then, and none that can't be read; a failure is one of three, in words", () => {
    fc.assert(
      fc.property(lists, fc.option(fc.nat(NOW), { nil: undefined }), (listed, at) => {
        const all = whole(listed);
        const fit = at === undefined ? all.sort(byEpoch) : all.filter(({ takenAt }) => takenAt <= at);
        try {
          assert.equal(chooseCheckpoint("web", listed, at === undefined ? {} : { at }), fit.at(-1));
        } catch (error) {
          assert.ok(error instanceof FerryError, String(error));
          assert.equal(fit.length, 0);
          assert.ok(["E_NO_CHECKPOINT", "E_CHECKPOINT_UNKNOWN"].includes(error.code));
        }
      }),
    );
  });

  test("an id that is the beginning of another one is that one all the same; what fits two is refused with both", () => {
    const listed = [stored("20260101", 1, false, 1), stored("202601012", 2, false, 1), stored("2027", 3, false, 1)];
    assert.equal(byPrefix("web", listed, "20260101").id, "20260101");
    assert.equal(byPrefix("web", listed, "2027").id, "2027");
    assert.equal(byPrefix("web", listed, "202601012").id, "202601012");
    assert.throws(() => byPrefix("web", listed, "2026"), /2026 is the beginning of 20260101, 202601012/);
    assert.throws(() => byPrefix("web", listed, "x".repeat(500)), /there is no checkpoint "x{57}\.\.\." of web/);
    assert.throws(() => byPrefix("db", listed, "2027"), /no checkpoint "2027" of db/);
    assert.throws(() => chooseCheckpoint("web", [bad("b1")], {}), /no checkpoint of web that can be read \(1 can't\)/);
    assert.throws(
      () => chooseCheckpoint("web", [bad("b1")], { checkpoint: "b" }),
      /checkpoint b1 of web can't be used/,
    );
  });
});

test("a journal: what is held is no answer, what runs wins, what was let go is checkpointed only if that was asked for", () => {
  const ref = {
    schema: 1,
    operation: "web.checkpoint.2",
    workload: "web",
    epoch: 3,
    to: 4,
    source: "a",
    destination: "a",
  };
  for (const state of HOLD_STATES) {
    for (const stop of [true, false]) {
      const said = journalSays(ref, { stop }, [{ workload: "web", epoch: 3, state }]);
      if (state === "OWNER" || state === "ACTIVE" || state === "RUNNING") {
        assert.deepEqual(said, { state: "running", epoch: 3 });
      } else if (isOpen(state)) assert.equal(said, undefined, state);
      else if (state === "STOPPED") {
        assert.equal(said?.state, stop ? "checkpointed" : "stopped");
        const asleep = journalSays(ref, { stop, wakeOnTraffic: true }, [{ workload: "web", epoch: 3, state }]);
        assert.equal(asleep?.state, stop ? "sleeping" : "stopped");
      }
    }
  }
  const local = journalSays(ref, { stop: false }, [
    { workload: "web", epoch: 3, state: "FROZEN" },
    { workload: "web", epoch: 4, state: "OWNER" },
  ]);
  assert.deepEqual(local, { state: "running", epoch: 4 });
  assert.equal(journalSays(ref, { stop: true }, [])?.state, "unknown");
});

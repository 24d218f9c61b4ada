/** Which mode `auto` takes, by what preflight has measured, and the words for it. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { SourceFacts } from "../../src/model/contract.js";
import { chooseMode } from "../../src/model/mode-choice.js";
import type { AskedOptions } from "../../src/model/plan.js";

const MIB = 1024 * 1024;
const options = (more: Partial<AskedOptions> = {}): AskedOptions => ({
  mode: "auto",
  dryRun: false,
  maxBlackoutMs: 30_000,
  ...more,
});
/** `rate`: MiB that change in a second; undefined: nobody could look. */
const facts = (rate: number | undefined, more: Partial<SourceFacts> = {}): SourceFacts =>
  ({
    memoryBytes: 1000 * MIB,
    volumeBytes: 0,
    fixedBlackoutMs: 200,
    bandwidthBytesPerSec: 500 * MIB,
    ...(rate === undefined ? {} : { dirty: { tracker: "pagemap-scan", rateBytesPerSec: rate * MIB, windowMs: 260 } }),
    ...more,
  }) as SourceFacts;

describe("mode", () => {
  test("rounds that get there: precopy, whatever is allowed", () => {
    for (const onStall of ["stop-and-copy", "hybrid", "throttle", "give-up"] as const) {
      const { mode, prediction } = chooseMode(options({ onStall }), facts(50));
      assert.deepEqual([mode, prediction?.converges], ["precopy", true]);
    }
  });
  test("rounds that don't: hybrid only by permission; the limit is a person's", () => {
    assert.equal(chooseMode(options({ onStall: "hybrid" }), facts(900)).mode, "hybrid");
    for (const onStall of [undefined, "stop-and-copy", "throttle", "give-up"] as const) {
      const { mode, reason } = chooseMode(options(onStall === undefined ? {} : { onStall }), facts(900));
      assert.equal(mode, "precopy");
      assert.match(
        reason,
        /900 MiB\/s changed and 500 MiB\/s can be sent.*above the limit of 1000 ms.*needs --on-stall hybrid/,
      );
    }
    assert.equal(chooseMode(options({ onStall: "hybrid", maxDowntimeMs: 60_000 }), facts(900)).mode, "precopy");
    assert.equal(chooseMode(options({ onStall: "hybrid", bandwidthBytesPerSec: 10 * MIB }), facts(50)).mode, "hybrid");
  });
  test("a hot set that is small, however fast it changes, is no reason against precopy", () => {
    const hot = facts(900);
    assert.ok(hot.dirty);
    hot.dirty.workingSetBytes = 50 * MIB;
    assert.equal(chooseMode(options({ onStall: "hybrid" }), hot).mode, "precopy");
  });
  test("shared memory that only moves frozen counts", () => {
    const shared = facts(1, { frozenBytes: 900 * MIB });
    assert.equal(chooseMode(options({ onStall: "hybrid" }), shared).mode, "hybrid");
  });
  test("nobody could look: precopy, and it says so; what is asked for is taken", () => {
    const blind = chooseMode(options({ onStall: "hybrid" }), facts(undefined));
    assert.deepEqual([blind.mode, blind.prediction], ["precopy", undefined]);
    assert.match(blind.reason, /could not be looked at/);
    for (const mode of ["cold", "postcopy", "precopy", "hybrid"] as const) {
      const { reason, ...choice } = chooseMode(options({ mode, onStall: "hybrid" }), facts(900));
      assert.deepEqual([choice.mode, reason], [mode, `${mode}, as asked`]);
      assert.ok(choice.prediction !== undefined);
    }
    assert.ok(chooseMode(options({ mode: "cold" }), facts(undefined)).prediction !== undefined);
    assert.equal(chooseMode(options({ mode: "cold", dryRun: true }), facts(undefined)).prediction, undefined);
  });
});

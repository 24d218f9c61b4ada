import assert from "node:assert/strict";
import { test } from "node:test";
import { amountsOf, furthest, newer } from "../../src/model/progress.js";
import type { PrecopyProgress, Progress } from "../../src/model/report.js";

const seen = (side: "source" | "destination", more: Partial<Progress> = {}): Progress => ({
  phase: "transfer",
  side,
  bytesSent: 0,
  bytesTotal: 0,
  pagesSent: 0,
  pagesTotal: 0,
  rateBytesPerSec: 0,
  at: 1,
  ...more,
});

test("the phase is that of the side that is further, and never goes back", () => {
  assert.equal(furthest("arm", "precopy", undefined), "precopy");
  assert.equal(furthest("drain", "precopy", "arm"), "drain");
  assert.equal(furthest("arm"), "arm");
});

test("what was seen later counts, side by side", () => {
  const first = newer({}, [seen("source", { at: 5, bytesSent: 5 }), undefined]);
  const second = newer(first, [seen("source", { at: 4, bytesSent: 4 }), seen("destination")]);
  assert.equal(second.source?.bytesSent, 5);
  assert.equal(second.destination?.at, 1);
  assert.equal(newer(second, [seen("source", { at: 6, bytesSent: 6 })]).source?.bytesSent, 6);
});

test("bytes, rate and the time left are those of the side that has moved more", () => {
  const source = seen("source", { bytesSent: 75, bytesTotal: 100, rateBytesPerSec: 50 });
  const destination = seen("destination", { bytesSent: 60, bytesTotal: 80 });
  assert.deepEqual(amountsOf({ source, destination }), {
    bytesSent: 75,
    bytesTotal: 100,
    rateBytesPerSec: 50,
    etaMs: 500,
  });
  assert.deepEqual(amountsOf({}), { bytesSent: 0, bytesTotal: 0, rateBytesPerSec: 0 });
});

test("in pre-copy the time left is what the policy expects: rounds bring up what changes meanwhile", () => {
  const precopy: PrecopyProgress = {
    round: 2,
    remainingBytes: 1,
    roundBytes: 2,
    roundSentBytes: 1,
    roundPages: 2,
    roundSentPages: 1,
    etaMs: 4_000,
    throttlePercent: 0,
    paused: false,
    held: false,
    reason: "",
  };
  const source = seen("source", { phase: "precopy", bytesSent: 75, bytesTotal: 100, rateBytesPerSec: 50, precopy });
  assert.equal(amountsOf({ source }).etaMs, 4_000);
  assert.equal(amountsOf({ source: { ...source, phase: "transfer" } }).etaMs, 500);
});

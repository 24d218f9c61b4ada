import assert from "node:assert/strict";
import { test } from "node:test";
import { parseIdle, parsePercent } from "../../src/cli/parse-schedules.js";

test("how long is idle, and which share of a core is little", () => {
  assert.deepEqual([parseIdle("15m"), parseIdle("10s"), parseIdle("31d")], [900_000, 10_000, 31 * 86_400_000]);
  assert.deepEqual([parsePercent("1%"), parsePercent("0.5%"), parsePercent("150")], [1, 0.5, 150]);
  for (const wrong of ["9s", "32d", "soon", "", "15"]) assert.throws(() => parseIdle(wrong), wrong);
  for (const wrong of ["-1%", "1%%", "10001%", "", "%", "1e3", "0x1"]) assert.throws(() => parsePercent(wrong), wrong);
});

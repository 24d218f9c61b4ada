import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { BLACKOUT, PHASES, canUndo, isPhase, mayFollow } from "../../src/model/phase.js";

const phase = fc.constantFrom(...PHASES);

test("phases are a total order: forward or same, never both ways", () => {
  fc.assert(
    fc.property(phase, phase, phase, (a, b, c) => {
      assert.ok(mayFollow(a, b) || mayFollow(b, a));
      if (a !== b) assert.notEqual(mayFollow(a, b), mayFollow(b, a));
      if (mayFollow(a, b) && mayFollow(b, c)) assert.ok(mayFollow(a, c));
    }),
  );
});

test("what can be undone lies before everything that can't", () => {
  fc.assert(
    fc.property(phase, phase, (a, b) => {
      if (canUndo(b) && mayFollow(a, b)) assert.ok(canUndo(a));
    }),
  );
  assert.equal(canUndo("restore"), true);
  assert.equal(canUndo("switch"), false);
});

test("the blackout is one stretch of the order", () => {
  const at = BLACKOUT.map((name) => PHASES.indexOf(name));
  assert.deepEqual(
    at,
    [...at].sort((a, b) => a - b),
  );
  assert.equal((at.at(-1) ?? 0) - (at[0] ?? 0), at.length - 1);
  fc.assert(fc.property(fc.anything(), (value) => isPhase(value) === (PHASES as readonly unknown[]).includes(value)));
});

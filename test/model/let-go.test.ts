/** When connections of a checkpoint may go on: only if a journal, or the entity, knows that it was let go with that very one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { didNothingLater } from "../../src/agent/operations/restore-check.js";
import { journalSays } from "../../src/model/checkpoint-report.js";
import { letGoWith, mayHaveRun } from "../../src/model/let-go.js";
import { HOLD_STATES, mayRun, type Hold } from "../../src/model/ownership.js";

const ID = "c1";
const checkpoint = { id: ID, epoch: 3, stopped: true };
const hold = (epoch: number, state: Hold["state"], more: Partial<Hold> = {}): Hold => ({
  workload: "web",
  epoch,
  state,
  ...more,
});
const letGo = hold(3, "STOPPED", { operation: "web.checkpoint.4", digest: ID });
const asked = { last: 3, letGoWith: ID };

test("let go with it, and nothing since: its connections go on", () => {
  assert.equal(letGoWith(checkpoint, [hold(1, "GONE"), letGo, hold(4, "BURNED")]), "yes");
  assert.equal(didNothingLater(checkpoint, asked, [letGo]), true);
  // A node that has never heard of it believes the workflow.
  assert.equal(letGoWith(checkpoint, [hold(1, "GONE")]), "unknown");
  assert.equal(didNothingLater(checkpoint, asked, []), true);
});

test("it was to be let go, and ran on under the same epoch: stopped, or ended, later for another reason", () => {
  for (const state of ["OWNER", "FROZEN", "STOPPED", "RELEASED", "GONE", "SUPERSEDED"] as const) {
    const ranOn = hold(3, state, { operation: "web.checkpoint.4" });
    assert.equal(letGoWith(checkpoint, [ranOn]), "no", state);
    assert.equal(didNothingLater(checkpoint, asked, [ranOn]), false, state);
  }
  // With a later one.
  assert.equal(letGoWith(checkpoint, [{ ...letGo, digest: "c2" }]), "no");
});

test("a later restore ran and was swept: no. One that never let it run: still yes", () => {
  const restored = hold(5, "STOPPED", { operation: "web.restore.5", digest: ID });
  assert.equal(letGoWith(checkpoint, [letGo, restored]), "yes");
  assert.equal(letGoWith(checkpoint, [letGo, { ...restored, letRun: true }]), "no");
  assert.equal(didNothingLater(checkpoint, asked, [letGo, { ...restored, letRun: true }]), false);
  // Its own, by an agent that has let it run and died.
  const own = hold(5, "OWNER", { operation: "web.restore.5", digest: ID });
  assert.equal(didNothingLater(checkpoint, asked, [own]), true);
  assert.equal(didNothingLater(checkpoint, asked, [{ ...own, letRun: true }]), false);
});

test("nobody has said that it was let go with this one: closed, whatever the checkpoint says of itself", () => {
  assert.equal(didNothingLater(checkpoint, { last: 3 }, [letGo]), false);
  assert.equal(didNothingLater(checkpoint, { last: 3, letGoWith: "c2" }, [letGo]), false);
  assert.equal(didNothingLater(checkpoint, { last: 4, letGoWith: ID }, [letGo]), false);
  assert.equal(didNothingLater({ ...checkpoint, stopped: false }, asked, [letGo]), false);
});

test("whatever else a journal holds: yes only with that line, and never beside a later epoch that may have run", () => {
  const holds = fc.array(
    fc.record({
      workload: fc.constant("web"),
      epoch: fc.integer({ min: 1, max: 6 }),
      state: fc.constantFrom(...HOLD_STATES),
      operation: fc.constantFrom("web.start.1", "web.checkpoint.4", "web.restore.5"),
      digest: fc.constantFrom(ID, "c2"),
    }),
    { maxLength: 5 },
  );
  fc.assert(
    fc.property(holds, (all) => {
      if (letGoWith(checkpoint, all) !== "yes") return;
      assert.ok(all.some(({ epoch, state, digest }) => epoch === 3 && state === "STOPPED" && digest === ID));
      assert.ok(!all.some((each) => each.epoch > 3 && mayHaveRun(each)));
      assert.ok(!all.some(({ epoch, state, operation }) => epoch > 3 && mayRun(state) && !/restore/.test(operation)));
    }),
  );
});

test("a node that was silent: its journal says with which checkpoint it was let go", () => {
  const ref = {
    schema: 1,
    operation: "web.checkpoint.4",
    workload: "web",
    epoch: 3,
    to: 4,
    source: "a",
    destination: "a",
  };
  assert.deepEqual(journalSays(ref, { stop: true }, [letGo]), { state: "checkpointed", epoch: 3, letGoWith: ID });
  assert.deepEqual(journalSays(ref, { stop: false }, [letGo]), { state: "stopped", epoch: 3 });
});

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { skipWithoutTemporal } from "../support/temporal.js";
import { Stage } from "./support.js";

describe("migrate", { skip: skipWithoutTemporal, concurrency: true }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up();
  });
  after(() => stage.down());

  for (const mode of ["cold", "postcopy"] as const) {
    test(`${mode}: the workload moves there and back, with new epochs and nothing left`, async () => {
      const subject = await stage.run();
      const there = await subject.moveTo("node-b", { mode });
      assert.equal(there.outcome, "moved", JSON.stringify(there.failure));
      assert.equal(there.epoch, 2);
      assert.equal(there.node, "node-b");
      assert.ok(there.blackoutMs > 0);
      assert.equal(there.residualMs > 0, mode === "postcopy");
      assert.ok(there.phases.some((p) => p.side === "source") && there.phases.some((p) => p.side === "destination"));
      const back = await subject.moveTo("node-a", { mode });
      assert.equal(back.outcome, "moved");
      assert.equal(back.epoch, 3);
      assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
      assert.deepEqual(stage.world.violations, []);
      const status = await subject.status();
      assert.equal(status.state, "running");
      assert.equal(status.node, "node-a");
      assert.equal(stage.world.node("node-b").litter.has(back.operation), false);
    });
  }

  test("a dry run stops after preflight with the plan", async () => {
    const subject = await stage.run();
    const report = await subject.moveTo("node-b", { dryRun: true });
    assert.equal(report.outcome, "planned");
    assert.equal(report.plan?.epoch, 2);
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
    assert.deepEqual(stage.world.node("node-b").hold(subject.name, 2), undefined);
  });
});

/** An address belongs to one workload, wherever it is and whether it answers: the nodes' journals say who has it. */
import assert from "node:assert/strict";
import { WithStartWorkflowOperation } from "@temporalio/client";
import { after, before, describe, test } from "node:test";
import { UPDATE, WORKFLOW, type Restored, type RestoreRequest, type WorkloadInput } from "../../src/model/messages.js";
import { WORKFLOW_TASK_QUEUE, workloadWorkflowId } from "../../src/model/names.js";
import type { WorkloadSpec } from "../../src/model/workload.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { QUICK, refusal, specOf, Stage, Subject, until } from "./support.js";

describe("one address, one workload", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up(["node-a", "node-b", "node-c"]);
  });
  after(() => stage.down());

  const withAddressOf = (other: string, name: string): WorkloadSpec => ({
    ...specOf(name),
    network: specOf(other).network,
  });
  const clone = (of: string, spec: WorkloadSpec, node: string) =>
    stage.client.workflow.executeUpdateWithStart<
      (input: WorkloadInput) => Promise<unknown>,
      Restored,
      [RestoreRequest]
    >(UPDATE.restore, {
      args: [{ node, clone: { spec, of } }],
      startWorkflowOperation: new WithStartWorkflowOperation(WORKFLOW.workload, {
        workflowId: workloadWorkflowId(spec.name),
        taskQueue: WORKFLOW_TASK_QUEUE,
        workflowIdConflictPolicy: "USE_EXISTING",
        args: [{ name: spec.name, tuning: QUICK }],
      }),
    });

  for (const point of ["source:frozen", "source:released", "destination:prepared"] as const) {
    test(`its owner stands still at ${point}, and nobody answers for it: refused, with who has it`, async () => {
      const owner = await stage.run();
      let there = false;
      let go = (): void => undefined;
      const held = new Promise<void>((resolve) => (go = resolve));
      stage.world.at(
        point,
        () => {
          there = true;
          return held;
        },
        owner.name,
      );
      const moving = await owner.migrate("node-b", { maxBlackoutMs: 60_000 });
      await until(
        () => there,
        (reached) => reached,
      );
      try {
        const other = new Subject(stage, `${owner.name}-second`);
        const spec = withAddressOf(owner.name, other.name);
        const who = new RegExp(`that of ${owner.name}, which node-[ab] holds as (FROZEN|RELEASED|RE[A-Z]+|PREPARED)`);
        for (const ask of [
          () => other.start("node-c", QUICK, spec),
          () => clone(owner.name, { ...spec, name: `${owner.name}-clone` }, "node-c"),
        ]) {
          const { code, message, remedy } = await refusal(ask);
          assert.equal(code, "E_IP_CONFLICT", message);
          assert.match(message, who);
          assert.match(remedy ?? "", /--ip/);
        }
        assert.deepEqual(stage.world.copies(other.name), []);
      } finally {
        go();
      }
      await owner.operation(moving).result();
      await owner.settled();
    });
  }

  test("its owner was stopped: its address is free, by the journals", async () => {
    const owner = await stage.run();
    await owner.handle.executeUpdate(UPDATE.stop, { args: [{ graceMs: 0 }] });
    const other = new Subject(stage, `${owner.name}-next`);
    assert.equal((await other.start("node-c", QUICK, withAddressOf(owner.name, other.name))).state, "running");
  });
});

/** What another workload has: its address. And a worker of before, which does not beat. */
import { WithStartWorkflowOperation } from "@temporalio/client";
import {
  UPDATE,
  WORKFLOW,
  type OperationStarted,
  type RestoreRequest,
  type WorkloadInput,
} from "../../src/model/messages.js";
import { WORKFLOW_TASK_QUEUE, nodeWorkflowId, workloadWorkflowId } from "../../src/model/names.js";
import { startOldWorker } from "../workflows/old-worker.js";
import { QUICK, Subject, specOf } from "../workflows/support.js";
import type { Recorder } from "./recorder.js";

export async function recordSteps(recorder: Recorder): Promise<void> {
  const { stage } = recorder;
  const owner = await stage.run("owner");
  const { network } = specOf("owner");

  const late = new Subject(stage, "late");
  await late.start("node-b", QUICK, { ...specOf("late"), network }).catch(() => undefined);
  await late.handle.result();
  recorder.keep("workload-address-taken", workloadWorkflowId("late"));

  const input: WorkloadInput = { name: "twin", tuning: QUICK };
  await stage.client.workflow
    .executeUpdateWithStart<(input: WorkloadInput) => Promise<unknown>, unknown, [RestoreRequest]>(UPDATE.restore, {
      args: [{ node: "node-b", clone: { spec: { ...specOf("twin"), network }, of: owner.name } }],
      startWorkflowOperation: new WithStartWorkflowOperation(WORKFLOW.workload, {
        workflowId: workloadWorkflowId("twin"),
        taskQueue: WORKFLOW_TASK_QUEUE,
        workflowIdConflictPolicy: "USE_EXISTING",
        args: [input],
      }),
    })
    .catch(() => undefined);
  await stage.client.workflow.getHandle(workloadWorkflowId("twin")).result();
  recorder.keep("workload-cloned-address-taken", workloadWorkflowId("twin"));

  // A start that is undone, and a restore that its node refuses: neither begins any more.
  const undone = await stage.run("undone");
  const stop = () => undone.handle.executeUpdate(UPDATE.stop, { args: [{ graceMs: 0 }] });
  const options = { stop: true, reason: "", requestedBy: "me", labels: {}, maxBlackoutMs: 2_000 };
  await stop();
  const fault = { node: "node-a", when: "before", workload: "undone" } as const;
  const answers = stage.world.order({ ...fault, verb: "startWorkload", times: Infinity });
  await undone.start("node-a").catch(() => undefined);
  answers();
  await undone.start("node-a");
  const saving = await undone.handle.executeUpdate<OperationStarted, [unknown]>(UPDATE.checkpoint, {
    args: [{ options }],
  });
  await undone.operation(saving).result();
  await undone.settled();
  const failure = { code: "E_RESTORE", message: "criu said no", node: "node-a" } as const;
  stage.world.order({ ...fault, verb: "restoreWorkload", times: 1, failure });
  await undone.handle.executeUpdate(UPDATE.restore, { args: [{}] }).catch(() => undefined);
  await undone.handle.executeUpdate(UPDATE.restore, { args: [{}] });
  recorder.keep("workload-undone", workloadWorkflowId("undone"));

  const old = await startOldWorker(stage, "node-old");
  try {
    await old.node.executeUpdate(UPDATE.ask, { args: [{ ask: "checkpoints" }] });
  } finally {
    await old.stop();
  }
  recorder.keep("node-without-beats", nodeWorkflowId("node-old"));
}

/** What another workload has: its address. A worker of before, which does not beat. Workflows that were reset. */
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
import { before, first, reset } from "../workflows/resetting.js";
import { QUICK, Subject, specOf, until } from "../workflows/support.js";
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
  await recordResets(recorder);
}

/** Workflows that have forgotten what they did. */
async function recordResets(recorder: Recorder): Promise<void> {
  const { stage } = recorder;
  const { client, world } = stage;
  const subject = await stage.run("forgetful");
  const held = async (): Promise<{ started: OperationStarted; go: () => void }> => {
    let there = false;
    let go = (): void => undefined;
    const gone = new Promise<void>((resolve) => (go = resolve));
    world.at("source:frozen", () => ((there = true), gone), subject.name);
    const started = await subject.migrate("node-b", { maxBlackoutMs: 60_000 });
    await until(
      () => there,
      (reached) => reached,
    );
    return { started, go };
  };

  const begun = await held();
  await reset(client, begun.started.workflowId, first);
  begun.go();
  await subject.settled();
  recorder.keep("migrate-reset", begun.started.workflowId);
  while ((await subject.status()).node !== "node-a") await subject.moveTo("node-a");

  await client.workflow
    .getHandle(begun.started.workflowId, await reset(client, begun.started.workflowId, first))
    .result();
  recorder.keep("migrate-reset-late", begun.started.workflowId);

  const twice = await stage.run("forgetful-entity");
  world.at("source:frozen", () => new Promise((resolve) => setTimeout(resolve, 1_500)), twice.name);
  await twice.migrate("node-b", { maxBlackoutMs: 60_000 });
  await reset(client, twice.handle.workflowId, before(UPDATE.migrate));
  await until(
    () => twice.status(),
    ({ node, operation }) => node === "node-b" && operation === undefined,
  );
  recorder.keep("workload-reset", twice.handle.workflowId);
}

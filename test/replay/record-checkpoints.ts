/** Checkpoints, what is restored from them, and nodes that do not say how one ended. */
import { WithStartWorkflowOperation } from "@temporalio/client";
import {
  UPDATE,
  WORKFLOW,
  type OperationStarted,
  type Restored,
  type RestoreRequest,
  type WorkloadInput,
} from "../../src/model/messages.js";
import { WORKFLOW_TASK_QUEUE, nodeWorkflowId, workloadWorkflowId } from "../../src/model/names.js";
import { QUICK, runsOf, specOf, until, type Subject } from "../workflows/support.js";
import type { Recorder } from "./recorder.js";

const OPTIONS = { stop: false, reason: "recording", requestedBy: "me", labels: { a: "b" }, maxBlackoutMs: 2_000 };

const ask = (subject: Subject, stop = false) =>
  subject.handle.executeUpdate<OperationStarted, [unknown]>(UPDATE.checkpoint, {
    args: [{ options: { ...OPTIONS, stop } }],
  });

async function save(subject: Subject, stop = false): Promise<string> {
  const started = await ask(subject, stop);
  await subject.operation(started).result();
  await subject.settled();
  return started.workflowId;
}

const restore = (subject: Subject, request: RestoreRequest = {}) =>
  subject.handle.executeUpdate<Restored, [RestoreRequest]>(UPDATE.restore, { args: [request] });

/** Its node goes while it is frozen; returns when the entity is not held up by it any more. */
async function saveAndLose(recorder: Recorder, subject: Subject, node: string): Promise<string> {
  const { stage } = recorder;
  stage.world.at("save:frozen", () => stage.lose(node), subject.name);
  const { workflowId } = await ask(subject);
  await until(
    () => subject.status(),
    ({ operation }) => operation === undefined,
  );
  return workflowId;
}

export async function recordCheckpoints(recorder: Recorder): Promise<void> {
  const { stage } = recorder;
  const back = async (node: string): Promise<void> => {
    stage.agent(node).restart();
    await stage.startNode(node);
  };
  const subject = await stage.run("saved");
  recorder.keep("checkpoint-saved", await save(subject));
  const failure = { code: "E_NO_SPACE", message: "the disk is full", node: "node-a" } as const;
  stage.world.order({ node: "node-a", verb: "saveCheckpoint", when: "before", times: 1, workload: "saved", failure });
  recorder.keep("checkpoint-refused", await save(subject));
  recorder.keep("checkpoint-stopped", await save(subject, true));
  await restore(subject);
  await subject.handle.executeUpdate(UPDATE.remove, { args: [{ force: true, graceMs: 0 }] });
  recorder.keep("workload-saved", workloadWorkflowId("saved"));

  const restored = await stage.run("restored");
  await save(restored, true);
  await restore(restored, { node: "node-b", dryRun: true });
  const lost = { node: "node-b", verb: "restoreWorkload", when: "after", workload: "restored" } as const;
  const answers = stage.world.order({ ...lost, times: Infinity });
  await restore(restored, { node: "node-b" }).catch(() => undefined);
  answers();
  await restore(restored, { node: "node-b" });
  await restored.handle.executeUpdate(UPDATE.stop, { args: [{ graceMs: 0 }] });
  stage.world.order({ ...lost, when: "before", times: 1, failure: { ...failure, node: "node-b" } });
  await restore(restored, { node: "node-b" }).catch(() => undefined);
  recorder.keep("workload-restored", workloadWorkflowId("restored"));

  const input: WorkloadInput = { name: "cloned", tuning: QUICK };
  await stage.client.workflow.executeUpdateWithStart<
    (input: WorkloadInput) => Promise<unknown>,
    Restored,
    [RestoreRequest]
  >(UPDATE.restore, {
    args: [{ node: "node-b", clone: { spec: specOf("cloned"), of: "restored" } }],
    startWorkflowOperation: new WithStartWorkflowOperation(WORKFLOW.workload, {
      workflowId: workloadWorkflowId("cloned"),
      taskQueue: WORKFLOW_TASK_QUEUE,
      workflowIdConflictPolicy: "USE_EXISTING",
      args: [input],
    }),
  });
  recorder.keep("workload-cloned", workloadWorkflowId("cloned"));

  const node = stage.client.workflow.getHandle(nodeWorkflowId("node-b"));
  const id = stage.world.stored.at(-1)?.id ?? "";
  const named = { workload: "restored", checkpoint: id };
  for (const question of [
    { ask: "checkpoints" },
    { ask: "diff", ...named, with: id },
    { ask: "verify", ...named },
    { ask: "pin", ...named, pinned: true },
    { ask: "pin", ...named, pinned: false },
    { ask: "removeCheckpoint", ...named },
  ]) {
    await node.executeUpdate(UPDATE.ask, { args: [question] });
  }
  recorder.keep("node-store", nodeWorkflowId("node-b"));

  const unwanted = await stage.run("unwanted");
  await save(unwanted, true);
  let release = (): void => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  let begun = false;
  const hold = async (): Promise<void> => {
    begun = true;
    await held;
  };
  stage.world.at("restore:begun", hold, "unwanted");
  const restoring = restore(unwanted, { node: "node-b", lazy: true }).catch(() => undefined);
  await until(
    () => begun,
    (is) => is,
  );
  const calling = unwanted.handle.executeUpdate(UPDATE.cancel);
  await until(
    () => stage.world.node("node-b").calledOff.has("unwanted"),
    (is) => is,
  );
  release();
  await Promise.all([calling, restoring]);
  recorder.keep("workload-restore-called-off", workloadWorkflowId("unwanted"));

  const away = await stage.run("unanswered");
  const unanswered = await saveAndLose(recorder, away, "node-a");
  await back("node-a");
  await stage.client.workflow.getHandle(unanswered).result();
  await until(
    () => away.status(),
    ({ state }) => state === "running",
  );
  recorder.keep("checkpoint-unanswered", unanswered);

  // Its worker is there and its agent is not, again and again.
  const long = await stage.run("long-save", "node-a", { ...QUICK, backoffMs: 10, maxBackoffMs: 20, longEvents: 50 });
  const longest = await saveAndLose(recorder, long, "node-a");
  await stage.startNode("node-a");
  await until(
    () => runsOf(stage.client, longest),
    (runs) => runs.length > 1,
  );
  stage.agent("node-a").restart();
  await stage.client.workflow.getHandle(longest).result();
  await recorder.keepRuns("checkpoint-long", longest);

  const gone = await stage.run("unsaved");
  await save(gone);
  const calledOff = await saveAndLose(recorder, gone, "node-a");
  await stage.client.workflow
    .getHandle(nodeWorkflowId("node-a"))
    .executeUpdate(UPDATE.fence, { args: [{ evidence: "the plug is in my hand" }] });
  await gone.handle.executeUpdate(UPDATE.recover, { args: [{ node: "node-b", acceptRollback: true }] });
  await stage.client.workflow.getHandle(calledOff).result();
  stage.world.powerOff("node-a");
  await back("node-a");

  // Restored although a node is off, which was fenced; told when it is back.
  const one = await stage.run("one-off");
  await save(one, true);
  stage.world.powerOff("node-b");
  await stage.workers.stopNode("node-b");
  await stage.client.workflow
    .getHandle(nodeWorkflowId("node-b"))
    .executeUpdate(UPDATE.fence, { args: [{ evidence: "the plug is in my hand" }] });
  await restore(one, { off: ["node-b"] });
  const { sequence } = await one.status();
  await back("node-b");
  await stage.client.workflow.getHandle(`one-off/restore/${sequence}/supersede/node-b`).result();
  recorder.keep("workload-restored-off", workloadWorkflowId("one-off"));

  recorder.keep("checkpoint-called-off", calledOff);
  recorder.keep("workload-recovered-unsaved", workloadWorkflowId("unsaved"));
}

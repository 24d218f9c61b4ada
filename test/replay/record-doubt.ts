/** Paths on which a person or another workflow decides: in doubt, resolved, settled first, fenced, forgotten. */
import { UPDATE, WORKFLOW, type ResolveRequest } from "../../src/model/messages.js";
import { WORKFLOW_TASK_QUEUE, nodeWorkflowId } from "../../src/model/names.js";
import { until, type Subject } from "../workflows/support.js";
import type { Recorder } from "./recorder.js";

export async function recordDoubt(recorder: Recorder): Promise<void> {
  const { stage } = recorder;
  const inDoubt = (subject: Subject) =>
    until(
      () => subject.status(),
      ({ state }) => state === "in-doubt",
    );
  const tellNode = (node: string, update: string, word: object = {}) =>
    stage.client.workflow.getHandle(nodeWorkflowId(node)).executeUpdate<unknown, [object]>(update, { args: [word] });
  const back = async (node: string): Promise<void> => {
    stage.agent(node).restart();
    await stage.startNode(node);
    await tellNode(node, UPDATE.ask, { ask: "describe" });
  };

  const doubt = await stage.run("doubt");
  stage.world.at("source:released", () => stage.world.crash("node-b"), doubt.name);
  await doubt.migrate("node-b", { mode: "postcopy" });
  await inDoubt(doubt);
  stage.agent("node-b").restart();
  await doubt.settled();
  await recorder.keepMigration("in-doubt", doubt);

  const resolved = async (keep: ResolveRequest["keep"]): Promise<void> => {
    const [lost, point, mode] =
      keep === "source"
        ? (["node-b", "source:released", "postcopy"] as const)
        : (["node-a", "source:before-release", "cold"] as const);
    const subject = await stage.run(`keep-${keep}`);
    stage.world.at(point, () => stage.lose(lost), subject.name);
    const started = await subject.migrate("node-b", { mode });
    await inDoubt(subject);
    await tellNode(lost, UPDATE.fence, { evidence: "the plug is in my hand" });
    await subject
      .operation(started)
      .executeUpdate(UPDATE.resolve, { args: [{ keep, acceptRollback: keep === "destination" }] });
    await subject.settled(60_000);
    await back(lost);
    await recorder.keepMigration(`resolved-${keep}`, subject);
  };
  await resolved("source");
  await resolved("destination");
  recorder.keep("node-fenced", nodeWorkflowId("node-b"));

  // Neither its workflow nor the entity is left: the next migration finds it in the journals.
  const first = await stage.run("first");
  stage.world.at(
    "source:frozen",
    async () => {
      stage.world.cut("node-a", "node-b");
      const { sequence } = await first.status();
      await stage.client.workflow.getHandle(`${first.name}/migrate/${sequence}`).terminate("recording");
      await first.handle.terminate("recording");
    },
    first.name,
  );
  await first.migrate("node-b", { maxBlackoutMs: 400 });
  await until(
    () => stage.world.node("node-a").hold(first.name, 2)?.state,
    (state) => state === "BURNED",
  );
  await first.start("node-a");
  stage.world.mend("node-a", "node-b");
  const { reasons } = await first.moveTo("node-b");
  if (!reasons.some((reason) => reason.startsWith("settled "))) throw new Error("nothing was left to settle first");
  await recorder.keepMigration("settled-first", first);

  await stage.client.workflow.start(WORKFLOW.node, {
    workflowId: nodeWorkflowId("node-x"),
    taskQueue: WORKFLOW_TASK_QUEUE,
    args: [{ node: "node-x" }],
  });
  await tellNode("node-x", UPDATE.forget);
  recorder.keep("node-forgotten", nodeWorkflowId("node-x"));
}

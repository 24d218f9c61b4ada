/**
 * A person resolves what is in doubt for good: fences a node, decides whose copy stays. Refused wherever it could make two
 * copies; a node that comes back loses its stale one.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { UPDATE, WORKFLOW } from "../../src/model/messages.js";
import { nodeWorkflowId, WORKFLOW_TASK_QUEUE } from "../../src/model/names.js";
import type { MigrationReport } from "../../src/model/report.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { refusal, Stage, until, type Subject } from "./support.js";

describe("resolve", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up(["node-a", "node-b", "node-c"]);
  });
  after(() => stage.down());

  const down = (node: string): Promise<void> => stage.lose(node);
  const inDoubt = (subject: Subject) =>
    until(
      () => subject.status(),
      (seen) => seen.state === "in-doubt",
      30_000,
    );
  const fence = (node: string) =>
    stage.client.workflow
      .getHandle(nodeWorkflowId(node))
      .executeUpdate(UPDATE.fence, { args: [{ evidence: "the plug is in my hand" }] });
  const state = (node: string, subject: Subject, epoch: number) =>
    stage.world.node(node).hold(subject.name, epoch)?.state;

  test("a node that answers can't be forgotten; one that was given up is not listed any more", async () => {
    const forget = (node: string) =>
      stage.client.workflow.getHandle(nodeWorkflowId(node)).executeUpdate(UPDATE.forget, { args: [] });
    assert.match(
      (await refusal(() => forget("node-c"))).message,
      /node-c answers: it is not off, so it can't be forgotten/,
    );
    await stage.client.workflow.start(WORKFLOW.node, {
      workflowId: nodeWorkflowId("node-x"),
      taskQueue: WORKFLOW_TASK_QUEUE,
      args: [{ node: "node-x" }],
    });
    assert.match((await refusal(() => forget("node-x"))).message, /node-x does not answer, and nobody has fenced it/);
    await fence("node-x");
    await forget("node-x");
    const { status } = await stage.client.workflow.getHandle(nodeWorkflowId("node-x")).describe();
    assert.equal(status.name, "COMPLETED");
  });

  test("what is not in doubt can't be resolved", async () => {
    const subject = await stage.run();
    const go = stage.hold("source:precopy", subject.name);
    const started = await subject.migrate("node-b", {});
    const operation = subject.operation(started);
    const { code, message } = await refusal(() =>
      operation.executeUpdate(UPDATE.resolve, { args: [{ keep: "source", acceptRollback: false }] }),
    );
    assert.equal(code, "E_STATE");
    assert.match(message, /is not in doubt/);
    go();
    assert.equal(((await operation.result()) as MigrationReport).outcome, "moved");
  });

  test("the destination is gone after the source has released: fenced, then the source takes it back", async () => {
    const subject = await stage.run();
    stage.world.at("source:released", () => down("node-b"));
    const started = await subject.migrate("node-b", { mode: "postcopy" });
    const operation = subject.operation(started);
    const resolve = (keep: string) =>
      operation.executeUpdate(UPDATE.resolve, { args: [{ keep, acceptRollback: false }] });
    await inDoubt(subject);

    assert.match((await refusal(() => resolve("neither"))).message, /keep must be source or destination/);
    const early = await refusal(() => resolve("source"));
    assert.equal(early.code, "E_STATE");
    assert.match(early.message, /nobody has fenced it/);
    assert.match(early.remedy ?? "", /ferry fence node-b/);
    assert.match((await refusal(() => resolve("destination"))).message, /node-b does not answer/);
    assert.match((await refusal(() => fence("node-a"))).message, /node-a answers: it is not off/);

    await fence("node-b");
    await resolve("source");
    const report = (await operation.result()) as MigrationReport;
    assert.equal(report.outcome, "rolled-back", JSON.stringify(report.failure));
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);

    await until(
      () => subject.status(),
      (seen) => seen.operation === undefined,
      15_000,
    );
    const moved = await subject.moveTo("node-c");
    assert.equal(moved.outcome, "moved", JSON.stringify(moved.failure));
    stage.agent("node-b").restart();
    await stage.startNode("node-b");
    await until(
      () => state("node-b", subject, report.epoch + 1),
      (seen) => seen === "TOMBSTONE" || seen === "SUPERSEDED",
      30_000,
    );
    assert.deepEqual(stage.world.running(subject.name), ["node-c"]);
    assert.deepEqual(stage.world.violations, []);
  });

  test("the source is gone, nobody knows whether it has released: fenced, then the destination runs what it has", async () => {
    const subject = await stage.run();
    stage.world.at("source:before-release", () => down("node-a"));
    const started = await subject.migrate("node-b", {});
    const operation = subject.operation(started);
    const resolve = (keep: string, acceptRollback = false) =>
      operation.executeUpdate(UPDATE.resolve, { args: [{ keep, acceptRollback }] });
    await inDoubt(subject);
    assert.match((await refusal(() => resolve("destination"))).message, /nobody has fenced it/);
    await fence("node-a");
    const unasked = await refusal(() => resolve("destination"));
    assert.equal(unasked.code, "E_STATE");
    assert.match(unasked.message, /not known that node-a had released/);
    assert.match(unasked.remedy ?? "", /--keep destination --accept-rollback/);
    assert.deepEqual(stage.world.running(subject.name), []);
    await resolve("destination", true);
    const report = (await operation.result()) as MigrationReport;
    assert.equal(report.outcome, "moved", JSON.stringify(report.failure));
    assert.equal(report.node, "node-b");
    assert.deepEqual(stage.world.running(subject.name), ["node-b"]);
  });
});

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { WorkflowUpdateFailedError } from "@temporalio/client";
import { ApplicationFailure } from "@temporalio/common";
import type { MigrationReport } from "../../src/model/report.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { Stage, Subject, specOf, until } from "./support.js";

const refused = async (code: string, act: () => Promise<unknown>): Promise<void> => {
  await assert.rejects(act, (error: unknown) => {
    assert.ok(error instanceof WorkflowUpdateFailedError, String(error));
    assert.ok(error.cause instanceof ApplicationFailure);
    assert.equal(error.cause.type, code, error.cause.message);
    return true;
  });
};

describe("the entity", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up();
  });
  after(() => stage.down());

  test("a destination that never was is told from one that is away", async () => {
    const subject = await stage.run();
    const unknown = await subject.moveTo("node-z");
    assert.equal(unknown.outcome, "refused");
    assert.equal(unknown.failure?.code, "E_NODE_UNKNOWN");
    await stage.workers.stopNode("node-b");
    const away = await subject.moveTo("node-b");
    assert.equal(away.outcome, "rolled-back");
    assert.equal(away.failure?.code, "E_NODE_UNREACHABLE");
    await stage.startNode("node-b");
    assert.equal((await subject.moveTo("node-b")).outcome, "moved");
    await refused("E_SAME_NODE", () => subject.migrate("node-b"));
    await refused("E_NAME", () => subject.migrate("../x"));
    await refused("E_STATE", () => subject.handle.executeUpdate("cancel"));
  });

  test("an entity that was terminated is started anew and adopts what runs", async () => {
    const subject = await stage.run();
    await subject.handle.terminate("test");
    const status = await subject.start("node-a");
    assert.equal(status.state, "running");
    assert.equal(status.epoch, 1);
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
    assert.equal((await subject.moveTo("node-b")).outcome, "moved");
    await subject.handle.terminate("test");
    await refused("E_WORKLOAD_EXISTS", () =>
      subject.start("node-b", undefined, { ...specOf(subject.name), command: ["other"] }),
    );
    assert.deepEqual(stage.world.running(subject.name), ["node-b"]);
  });

  test("a start whose answer is lost is not started twice; a start that fails leaves no copy", async () => {
    const lost = new Subject(stage, "lost");
    stage.world.order({ node: "node-a", verb: "startWorkload", when: "after", times: 1, workload: "lost" });
    assert.equal((await lost.start("node-a")).state, "running");
    assert.equal(stage.world.copies("lost").length, 1);

    const never = new Subject(stage, "never");
    stage.world.order({ node: "node-a", verb: "startWorkload", when: "after", times: 9, workload: "never" });
    await refused("E_AGENT_DOWN", () => never.start("node-a"));
    assert.deepEqual(stage.world.copies("never"), []);
    assert.equal(
      (await new Subject(stage, "never").start("node-a").catch(() => undefined))?.state ?? "failed",
      "failed",
    );
  });

  test("a start that was undone never begins, however late a call of then comes", async () => {
    const subject = await stage.run();
    await subject.handle.executeUpdate("stop", { args: [{ graceMs: 0 }] });
    const { epoch, sequence } = await subject.status();
    const fault = { node: "node-a", verb: "startWorkload", when: "before", workload: subject.name } as const;
    const answers = stage.world.order({ ...fault, times: Infinity });
    await refused("E_AGENT_DOWN", () => subject.start("node-a"));
    answers();
    const { operation, state } = stage.world.node("node-a").hold(subject.name, epoch + 1) ?? {};
    assert.deepEqual([operation, state], [`${subject.name}.start.${sequence + 1}`, "TOMBSTONE"]);
    assert.equal((await subject.start("node-a")).epoch, epoch + 2);
  });

  test("stop keeps the name, start with the same spec runs it again under a new epoch, remove ends the workflow", async () => {
    const subject = await stage.run();
    const update = subject.handle;
    const stopped = await update.executeUpdate<{ state: string }, [{ graceMs: number }]>("stop", {
      args: [{ graceMs: 0 }],
    });
    assert.equal(stopped.state, "stopped");
    assert.deepEqual(stage.world.copies(subject.name), []);
    const again = await subject.start("node-a");
    assert.equal(again.state, "running");
    assert.equal(again.epoch, 2);
    await update.executeUpdate("remove", { args: [{ force: true, graceMs: 0 }] });
    await until(
      async () => (await update.describe()).status.name,
      (status) => status === "COMPLETED",
    );
    assert.deepEqual(stage.world.copies(subject.name), []);
  });

  test("a cancel that comes before the migration has begun is of that one, not of the one before", async () => {
    const subject = await stage.run();
    assert.equal((await subject.moveTo("node-b", { dryRun: true })).outcome, "planned");
    await stage.workers.stopWorkflows();
    const migrating = subject.migrate("node-b");
    await new Promise((resolve) => setTimeout(resolve, 300));
    const cancelled = subject.handle.executeUpdate("cancel");
    cancelled.catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 300));
    await stage.workers.startWorkflows();
    const started = await migrating;
    await cancelled;
    const report = (await subject.operation(started).result()) as MigrationReport;
    assert.equal(report.failure?.code, "E_CANCELLED", JSON.stringify(report));
    assert.equal((await subject.settled()).state, "running");
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
  });

  test("a first start that is refused leaves no entity behind", async () => {
    const subject = new Subject(stage, "refused");
    await refused("E_REQUEST", () => subject.start("node-a", undefined, specOf("another-name")));
    await until(
      async () => (await subject.handle.describe()).status.name,
      (status) => status === "COMPLETED",
    );
    assert.equal((await subject.start("node-a")).state, "running", "the name is free");
  });

  test("ended by itself: exited with its exit code, told once or ten times, early or late", async () => {
    const subject = await stage.run();
    const { epoch } = await subject.status();
    // Rubbish, another epoch, another node: nothing happens.
    for (const news of [null, {}, { node: "node-a", epoch: 7 }, { node: "node-b", epoch }]) {
      await subject.handle.signal("ended", news);
    }
    assert.equal((await subject.status()).state, "running");
    const news = { node: "node-a", epoch, exitCode: 3 };
    for (let i = 0; i < 3; i++) await subject.handle.signal("ended", news);
    const ended = await subject.status();
    assert.deepEqual({ state: ended.state, exitCode: ended.exitCode }, { state: "exited", exitCode: 3 });
    await refused("E_STATE", () => subject.migrate("node-b"));
    stage.world.node("node-a").journal({ workload: subject.name, epoch, state: "STOPPED" });
    stage.world.drop(stage.world.node("node-a"), subject.name, epoch);
    const again = await subject.start("node-a");
    assert.deepEqual({ state: again.state, exitCode: again.exitCode }, { state: "running", exitCode: undefined });
    // Of the life before: too late.
    await subject.handle.signal("ended", news);
    assert.equal((await subject.status()).state, "running");
    // While an operation is under way it waits for that to end.
    stage.world.at("destination:owner", async () => {
      await subject.handle.signal("ended", { node: "node-b", epoch: again.epoch + 1, exitCode: 0 });
    });
    assert.equal((await subject.moveTo("node-b")).outcome, "moved");
    const late = await until(
      () => subject.status(),
      (status) => status.state === "exited",
    );
    assert.deepEqual({ node: late.node, exitCode: late.exitCode }, { node: "node-b", exitCode: 0 });
    await subject.handle.executeUpdate("remove", { args: [{ force: true, graceMs: 0 }] });
  });
});

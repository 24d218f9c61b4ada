/**
 * Somebody resets a workflow in Temporal's console: it forgets what it did after that point, while agents and journals do not.
 * One copy, where its entity says; and the next migration goes.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { UPDATE } from "../../src/model/messages.js";
import { nodeWorkflowId } from "../../src/model/names.js";
import type { MigrationReport } from "../../src/model/report.js";
import type { Point } from "../../src/runtimes/simulated/world.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { before as beforeUpdate, first, latest, reset as resetTo, type Pick } from "./resetting.js";
import { Stage, until, type Subject } from "./support.js";

const unasked = beforeUpdate("migrate");

describe("resets", { skip: skipWithoutTemporal, concurrency: 4 }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up(["node-a", "node-b", "node-c"]);
  });
  after(() => stage.down());

  const reset = (workflowId: string, pick: Pick): Promise<string> => resetTo(stage.client, workflowId, pick);

  /** Migrates, and waits there until it is let go on. */
  async function heldAt(point: Point, subject: Subject) {
    let reached = false;
    let go = (): void => undefined;
    const held = new Promise<void>((resolve) => (go = resolve));
    const stand = (): Promise<void> => {
      reached = true;
      return held;
    };
    stage.world.at(point, stand, subject.name);
    const started = await subject.migrate("node-b", { maxBlackoutMs: 60_000 });
    await until(
      () => reached,
      (there) => there,
    );
    return { started, go };
  }

  /** At rest, where the one copy is, and it moves on from there. */
  async function assertSound(subject: Subject): Promise<void> {
    const status = await until(
      async () => ({ ...(await subject.status()), copies: stage.world.copies(subject.name) }),
      ({ operation, copies }) => operation === undefined && copies.length === 1 && copies[0]?.state === "running",
    );
    assert.equal(status.state, "running");
    assert.deepEqual(
      status.copies.map(({ node, epoch }) => [node, epoch]),
      [[status.node, status.epoch]],
    );
    const next = await subject.moveTo("node-c");
    assert.equal(next.outcome, "moved", JSON.stringify(next.failure));
    assert.deepEqual(stage.world.running(subject.name), ["node-c"]);
    assert.deepEqual(stage.world.violations, []);
  }

  const POINTS = ["source:precopy", "source:frozen", "source:released", "destination:running"] as const;
  for (const point of POINTS) {
    for (const [how, pick] of [
      ["its beginning", first],
      ["where it was", latest],
    ] as const) {
      test(`the migrate workflow is reset to ${how} at ${point}: it is settled, and never begun a second time`, async () => {
        const subject = await stage.run();
        const { started, go } = await heldAt(point, subject);
        await reset(started.workflowId, pick);
        // While it is held, and then.
        await new Promise((resolve) => setTimeout(resolve, 300));
        go();
        await assertSound(subject);
        const { status } = await stage.client.workflow.getHandle(started.workflowId).describe();
        assert.equal(status.name, "COMPLETED");
      });
    }
    test(`the entity is reset to before it was asked, at ${point}: it waits for the migration that is under way`, async () => {
      const subject = await stage.run();
      const { started, go } = await heldAt(point, subject);
      await reset(subject.handle.workflowId, unasked);
      await until(
        () => subject.status(),
        ({ problem }) => problem?.includes("this entity was reset") === true,
      );
      go();
      assert.equal(((await subject.operation(started).result()) as MigrationReport).outcome, "moved");
      await subject.settled();
      assert.equal((await subject.status()).node, "node-b");
      await assertSound(subject);
    });
  }

  test("the entity is reset while it migrates, and a person cancels: the migration of before is called off", async () => {
    const subject = await stage.run();
    const { go } = await heldAt("source:frozen", subject);
    await reset(subject.handle.workflowId, unasked);
    await until(
      () => subject.status(),
      ({ problem }) => problem?.includes("this entity was reset") === true,
    );
    await subject.handle.executeUpdate("cancel");
    await until(
      () => stage.world.node("node-a").hold(subject.name, 2)?.state,
      (state) => state === "BURNED",
    );
    go();
    await subject.settled();
    assert.equal((await subject.status()).node, "node-a");
    await assertSound(subject);
  });

  for (const outcome of ["moved", "rolled-back"] as const) {
    test(`the migrate workflow is reset after it ${outcome}: it says so once more, and nothing moves`, async () => {
      const subject = await stage.run();
      const failure = { code: "E_RESTORE", message: "criu said no", node: "node-b" } as const;
      const fault = { node: "node-b", verb: "takeOver", when: "before", times: 1, failure } as const;
      if (outcome === "rolled-back") stage.world.order({ ...fault, workload: subject.name });
      const started = await subject.migrate("node-b");
      const before = (await subject.operation(started).result()) as MigrationReport;
      assert.equal(before.outcome, outcome);
      const { node, epoch } = await subject.settled();
      const runId = await reset(started.workflowId, first);
      const again = (await stage.client.workflow.getHandle(started.workflowId, runId).result()) as MigrationReport;
      assert.deepEqual([again.outcome, again.node, again.epoch], [outcome, node, epoch], JSON.stringify(again));
      await assertSound(subject);
    });
  }

  test("the migrate workflow is reset long after, when it has moved back: refused, it stays where it is", async () => {
    const subject = await stage.run();
    const started = await subject.migrate("node-b");
    await subject.operation(started).result();
    await subject.settled();
    assert.equal((await subject.moveTo("node-a")).outcome, "moved");
    const runId = await reset(started.workflowId, first);
    const again = (await stage.client.workflow.getHandle(started.workflowId, runId).result()) as MigrationReport;
    assert.deepEqual([again.outcome, again.node, again.epoch], ["refused", "node-a", 3], JSON.stringify(again));
    assert.match(again.failure?.message ?? "", /is long over, and its workflow was reset/);
    assert.equal((await subject.status()).epoch, 3);
    await assertSound(subject);
  });

  for (const [how, path] of [
    ["there", ["node-b"]],
    ["there and back", ["node-b", "node-a"]],
    ["there and on", ["node-b", "node-c", "node-b"]],
  ] as const) {
    test(`the entity is reset after it went ${how}: the migration that it is asked for anew tells it where it is`, async () => {
      const subject = await stage.run();
      for (const node of path) assert.equal((await subject.moveTo(node)).outcome, "moved");
      const { node, epoch } = await subject.status();
      await reset(subject.handle.workflowId, unasked);
      await until(
        () => subject.status(),
        (status) => status.operation === undefined && status.epoch === epoch,
      );
      assert.equal((await subject.status()).node, node);
      await assertSound(subject);
    });
  }

  test("the entity is reset to before its start, and ends: run takes over what runs", async () => {
    const subject = await stage.run();
    assert.equal((await subject.moveTo("node-b")).outcome, "moved");
    const runId = await reset(subject.handle.workflowId, first);
    await stage.client.workflow.getHandle(subject.handle.workflowId, runId).result();
    assert.deepEqual(stage.world.running(subject.name), ["node-b"]);
    assert.equal((await subject.start("node-b")).epoch, 2);
    await assertSound(subject);
  });
});

describe("a reset after a recover", { skip: skipWithoutTemporal }, () => {
  test("the entity believes in the node that was lost: the next migration tells it where it is, and the one after goes", async () => {
    const stage = await Stage.up(["node-a", "node-b", "node-c"]);
    try {
      const subject = await stage.run();
      const { name } = subject;
      const where = "the simulated store";
      stage.world.checkpoints.set(name, { id: "c1", workload: name, epoch: 1, takenAt: Date.now(), where });
      stage.world.powerOff("node-a");
      await stage.workers.stopNode("node-a");
      const lost = stage.client.workflow.getHandle(nodeWorkflowId("node-a"));
      await lost.executeUpdate(UPDATE.fence, { args: [{ evidence: "the plug is in my hand" }] });
      await subject.handle.executeUpdate(UPDATE.recover, { args: [{ node: "node-b", acceptRollback: true }] });
      stage.agent("node-a").restart();
      await stage.startNode("node-a");
      await stage.client.workflow.getHandle(`${name}/recover/2/supersede/node-a`).result();
      // Asked for the recover again it refuses, since that node is there; it believes that it never left it.
      await resetTo(stage.client, subject.handle.workflowId, beforeUpdate("recover"));
      await until(
        () => subject.status(),
        ({ node, state, operation }) => node === "node-a" && state === "running" && operation === undefined,
      );
      const told = await subject.moveTo("node-c");
      assert.deepEqual([told.outcome, told.node, told.epoch], ["refused", "node-b", 2], JSON.stringify(told));
      assert.match(told.failure?.message ?? "", /is not on node-a: node-b runs it \(epoch 2\)/);
      assert.equal((await subject.status()).node, "node-b");
      assert.equal((await subject.moveTo("node-c")).outcome, "moved");
      assert.deepEqual(stage.world.running(name), ["node-c"]);
      assert.deepEqual(stage.world.violations, []);
    } finally {
      await stage.down();
    }
  });
});

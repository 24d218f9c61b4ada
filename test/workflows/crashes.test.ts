/** Agents and workers that die, links that are cut, nodes that go: one stage per test, since a crash hits a whole node. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { MigrationReport } from "../../src/model/report.js";
import type { Point } from "../../src/runtimes/simulated/world.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { Stage, runsOf, until, type Subject } from "./support.js";

const POINTS: readonly Point[] = [
  "source:precopy",
  "source:frozen",
  "source:before-release",
  "source:released",
  "source:gone",
  "destination:received",
  "destination:prepared",
  "destination:active",
  "destination:running",
];

describe("crashes", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up(["node-a", "node-b", "node-c"]);
  });
  after(async () => {
    await stage.down();
  });

  async function assertSound(subject: Subject, report: MigrationReport): Promise<void> {
    const node = report.outcome === "moved" ? "node-b" : "node-a";
    assert.deepEqual(stage.world.violations, []);
    await until(
      () => stage.world.copies(subject.name).map((c) => `${c.node} ${c.state} ${c.epoch}`),
      (copies) => copies.length === 1 && copies[0] === `${node} running ${report.epoch}`,
    );
    const status = await subject.settled();
    assert.equal(status.node, node);
    assert.equal(status.state, "running");
  }

  const later = (act: () => void, ms = 250): void => void setTimeout(act, ms);

  for (const point of POINTS) {
    for (const node of ["node-a", "node-b"]) {
      test(`the agent of ${node} is killed at ${point} and comes back`, async () => {
        const subject = await stage.run();
        stage.world.at(point, () => {
          stage.world.crash(node);
          later(() => stage.agent(node).restart());
        });
        const report = await subject.moveTo("node-b");
        assert.ok(report.outcome === "moved" || report.outcome === "rolled-back", report.outcome);
        await assertSound(subject, report);
      });
    }
    test(`the link is cut at ${point} for good`, async () => {
      const subject = await stage.run();
      stage.world.at(point, () => stage.world.cut("node-a", "node-b"));
      const report = await subject.moveTo("node-b", { maxBlackoutMs: 400 });
      stage.world.mend("node-a", "node-b");
      await assertSound(subject, report);
    });
    test(`the worker of node-b is gone from ${point} on, for a while`, async () => {
      const subject = await stage.run();
      stage.world.at(point, async () => {
        void stage.workers.stopNode("node-b");
        later(() => void stage.startNode("node-b"), 700);
        await Promise.resolve();
      });
      const report = await subject.moveTo("node-b");
      await assertSound(subject, report);
    });
  }

  test("released and the destination is gone: in doubt, for all to see, until it comes back", async () => {
    const subject = await stage.run();
    stage.world.at("source:released", () => {
      stage.world.crash("node-b");
    });
    const started = await subject.migrate("node-b", { mode: "postcopy" });
    const status = await until(
      () => subject.status(),
      (seen) => seen.state === "in-doubt",
      15_000,
    );
    assert.notEqual(status.operation, undefined);
    assert.deepEqual(stage.world.running(subject.name), []);
    stage.agent("node-b").restart();
    const report = (await subject.operation(started).result()) as MigrationReport;
    assert.equal(report.outcome, "moved");
    await assertSound(subject, report);
  });

  test("silence of both steps at once, while no worker looks: it is in doubt, and no task fails for ever", async () => {
    const subject = await stage.run();
    stage.world.at("source:released", () => stage.lose("node-b"), subject.name);
    const started = await subject.migrate("node-b", { mode: "postcopy" });
    const run = () => runsOf(stage.client, started.workflowId);
    // The look at the source found it released: the destination is asked, and nobody is there.
    await until(run, ([seen]) => seen?.activities.filter((kind) => kind === "inquire").length === 2);
    await stage.workers.stopWorkflows();
    await until(run, ([seen]) => seen?.timeouts === 2);
    await stage.workers.startWorkflows();
    await until(
      () => subject.status(),
      (seen) => seen.state === "in-doubt",
    );
    stage.agent("node-b").restart();
    await stage.startNode("node-b");
    assert.equal(((await subject.operation(started).result()) as MigrationReport).outcome, "moved");
    assert.equal((await run())[0]?.failedTasks, 0);
  });

  test("the migrate workflow is terminated in the middle: the entity settles it, and the next one goes", async () => {
    for (const point of ["source:frozen", "source:released"] as const) {
      const subject = await stage.run();
      let terminated: Promise<unknown> = Promise.resolve();
      stage.world.at(point, () => {
        terminated = subject.operation({ ...last, operation: last.operation }).terminate("test");
        return new Promise((resolve) => setTimeout(resolve, 200));
      });
      const last = await subject.migrate("node-b");
      const status = await until(
        () => subject.status(),
        (seen) => seen.operation === undefined,
        15_000,
      );
      await terminated;
      assert.equal(status.state, "running");
      assert.equal(stage.world.copies(subject.name).length, 1, JSON.stringify(stage.world.copies(subject.name)));
      assert.equal(stage.world.running(subject.name)[0], status.node);
      assert.deepEqual(stage.world.violations, []);
      const next = await subject.moveTo("node-c");
      assert.equal(next.outcome, "moved", JSON.stringify(next.failure));
    }
  });

  test("the destination stays away after it reserved: rolled back at once, swept when it returns", async () => {
    const subject = await stage.run();
    stage.world.at("source:precopy", async () => {
      stage.world.crash("node-b");
      void stage.workers.stopNode("node-b");
      await Promise.resolve();
    });
    const report = await subject.moveTo("node-b");
    assert.equal(report.outcome, "rolled-back");
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
    stage.agent("node-b").restart();
    await stage.startNode("node-b");
    await until(
      () => stage.world.node("node-b").hold(subject.name, 2)?.state,
      (state) => state === "TOMBSTONE",
      15_000,
    );
  });
});

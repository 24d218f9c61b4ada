/**
 * The saga under faults, by its own table: each activity fails before its effect, after it (lost answer), or hangs,
 * once or for long; the agents crash at each point; a person cancels at each point. Whatever happens: at most one copy
 * at any moment, exactly one at the end, and the report says where.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { FailureData } from "../../src/model/failure.js";
import type { MigrationReport } from "../../src/model/report.js";
import type { Point, Verb } from "../../src/runtimes/simulated/world.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { Stage, until, type Subject } from "./support.js";

const ENGINE: FailureData = { code: "E_RESTORE", message: "criu said no", node: "node-b" };

/** Activities of the saga's table, with the node that they run on. */
const CALLS: readonly [Verb, string][] = [
  ["observeWorkload", "node-a"],
  ["observeWorkload", "node-b"],
  ["preflightSource", "node-a"],
  ["preflightDestination", "node-b"],
  ["reserve", "node-b"],
  ["takeOver", "node-b"],
  ["handOver", "node-a"],
];
const UNDOS: readonly [Verb, string][] = [
  ["inquire", "node-a"],
  ["inquire", "node-b"],
  ["burn", "node-a"],
  ["refuse", "node-b"],
  ["cleanup", "node-a"],
  ["cleanup", "node-b"],
];

describe("the saga under faults", { skip: skipWithoutTemporal, concurrency: 8 }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up();
  });
  after(async () => {
    await stage.down();
  });

  /** One live copy, where the report and the entity say; nothing left on either node. */
  async function assertSound(subject: Subject, report: MigrationReport): Promise<void> {
    const { world } = stage;
    assert.deepEqual(world.violations, []);
    const node = report.outcome === "moved" ? "node-b" : "node-a";
    assert.equal(report.node, node);
    await until(
      () => world.copies(subject.name),
      (copies) => copies.length === 1,
    );
    const [copy] = world.copies(subject.name);
    assert.equal(copy?.node, node);
    assert.equal(copy?.state, "running");
    assert.equal(copy?.epoch, report.epoch);
    const status = await subject.settled();
    assert.equal(status.state, "running");
    assert.equal(status.node, node);
    assert.equal(status.epoch, report.epoch);
    for (const name of ["node-a", "node-b"]) {
      await until(
        () => world.node(name).litter.has(report.operation),
        (littered) => !littered,
      );
    }
  }

  for (const [verb, node] of CALLS) {
    test(`${verb}@${node} fails with an answer: nothing has moved`, async () => {
      const subject = await stage.run();
      stage.world.order({ node, verb, when: "before", times: 1, workload: subject.name, failure: { ...ENGINE, node } });
      const report = await subject.moveTo();
      assert.ok(report.outcome === "rolled-back" || report.outcome === "refused", report.outcome);
      assert.equal(report.failure?.code, "E_RESTORE");
      assert.equal(report.failure?.message, "criu said no");
      await assertSound(subject, report);
      // The next one goes, with an epoch that was never used.
      const again = await subject.moveTo();
      assert.equal(again.outcome, "moved", JSON.stringify(again.failure));
      await assertSound(subject, again);
    });

    test(`${verb}@${node}: the answer is lost once, it is asked again`, async () => {
      const subject = await stage.run();
      stage.world.order({ node, verb, when: "after", times: 1, workload: subject.name });
      const report = await subject.moveTo();
      assert.equal(report.outcome, "moved", JSON.stringify(report.failure));
      await assertSound(subject, report);
    });

    test(`${verb}@${node} hangs until it times out`, async () => {
      const subject = await stage.run();
      stage.world.order({ node, verb, when: "hang", times: 1, hangMs: 2_500, workload: subject.name });
      const report = await subject.moveTo();
      await assertSound(subject, report);
    });

    test(`${verb}@${node}: the answer is lost again and again`, async () => {
      const subject = await stage.run();
      stage.world.order({ node, verb, when: "after", times: 12, workload: subject.name });
      const report = await subject.moveTo();
      await assertSound(subject, report);
    });
  }

  for (const [verb, node] of UNDOS) {
    for (const when of ["before", "after"] as const) {
      test(`undo: ${verb}@${node} fails ${when} its effect, three times`, async () => {
        const subject = await stage.run();
        stage.world.order({
          node: "node-b",
          verb: "takeOver",
          when: "before",
          times: 1,
          workload: subject.name,
          failure: ENGINE,
        });
        stage.world.order({ node, verb, when, times: 3, workload: subject.name });
        const report = await subject.moveTo();
        assert.equal(report.outcome, "rolled-back");
        await assertSound(subject, report);
      });
    }
  }

  test("an undo that answers no makes it stuck, visibly, and goes on when it can", async () => {
    const subject = await stage.run();
    const broken: FailureData = {
      code: "E_JOURNAL_CORRUPT",
      message: "line 7 is damaged",
      node: "node-a",
      remedy: "mend it",
    };
    stage.world.order({
      node: "node-b",
      verb: "takeOver",
      when: "before",
      times: 1,
      workload: subject.name,
      failure: ENGINE,
    });
    stage.world.order({
      node: "node-a",
      verb: "burn",
      when: "before",
      times: 10,
      workload: subject.name,
      failure: broken,
    });
    const started = await subject.migrate();
    const status = await until(
      () => subject.status(),
      (seen) => seen.state === "stuck",
    );
    assert.match(status.problem ?? "", /line 7 is damaged/);
    const interim = await subject.operation(started).query<MigrationReport>("report");
    assert.equal(interim.outcome, "stuck");
    assert.equal(interim.failure?.code, "E_STUCK");
    assert.equal(interim.failure?.remedy, "mend it");
    const report = (await subject.operation(started).result()) as MigrationReport;
    assert.equal(report.outcome, "rolled-back");
    await assertSound(subject, report);
  });

  for (const [verb, node] of CALLS.slice(0, 5)) {
    test(`cancel in ${verb}@${node}: it runs on at the source, and the next one goes`, async () => {
      const subject = await stage.run();
      const { name } = subject;
      stage.world.order({ node, verb, when: "hang", times: 1, hangMs: 1_000, workload: name });
      const before = stage.world.calls.length;
      const started = await subject.migrate();
      await until(
        () => stage.world.calls.slice(before),
        (calls) => calls.some((call) => call.verb === verb && call.node === node && call.workload === name),
      );
      await subject.handle.executeUpdate("cancel");
      const report = (await subject.operation(started).result()) as MigrationReport;
      assert.equal(report.outcome, "rolled-back");
      assert.equal(report.failure?.code, "E_CANCELLED");
      // Nobody was asked to hand anything over.
      const asked = stage.world.calls.slice(before).filter((call) => call.workload === name);
      assert.equal(
        asked.some((call) => call.verb === "handOver" || call.verb === "takeOver"),
        false,
      );
      await assertSound(subject, report);
      // What hung goes on when all is over: it must not leave anything either.
      await new Promise((resolve) => setTimeout(resolve, 1_200));
      await assertSound(subject, report);
      const again = await subject.moveTo();
      assert.equal(again.outcome, "moved", JSON.stringify(again.failure));
      await assertSound(subject, again);
    });
  }

  const SOURCE: readonly Point[] = [
    "source:precopy",
    "source:frozen",
    "source:before-release",
    "source:released",
    "source:gone",
  ];
  const DESTINATION: readonly Point[] = [
    "destination:received",
    "destination:prepared",
    "destination:active",
    "destination:running",
  ];
  for (const point of [...SOURCE, ...DESTINATION]) {
    for (const mode of ["cold", "postcopy"] as const) {
      test(`cancel at ${point}, ${mode}: back before the commit point, forward after it`, async () => {
        const subject = await stage.run();
        const committed = ["source:released", "source:gone", "destination:active", "destination:running"].includes(
          point,
        );
        let cancelled: Promise<unknown> = Promise.resolve();
        stage.world.at(
          point,
          () => {
            cancelled = subject.handle.executeUpdate("cancel");
            // This side stands still until the cancel has arrived; past the commit point it can't, and goes on.
            const burned = () => stage.world.node("node-a").hold(subject.name, 2)?.state === "BURNED";
            return committed
              ? undefined
              : until(burned, Boolean, 3_000).then(
                  () => undefined,
                  () => undefined,
                );
          },
          subject.name,
        );
        const report = await subject.moveTo("node-b", { mode, maxBlackoutMs: 10_000 });
        await cancelled.catch(() => undefined);
        // Once the destination has said PREPARED the source releases whatever this side does: either may come first.
        if (point !== "destination:prepared") assert.equal(report.outcome, committed ? "moved" : "rolled-back");
        if (report.outcome === "rolled-back") assert.equal(report.failure?.code, "E_CANCELLED");
        await assertSound(subject, report);
      });
    }
  }
});

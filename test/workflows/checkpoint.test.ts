/**
 * A checkpoint is made by the agent of the workload's node; whoever dies meanwhile, it is made once, the workload runs on or is
 * let go as was asked, and the entity is not held up for ever by a node that does not answer.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { CheckpointReport } from "../../src/model/checkpoint-report.js";
import { isBroken } from "../../src/model/checkpoint-choice.js";
import type { SaveOptions } from "../../src/model/checkpoints.js";
import { QUERY, UPDATE, type CheckpointView, type OperationStarted, type Recovered } from "../../src/model/messages.js";
import { nodeWorkflowId, workloadWorkflowId } from "../../src/model/names.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { QUICK, refusal, runsOf, Stage, until, type Subject } from "./support.js";

const OPTIONS: SaveOptions = { stop: false, reason: "a test", requestedBy: "me", labels: {}, maxBlackoutMs: 2_000 };

describe("checkpoint", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up(["node-a", "node-b"], { silentAfterMs: 1_000, lostAfterMs: 2_000, steadyMs: 200 });
  });
  after(() => stage.down());

  const ask = (subject: Subject, options: Partial<SaveOptions> = {}) =>
    subject.handle.executeUpdate<OperationStarted, [unknown]>(UPDATE.checkpoint, {
      args: [{ options: { ...OPTIONS, ...options } }],
    });
  const reportOf = async (subject: Subject, started: OperationStarted): Promise<CheckpointReport> => {
    const report = (await subject.operation(started).result()) as CheckpointReport;
    await subject.settled();
    return report;
  };
  const save = async (subject: Subject, options: Partial<SaveOptions> = {}) =>
    reportOf(subject, await ask(subject, options));
  const stored = (subject: Subject) =>
    stage.world.stored.flatMap((each) => (each.workload === subject.name && !isBroken(each) ? [each] : []));
  const back = async (node: string): Promise<void> => {
    stage.agent(node).restart();
    await stage.startNode(node);
  };

  test("it is saved and runs on, on the same node and under the same epoch; again is another one", async () => {
    const subject = await stage.run();
    const report = await save(subject, { labels: { release: "7" } });
    assert.equal(report.outcome, "saved", JSON.stringify(report.failure));
    assert.deepEqual([report.state, report.epoch, report.rounds], ["running", 1, 2]);
    assert.deepEqual(report.checkpoint?.labels, { release: "7" });
    assert.deepEqual([report.checkpoint?.reason, report.checkpoint?.requestedBy], ["a test", "me"]);
    assert.ok(report.frozenMs !== undefined && report.phases.length > 0);
    const status = await subject.status();
    assert.deepEqual([status.state, status.epoch, status.problem], ["running", 1, undefined]);
    assert.equal(status.lastCheckpoint?.id, report.checkpoint?.id);
    const second = await save(subject);
    assert.equal(second.checkpoint?.parent, report.checkpoint?.id);
    assert.equal(stored(subject).length, 2);
    const last = await subject.handle.query<OperationStarted>(QUERY.lastCheckpoint);
    assert.equal(last.operation, second.operation);
    // The epoch that was kept for it is spent: the next move takes a later one.
    const moved = await subject.moveTo("node-b");
    assert.deepEqual([moved.outcome, moved.epoch], ["moved", 4], JSON.stringify(moved.failure));
    assert.equal((await save(subject)).checkpoint?.node, "node-b");
    assert.deepEqual(stage.world.violations, []);
  });

  test("with stop nothing runs afterwards; it can be started, stopped again without a word, and removed", async () => {
    const subject = await stage.run();
    const go = stage.hold("save:stored", subject.name);
    const started = await ask(subject, { stop: true });
    await until(
      () => stored(subject).length,
      (count) => count === 1,
    );
    assert.equal((await subject.status()).state, "checkpointing");
    assert.deepEqual(
      stage.world.copies(subject.name).map(({ state }) => state),
      ["frozen"],
      "it stays frozen until it is in the store",
    );
    go();
    const report = await reportOf(subject, started);
    assert.deepEqual([report.outcome, report.state], ["saved", "checkpointed"]);
    assert.equal((await subject.status()).state, "checkpointed");
    assert.deepEqual(stage.world.copies(subject.name), []);
    assert.equal((await refusal(() => ask(subject))).code, "E_STATE");
    assert.equal((await refusal(() => subject.migrate("node-b"))).code, "E_STATE");
    await subject.handle.executeUpdate(UPDATE.stop, { args: [{ graceMs: 0 }] });
    assert.equal((await subject.status()).state, "checkpointed");
    const again = await subject.start("node-a");
    assert.equal(again.state, "running");
    assert.equal(again.lastCheckpoint?.id, report.checkpoint?.id);
    assert.equal((await save(subject, { stop: true })).state, "checkpointed");
    await subject.handle.executeUpdate(UPDATE.remove, { args: [{ force: false, graceMs: 0 }] });
    assert.equal(stage.world.node("node-a").ledger.get(subject.name), undefined);
  });

  test("two at once, a migration meanwhile, a cancel: refused in words", async () => {
    const subject = await stage.run();
    const go = stage.hold("save:frozen", subject.name);
    const started = await ask(subject);
    const busy = await refusal(() => ask(subject));
    assert.equal(busy.code, "E_BUSY");
    assert.match(busy.message, /checkpoint\.2 is under way \(checkpointing\)/);
    assert.equal((await refusal(() => subject.migrate("node-b"))).code, "E_BUSY");
    const cancelled = await refusal(() => subject.handle.executeUpdate(UPDATE.cancel));
    assert.match(cancelled.message, /a checkpoint is not called back/);
    const view = await subject.operation(started).query<CheckpointView>(QUERY.view);
    assert.deepEqual([view.state, view.node, view.stop], ["working", "node-a", false]);
    // Who cancels its workflow waits all the same.
    await subject.operation(started).cancel();
    go();
    const report = await reportOf(subject, started);
    assert.equal(report.outcome, "saved");
    assert.match(report.reasons.join(" "), /a cancel was asked for/);
  });

  test("no store, or a request that is none: refused, it runs on", async () => {
    const subject = await stage.run();
    stage.world.node("node-a").hasStore = false;
    const report = await save(subject);
    stage.world.node("node-a").hasStore = true;
    assert.deepEqual([report.outcome, report.state, report.failure?.code], ["failed", "running", "E_NO_CHECKPOINT"]);
    assert.match((await subject.status()).problem ?? "", /has no store/);
    assert.equal((await subject.status()).state, "running");
    for (const options of [{ labels: { "a b": "c" } }, { maxBlackoutMs: 1 }, { reason: "x".repeat(2_000) }]) {
      assert.equal((await refusal(() => ask(subject, options))).code, "E_REQUEST");
    }
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
  });

  test("the agent is away when it is asked for: refused, nothing has begun", async () => {
    const subject = await stage.run();
    stage.world.crash("node-a");
    const down = await refusal(() => ask(subject));
    assert.equal(down.code, "E_AGENT_DOWN");
    stage.agent("node-a").restart();
    assert.equal((await subject.status()).state, "running");
    assert.equal(stored(subject).length, 0);
    assert.equal((await save(subject)).outcome, "saved");
  });

  for (const point of ["save:rounds", "save:frozen", "save:stored"] as const) {
    for (const stop of [false, true]) {
      test(`the agent is killed at ${point}${stop ? ", with stop," : ""} and comes back: made all the same`, async () => {
        const subject = await stage.run();
        stage.world.at(point, () => {
          stage.world.crash("node-a");
          setTimeout(() => stage.agent("node-a").restart(), 250);
        });
        const report = await save(subject, { stop });
        assert.equal(report.outcome, "saved", JSON.stringify(report.failure));
        assert.equal((await subject.status()).state, stop ? "checkpointed" : "running");
        assert.deepEqual(stage.world.running(subject.name), stop ? [] : ["node-a"]);
        assert.equal(stored(subject).length, 1);
        assert.deepEqual(stage.world.violations, []);
      });
    }
    test(`the worker is gone from ${point} on, for a while`, async () => {
      const subject = await stage.run();
      stage.world.at(point, async () => {
        void stage.workers.stopNode("node-a");
        setTimeout(() => void stage.startNode("node-a"), 700);
        await Promise.resolve();
      });
      const report = await save(subject);
      assert.equal(report.outcome, "saved", JSON.stringify(report.failure));
      assert.equal(stored(subject).length, 1);
    });
  }

  test("an answer that is lost is asked for again: one checkpoint", async () => {
    const subject = await stage.run();
    stage.world.order({ node: "node-a", verb: "saveCheckpoint", when: "after", times: 2, workload: subject.name });
    const report = await save(subject);
    assert.equal(report.outcome, "saved");
    assert.equal(stored(subject).length, 1);
  });

  for (const stop of [false, true]) {
    test(`the node is away for long${stop ? ", with stop" : ""}: in doubt and not held up; when it is back its journal says`, async () => {
      const subject = await stage.run();
      stage.world.at("save:frozen", () => stage.lose("node-a"), subject.name);
      const started = await ask(subject, { stop });
      const doubt = await until(
        () => subject.status(),
        (seen) => seen.operation === undefined,
      );
      assert.equal(doubt.state, "in-doubt");
      const view = await subject.operation(started).query<CheckpointView>(QUERY.view);
      assert.equal(view.state, "in-doubt");
      assert.match(view.remedy ?? "", /ferry recover/);
      for (const refused of [() => ask(subject), () => subject.migrate("node-b")]) {
        assert.match((await refusal(refused)).message, /nobody knows yet how .*checkpoint\.2 ended/);
      }
      await back("node-a");
      const report = (await subject.operation(started).result()) as CheckpointReport;
      assert.equal(report.outcome, "saved", JSON.stringify(report));
      const status = await until(
        () => subject.status(),
        (seen) => seen.state !== "in-doubt",
      );
      assert.deepEqual([status.state, status.problem], [stop ? "checkpointed" : "running", undefined]);
      assert.equal(status.lastCheckpoint?.id, stored(subject)[0]?.id);
      assert.deepEqual(stage.world.violations, []);
      if (!stop) assert.equal((await subject.moveTo("node-b")).outcome, "moved");
    });
  }

  test("the node is lost for good: fenced, recovered elsewhere, and superseded when it comes back all the same", async () => {
    const subject = await stage.run();
    await save(subject);
    stage.world.at("save:frozen", () => stage.lose("node-a"), subject.name);
    const started = await ask(subject);
    await until(
      () => subject.status(),
      (seen) => seen.operation === undefined,
    );
    await stage.client.workflow
      .getHandle(nodeWorkflowId("node-a"))
      .executeUpdate(UPDATE.fence, { args: [{ evidence: "the plug is in my hand" }] });
    // Its machine was not off, as it turns out: the frozen copy is still there.
    const recovered = await subject.handle.executeUpdate<Recovered, [unknown]>(UPDATE.recover, {
      args: [{ node: "node-b", acceptRollback: true }],
    });
    assert.equal(recovered.node, "node-b");
    const report = (await subject.operation(started).result()) as CheckpointReport;
    assert.equal(report.outcome, "unknown");
    assert.deepEqual(stage.world.running(subject.name), ["node-b"]);
    stage.world.powerOff("node-a");
    await back("node-a");
    await until(
      () => stage.world.node("node-a").hold(subject.name, 1)?.state,
      (seen) => seen === "SUPERSEDED",
    );
    assert.deepEqual([(await subject.status()).state, (await subject.status()).node], ["running", "node-b"]);
    assert.deepEqual(stage.world.running(subject.name), ["node-b"]);
  });

  test("its workflow is terminated in the middle: the node is asked again, there is one checkpoint", async () => {
    const subject = await stage.run();
    const go = stage.hold("save:frozen", subject.name);
    const started = await ask(subject);
    await subject.operation(started).terminate("a test");
    await until(
      () => runsOf(stage.client, started.workflowId),
      (runs) => runs.length > 0,
    );
    assert.equal((await subject.status()).state, "checkpointing");
    go();
    const status = await subject.settled();
    assert.deepEqual([status.state, status.problem], ["running", undefined]);
    assert.equal(stored(subject).length, 1);
    assert.equal(status.lastCheckpoint?.id, stored(subject)[0]?.id);
  });

  test("the entity goes on in new runs: what it knows of checkpoints goes along, and a late answer finds it", async () => {
    const subject = await stage.run("carries", "node-a", { ...QUICK, longEvents: 50 });
    const first = await save(subject);
    const runs = () => runsOf(stage.client, workloadWorkflowId(subject.name));
    while ((await runs()).length < 2) {
      await subject.handle.executeUpdate(UPDATE.stop, { args: [{ graceMs: 0 }] });
      await subject.start("node-a", { ...QUICK, longEvents: 50 });
    }
    assert.equal((await subject.status()).lastCheckpoint?.id, first.checkpoint?.id);
    assert.equal((await subject.handle.query<OperationStarted>(QUERY.lastCheckpoint)).operation, first.operation);
    stage.world.at("save:frozen", () => stage.lose("node-a"), subject.name);
    const started = await ask(subject);
    await until(
      () => subject.status(),
      (seen) => seen.operation === undefined,
    );
    const before = (await runs()).length;
    // Refused ones leave nothing in the history: a stop that fails does.
    while ((await runs()).length === before) {
      await refusal(() => subject.handle.executeUpdate(UPDATE.stop, { args: [{ graceMs: 0 }] }));
      assert.equal((await subject.status()).state, "in-doubt");
    }
    await back("node-a");
    assert.equal(((await subject.operation(started).result()) as CheckpointReport).outcome, "saved");
    const status = await until(
      () => subject.status(),
      (seen) => seen.state === "running",
    );
    assert.equal(status.lastCheckpoint?.id, stored(subject).at(-1)?.id);
    for (const { failedTasks } of await runs()) assert.equal(failedTasks, 0);
  });
});

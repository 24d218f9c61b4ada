/**
 * What takes long goes on in new runs: histories stay short, whoever asked gets an answer, and nothing is lost between
 * two runs. A run counts as long after 1,000 events here as anywhere, or after 50 where a test says so.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { QUERY, UPDATE, type MigrationView, type NodeState } from "../../src/model/messages.js";
import { nodeWorkflowId, workloadWorkflowId } from "../../src/model/names.js";
import type { MigrationReport } from "../../src/model/report.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { QUICK, Stage, runsOf, until, type Run } from "./support.js";

const LIMIT = 2_000;
/** Looks come one after the other instead of once a minute. */
const BUSY = { ...QUICK, watchMs: 1, maxWatchMs: 1 };
/** A run is long as soon as it may be. */
const SHORT = { ...BUSY, backoffMs: 10, maxBackoffMs: 20, longEvents: 50 };
const STEERS = 100;
/** An hour has 71 with the tuning that users have, of 11 events each; a timer of the dev server takes a while. */
const LOOKS = 20;

const looks = (runs: readonly Run[]): number =>
  runs.flatMap((run) => run.activities).filter((kind) => kind === "inquire").length;

function assertShort(runs: readonly Run[], atLeast: number): void {
  assert.ok(runs.length >= atLeast, `${runs.length} runs`);
  for (const { events, failedTasks } of runs) {
    assert.ok(events < LIMIT, `${events} events`);
    assert.equal(failedTasks, 0);
  }
}

describe("what takes long", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up();
  });
  after(() => stage.down());

  test("a long pre-copy and a hundred words to it: under 2,000 events a run, and one migration for all to see", async (t) => {
    const subject = await stage.run("long", "node-a", BUSY);
    const go = stage.hold("source:precopy", subject.name);
    const started = await subject.migrate("node-b", { mode: "precopy", maxBlackoutMs: 60_000 });
    const migration = subject.operation(started);
    const steer = (ms: number) => migration.executeUpdate(UPDATE.steer, { args: [{ do: "max-downtime", ms }] });
    await until(
      () => migration.query<MigrationView>(QUERY.view),
      (view) => view.phase === "precopy",
    );
    const { startedAt } = await migration.query<MigrationView>(QUERY.view);
    for (let i = 0; i < STEERS; i += 4) await Promise.all([0, 1, 2, 3].map((j) => steer(i + j)));
    const all = await until(
      () => runsOf(stage.client, started.workflowId),
      (runs) => looks(runs) >= LOOKS && runs.length > 1,
    );
    const view = await migration.query<MigrationView>(QUERY.view);
    assert.equal(view.startedAt, startedAt);
    assert.equal(view.phase, "precopy");
    assert.equal(view.steering.length, 20, "the last words are still shown");
    await steer(7);
    go();
    const report = (await migration.result()) as MigrationReport;
    assert.equal(report.outcome, "moved", JSON.stringify(report.failure));
    assert.equal(report.mode, "precopy");
    assert.notEqual(report.plan, undefined);
    assert.equal((await subject.settled()).node, "node-b");
    assert.deepEqual(stage.world.violations, []);
    const runs = await runsOf(stage.client, started.workflowId);
    assertShort(runs, 2);
    t.diagnostic(`${looks(all)} looks and ${STEERS} words: runs of ${runs.map((run) => run.events).join(", ")} events`);
  });

  test("a cancel reaches the run of the moment", async () => {
    const subject = await stage.run("called-back", "node-a", SHORT);
    const go = stage.hold("source:precopy", subject.name);
    const started = await subject.migrate("node-b", { mode: "precopy", maxBlackoutMs: 60_000 });
    await until(
      () => runsOf(stage.client, started.workflowId),
      (runs) => runs.length > 2,
    );
    await subject.handle.executeUpdate(UPDATE.cancel);
    await until(
      () => stage.world.node("node-a").hold(subject.name, 2)?.state,
      (state) => state === "BURNED",
    );
    go();
    const report = (await subject.operation(started).result()) as MigrationReport;
    assert.equal(report.outcome, "rolled-back");
    assert.equal(report.failure?.code, "E_CANCELLED");
    await subject.settled();
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
  });

  test("in doubt over many runs: it stays in doubt, then goes forward; so does a settlement", async (t) => {
    const subject = await stage.run("doubt", "node-a", SHORT);
    // Whatever happens here, the tests after it have both nodes.
    t.after(() => stage.agent("node-b").restart());
    stage.world.at("source:released", () => stage.world.crash("node-b"), subject.name);
    const started = await subject.migrate("node-b", { mode: "postcopy" });
    const inDoubt = async (workflowId: string): Promise<void> => {
      await until(
        () => runsOf(stage.client, workflowId),
        (seen) => seen.length > 2,
      );
      assert.equal((await subject.status()).state, "in-doubt");
      await until(
        () => stage.client.workflow.getHandle(workflowId).query<MigrationView>(QUERY.view),
        ({ state, problem }) => state === "in-doubt" && problem?.includes("node-b") === true,
      );
    };
    await inDoubt(started.workflowId);
    // A person ends it in the middle: what the entity has heard of it is enough to go on.
    await stage.client.workflow.getHandle(started.workflowId).terminate("test");
    const { sequence } = await until(
      () => subject.status(),
      (status) => status.operation === `${subject.name}.settle.${status.sequence}`,
    );
    const settle = `${subject.name}/settle/${sequence}`;
    await inDoubt(settle);
    stage.agent("node-b").restart();
    const settled = await subject.settled();
    assert.deepEqual({ state: settled.state, node: settled.node }, { state: "running", node: "node-b" });
    assert.deepEqual(stage.world.violations, []);
  });

  test("a node that is away for long is swept in the end", async () => {
    const subject = await stage.run("away", "node-a", SHORT);
    const failure = { code: "E_RESTORE", message: "criu said no", node: "node-b" } as const;
    stage.world.order({ node: "node-b", verb: "takeOver", when: "before", times: 5, workload: subject.name, failure });
    stage.world.order({ node: "node-b", verb: "cleanup", when: "before", times: 12, workload: subject.name });
    assert.equal((await subject.moveTo("node-b")).outcome, "rolled-back");
    const sweep = `${subject.name}/migrate/${(await subject.status()).sequence}/sweep`;
    await until(
      () => runsOf(stage.client, sweep),
      (runs) => runs.length > 0,
    );
    await stage.client.workflow.getHandle(sweep).result();
    assertShort(await runsOf(stage.client, sweep), 2);
    assert.equal(stage.world.node("node-b").litter.size, 0);
  });

  test("the entity of a workload: every answer arrives, and what it knows goes along", async () => {
    const subject = await stage.run("entity", "node-a", { ...QUICK, longEvents: 50 });
    const id = workloadWorkflowId(subject.name);
    // Of a life that is still to come: kept until then, over all runs between.
    await subject.handle.signal("ended", { node: "node-b", epoch: 2, exitCode: 5 });
    let asked = 0;
    await until(
      async () => {
        const started = await subject.migrate("node-b", { dryRun: true });
        asked += 1;
        // Comes while the last word of the migration does: the handler may outlast the operation.
        const cancelled = subject.handle.executeUpdate(UPDATE.cancel).catch(() => undefined);
        const { outcome } = (await subject.operation(started).result()) as MigrationReport;
        await cancelled;
        await subject.settled();
        assert.notEqual(outcome, "moved");
        return runsOf(stage.client, id);
      },
      (runs) => runs.length > 2,
    );
    const status = await subject.status();
    assert.deepEqual(
      { state: status.state, sequence: status.sequence, epoch: status.epoch, node: status.node },
      { state: "running", sequence: asked + 1, epoch: 1, node: "node-a" },
    );
    assert.equal((await subject.moveTo("node-b")).outcome, "moved");
    const ended = await until(
      () => subject.status(),
      (seen) => seen.state === "exited",
    );
    assert.equal(ended.exitCode, 5);
    assertShort(await runsOf(stage.client, id), 3);
    // Nodes that have held it are known in the last run: all of them forget it.
    await subject.handle.executeUpdate(UPDATE.remove, { args: [{ force: true, graceMs: 0 }] });
    for (const node of ["node-a", "node-b"]) assert.equal(stage.world.node(node).ledger.get(subject.name), undefined);
  });

  test("the entity of a node: questions at the same time are all answered, and its facts go along", async () => {
    const node = stage.client.workflow.getHandle(nodeWorkflowId("node-a"));
    const before = await node.executeUpdate<{ node: string }, [object]>(UPDATE.ask, { args: [{ ask: "describe" }] });
    const { since } = await node.query<NodeState>(QUERY.status);
    let answers = 0;
    while ((await runsOf(stage.client, nodeWorkflowId("node-a"))).length < 2) {
      const batch = Array.from({ length: 8 }, () =>
        node.executeUpdate<{ holds: unknown[] }, [object]>(UPDATE.ask, {
          args: [{ ask: "observe", workload: "long" }],
        }),
      );
      for (const { holds } of await Promise.all(batch)) assert.ok(Array.isArray(holds));
      answers += batch.length;
    }
    assert.ok(answers > 0);
    const state = await node.query<NodeState>(QUERY.status);
    assert.deepEqual({ since: state.since, node: state.facts?.node }, { since, node: before.node });
    assertShort(await runsOf(stage.client, nodeWorkflowId("node-a")), 2);
  });
});

/**
 * A workload that is idle is let go and sleeps; what comes for it wakes it, once, where it sleeps. Whoever else decides about it
 * meanwhile is not overruled by what comes late.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import pino from "pino";
import { connect, type FerryClient, type ScheduleListing } from "../../src/client/index.js";
import type { CheckpointReport } from "../../src/model/checkpoint-report.js";
import {
  UPDATE,
  WORKFLOW,
  type OperationStarted,
  type Restored,
  type RestoreRequest,
} from "../../src/model/messages.js";
import { WORKFLOW_TASK_QUEUE } from "../../src/model/names.js";
import type { IdleScaleInput, TickReport } from "../../src/model/schedules.js";
import type { WorkloadState } from "../../src/model/workload.js";
import { wakeSleepers } from "../../src/workers/waking.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { refusal, Stage, until, type Subject } from "./support.js";

const CRON = "0 0 1 1 *";
const NODES = ["node-a", "node-b"];

describe("sleep and wake", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  let ferry: FerryClient;
  const over = new AbortController();
  const wakers: Promise<void>[] = [];
  before(async () => {
    stage = await Stage.up(NODES);
    ferry = await connect({ address: stage.server.address });
    const log = pino({ level: "silent" });
    for (const node of NODES) wakers.push(wakeSleepers(stage.client, stage.agent(node), node, over.signal, log));
  });
  after(async () => {
    over.abort();
    await Promise.all(wakers);
    await ferry.close();
    await stage.down();
  });

  let ticks = 0;
  const tickOnly = (subject: Subject, more: Partial<IdleScaleInput> = {}): Promise<TickReport> => {
    const input = { workload: subject.name, idleMs: 60_000, cpuPercent: 1, wakeOnTraffic: true, ...more };
    return stage.client.workflow.execute<(input: IdleScaleInput) => Promise<TickReport>>(WORKFLOW.idle, {
      workflowId: `${subject.name}/idle-${(ticks += 1)}`,
      taskQueue: WORKFLOW_TASK_QUEUE,
      args: [input],
    });
  };
  const tick = async (subject: Subject, more: Partial<IdleScaleInput> = {}): Promise<TickReport> => {
    const report = await tickOnly(subject, more);
    if (report.outcome !== "gone") await subject.settled();
    return report;
  };
  const sleepNow = async (subject: Subject): Promise<CheckpointReport> => {
    const options = {
      stop: true,
      wakeOnTraffic: true,
      reason: "",
      requestedBy: "me",
      labels: {},
      maxBlackoutMs: 2_000,
    };
    const started = await subject.handle.executeUpdate<OperationStarted, [unknown]>(UPDATE.checkpoint, {
      args: [{ options }],
    });
    const report = (await subject.operation(started).result()) as CheckpointReport;
    await subject.settled();
    return report;
  };
  const restore = (subject: Subject, ask: RestoreRequest = {}) =>
    subject.handle.executeUpdate<Restored, [RestoreRequest]>(UPDATE.restore, { args: [ask] });
  const asleepOn = (node: string, { name }: Subject) => stage.world.node(node).asleep.get(name);
  const somethingComes = (node: string, subject: Subject): void => {
    const sleeper = asleepOn(node, subject);
    assert.ok(sleeper, "it sleeps there");
    sleeper.wanted = true;
  };
  const becomes = (subject: Subject, wanted: WorkloadState) =>
    until(
      () => subject.status(),
      ({ state, operation }) => state === wanted && operation === undefined,
    );
  const once = (subject: Subject, node: string): void => {
    assert.deepEqual(stage.world.violations, []);
    assert.deepEqual(stage.world.running(subject.name), [node]);
  };

  test("not idle: active; idle: it sleeps; asleep: skipped; what comes for it wakes it where it was", async () => {
    const subject = await stage.run();
    const node = stage.world.node("node-a");
    const active = await tick(subject);
    assert.equal(active.outcome, "active", active.message);
    assert.match(active.message, /not idle for 1m: its last packet was 0ms ago/);
    node.idleMs.set(subject.name, 60_000);
    const slept = await tick(subject);
    assert.equal(slept.outcome, "checkpointed", slept.message);
    assert.match(slept.message, /it sleeps, saved as/);
    const status = await subject.status();
    assert.deepEqual([status.state, status.node], ["sleeping", "node-a"]);
    assert.deepEqual(stage.world.copies(subject.name), []);
    const [made] = stage.world.stored.filter((each) => each.workload === subject.name);
    assert.equal(made !== undefined && "reason" in made && made.reason, "idle for 1m");
    const again = await tick(subject);
    assert.deepEqual([again.outcome, again.message], ["skipped", `${subject.name} is sleeping`]);
    await until(
      () => stage.client.workflow.count(`WorkflowId = 'workload/${subject.name}' AND FerryState = 'sleeping'`),
      ({ count }) => count === 1,
    );
    somethingComes("node-a", subject);
    const woken = await becomes(subject, "running");
    assert.equal(woken.node, "node-a");
    assert.equal(asleepOn("node-a", subject), undefined);
    once(subject, "node-a");
    const restores = stage.world.calls.filter((c) => c.verb === "restoreWorkload" && c.workload === subject.name);
    assert.equal(restores.length, 1);
  });

  test("something comes between the question and the end of the freeze: it runs on, and nothing was saved", async () => {
    const subject = await stage.run();
    const node = stage.world.node("node-a");
    node.idleMs.set(subject.name, 60_000);
    node.disturbed.add(subject.name);
    const report = await tick(subject);
    assert.equal(report.outcome, "active", report.message);
    assert.match(report.message, /something came for it/);
    assert.equal((await subject.status()).state, "running");
    assert.deepEqual(
      stage.world.stored.filter((each) => each.workload === subject.name),
      [],
    );
    // One that is to go whatever comes is woken at once.
    assert.equal((await sleepNow(subject)).state, "sleeping");
    await becomes(subject, "running");
    once(subject, "node-a");
  });

  test("without waking it is checkpointed; a node that is away, a workload that is busy or gone", async () => {
    const subject = await stage.run();
    stage.world.node("node-a").idleMs.set(subject.name, 60_000);
    assert.equal((await tick(subject, { wakeOnTraffic: false })).outcome, "checkpointed");
    assert.equal((await subject.status()).state, "checkpointed");
    assert.equal(asleepOn("node-a", subject), undefined);
    await restore(subject);
    const go = stage.hold("save:frozen", subject.name);
    const handle = await ferry.workloads.get(subject.name).checkpoint();
    const busy = await tickOnly(subject);
    assert.deepEqual([busy.outcome, /is busy: .*checkpoint/.test(busy.message)], ["skipped", true], busy.message);
    go();
    await handle.result();
    await subject.settled();
    stage.world.order({ node: "node-a", verb: "idleWorkload", when: "before", times: 1, workload: subject.name });
    assert.equal((await tick(subject)).outcome, "unknown");
    await subject.handle.executeUpdate(UPDATE.remove, { args: [{ force: true, graceMs: 0 }] });
    assert.equal((await tick(subject)).outcome, "gone");
  });

  test("stopped or removed while it sleeps: it is not woken, and its node holds nothing of it", async () => {
    const subject = await stage.run();
    await sleepNow(subject);
    const { epoch } = await subject.status();
    await subject.handle.executeUpdate(UPDATE.stop, { args: [{ graceMs: 0 }] });
    assert.equal((await subject.status()).state, "stopped");
    assert.equal(asleepOn("node-a", subject), undefined);
    const late = await refusal(() => restore(subject, { wake: { node: "node-a", epoch } }));
    assert.equal(late.code, "E_STATE");
    assert.match(late.message, /does not sleep on node-a under epoch 1: it is stopped/);
    await restore(subject);
    await sleepNow(subject);
    await subject.handle.executeUpdate(UPDATE.remove, { args: [{ force: false, graceMs: 0 }] });
    assert.equal(asleepOn("node-a", subject), undefined);
    assert.deepEqual(stage.world.copies(subject.name), []);
  });

  test("restored elsewhere: its address is let go first; a node that is back with an old word does not wake it", async () => {
    const subject = await stage.run();
    await sleepNow(subject);
    const { epoch } = await subject.status();
    stage.world.at("restore:begun", () => assert.equal(asleepOn("node-a", subject), undefined), subject.name);
    assert.equal((await restore(subject, { node: "node-b" })).node, "node-b");
    once(subject, "node-b");
    // As a node that was switched off meanwhile would read it in its journal.
    stage.world.node("node-a").asleep.set(subject.name, { epoch, wanted: true });
    await until(
      () => asleepOn("node-a", subject),
      (sleeper) => sleeper === undefined,
    );
    once(subject, "node-b");
  });

  test("its node does not let go: not restored elsewhere, it sleeps on; the restore elsewhere fails: it sleeps no more", async () => {
    const subject = await stage.run();
    await sleepNow(subject);
    stage.world.order({ node: "node-a", verb: "stopWorkload", when: "before", times: 3, workload: subject.name });
    assert.equal((await refusal(() => restore(subject, { node: "node-b" }))).code, "E_AGENT_DOWN");
    assert.equal((await subject.status()).state, "sleeping");
    const failure = { code: "E_RESTORE", message: "criu could not" } as const;
    stage.world.order({ node: "node-b", verb: "restoreWorkload", when: "before", times: 1, failure });
    await refusal(() => restore(subject, { node: "node-b" }));
    const status = await subject.status();
    assert.deepEqual([status.state, asleepOn("node-a", subject)], ["checkpointed", undefined]);
    await restore(subject);
    once(subject, "node-a");
  });

  test("it can't be restored: it sleeps on and says why, and is tried again; an answer that is lost is asked for again", async () => {
    const subject = await stage.run();
    await sleepNow(subject);
    const failure = { code: "E_RESTORE", message: "criu could not" } as const;
    const fault = { node: "node-a", verb: "restoreWorkload", workload: subject.name } as const;
    stage.world.order({ ...fault, when: "before", times: 2, failure });
    somethingComes("node-a", subject);
    const seen = await until(
      () => subject.status(),
      ({ problem }) => problem !== undefined,
    );
    assert.match(seen.problem ?? "", /criu could not/);
    await becomes(subject, "running");
    once(subject, "node-a");
    for (const when of ["before", "after"] as const) {
      await sleepNow(subject);
      stage.world.order({ ...fault, when, times: 3 });
      somethingComes("node-a", subject);
      await becomes(subject, "running");
      once(subject, "node-a");
    }
  });

  test("a storm: many that are wanted at once are woken one after the other, each once", async () => {
    const subjects: Subject[] = [];
    for (let i = 0; i < 6; i += 1) subjects.push(await stage.run());
    await Promise.all(subjects.map(sleepNow));
    for (const subject of subjects) somethingComes("node-a", subject);
    for (const subject of subjects) {
      await becomes(subject, "running");
      const restores = stage.world.calls.filter((c) => c.verb === "restoreWorkload" && c.workload === subject.name);
      assert.equal(restores.length, 1);
      once(subject, "node-a");
    }
  });

  test("by schedules: idle, by the clock, until traffic; asked again it is changed, and what is left out goes", async () => {
    const subject = await stage.run();
    const ids = (all: { schedule: ScheduleListing }[]) => all.map(({ schedule: { id } }) => id.split("/")[0]);
    const made = await ferry.schedules.scaleDown(subject.name, { idleMs: 900_000, wakeOnTraffic: true });
    assert.deepEqual(ids(made), ["idle"]);
    const [{ schedule } = assert.fail()] = made;
    assert.deepEqual(
      [schedule.idleMs, schedule.cpuPercent, schedule.wakeOnTraffic, schedule.paused],
      [900_000, 1, true, false],
    );
    const { last } = await until(
      () => ferry.schedules.get(`idle/${subject.name}`),
      (seen) => seen.last?.outcome !== undefined,
    );
    assert.equal(last?.outcome, "active", last?.message);
    const same = await ferry.schedules.scaleDown(subject.name, { idleMs: 900_000, wakeOnTraffic: true });
    assert.deepEqual([same[0]?.outcome, same[0]?.changes], ["unchanged", []]);
    const both = await ferry.schedules.scaleDown(subject.name, {
      idleMs: 600_000,
      cpuPercent: 2,
      cron: CRON,
      wake: CRON,
    });
    assert.deepEqual(ids(both), ["scale-down", "idle", "wake"]);
    assert.deepEqual(both[1]?.changes, ["idle: 10m, was 15m", "cpu percent: 2, was 1", "wake on traffic: no, was yes"]);
    const [cron] = await ferry.schedules.scaleDown(subject.name, { cron: CRON, wakeOnTraffic: true });
    assert.deepEqual(cron?.changes, ["wake on traffic: yes, was no", "idle: none any more", "wake: none any more"]);
    const left = await ferry.schedules.list({ workload: subject.name });
    assert.deepEqual(
      left.map(({ id }) => id),
      [`scale-down/${subject.name}`],
    );
    await new Promise((resolve) => setTimeout(resolve, 1_050));
    await ferry.schedules.trigger(`scale-down/${subject.name}`);
    await becomes(subject, "sleeping");
    await ferry.workloads.get(subject.name).remove();
    assert.deepEqual(await ferry.schedules.list({ workload: subject.name }), []);
  });
});

/**
 * Schedules: a tick asks the entity as a person would. A workload is saved and older checkpoints go; what is busy or does not
 * run is left alone; of one that is gone nothing is left.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { connect, FerryError, type FerryClient, type ScheduleListing } from "../../src/client/index.js";
import { isBroken } from "../../src/model/checkpoint-choice.js";
import { UPDATE } from "../../src/model/messages.js";
import type { TickReport } from "../../src/model/schedules.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { Stage, until, type Subject } from "./support.js";

const NEVER = 31 * 86_400_000;
/** Not before the new year. */
const CRON = "0 0 1 1 *";

describe("schedules", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  let ferry: FerryClient;
  before(async () => {
    stage = await Stage.up(["node-a", "node-b"]);
    ferry = await connect({ address: stage.server.address });
  });
  after(async () => {
    await ferry.close();
    await stage.down();
  });

  const stored = (subject: Subject) =>
    stage.world.stored.flatMap((each) => (each.workload === subject.name && !isBroken(each) ? [each] : []));
  /** Waits for the tick after `but`, and how it ended. */
  const ticked = async (id: string, but?: string): Promise<TickReport> => {
    const { last } = await until(
      () => ferry.schedules.get(id),
      (seen: ScheduleListing) => seen.last !== undefined && seen.last.workflowId !== but,
    );
    const report = (await stage.client.workflow.getHandle(last?.workflowId ?? "").result()) as TickReport;
    if (report.outcome !== "gone") await untilSettled(report.workload);
    return report;
  };
  const untilSettled = (name: string) =>
    until(
      () => ferry.workloads.get(name).status(),
      ({ operation }) => operation === undefined,
    );
  const tick = async (id: string): Promise<TickReport> => {
    const { last } = await ferry.schedules.get(id);
    // Temporal names a run by its second.
    await new Promise((resolve) => setTimeout(resolve, 1_050));
    await ferry.schedules.trigger(id);
    return ticked(id, last?.workflowId);
  };
  const refused = async (code: string, pattern: RegExp, act: () => Promise<unknown>): Promise<void> => {
    const caught: unknown = await act().then(
      () => undefined,
      (error: unknown) => error,
    );
    assert.ok(caught instanceof FerryError, String(caught));
    assert.equal(caught.code, code, caught.message);
    assert.match(caught.message, pattern);
  };

  test("protected: saved at once and at each tick, older ones go, what is pinned stays; the schedule says how it went", async () => {
    const subject = await stage.run();
    const id = `protect/${subject.name}`;
    const { outcome, schedule } = await ferry.schedules.protect(subject.name, { everyMs: NEVER, keep: 2 });
    assert.deepEqual([outcome, schedule.id, schedule.everyMs, schedule.retention], ["created", id, NEVER, { keep: 2 }]);
    const first = await ticked(id);
    assert.deepEqual([first.outcome, first.pruned], ["saved", []], first.message);
    const [made] = stored(subject);
    assert.equal(made?.id, first.checkpoint);
    assert.deepEqual([made?.reason, made?.requestedBy], ["protected every 31d", `schedule ${id}`]);
    await ferry.checkpoints.pin(subject.name, made?.id ?? "");
    const second = await tick(id);
    await tick(id);
    const fourth = await tick(id);
    assert.deepEqual([fourth.outcome, fourth.pruned], ["saved", [second.checkpoint]], fourth.message);
    assert.match(fourth.message, /; 1 older removed$/);
    assert.equal(stored(subject).length, 3, "two, and the pinned one");
    const seen = await ferry.schedules.get(id);
    assert.deepEqual([seen.last?.outcome, seen.last?.message], ["saved", fourth.message]);
    assert.ok(seen.next !== undefined && seen.next.getTime() > Date.now());
    const { schedules } = await ferry.workloads.get(subject.name).inspect();
    assert.deepEqual(
      schedules?.map((each) => each.id),
      [id],
    );
    const { status } = await stage.client.workflow.getHandle(seen.last?.workflowId ?? "").describe();
    assert.equal(status.name, "COMPLETED");
    const shown = await stage.client.schedule.getHandle(id).describe();
    assert.deepEqual(shown.searchAttributes["FerryWorkload"], [subject.name]);
    assert.equal((await untilSettled(subject.name)).state, "running");
  });

  test("busy, stopped, let go: skipped, and said; it is not started for it", async () => {
    const subject = await stage.run();
    const id = `protect/${subject.name}`;
    const go = stage.hold("save:frozen", subject.name);
    const handle = await ferry.workloads.get(subject.name).checkpoint();
    await ferry.schedules.protect(subject.name, { everyMs: NEVER, keep: 3 });
    const { last } = await until(
      () => ferry.schedules.get(id),
      (seen) => seen.last?.outcome !== undefined,
    );
    assert.equal(last?.outcome, "skipped");
    assert.match(last?.message ?? "", /checkpoint\.\d+ is under way/);
    go();
    await handle.result();
    await ferry.workloads.get(subject.name).stop({ graceMs: 0 });
    const stopped = await tick(id);
    assert.equal(stopped.outcome, "skipped");
    assert.match(stopped.message, /is stopped: only what runs can be saved/);
    assert.equal(stored(subject).length, 1);
    assert.equal((await subject.status()).state, "stopped");
  });

  test("no store: failed, it runs on, and the next tick tries again", async () => {
    const subject = await stage.run();
    const id = `protect/${subject.name}`;
    stage.world.node("node-a").hasStore = false;
    await ferry.schedules.protect(subject.name, { everyMs: NEVER, keep: 3 });
    const failed = await ticked(id);
    assert.equal(failed.outcome, "failed");
    assert.match(failed.message, /has no store/);
    stage.world.node("node-a").hasStore = true;
    assert.equal((await tick(id)).outcome, "saved");
  });

  test("its node falls silent: unknown, the tick does not wait for it", async () => {
    const subject = await stage.run();
    const id = `protect/${subject.name}`;
    stage.world.at("save:frozen", () => stage.lose("node-a"), subject.name);
    await ferry.schedules.protect(subject.name, { everyMs: NEVER, keep: 3 });
    const { last } = await until(
      () => ferry.schedules.get(id),
      (seen) => seen.last?.outcome !== undefined,
    );
    assert.equal(last?.outcome, "unknown", last?.message);
    const doubt = await tick(id);
    assert.equal(doubt.outcome, "skipped");
    assert.match(doubt.message, /nobody knows yet how/);
    stage.agent("node-a").restart();
    await stage.startNode("node-a");
    await until(
      () => subject.status(),
      ({ state }) => state === "running",
    );
    assert.equal((await tick(id)).outcome, "saved");
  });

  test("its worker goes in the middle: the next one waits for the same checkpoint", async () => {
    const subject = await stage.run();
    const id = `protect/${subject.name}`;
    const go = stage.hold("save:frozen", subject.name);
    await ferry.schedules.protect(subject.name, { everyMs: NEVER, keep: 3 });
    await until(
      () => subject.status(),
      ({ state }) => state === "checkpointing",
    );
    try {
      await stage.workers.stopWorkflows();
      await stage.workers.startWorkflows();
    } finally {
      go();
    }
    const report = await ticked(id);
    assert.deepEqual([report.outcome, stored(subject).length], ["saved", 1], report.message);
  });

  test("again: the same is no change; another interval and retention are, and are named; paused stays paused", async () => {
    const subject = await stage.run();
    const id = `protect/${subject.name}`;
    await ferry.schedules.protect(subject.name, { everyMs: NEVER, keep: 12 });
    await ticked(id);
    const same = await ferry.schedules.protect(subject.name, { everyMs: NEVER, keep: 12 });
    assert.deepEqual([same.outcome, same.changes], ["unchanged", []]);
    await ferry.schedules.pause(id, "a test");
    const changed = await ferry.schedules.protect(subject.name, { everyMs: 86_400_000, olderThanMs: 604_800_000 });
    assert.equal(changed.outcome, "changed");
    assert.deepEqual(changed.changes, ["every: 1d, was 31d", "keep: none, was 12", "older than: 7d, was none"]);
    assert.deepEqual([changed.schedule.paused, changed.schedule.note], [true, "a test"]);
    await ferry.schedules.resume(id);
    assert.equal((await ferry.schedules.get(id)).paused, false);
    const listed = await until(
      () => ferry.schedules.list(),
      (all) => all.some((each) => each.id === id),
    );
    assert.equal(listed.find((each) => each.id === id)?.everyMs, 86_400_000);
    assert.equal(stored(subject).length, 1, "a change is no tick");
  });

  test("removed with it; and one that is gone otherwise loses its schedules with the next tick", async () => {
    const subject = await stage.run();
    await ferry.schedules.protect(subject.name, { everyMs: NEVER, keep: 2 });
    await ferry.schedules.scaleDown(subject.name, { cron: CRON, wake: CRON });
    await ticked(`protect/${subject.name}`);
    assert.equal((await ferry.schedules.list({ workload: subject.name })).length, 3);
    await ferry.workloads.get(subject.name).remove({ force: true });
    assert.deepEqual(await ferry.schedules.list({ workload: subject.name }), []);

    const gone = await stage.run();
    const id = `protect/${gone.name}`;
    await ferry.schedules.protect(gone.name, { everyMs: NEVER, keep: 2 });
    await ferry.schedules.scaleDown(gone.name, { cron: CRON });
    await ticked(id);
    await gone.handle.executeUpdate(UPDATE.remove, { args: [{ force: true, graceMs: 0 }] });
    await new Promise((resolve) => setTimeout(resolve, 1_050));
    await ferry.schedules.trigger(id);
    assert.deepEqual(
      await until(
        () => ferry.schedules.list({ workload: gone.name }),
        (left) => left.length === 0,
      ),
      [],
    );
    const query = `FerryWorkload = '${gone.name}' AND FerryState = 'gone'`;
    await until(
      () => stage.client.workflow.count(query),
      ({ count }) => count === 1,
    );
  });

  test("scaled down, and woken; what a person has stopped is not woken; without wake none is left", async () => {
    const subject = await stage.run();
    const [down, wake] = [`scale-down/${subject.name}`, `wake/${subject.name}`];
    const made = await ferry.schedules.scaleDown(subject.name, {
      cron: CRON,
      wake: "0 7 1 1 *",
      timezone: "Europe/Berlin",
    });
    assert.deepEqual(
      made.map(({ schedule: { id, cron, timezone } }) => [id, cron, timezone]),
      [
        [down, CRON, "Europe/Berlin"],
        [wake, "0 7 1 1 *", "Europe/Berlin"],
      ],
    );
    assert.equal(stored(subject).length, 0, "it waits for its time");
    assert.equal((await tick(wake)).outcome, "skipped");
    const letGo = await tick(down);
    assert.equal(letGo.outcome, "checkpointed", letGo.message);
    assert.equal((await subject.status()).state, "checkpointed");
    assert.deepEqual(stage.world.running(subject.name), []);
    assert.equal((await tick(down)).outcome, "skipped");
    const woken = await tick(wake);
    assert.deepEqual([woken.outcome, woken.checkpoint], ["restored", letGo.checkpoint], woken.message);
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
    await ferry.workloads.get(subject.name).stop({ graceMs: 0 });
    const left = await tick(wake);
    assert.equal(left.outcome, "skipped");
    assert.match(left.message, /is stopped: only what was checkpointed is woken/);
    const [changed] = await ferry.schedules.scaleDown(subject.name, { cron: CRON });
    assert.deepEqual(
      [changed?.outcome, changed?.changes],
      ["changed", ["timezone: UTC, was Europe/Berlin", "wake: none any more"]],
    );
    assert.deepEqual(
      (await ferry.schedules.list({ workload: subject.name })).map(({ id }) => id),
      [down],
    );
    await ferry.schedules.remove(down);
    await refused("E_STATE", /there is no schedule scale-down/, () => ferry.schedules.remove(down));
    assert.deepEqual(stage.world.violations, []);
  });

  test("refused in words: no such workload, too often, nothing that goes, times that are none", async () => {
    const subject = await stage.run();
    const { name } = subject;
    await refused("E_WORKLOAD_UNKNOWN", /no workload nobody/, () =>
      ferry.schedules.protect("nobody", { everyMs: NEVER, keep: 1 }),
    );
    await refused("E_REQUEST", /at least 10 s/, () => ferry.schedules.protect(name, { everyMs: 9_999, keep: 1 }));
    await refused("E_REQUEST", /one of keep, olderThanMs/, () => ferry.schedules.protect(name, { everyMs: NEVER }));
    await refused("E_REQUEST", /not a cron expression/, () => ferry.schedules.scaleDown(name, { cron: "soon" }));
    await refused("E_REQUEST", /99|hour|range/i, () => ferry.schedules.scaleDown(name, { cron: "0 99 * * *" }));
    await refused("E_REQUEST", /Nowhere/, () =>
      ferry.schedules.scaleDown(name, { cron: CRON, timezone: "Nowhere/At-All" }),
    );
    await refused("E_REQUEST", /not the id of a schedule/, () => ferry.schedules.pause("web"));
    assert.deepEqual(await ferry.schedules.list({ workload: name }), []);
  });
});

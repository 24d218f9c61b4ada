/**
 * What does not run is run from a checkpoint: on any node, under an epoch that nobody has seen, and only when every node has
 * said that it has no copy of it. A clone is a new workload from the checkpoint of another.
 */
import assert from "node:assert/strict";
import { WithStartWorkflowOperation } from "@temporalio/client";
import { after, before, describe, test } from "node:test";
import type { CheckpointReport } from "../../src/model/checkpoint-report.js";
import type { StoredCheckpoint } from "../../src/model/checkpoints.js";
import {
  UPDATE,
  WORKFLOW,
  type OperationStarted,
  type Restored,
  type RestoreRequest,
  type WorkloadInput,
} from "../../src/model/messages.js";
import { WORKFLOW_TASK_QUEUE, nodeWorkflowId, workloadWorkflowId } from "../../src/model/names.js";
import { broken } from "../../src/runtimes/simulated/checkpoints.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { QUICK, refusal, runsOf, specOf, Stage, Subject, until } from "./support.js";

describe("restore", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up(["node-a", "node-b", "node-c"], { silentAfterMs: 1_000, lostAfterMs: 2_000, steadyMs: 200 });
  });
  after(() => stage.down());

  const save = async (subject: Subject, stop = false): Promise<StoredCheckpoint> => {
    const options = { stop, reason: "", requestedBy: "me", labels: {}, maxBlackoutMs: 2_000 };
    const started = await subject.handle.executeUpdate<OperationStarted, [unknown]>(UPDATE.checkpoint, {
      args: [{ options }],
    });
    const { checkpoint, failure } = (await subject.operation(started).result()) as CheckpointReport;
    await subject.settled();
    assert.ok(checkpoint !== undefined, JSON.stringify(failure));
    return checkpoint;
  };
  const restore = (subject: Subject, ask: RestoreRequest = {}) =>
    subject.handle.executeUpdate<Restored, [RestoreRequest]>(UPDATE.restore, { args: [ask] });
  const clone = (of: string, name: string, ask: RestoreRequest = {}) =>
    stage.client.workflow.executeUpdateWithStart<
      (input: WorkloadInput) => Promise<unknown>,
      Restored,
      [RestoreRequest]
    >(UPDATE.restore, {
      args: [{ node: "node-a", clone: { spec: specOf(name), of }, ...ask }],
      startWorkflowOperation: new WithStartWorkflowOperation(WORKFLOW.workload, {
        workflowId: workloadWorkflowId(name),
        taskQueue: WORKFLOW_TASK_QUEUE,
        workflowIdConflictPolicy: "USE_EXISTING",
        args: [{ name, tuning: QUICK }],
      }),
    });
  const fence = (node: string) =>
    stage.client.workflow
      .getHandle(nodeWorkflowId(node))
      .executeUpdate(UPDATE.fence, { args: [{ evidence: "the plug is in my hand" }] });
  const back = async (node: string): Promise<void> => {
    stage.agent(node).restart();
    await stage.startNode(node);
  };
  const stop = (subject: Subject) => subject.handle.executeUpdate(UPDATE.stop, { args: [{ graceMs: 0 }] });
  const sound = (subject: Subject, node: string): void => {
    assert.deepEqual(stage.world.violations, []);
    assert.deepEqual(stage.world.running(subject.name), [node]);
  };

  test("called off: it is as it was before, and can be restored again", async () => {
    const subject = await stage.run();
    await save(subject, true);
    const before = await subject.status();
    assert.equal((await refusal(() => subject.handle.executeUpdate(UPDATE.cancel))).code, "E_STATE");
    let go = (): void => undefined;
    const gate = new Promise<void>((resolve) => (go = resolve));
    let begun = false;
    stage.world.at(
      "restore:begun",
      async () => {
        begun = true;
        await gate;
      },
      subject.name,
    );
    const restoring = refusal(() => restore(subject, { node: "node-b", lazy: true }));
    await until(
      () => begun,
      (is) => is,
    );
    const calling = subject.handle.executeUpdate(UPDATE.cancel);
    await until(
      () => stage.world.node("node-b").calledOff.has(subject.name),
      (is) => is,
    );
    go();
    await calling;
    assert.equal((await restoring).code, "E_CANCELLED");
    const status = await subject.status();
    assert.deepEqual([status.state, status.node, status.operation], ["checkpointed", before.node, undefined]);
    assert.deepEqual(stage.world.running(subject.name), []);
    assert.equal((await restore(subject, { node: "node-b" })).node, "node-b");
    sound(subject, "node-b");
  });

  test("where it was, and on another node: the newest, one by id, one by time", async () => {
    const subject = await stage.run();
    const [one, two] = [await save(subject), await save(subject, true)];
    const here = await restore(subject);
    assert.deepEqual([here.node, here.checkpoint, here.planned], ["node-a", two.id, false]);
    assert.ok(here.epoch > 3, "the epochs that were kept for the checkpoints are spent");
    assert.match(here.message, new RegExp(`under epoch ${here.epoch}, from checkpoint ${two.id}: as it was at`));
    const status = await subject.status();
    assert.deepEqual([status.state, status.node, status.epoch], ["running", "node-a", here.epoch]);
    sound(subject, "node-a");

    await stop(subject);
    const there = await restore(subject, { node: "node-b", checkpoint: one.id });
    assert.deepEqual([there.node, there.checkpoint], ["node-b", one.id]);
    sound(subject, "node-b");
    await stop(subject);
    assert.equal((await restore(subject, { at: two.takenAt - 1 })).checkpoint, one.id);
    assert.equal((await subject.moveTo("node-c")).outcome, "moved");
    // All that have held it forget it.
    await subject.handle.executeUpdate(UPDATE.remove, { args: [{ force: true, graceMs: 0 }] });
    for (const node of ["node-a", "node-b", "node-c"]) {
      assert.equal(stage.world.node(node).ledger.get(subject.name), undefined);
    }
  });

  test("a dry run says what it would do, and changes nothing", async () => {
    const subject = await stage.run();
    const { id } = await save(subject, true);
    const before = await subject.status();
    const plan = await restore(subject, { node: "node-b", dryRun: true });
    assert.deepEqual([plan.planned, plan.node, plan.checkpoint], [true, "node-b", id]);
    assert.match(plan.message, /would run on node-b/);
    assert.deepEqual(await subject.status(), before);
    assert.deepEqual(stage.world.copies(subject.name), []);
    const bad = await refusal(() => restore(subject, { dryRun: true, checkpoint: "nope" }));
    assert.equal(bad.code, "E_CHECKPOINT_UNKNOWN");
    assert.deepEqual(await subject.status(), before);
  });

  test("refused while it runs, without a checkpoint, for one that is broken, too old a time, a node that can't read it", async () => {
    const subject = await stage.run();
    const running = await refusal(() => restore(subject));
    assert.equal(running.code, "E_STATE");
    assert.match(running.remedy ?? "", /ferry stop .*ferry clone/);
    await stop(subject);
    const none = await refusal(() => restore(subject));
    assert.equal(none.code, "E_NO_CHECKPOINT");
    assert.equal((await subject.status()).state, "stopped");
    await subject.start("node-a");
    const made = await save(subject);
    stage.world.stored.push(broken(subject.name, "20260101T000000Z-bad"));
    await stop(subject);
    const bad = await refusal(() => restore(subject, { checkpoint: "20260101T000000Z-bad" }));
    assert.equal(bad.code, "E_STORE_CORRUPT");
    assert.match(bad.cause?.message ?? "", /digest/);
    assert.equal((await refusal(() => restore(subject, { at: 5 }))).code, "E_CHECKPOINT_UNKNOWN");
    assert.equal((await refusal(() => restore(subject, { node: "nowhere" }))).code, "E_NODE_UNKNOWN");
    made.nodes = ["node-c"];
    Object.assign(stage.world.stored.find(({ id }) => id === made.id) ?? {}, { nodes: ["node-c"] });
    const unread = await refusal(() => restore(subject));
    assert.match(unread.remedy ?? "", /on node-c/);
    for (const ask of [{ checkpoint: "../x" }, { at: 1.5 }, { checkpoint: made.id, at: 5 }, { node: "A" }]) {
      assert.ok(["E_REQUEST", "E_NAME"].includes((await refusal(() => restore(subject, ask))).code));
    }
    assert.deepEqual([(await subject.status()).state, stage.world.copies(subject.name)], ["stopped", []]);
    assert.equal((await restore(subject, { node: "node-c" })).checkpoint, made.id);
    sound(subject, "node-c");
  });

  test("a copy that another node holds, or a node that is silent, stands against it; a silent one may be named as off", async () => {
    const subject = await stage.run();
    await save(subject, true);
    const { name: workload } = subject;
    stage.world.node("node-c").journal({ workload, epoch: 90, state: "RESERVED", operation: `${workload}.migrate.9` });
    const open = await refusal(() => restore(subject));
    assert.match(open.message, /epoch 90 is RESERVED on node-c/);
    stage.world.node("node-c").journal({ workload, epoch: 90, state: "TOMBSTONE" });
    stage.world.crash("node-c");
    const silent = await refusal(() => restore(subject));
    assert.match(silent.message, /node-c can't say whether it has a copy/);
    assert.match(silent.remedy ?? "", /ferry fence.*--off/);
    assert.equal((await subject.status()).state, "checkpointed");
    const only = await refusal(() => restore(subject, { off: ["node-c"] }));
    assert.match(only.message, /node-c is not off, it only does not say what it has/);
    await stage.lose("node-c");
    const unfenced = await until(
      () => refusal(() => restore(subject, { off: ["node-c"] })),
      ({ message }) => !message.includes("only does not say"),
    );
    assert.match(unfenced.message, /node-c does not answer, and nobody has fenced it/);
    assert.match(
      (await refusal(() => restore(subject, { off: ["node-c"], dryRun: true }))).message,
      /nobody has fenced/,
    );
    assert.deepEqual([(await subject.status()).state, stage.world.copies(workload)], ["checkpointed", []]);
    await fence("node-c");
    const restored = await restore(subject, { off: ["node-c"] });
    assert.equal(restored.node, "node-a");
    sound(subject, "node-a");
    // It is told, and refuses for ever what it may have been asked for then.
    const { sequence } = await subject.status();
    await back("node-c");
    await stage.client.workflow.getHandle(`${workload}/restore/${sequence}/supersede/node-c`).result();
    sound(subject, "node-a");
    await stop(subject);
    assert.equal((await restore(subject)).epoch, 91, "later than any that anybody has seen");
  });

  test("the machine was not off, and has a copy that nobody knew of: killed as soon as it is reached", async () => {
    const subject = await stage.run();
    await save(subject, true);
    await stage.lose("node-c");
    const { name: workload } = subject;
    const node = stage.world.node("node-c");
    node.journal({ workload, epoch: 2, state: "OWNER", operation: `${workload}.start.9` });
    await until(
      () => refusal(() => restore(subject, { off: ["node-c"] })),
      ({ message }) => message.includes("nobody has fenced it"),
    );
    await fence("node-c");
    const { epoch } = await restore(subject, { off: ["node-c"] });
    assert.ok(epoch > 2);
    stage.world.set(node, { workload, epoch: 2, state: "running" });
    stage.world.violations.length = 0;
    await back("node-c");
    await until(
      () => [stage.world.running(workload).join(), node.hold(workload, 2)?.state],
      (seen) => seen.join() === "node-a,SUPERSEDED",
    );
  });

  test("connections go on only with the checkpoint that it was let go with, if nothing of it has run since", async () => {
    const asked = (workload: string) =>
      stage.world.restores.findLast(({ ref }) => ref.workload === workload)?.letGoWith;
    const subject = await stage.run();
    const running = await save(subject);
    const { id } = await save(subject, true);
    // Refused by the node before anything of it could run: the journals know that.
    const failure = { code: "E_RESTORE", message: "criu said no", node: "node-b" } as const;
    const fault = { verb: "restoreWorkload", times: 1, workload: subject.name } as const;
    stage.world.order({ ...fault, node: "node-b", when: "before", failure });
    await refusal(() => restore(subject, { node: "node-b" }));
    await restore(subject, { node: "node-b" });
    assert.equal(asked(subject.name), id);
    // It has run since.
    await stop(subject);
    await restore(subject, { checkpoint: id });
    assert.equal(asked(subject.name), undefined);
    await stop(subject);
    await restore(subject, { checkpoint: running.id });
    assert.equal(asked(subject.name), undefined);
  });

  test("it was to be let go and ran on, or a restore of it ran and was swept: its connections belong to the past", async () => {
    const asked = (workload: string) =>
      stage.world.restores.findLast(({ ref }) => ref.workload === workload)?.letGoWith;
    const ranOn = await stage.run();
    const made = await save(ranOn);
    await stop(ranOn);
    assert.equal((await ranOn.status()).epoch, made.epoch);
    await restore(ranOn);
    assert.equal(asked(ranOn.name), undefined);

    const swept = await stage.run();
    const { id } = await save(swept, true);
    const failure = { code: "E_RESTORE", message: "it ended while its pages were coming", node: "node-b" } as const;
    const fault = { verb: "restoreWorkload", when: "after", times: 1, workload: swept.name, failure } as const;
    stage.world.order({ ...fault, node: "node-b" });
    const node = stage.world.node("node-b");
    await refusal(() => restore(swept, { node: "node-b" }));
    // It says no, and owns it: somebody else's call may have come since.
    assert.equal((await swept.status()).state, "in-doubt");
    const epoch = Math.max(...(node.ledger.get(swept.name)?.keys() ?? []));
    node.journal({ workload: swept.name, epoch, state: "STOPPED" });
    stage.world.drop(node, swept.name, epoch);
    assert.equal((await restore(swept)).checkpoint, id);
    assert.equal(asked(swept.name), undefined);
  });

  test("the node that let it go is off for good: its entity remembers with which checkpoint", async () => {
    const subject = await stage.run("remembered", "node-a", { ...QUICK, longEvents: 50 });
    const { id } = await save(subject, true);
    while ((await runsOf(stage.client, workloadWorkflowId(subject.name))).length < 2) {
      await restore(subject, { dryRun: true });
    }
    await stage.lose("node-a");
    await until(
      () => refusal(() => restore(subject, { node: "node-b", off: ["node-a"] })),
      ({ message }) => message.includes("nobody has fenced it"),
    );
    await fence("node-a");
    await restore(subject, { node: "node-b", off: ["node-a"] });
    assert.equal(stage.world.restores.at(-1)?.letGoWith, id);
    await back("node-a");
    sound(subject, "node-b");
  });

  test("the last epoch is the newest, whatever the clocks say, and by a time it is said that the clocks have chosen", async () => {
    const subject = await stage.run();
    const one = await save(subject, true);
    await restore(subject);
    const two = await save(subject, true);
    assert.ok(two.epoch > one.epoch);
    // A node that had been given up has stored later what it still ran.
    const late = { ...one, id: "29990101T000000Z-late", takenAt: two.takenAt + 60_000 };
    stage.world.stored.push(late);
    const byTime = await restore(subject, { at: late.takenAt, dryRun: true });
    assert.equal(byTime.checkpoint, late.id);
    assert.match(byTime.message, new RegExp(`the newest by then, by the clock alone \\(epoch ${one.epoch}\\)`));
    assert.equal((await restore(subject)).checkpoint, two.id);
    sound(subject, "node-a");
  });

  test("it fails on the node: as it was before, and may be asked for again", async () => {
    const subject = await stage.run();
    await save(subject, true);
    const failure = { code: "E_RESTORE", message: "criu said no", node: "node-b" } as const;
    const fault = {
      node: "node-b",
      verb: "restoreWorkload",
      when: "before",
      times: 1,
      workload: subject.name,
    } as const;
    stage.world.order({ ...fault, failure });
    assert.equal((await refusal(() => restore(subject, { node: "node-b" }))).code, "E_RESTORE");
    const status = await subject.status();
    assert.deepEqual([status.state, status.node, status.operation], ["checkpointed", "node-a", undefined]);
    assert.match(status.problem ?? "", /criu said no/);
    // A call of then that still hangs somewhere never begins it.
    const holds = [...(stage.world.node("node-b").ledger.get(subject.name)?.values() ?? [])];
    assert.deepEqual(
      holds.map(({ state, operation }) => [state, operation]),
      [["TOMBSTONE", `${subject.name}.restore.${status.sequence}`]],
    );
    assert.equal((await restore(subject, { node: "node-b" })).node, "node-b");
    sound(subject, "node-b");
  });

  test("the agent or the worker dies meanwhile and comes back: it runs once", async () => {
    const subject = await stage.run();
    await save(subject, true);
    stage.world.at("restore:begun", () => {
      stage.world.crash("node-b");
      setTimeout(() => stage.agent("node-b").restart(), 250);
    });
    assert.equal((await restore(subject, { node: "node-b" })).node, "node-b");
    sound(subject, "node-b");
    await stop(subject);
    stage.world.at("restore:begun", async () => {
      void stage.workers.stopNode("node-b");
      setTimeout(() => void stage.startNode("node-b"), 500);
      await Promise.resolve();
    });
    assert.equal((await restore(subject)).node, "node-b");
    sound(subject, "node-b");
  });

  test("the agent is killed in the middle of a restore, and back soon: it runs, and nobody asks again", async () => {
    const subject = await stage.run();
    await save(subject, true);
    const die = (): void => {
      stage.world.crash("node-b");
      setTimeout(() => stage.agent("node-b").restart(), 700);
    };
    stage.world.at("restore:begun", die, subject.name);
    assert.equal((await restore(subject, { node: "node-b" })).node, "node-b");
    sound(subject, "node-b");
  });

  test("an answer that was lost leaves it in doubt: nothing else begins until it is asked again", async () => {
    const subject = await stage.run();
    const { id } = await save(subject, true);
    const answers = stage.loseAnswers("node-b", "restoreWorkload", subject.name);
    assert.equal((await refusal(() => restore(subject, { node: "node-b" }))).code, "E_AGENT_DOWN");
    answers();
    const doubt = await subject.status();
    assert.equal(doubt.state, "in-doubt");
    for (const act of [
      () => subject.migrate("node-c"),
      () => stop(subject),
      () => subject.handle.executeUpdate(UPDATE.recover, { args: [{ node: "node-c", acceptRollback: true }] }),
      () => subject.handle.executeUpdate(UPDATE.remove, { args: [{ force: true, graceMs: 0 }] }),
    ]) {
      const refused = await refusal(act);
      assert.match(refused.message, /may run on node-b: the answer to .*\.restore\.\d+ was lost/);
      assert.match(refused.remedy ?? "", /ferry restore .* --node node-b/);
    }
    // Asked for elsewhere: it runs there already.
    const again = await restore(subject, { node: "node-c" });
    assert.equal(again.node, "node-b");
    assert.match(again.message, /as was asked before/);
    const status = await subject.status();
    assert.deepEqual([status.state, status.node], ["running", "node-b"]);
    sound(subject, "node-b");

    await stop(subject);
    const itAnswers = stage.world.order({
      node: "node-b",
      verb: "restoreWorkload",
      when: "before",
      times: Infinity,
      workload: subject.name,
    });
    await refusal(() => restore(subject));
    itAnswers();
    const anew = await restore(subject);
    assert.deepEqual([anew.node, anew.checkpoint], ["node-b", id]);
    sound(subject, "node-b");
  });

  test("an attempt whose answer was lost is owned there, and its agent died before anything ran: asked again, it goes on", async () => {
    const subject = await stage.run();
    const { id } = await save(subject, true);
    const answers = stage.loseAnswers("node-b", "restoreWorkload", subject.name);
    await refusal(() => restore(subject, { node: "node-b" }));
    answers();
    const node = stage.world.node("node-b");
    const epoch = Math.max(...(node.ledger.get(subject.name)?.keys() ?? []));
    stage.world.drop(node, subject.name, epoch);
    assert.deepEqual(stage.world.running(subject.name), []);
    const again = await restore(subject, { node: "node-b" });
    assert.deepEqual([again.node, again.epoch], ["node-b", epoch]);
    assert.equal(node.ledger.get(subject.name)?.get(epoch)?.digest, id);
    sound(subject, "node-b");
  });

  test("its attempts are settled, and another can't begin: it is down, and no longer in doubt", async () => {
    const subject = await stage.run();
    await save(subject, true);
    const answers = stage.world.order({
      node: "node-b",
      verb: "restoreWorkload",
      when: "before",
      times: Infinity,
      workload: subject.name,
    });
    await refusal(() => restore(subject, { node: "node-b" }));
    answers();
    assert.equal((await subject.status()).state, "in-doubt");
    assert.equal((await refusal(() => restore(subject, { node: "node-b", at: 5 }))).code, "E_CHECKPOINT_UNKNOWN");
    assert.equal((await subject.status()).state, "stopped");
    assert.equal((await restore(subject, { node: "node-b" })).node, "node-b");
    sound(subject, "node-b");
  });

  test("the node is lost before it could answer: elsewhere only once it was fenced; the entity may go on in new runs meanwhile", async () => {
    const subject = await stage.run("doubtful", "node-a", { ...QUICK, longEvents: 50 });
    await save(subject, true);
    stage.world.at("restore:begun", () => stage.lose("node-b"), subject.name);
    await refusal(() => restore(subject, { node: "node-b" }));
    assert.equal((await subject.status()).state, "in-doubt");
    const unfenced = await refusal(() => restore(subject, { node: "node-a" }));
    assert.match(unfenced.message, /node-b does not answer, and nobody has fenced it/);
    while ((await runsOf(stage.client, workloadWorkflowId(subject.name))).length < 2) {
      await refusal(() => restore(subject, { node: "node-a" }));
    }
    assert.equal((await subject.status()).state, "in-doubt");
    await stage.client.workflow
      .getHandle(nodeWorkflowId("node-b"))
      .executeUpdate(UPDATE.fence, { args: [{ evidence: "the plug is in my hand" }] });
    const restored = await restore(subject, { node: "node-a", off: ["node-b"] });
    assert.equal(restored.node, "node-a");
    sound(subject, "node-a");
    stage.agent("node-b").restart();
    await stage.startNode("node-b");
    sound(subject, "node-a");
    // Told of it, so that it can't begin what it was asked for then.
    const epochs = () => [...(stage.world.node("node-b").ledger.get(subject.name)?.values() ?? [])];
    await until(epochs, (holds) => holds.some(({ state }) => state === "TOMBSTONE" || state === "SUPERSEDED"));
  });

  test("the machine was not off, whatever the person said: what it was asked to run before is killed when it is back", async () => {
    const subject = await stage.run();
    await save(subject, true);
    const answers = stage.loseAnswers("node-b", "restoreWorkload", subject.name);
    await refusal(() => restore(subject, { node: "node-b" }));
    answers();
    assert.deepEqual(stage.world.running(subject.name), ["node-b"]);
    await stage.lose("node-b");
    await until(
      () => refusal(() => restore(subject, { node: "node-a" })),
      ({ message }) => message.includes("nobody has fenced it"),
    );
    await stage.client.workflow
      .getHandle(nodeWorkflowId("node-b"))
      .executeUpdate(UPDATE.fence, { args: [{ evidence: "so I was told" }] });
    assert.equal((await restore(subject, { node: "node-a", off: ["node-b"] })).node, "node-a");
    // The world saw both: that is what a wrong word does, and why it is killed.
    stage.world.violations.length = 0;
    stage.agent("node-b").restart();
    await stage.startNode("node-b");
    await until(
      () => stage.world.running(subject.name),
      (nodes) => nodes.length === 1 && nodes[0] === "node-a",
    );
  });

  test("a clone: another name from the same checkpoint, beside the first; twice is refused; removed, it is gone", async () => {
    const subject = await stage.run();
    const { id } = await save(subject);
    const made = await clone(subject.name, "twin", { node: "node-b" });
    assert.deepEqual([made.node, made.checkpoint, made.epoch], ["node-b", id, 2]);
    const twin = new Subject(stage, "twin");
    const status = await twin.status();
    assert.deepEqual([status.state, status.name, status.spec.name], ["running", "twin", "twin"]);
    sound(subject, "node-a");
    sound(twin, "node-b");
    const twice = await refusal(() => clone(subject.name, "twin"));
    assert.equal(twice.code, "E_WORKLOAD_EXISTS");
    // What it is from then on is its own: its own checkpoints, too.
    assert.equal((await twin.moveTo("node-a")).outcome, "moved");
    await save(twin, true);
    assert.equal((await restore(twin)).node, "node-a");
    await twin.handle.executeUpdate(UPDATE.remove, { args: [{ force: true, graceMs: 0 }] });
    await twin.handle.result();
    sound(subject, "node-a");
  });

  test("a clone that comes to nothing leaves nothing", async () => {
    const subject = await stage.run();
    const none = await refusal(() => clone(subject.name, "never"));
    assert.equal(none.code, "E_NO_CHECKPOINT");
    await new Subject(stage, "never").handle.result();
    await save(subject);
    const failure = { code: "E_RESTORE", message: "criu said no", node: "node-a" } as const;
    stage.world.order({
      node: "node-a",
      verb: "restoreWorkload",
      when: "before",
      times: 1,
      workload: "never",
      failure,
    });
    assert.equal((await refusal(() => clone(subject.name, "never"))).code, "E_RESTORE");
    await new Subject(stage, "never").handle.result();
    const answers = stage.world.order({
      node: "node-a",
      verb: "restoreWorkload",
      when: "after",
      times: Infinity,
      workload: "never",
    });
    assert.equal((await refusal(() => clone(subject.name, "never"))).code, "E_AGENT_DOWN");
    answers();
    const never = new Subject(stage, "never");
    await until(
      () => never.status(),
      ({ state }) => state === "in-doubt",
    );
    const again = await clone(subject.name, "never");
    assert.match(again.message, /as was asked before/);
    sound(never, "node-a");
  });
});

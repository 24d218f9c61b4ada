/**
 * A node is lost with its workload: recovered elsewhere from the newest checkpoint, by a person's word, under an epoch that
 * nobody has seen. Refused wherever it could make two copies or lose what nobody has agreed to lose.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { UPDATE, type Recovered } from "../../src/model/messages.js";
import { nodeWorkflowId } from "../../src/model/names.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { QUICK, refusal, runsOf, specOf, Stage, Subject, until } from "./support.js";

describe("recover", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up(["node-a", "node-b", "node-c"], { silentAfterMs: 1_000, lostAfterMs: 2_000, steadyMs: 200 });
  });
  after(() => stage.down());

  const recover = (subject: Subject, node: string, acceptRollback = false) =>
    subject.handle.executeUpdate<Recovered, [unknown]>(UPDATE.recover, { args: [{ node, acceptRollback }] });
  const fence = (node: string) =>
    stage.client.workflow
      .getHandle(nodeWorkflowId(node))
      .executeUpdate(UPDATE.fence, { args: [{ evidence: "the plug is in my hand" }] });
  const lose = async (node: string, off = true): Promise<void> => {
    if (off) stage.world.powerOff(node);
    else stage.world.crash(node);
    await stage.workers.stopNode(node);
  };
  const back = async (node: string): Promise<void> => {
    stage.agent(node).restart();
    await stage.startNode(node);
  };
  const state = (node: string, subject: Subject, epoch: number) =>
    stage.world.node(node).hold(subject.name, epoch)?.state;
  const checkpoint = (subject: Subject, epoch: number, nodes?: string[]): void => {
    stage.world.checkpoints.set(subject.name, {
      id: "c7",
      workload: subject.name,
      epoch,
      takenAt: Date.now() - 90_000,
      where: "the simulated store",
      ...(nodes && { nodes }),
    });
  };

  test("refused until the node is silent, fenced, and the loss accepted; then it runs once, and the node that returns is superseded", async () => {
    const subject = await stage.run();
    const failure = { code: "E_RESTORE", message: "criu said no", node: "node-c" } as const;
    stage.world.order({ node: "node-c", verb: "takeOver", when: "before", times: 1, failure, workload: subject.name });
    assert.equal((await subject.moveTo("node-c")).outcome, "rolled-back");
    checkpoint(subject, 1);

    assert.match((await refusal(() => recover(subject, "node-a"))).message, /was on node-a/);
    const alive = await refusal(() => recover(subject, "node-b", true));
    assert.match(alive.message, /node-a answers: it is not lost/);
    assert.match(alive.remedy ?? "", /ferry migrate .* --to node-b/);

    await lose("node-a");
    const unfenced = await refusal(() => recover(subject, "node-b", true));
    assert.equal(unfenced.code, "E_STATE");
    assert.match(unfenced.message, /node-a does not answer, and nobody has fenced it/);
    await fence("node-a");
    const unasked = await refusal(() => recover(subject, "node-b"));
    assert.match(
      unasked.message,
      /newest checkpoint of .* is c7 \(the simulated store\): what it did after .* \(1 min \d+ s ago\) is lost/,
    );
    assert.match(unasked.remedy ?? "", /--accept-rollback/);
    assert.deepEqual(stage.world.copies(subject.name), []);
    assert.equal((await subject.status()).state, "running");

    // The node that has refused epoch 2 is away: the entity remembers that it was given out.
    await stage.workers.stopNode("node-c");
    const recovered = await recover(subject, "node-b", true);
    await stage.startNode("node-c");
    assert.deepEqual([recovered.node, recovered.epoch], ["node-b", 3]);
    const status = await subject.status();
    assert.deepEqual([status.state, status.node, status.epoch, status.operation], ["running", "node-b", 3, undefined]);
    assert.match(status.problem ?? "", /is lost; node-a was fenced: the plug is in my hand/);
    assert.deepEqual(stage.world.running(subject.name), ["node-b"]);

    await back("node-a");
    await until(
      () => state("node-a", subject, 1),
      (seen) => seen === "SUPERSEDED",
    );
    const moved = await subject.moveTo("node-a");
    assert.equal(moved.outcome, "moved", JSON.stringify(moved.failure));
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
    assert.deepEqual(stage.world.violations, []);
  });

  test("the new owner gives its word only after days: the workflow that waits for it goes on in new runs", async () => {
    const subject = await stage.run(undefined, "node-a", { ...QUICK, backoffMs: 5, maxBackoffMs: 5, longEvents: 50 });
    checkpoint(subject, 1);
    await lose("node-a");
    await fence("node-a");
    const down = { code: "E_AGENT_DOWN", message: "not now", node: "node-b" } as const;
    stage.world.order({
      node: "node-b",
      verb: "inquire",
      when: "before",
      times: 10,
      failure: down,
      workload: subject.name,
    });
    const { operation } = await recover(subject, "node-b", true);
    await back("node-a");
    await until(
      () => state("node-a", subject, 1),
      (seen) => seen === "SUPERSEDED",
    );
    const sequence = operation.split(".").at(-1);
    const runs = await runsOf(stage.client, `${subject.name}/recover/${sequence}/supersede/node-a`);
    assert.ok(runs.length > 1, `${runs.length} runs`);
    assert.ok(runs.every(({ failedTasks }) => failedTasks === 0));
    assert.deepEqual(stage.world.violations, []);
  });

  test("without a checkpoint, or one that the node can't read, it is refused in words", async () => {
    const subject = await stage.run();
    await lose("node-a");
    try {
      await fence("node-a");
      const none = await refusal(() => recover(subject, "node-b", true));
      assert.equal(none.code, "E_NO_CHECKPOINT");
      checkpoint(subject, 1, ["node-c"]);
      const unread = await refusal(() => recover(subject, "node-b", true));
      assert.match(unread.message, /node-b can't read checkpoint c7/);
      assert.match(unread.remedy ?? "", /on node-c/);
      checkpoint(subject, 2);
      assert.match((await refusal(() => recover(subject, "node-b", true))).message, /of epoch 2, later than the 1/);
      assert.deepEqual(stage.world.copies(subject.name), []);
    } finally {
      await back("node-a");
    }
  });

  test("the spec says restore: no consent is asked for. An answer that was lost leaves it in doubt until it is asked again", async () => {
    const subject = new Subject(stage, "restored");
    await subject.start("node-a", QUICK, { ...specOf("restored"), onNodeLoss: "restore" });
    checkpoint(subject, 1);
    await lose("node-a");
    await fence("node-a");
    const answers = stage.loseAnswers("node-b", "recoverWorkload", subject.name);
    // Whichever is over first: the patience with an agent that is away, or the step's time.
    assert.match((await refusal(() => recover(subject, "node-b"))).code, /^(E_AGENT_DOWN|E_NODE_UNREACHABLE)$/);
    answers();
    assert.equal((await subject.status()).state, "in-doubt");
    assert.match((await refusal(() => subject.migrate("node-c"))).message, /may run on node-b/);

    // Elsewhere only once that node has said no, or is off, too.
    await lose("node-b");
    assert.match((await refusal(() => recover(subject, "node-c"))).message, /node-b does not answer, and nobody has/);
    await fence("node-b");
    const elsewhere = await recover(subject, "node-c");
    assert.deepEqual([elsewhere.node, elsewhere.epoch], ["node-c", 3]);
    await Promise.all([back("node-a"), back("node-b")]);
    await until(
      () => [state("node-a", subject, 1), state("node-b", subject, 2)],
      (seen) => seen.every((one) => one === "SUPERSEDED"),
    );
    assert.deepEqual(stage.world.running(subject.name), ["node-c"]);
    assert.deepEqual(stage.world.violations, []);
  });

  test("asked again, the node says that it runs it already: taken over as it is", async () => {
    const subject = await stage.run();
    checkpoint(subject, 1);
    await lose("node-a");
    await fence("node-a");
    const answers = stage.loseAnswers("node-b", "recoverWorkload", subject.name);
    await refusal(() => recover(subject, "node-b", true));
    answers();
    const again = await recover(subject, "node-b");
    assert.deepEqual([again.node, again.epoch], ["node-b", 2]);
    assert.deepEqual(
      stage.world.copies(subject.name).map(({ node, epoch }) => [node, epoch]),
      [["node-b", 2]],
    );
    await back("node-a");
    assert.deepEqual(stage.world.violations, []);
  });

  test("the machine was not off, whatever the person said: its copy is killed as soon as it is reached", async () => {
    const subject = await stage.run();
    checkpoint(subject, 1);
    await lose("node-a", false);
    await fence("node-a");
    await recover(subject, "node-b", true);
    assert.deepEqual(stage.world.running(subject.name), ["node-a", "node-b"], "what the fence is for");
    await back("node-a");
    await until(
      () => stage.world.running(subject.name),
      (running) => running.join() === "node-b",
    );
    assert.equal(state("node-a", subject, 1), "SUPERSEDED");
  });
});

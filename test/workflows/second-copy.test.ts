/**
 * A workload whose entity was lost (terminated, or the server's database with it) is never started a second time: not
 * while a hand-over of it is open on any node, not while a node that may have it is silent.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { UPDATE } from "../../src/model/messages.js";
import { nodeWorkflowId } from "../../src/model/names.js";
import type { Point } from "../../src/runtimes/simulated/world.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { refusal, Stage, Subject, until } from "./support.js";

const NODES = ["node-a", "node-b", "node-c"];

describe("no second copy", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up(NODES);
  });
  after(() => stage.down());

  for (const point of ["source:frozen", "source:released", "destination:prepared"] as Point[]) {
    test(`the entity is gone at ${point}: refused on every node, then taken over where the journals brought it`, async () => {
      const subject = await stage.run();
      let go = (): void => undefined;
      const held = new Promise<void>((resolve) => (go = resolve));
      let there = false;
      stage.world.at(
        point,
        () => {
          there = true;
          return held;
        },
        subject.name,
      );
      const started = await subject.migrate("node-b", { maxBlackoutMs: 60_000 });
      await until(
        () => there,
        (reached) => reached,
      );
      await subject.handle.terminate("lost");
      try {
        for (const node of NODES) {
          const { code, message, remedy } = await refusal(() => subject.start(node));
          assert.ok(code === "E_BUSY" || code === "E_WORKLOAD_EXISTS", `${node}: ${code} ${message}`);
          assert.match(message, /is (FROZEN|RELEASED|RESERVED|RECEIVED|PREPARED) on node-[ab]|runs on node-b already/);
          assert.notEqual(remedy, undefined);
        }
        assert.ok(stage.world.copies(subject.name).every((copy) => copy.epoch <= 2 && copy.node !== "node-c"));
      } finally {
        go();
      }
      await subject.operation(started).result();
      const status = await subject.start("node-b");
      assert.deepEqual([status.state, status.epoch], ["running", 2]);
      assert.deepEqual(stage.world.running(subject.name), ["node-b"]);
      assert.deepEqual(stage.world.violations, []);
    });
  }

  test("it runs on another node: refused, with where it can be taken over", async () => {
    const subject = await stage.run();
    await subject.handle.terminate("lost");
    const { code, message, remedy } = await refusal(() => subject.start("node-c"));
    assert.equal(code, "E_WORKLOAD_EXISTS");
    assert.match(message, /runs on node-a already/);
    assert.match(remedy ?? "", /--node node-a/);
    assert.equal((await subject.start("node-a")).epoch, 1);
  });

  test("a node that is silent may have it: refused, unless it was fenced and a person says that it stays off", async () => {
    const subject = new Subject(stage, "silence");
    await stage.workers.stopNode("node-c");
    try {
      const { code, message, remedy } = await refusal(() => subject.start("node-a"));
      assert.equal(code, "E_NODE_UNREACHABLE");
      assert.match(message, /silence is not started: node-c can't say whether it has a copy/);
      assert.match(remedy ?? "", /--off node-c/);
      assert.deepEqual(stage.world.copies("silence"), []);
      const word = await refusal(() => subject.start("node-a", undefined, undefined, ["node-c"]));
      assert.match(word.message, /node-c does not answer, and nobody has fenced it/);
      assert.deepEqual(stage.world.copies("silence"), []);
      await stage.client.workflow
        .getHandle(nodeWorkflowId("node-c"))
        .executeUpdate(UPDATE.fence, { args: [{ evidence: "the plug is in my hand" }] });
      const status = await subject.start("node-a", undefined, undefined, ["node-c"]);
      assert.equal(status.state, "running");
      // Stopped and started again under its own entity: nobody else needs to be asked.
      await subject.handle.executeUpdate("stop", { args: [{ graceMs: 0 }] });
      assert.equal((await subject.start("node-a")).state, "running");
    } finally {
      await stage.startNode("node-c");
    }
  });

  test("said to be off, and it answers that it runs it: refused all the same", async () => {
    const subject = await stage.run();
    await subject.handle.terminate("lost");
    const { code } = await refusal(() => subject.start("node-b", undefined, undefined, ["node-a", "node-c"]));
    assert.equal(code, "E_WORKLOAD_EXISTS");
  });
});

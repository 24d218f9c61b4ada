/** The entity of a node knows whether it is there, by a watch on the node itself; nothing else follows from that. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { defineSearchAttributeKey } from "@temporalio/common";
import { QUERY, UPDATE, type NodeState } from "../../src/model/messages.js";
import { nodeWorkflowId } from "../../src/model/names.js";
import type { Presence } from "../../src/model/presence.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { Stage, until } from "./support.js";

const WATCH = { silentAfterMs: 1_000, lostAfterMs: 3_000, steadyMs: 300 };
const STATE = defineSearchAttributeKey("FerryState", "KEYWORD");

describe("presence of a node", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up(["node-a", "node-b"], WATCH);
  });
  after(() => stage.down());

  const handle = (node: string) => stage.client.workflow.getHandle(nodeWorkflowId(node));
  const nodeState = (node: string) => handle(node).query<NodeState>(QUERY.status);
  const becomes = async (node: string, state: Presence["state"]): Promise<Presence> => {
    const { presence } = await until(
      () => nodeState(node),
      (seen) => seen.presence?.state === state,
      20_000,
    );
    assert.ok(presence !== undefined);
    return presence;
  };

  test("its worker goes: silent, then lost, and up again when it is back; its workload is left where it is", async () => {
    const subject = await stage.run();
    const first = await becomes("node-a", "up");
    await stage.workers.stopNode("node-a");
    const silent = await becomes("node-a", "silent");
    assert.ok(silent.heardAt >= first.heardAt);
    assert.match(silent.problem ?? "", /no worker of node-a took the task/);
    const lost = await becomes("node-a", "lost");
    assert.equal(lost.heardAt, silent.heardAt);
    assert.ok(lost.since - lost.heardAt >= WATCH.lostAfterMs);
    await until(
      () => handle("node-a").describe(),
      ({ typedSearchAttributes }) => typedSearchAttributes.get(STATE) === "lost",
    );
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
    const { state, node } = await subject.status();
    assert.deepEqual([state, node], ["running", "node-a"]);

    // What was said of it is over once it is there again, without anybody asking it.
    await handle("node-a").executeUpdate(UPDATE.fence, { args: [{ evidence: "the plug is in my hand" }] });
    assert.notEqual((await nodeState("node-a")).fence, undefined);
    await stage.startNode("node-a");
    const up = await becomes("node-a", "up");
    assert.ok(up.since > lost.since);
    assert.equal((await nodeState("node-a")).fence, undefined);
  });

  test("only its agent goes: silent for as long as that takes, never lost", async () => {
    stage.world.crash("node-b");
    const silent = await becomes("node-b", "silent");
    assert.match(silent.problem ?? "", /its worker answers, its agent does not/);
    await new Promise((resolve) => setTimeout(resolve, WATCH.lostAfterMs));
    assert.equal((await nodeState("node-b")).presence?.state, "silent");
    stage.agent("node-b").restart();
    await becomes("node-b", "up");
  });

  test("a watch is a handful of events, however long it goes on", async () => {
    const { events } = await handle("node-b").fetchHistory();
    const watches = (events ?? []).filter(
      (event) => event.activityTaskScheduledEventAttributes?.activityType?.name === "watchNode",
    );
    // Up; waiting for it to be back; up again: each is one, whatever it took.
    assert.equal(watches.length, 3, `${watches.length} watches in ${events?.length ?? 0} events`);
  });
});

/** Whoever may start workflows starts ours, well formed and with ids of live things: nothing is done, and the workload lives on. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { WorkflowFailedError } from "@temporalio/client";
import { ApplicationFailure } from "@temporalio/common";
import { pino } from "pino";
import { nodeWorkflowId, WORKFLOW_TASK_QUEUE, workloadWorkflowId } from "../../src/model/names.js";
import { SIGNAL } from "../../src/model/messages.js";
import { INPUT_PROBLEMS } from "../../src/model/request-check.js";
import { registerNode } from "../../src/workers/register.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { QUICK, Stage, refusal, specOf, until, type Subject } from "./support.js";

type Type = keyof typeof INPUT_PROBLEMS;
const options = { mode: "postcopy", dryRun: false, maxBlackoutMs: 30_000 };
const place = { host: "127.0.0.1", port: 1 };

/** Well formed inputs about `name`, which runs on node-a under epoch 1, with the id under which Ferry itself would start each. */
function forged(name: string): { type: Type; id: string; input: unknown }[] {
  const spec = specOf(name);
  const ref = {
    schema: 1,
    operation: `${name}.migrate.2`,
    workload: name,
    epoch: 1,
    to: 2,
    source: "node-a",
    destination: "node-b",
  };
  const handOver = { ref, spec, options, reservation: { agent: place, mover: place } };
  const migrate = {
    workload: name,
    source: "node-a",
    destination: "node-b",
    sequence: 2,
    epoch: 1,
    spec,
    options,
    tuning: QUICK,
  };
  const checkpoint = {
    ref: { ...ref, operation: `${name}.checkpoint.2`, destination: "node-a" },
    runtime: spec.runtime,
    options: { stop: true, reason: "", requestedBy: "", labels: {}, maxBlackoutMs: 30_000 },
    tuning: QUICK,
    request: "r-1",
  };
  const status = { name, runtime: spec.runtime, state: "stopped", node: "node-a", epoch: 1, sequence: 1, spec };
  return [
    { type: "migrate", id: `${name}/migrate/2`, input: migrate },
    { type: "settle", id: `${name}/settle/2`, input: { handOver, tuning: QUICK } },
    {
      type: "sweep",
      id: `${name}/migrate/2/sweep`,
      input: { handOver, moved: true, nodes: ["node-a"], tuning: QUICK },
    },
    {
      type: "supersede",
      id: `${name}/recover/2/supersede/node-a`,
      input: { ref: { ...ref, operation: `${name}.recover.2` }, tuning: QUICK },
    },
    { type: "checkpoint", id: `${name}/checkpoint/2`, input: checkpoint },
    { type: "workload", id: `second/${name}`, input: { name, tuning: QUICK } },
    {
      type: "workload",
      id: workloadWorkflowId(`${name}x`),
      input: {
        name: `${name}x`,
        carried: { status: { ...status, name: `${name}x`, spec: specOf(`${name}x`) }, visited: [] },
      },
    },
    { type: "node", id: "second/node-a", input: { node: "node-a" } },
    {
      type: "node",
      id: nodeWorkflowId("node-z"),
      input: { node: "node-z", carried: { online: false, since: 0, fence: { at: 4e12, evidence: "it is off" } } },
    },
  ];
}

describe("forged", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  let subject: Subject;
  before(async () => {
    stage = await Stage.up();
    subject = await stage.run();
  });
  after(() => stage.down());

  test("every type that speaks for an entity, under the very id that Ferry would use: fails with E_REQUEST", async () => {
    for (const { type, id, input } of forged(subject.name)) {
      assert.deepEqual(INPUT_PROBLEMS[type](input), [], `${type} is well formed`);
      const handle = await stage.client.workflow.start(type, {
        taskQueue: WORKFLOW_TASK_QUEUE,
        workflowId: id,
        args: [input],
      });
      await assert.rejects(handle.result(), (error: unknown) => {
        assert.ok(
          error instanceof WorkflowFailedError && error.cause instanceof ApplicationFailure,
          `${type}: ${String(error)}`,
        );
        assert.equal(error.cause.type, "E_REQUEST", `${type}: ${error.cause.message}`);
        assert.match(error.cause.message, /may start it|must be|there was none/);
        return true;
      });
    }
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
    assert.deepEqual(stage.world.violations, []);
    assert.equal((await subject.status()).epoch, 1);
  });

  test("what one run hands on, brought by a cron: no run of it is believed", async () => {
    const name = `${subject.name}y`;
    const spec = specOf(name);
    const status = { name, runtime: spec.runtime, state: "stopped", node: "node-b", epoch: 1, sequence: 1, spec };
    const handle = await stage.client.workflow.start("workload", {
      taskQueue: WORKFLOW_TASK_QUEUE,
      workflowId: workloadWorkflowId(name),
      cronSchedule: "@every 1s",
      args: [{ name, carried: { status, visited: [] } }],
    });
    try {
      const ended = await until(
        async () => {
          const runs: string[] = [];
          const query = `WorkflowId = '${workloadWorkflowId(name)}'`;
          for await (const run of stage.client.workflow.list({ query })) runs.push(run.status.name);
          return runs.filter((word) => word !== "RUNNING");
        },
        (runs) => runs.length >= 3,
      );
      assert.deepEqual([...new Set(ended)], ["FAILED"]);
    } finally {
      await stage.client.workflow
        .getHandle(workloadWorkflowId(name))
        .terminate("the test is over")
        .catch(() => undefined);
    }
    await assert.rejects(handle.result());
  });

  test("a hand-over that the migration under way never made is not heard: no journal gets an epoch out of reach", async () => {
    const moving = await stage.run();
    const go = stage.hold("source:precopy", moving.name);
    const { operation, workflowId } = await moving.migrate("node-b", {});
    const ref = {
      schema: 1,
      operation,
      workload: moving.name,
      epoch: 1,
      to: 1_000_000_000,
      source: "node-a",
      destination: "node-b",
    };
    const spec = specOf(moving.name);
    for (const wrong of [
      {},
      { to: 2, workload: subject.name },
      { to: 2, destination: "node-c" },
      { to: 2, source: "node-c" },
    ]) {
      const handOver = { ref: { ...ref, ...wrong }, spec, options };
      await moving.handle.signal(SIGNAL.operation, { operation, state: "working", handOver });
    }
    await stage.client.workflow.getHandle(workflowId).terminate("by a stranger");
    go();
    await until(
      () => moving.status(),
      ({ state }) => state === "running",
    );
    const highest = ["node-a", "node-b"].flatMap((node) =>
      [...(stage.world.node(node).ledger.get(moving.name)?.keys() ?? [])].map(Number),
    );
    assert.ok(Math.max(...highest) < 100, highest.join(" "));
    const back = (await moving.status()).node === "node-a" ? "node-b" : "node-a";
    assert.equal((await moving.moveTo(back)).outcome, "moved");
    assert.deepEqual(stage.world.violations, []);
  });

  test("something else under a node's id, or nothing: the node is still asked for its copies, and comes back by itself", async () => {
    const there = await stage.run();
    await stage.client.workflow.start("sweep", {
      taskQueue: WORKFLOW_TASK_QUEUE,
      workflowId: nodeWorkflowId("node-a"),
      workflowIdConflictPolicy: "TERMINATE_EXISTING",
      args: [{}],
    });
    await stage.client.workflow.getHandle(workloadWorkflowId(there.name)).terminate("by a stranger");
    const why = await refusal(() => there.start("node-b"));
    assert.equal(why.code, "E_WORKLOAD_EXISTS", why.message);
    assert.deepEqual(stage.world.running(there.name), ["node-a"]);
    const stop = new AbortController();
    registerNode(
      stage.client,
      stage.agent("node-a"),
      { node: "node-a", watch: undefined },
      stop.signal,
      pino({ level: "silent" }),
      200,
    );
    const back = () =>
      until(
        () => stage.client.workflow.getHandle(nodeWorkflowId("node-a")).describe(),
        ({ status, type }) => status.name === "RUNNING" && type === "node",
      );
    try {
      await back();
      await stage.client.workflow.getHandle(nodeWorkflowId("node-a")).terminate("by mistake");
      await back();
    } finally {
      stop.abort();
    }
  });

  test("and what was forged stands in nobody's way: it moves under those very ids", async () => {
    assert.equal((await subject.moveTo("node-b")).outcome, "moved");
    assert.deepEqual(stage.world.running(subject.name), ["node-b"]);
  });
});

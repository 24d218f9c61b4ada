/**
 * With keys of histories, what people ask for and what nodes answer is not to be read in Temporal: real server, real workers
 * (runWorker), the SDK, over simulated agents.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Client, Connection } from "@temporalio/client";
import proto from "@temporalio/proto";
import { connect, FerryError, type FerryClient, type FailureCode } from "../../src/client/index.js";
import { newPayloadKeyLine, parsePayloadKeys } from "../../src/keys/payload-keys.js";
import { ferryError } from "../../src/model/failure.js";
import { SIGNAL, UPDATE, WORKFLOW } from "../../src/model/messages.js";
import { WORKFLOW_TASK_QUEUE } from "../../src/model/names.js";
import { createSimulatedAgent } from "../../src/runtimes/simulated/agent.js";
import { SimulatedWorld } from "../../src/runtimes/simulated/world.js";
import { runWorker } from "../../src/workers/worker.js";
import { skipWithoutTemporal, startTemporal, type TestServer } from "../support/temporal.js";
import { until } from "./support.js";

const SECRET = "correct-horse-battery-staple";
const OLD = newPayloadKeyLine("2025");
const keys = parsePayloadKeys(`${newPayloadKeyLine("2026")}\n${OLD}`, "test");

const fails = async (code: FailureCode, words: RegExp, act: () => Promise<unknown>): Promise<void> => {
  await assert.rejects(act, (error) => {
    assert.ok(error instanceof FerryError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, words);
    return true;
  });
};

describe("encrypted histories", { skip: skipWithoutTemporal }, () => {
  let server: TestServer;
  let ferry: FerryClient;
  /** As somebody who looks at the server, and has no key. */
  let stranger: Client;
  const world = new SimulatedWorld({ nodes: ["node-a", "node-b"], phaseMs: 60 });
  const stop = new AbortController();
  const workers: Promise<void>[] = [];
  const dir = mkdtempSync(join(tmpdir(), "ferry-encrypted-"));

  before(async () => {
    server = await startTemporal();
    for (const node of ["node-a", "node-b"]) {
      const logFile = join(dir, `${node}.log`);
      workers.push(
        runWorker(
          { node, agentSocket: "unused", address: server.address, logFile, payloadKeys: keys },
          { agent: createSimulatedAgent(world, node), signal: stop.signal, embedded: true },
        ),
      );
    }
    ferry = await connect({ address: server.address, payloadKeys: keys });
    stranger = new Client({ connection: await Connection.connect({ address: server.address }) });
    await until(
      () => ferry.nodes.list(),
      (nodes) => nodes.length === 2 && nodes.every((node) => node.reachable),
      30_000,
    );
  });
  after(async () => {
    stop.abort();
    await Promise.all(workers);
    world.close();
    await ferry.close();
    await stranger.connection.close();
    await server.stop();
    rmSync(dir, { recursive: true });
  });

  const run = (name: string) =>
    ferry.workloads.run({
      name,
      node: "node-a",
      command: ["zebrad", `--token=${SECRET}`],
      env: { TOKEN: SECRET },
      runtime: "simulated",
    });

  /** Everything of a workflow that the server gives away, as the bytes that it sends. */
  async function rawOf(workflowId: string): Promise<Buffer> {
    const { History } = proto.temporal.api.history.v1;
    const { DescribeWorkflowExecutionResponse } = proto.temporal.api.workflowservice.v1;
    const handle = stranger.workflow.getHandle(workflowId);
    const described = await stranger.workflowService.describeWorkflowExecution({
      namespace: "default",
      execution: { workflowId },
    });
    return Buffer.concat([
      History.encode(await handle.fetchHistory()).finish(),
      DescribeWorkflowExecutionResponse.encode(described).finish(),
    ]);
  }

  test("a secret of the spec is nowhere in the server, from the start over a failure to the end of a migration", async () => {
    const web = await run("web");
    const moving = await web.migrate({ to: "node-b" });
    let seen = 0;
    for await (const { bytesSent } of moving.progress({ everyMs: 20 })) seen = Math.max(seen, bytesSent);
    assert.ok(seen > 0, "heartbeats are read, too");
    assert.equal((await moving.result()).outcome, "moved");
    await until(
      () => web.status(),
      (now) => now.node === "node-b" && now.operation === undefined,
    );
    for (const node of ["node-a", "node-b"]) {
      assert.ok(!readFileSync(join(dir, `${node}.log`), "utf8").includes(SECRET), `the log of ${node}'s worker`);
    }
    // Words of a node that quote the secret.
    const failure = ferryError("E_RESTORE", `could not start zebrad --token=${SECRET}`).data;
    world.order({ node: "node-a", verb: "reserve", when: "before", times: 1, workload: "web", failure });
    const failed = await (await web.migrate({ to: "node-a" })).result();
    assert.equal(failed.outcome, "rolled-back");
    assert.match(failed.failure?.message ?? "", new RegExp(SECRET), "who has the key reads it");
    await until(
      () => web.status(),
      (now) => now.operation === undefined,
    );

    const ids = ["workload/web", moving.workflowId, (await web.migration())?.workflowId ?? ""];
    for (const id of ids) {
      const raw = await rawOf(id);
      assert.ok(raw.includes("binary/encrypted"), id);
      assert.ok(raw.includes("2026"), id);
      assert.ok(!raw.includes(SECRET), `the secret is to be seen in ${id}`);
      assert.ok(!raw.includes("zebrad"), `the command is to be seen in ${id}`);
    }
    assert.ok((await rawOf(ids[2] ?? "")).includes("Encoded failure"), "a failure is encoded as a whole");
    const listed = await stranger.workflowService.listWorkflowExecutions({ namespace: "default" });
    const { ListWorkflowExecutionsResponse } = proto.temporal.api.workflowservice.v1;
    assert.ok(!Buffer.from(ListWorkflowExecutionsResponse.encode(listed).finish()).includes(SECRET), "the list");
    assert.equal((await web.status()).spec.env["TOKEN"], SECRET);
  });

  test("plain messages of somebody without the key are refused in words, and harm nothing", async () => {
    const shop = await run("shop");
    const handle = stranger.workflow.getHandle("workload/shop");
    await handle.signal(SIGNAL.ended, { node: "node-a", epoch: 1, exitCode: 0 });
    await handle.signal(SIGNAL.operation, { operation: "x", state: "stuck" });
    await assert.rejects(() => handle.executeUpdate(UPDATE.stop, { args: [{ graceMs: 0 }] }));
    assert.equal((await shop.status()).state, "running", "it was not stopped, nor does it take itself for ended");
    const rogue = await stranger.workflow.start(WORKFLOW.workload, {
      workflowId: "workload/rogue",
      taskQueue: WORKFLOW_TASK_QUEUE,
      args: [{ name: "rogue" }],
    });
    await assert.rejects(() => rogue.result());
    assert.equal((await shop.stop()).state, "stopped");
  });

  test("rotation: a client with another order of keys reads on; without the key it says which one is missing", async () => {
    const back = await run("back");
    const rotated = await connect({ address: server.address, payloadKeys: keys.toReversed() });
    assert.equal((await rotated.workloads.get("back").status()).state, "running");
    await rotated.close();
    const lacking = await connect({ address: server.address, payloadKeys: parsePayloadKeys(OLD, "test") });
    await fails("E_PAYLOAD", /encrypted with key "2026", which is not configured here \(there are: 2025\)/, () =>
      lacking.workloads.get("back").status(),
    );
    await lacking.close();
    assert.equal((await back.status()).state, "running");
  });
});

/** The SDK against a real server and the real worker (runWorker), over simulated agents. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { connect, FerryError, type FerryClient, type FailureCode } from "../../src/client/index.js";
import { createSimulatedAgent, type SimulatedAgent } from "../../src/runtimes/simulated/agent.js";
import { SimulatedWorld } from "../../src/runtimes/simulated/world.js";
import { runWorker } from "../../src/workers/worker.js";
import { freePort, skipWithoutTemporal, startTemporal, type TestServer } from "../support/temporal.js";
import { until } from "../workflows/support.js";

const fails = async (code: FailureCode, pattern: RegExp, act: () => Promise<unknown>): Promise<FerryError> => {
  let caught: unknown;
  try {
    await act();
  } catch (error) {
    caught = error;
  }
  assert.ok(caught instanceof FerryError, `expected a FerryError, got ${String(caught)}`);
  assert.equal(caught.code, code, caught.message);
  assert.match(caught.message, pattern);
  return caught;
};

describe("SDK", { skip: skipWithoutTemporal }, () => {
  let server: TestServer;
  let ferry: FerryClient;
  let metrics: string;
  const world = new SimulatedWorld({ nodes: ["node-a", "node-b"], phaseMs: 60 });
  const agents = new Map<string, SimulatedAgent>();
  const stops: AbortController[] = [];
  const workers: Promise<void>[] = [];
  const dir = mkdtempSync(join(tmpdir(), "ferry-sdk-"));
  const logFile = (node: string): string => join(dir, `${node}.log`);

  before(async () => {
    server = await startTemporal();
    metrics = `127.0.0.1:${await freePort()}`;
    for (const node of ["node-a", "node-b"]) {
      const agent = createSimulatedAgent(world, node);
      agents.set(node, agent);
      const stop = new AbortController();
      stops.push(stop);
      workers.push(
        runWorker(
          { node, agentSocket: "unused", address: server.address, logLevel: "info", logFile: logFile(node), metrics },
          { agent, signal: stop.signal, embedded: true },
        ),
      );
    }
    ferry = await connect({ address: server.address });
    await until(
      () => ferry.nodes.list(),
      (nodes) => nodes.length === 2 && nodes.every((n) => n.reachable),
      30_000,
    );
  });
  after(async () => {
    for (const stop of stops) stop.abort();
    await Promise.all(workers);
    world.close();
    await ferry.close();
    await server.stop();
    rmSync(dir, { recursive: true });
  });

  const run = (name: string) => ferry.workloads.run({ name, node: "node-a", command: ["true"], runtime: "simulated" });

  test("metrics: how many workloads are in doubt, and what Temporal's SDK measures", async () => {
    const page = await until(
      async () => (await fetch(`http://${metrics}/metrics`)).text(),
      (text) => text.includes("ferry_workloads{"),
      30_000,
    );
    assert.match(page, /^ferry_workloads\{[^}]*state="in-doubt"[^}]*\} 0$/m);
    assert.match(page, /^ferry_workloads\{[^}]*state="stuck"[^}]*\} 0$/m);
    assert.match(page, /^temporal_/m);
  });

  test("run, list, inspect, logs, migrate with progress, migrate back, stop, remove", async () => {
    const redis = await run("redis");
    const status = await redis.status();
    assert.equal(status.state, "running");
    assert.match(status.spec.network.ip, /^10\.77\.0\.1\d\d\/24$/);
    assert.match(status.spec.network.mac, /^02:fe:0a:4d:00:/);
    assert.equal((await run("redis")).name, "redis", "the same request again is the same workload");
    const listed = await until(
      () => ferry.workloads.list(),
      (all) => all.some((w) => w.name === "redis" && w.state === "running"),
    );
    assert.equal(listed.find((w) => w.name === "redis")?.node, "node-a");
    assert.equal((await redis.inspect()).observation?.processes, 1);
    assert.equal((await redis.logs()).text, "log of redis on node-a\n");

    const migration = await redis.migrate({ to: "node-b", mode: "postcopy" });
    const phases: string[] = [];
    let bytes = 0;
    for await (const seen of migration.progress({ everyMs: 50 })) {
      phases.push(seen.phase);
      bytes = Math.max(bytes, seen.bytesSent);
    }
    const report = await migration.result();
    assert.equal(report.outcome, "moved");
    assert.ok(phases.length > 1, String(phases));
    assert.ok(bytes > 0, "bytes come from heartbeats");
    await until(
      () => redis.status(),
      (now) => now.node === "node-b" && now.operation === undefined,
    );
    assert.equal((await redis.migration())?.operation, migration.operation);
    await fails("E_SAME_NODE", /on node-b already/, () => redis.migrate({ to: "node-b" }));
    assert.equal((await (await redis.migrate({ to: "node-a" })).result()).outcome, "moved");
    await until(
      () => redis.status(),
      (now) => now.operation === undefined,
    );
    await fails("E_STATE", /running on node-a/, () => redis.remove());
    assert.equal((await redis.stop()).state, "stopped");
    await fails("E_STATE", /only a running workload/, () => redis.migrate({ to: "node-b" }));
    await redis.remove();
    await fails("E_WORKLOAD_UNKNOWN", /no workload redis/, () => redis.status());
    assert.deepEqual(world.copies("redis"), []);
    const again = await run("redis");
    assert.equal((await again.status()).state, "running", "the name can be used again");
    assert.equal((await (await again.migrate({ to: "node-b" })).result()).outcome, "moved");
    await until(
      () => again.status(),
      (now) => now.operation === undefined,
    );
    await again.remove({ force: true });
  });

  test("one operation at a time; the second one is told which one is under way", async () => {
    const busy = await run("busy");
    world.at("source:frozen", () => new Promise((resolve) => setTimeout(resolve, 1_500)), "busy");
    const migration = await busy.migrate({ to: "node-b" });
    await fails("E_BUSY", /busy\.migrate\.2 is under way/, () => busy.migrate({ to: "node-b" }));
    await fails("E_BUSY", /under way/, () => busy.stop());
    const asked = Date.now();
    await migration.cancel();
    const report = await migration.result();
    assert.equal(report.outcome, "rolled-back");
    assert.equal(report.failure?.code, "E_CANCELLED");
    assert.ok(Date.now() - asked < 2_000, `a cancel took ${Date.now() - asked} ms`);
    await busy.remove({ force: true }).catch(async () => {
      await until(
        () => busy.status(),
        (now) => now.operation === undefined,
      );
      await busy.remove({ force: true });
    });
  });

  test("refused by preflight: every finding of both sides at once", async () => {
    const picky = await run("picky");
    const finding = (side: "source" | "destination") =>
      ({ level: "block", check: "test", side, message: `${side} says no`, remedy: `mend ${side}` }) as const;
    agents.get("node-a")?.findings.push(finding("source"));
    agents.get("node-b")?.findings.push(finding("destination"));
    const report = await (await picky.migrate({ to: "node-b" })).result();
    for (const agent of agents.values()) agent.findings.length = 0;
    assert.equal(report.outcome, "refused");
    assert.deepEqual(
      report.findings.map((f) => f.message),
      ["source says no", "destination says no"],
    );
    assert.equal(report.failure?.code, "E_PREFLIGHT");
  });

  test("bad input is refused with the value and the rule", async () => {
    for (const name of ["a/b", "..", "has space", "ünï", "x".repeat(300), ""]) {
      await fails("E_NAME", /workload name/, () => run(name));
    }
    await fails("E_NAME", /workload name must be a string/, () => run(7 as unknown as string));
    await fails("E_SPEC", /command/, () => ferry.workloads.run({ name: "x", node: "node-a", command: [] }));
    await fails("E_SPEC", /ip: "10\.77\.0\.300" is not valid/, () =>
      ferry.workloads.run({ name: "x", node: "node-a", command: ["true"], ip: "10.77.0.300" }),
    );
    await fails("E_SPEC", /env/, () =>
      ferry.workloads.run({ name: "x", node: "node-a", command: ["true"], env: { "A=B": "c" } }),
    );
    const unknown = await fails("E_NODE_UNKNOWN", /no node nowhere/, () =>
      ferry.workloads.run({ name: "x", node: "nowhere", command: ["true"] }),
    );
    assert.match(unknown.data.remedy ?? "", /node-a, node-b/);
    await fails("E_WORKLOAD_UNKNOWN", /no workload ghost/, () => ferry.workloads.get("ghost").status());
    await fails("E_WORKLOAD_UNKNOWN", /no workload ghost/, () =>
      ferry.workloads.get("ghost").migrate({ to: "node-b" }),
    );
  });

  test("another spec under the same name, an address that is taken", async () => {
    await run("first");
    const first = await ferry.workloads.get("first").status();
    await fails("E_WORKLOAD_EXISTS", /first exists already: running on node-a, with another spec/, () =>
      ferry.workloads.run({ name: "first", node: "node-a", command: ["false"], runtime: "simulated" }),
    );
    await until(
      () => ferry.workloads.list(),
      (all) => all.some((w) => w.name === "first"),
    );
    await fails("E_IP_CONFLICT", /address of workload first/, () =>
      ferry.workloads.run({ name: "second", node: "node-a", command: ["true"], ip: first.spec.network.ip }),
    );
  });

  test("a start that fails says what the node said, stays to be looked at, and may be tried again", async () => {
    const failure = { code: "E_START", message: "no such command: nope", node: "node-a" } as const;
    world.order({ node: "node-a", verb: "startWorkload", when: "before", times: 1, workload: "nope", failure });
    await fails("E_START", /no such command: nope/, () => run("nope"));
    const { state, problem } = await ferry.workloads.get("nope").status();
    assert.deepEqual({ state, problem }, { state: "failed", problem: failure.message });
    assert.equal((await (await run("nope")).status()).state, "running");
  });

  test("the worker's log is JSON lines with workload, operation, epoch, side, and the phase of the moment", async () => {
    const logged = await run("logged");
    // Long enough in each that a heartbeat tells it.
    world.at("source:precopy", () => new Promise((resolve) => setTimeout(resolve, 800)), "logged");
    world.at("source:frozen", () => new Promise((resolve) => setTimeout(resolve, 800)), "logged");
    const migration = await logged.migrate({ to: "node-b", mode: "precopy" });
    assert.equal((await migration.result()).outcome, "moved");
    const lines = ["node-a", "node-b"].flatMap((node) =>
      readFileSync(logFile(node), "utf8")
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line) as Record<string, unknown>),
    );
    assert.ok(lines.some((line) => line["msg"] === "node is registered" && line["node"] === "node-a"));
    assert.ok(lines.every((line) => typeof line["time"] === "string" && typeof line["level"] === "string"));
    const { operation } = migration;
    // Both workers of this process share the logger of the SDK, that of the first: lines of activities are in one file.
    for (const [side, epoch, phases] of [
      ["source", 1, ["precopy", "transfer"]],
      ["destination", 2, ["arm"]],
    ] as const) {
      const mine = lines.filter((line) => line["operation"] === operation && line["side"] === side);
      for (const phase of phases) {
        const line = mine.find((one) => one["phase"] === phase);
        assert.ok(line !== undefined, `${side}, ${phase}: ${JSON.stringify(mine)}`);
        const { workload, epoch: said } = line;
        assert.deepEqual({ workload, said }, { workload: "logged", said: epoch });
      }
    }
    await logged.remove({ force: true });
  });

  test("no server: a sentence, soon", async () => {
    const address = `127.0.0.1:${await freePort()}`;
    await fails("E_TEMPORAL_DOWN", /does not answer/, () => connect({ address }));
  });
});

/**
 * A redis that nobody talks to is let go; the first packet for it brings it back and is answered, on the same connect, and on a
 * connection of before. While it sleeps nothing of it is there but its address.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { after, afterEach, before, test } from "node:test";
import { redis, untilRedisAnswers, type Place } from "../../deploy/demo/clients.js";
import { labKillNode, labNode, labRun, labStartNode, patience } from "../../deploy/lab/index.js";
import { createAgentClient } from "../../src/agent/client.js";
import { FerryError } from "../../src/client/index.js";
import type { WorkloadHandle } from "../../src/client/types.js";
import type { Saved, SaveInput } from "../../src/model/contract.js";
import type { WorkloadState } from "../../src/model/workload.js";
import { armFailpoint, clientPid, copies, goOn, reached, REDIS, servicePid, signalService } from "./support.js";
import { startLab, until, type E2eLab } from "./support.js";

let e2e: E2eLab;
before(async () => {
  e2e = await startLab(2);
});
after(() => e2e?.down());

const TALK = `
const [host, port] = process.argv.slice(1);
const s = require("node:net").connect(Number(port), host, () => console.log(JSON.stringify({ up: true })));
s.setNoDelay(true);
let sentAt = 0;
s.on("data", (d) => console.log(JSON.stringify({ said: String(d), ms: performance.now() - sentAt })));
for (const what of ["error", "close"]) s.on(what, (e) => console.log(JSON.stringify({ over: what + " " + e })));
require("node:readline").createInterface({ input: process.stdin }).on("line", (l) => {
  sentAt = performance.now();
  s.write(l + "\\r\\n");
});`;

interface Heard {
  up?: true;
  said?: string;
  ms?: number;
  over?: string;
}
const open = new Set<() => void>();
afterEach(() => {
  for (const end of open) end();
  open.clear();
});

/** One connection from the client host, for as long as the test goes on. */
async function talk(place: Place): Promise<(line: string) => Promise<{ said: string; ms: number }>> {
  const child = spawn(
    "nsenter",
    [`--net=/proc/${place.pid}/ns/net`, "--", process.execPath, "-e", TALK, place.host, String(place.port)],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  open.add(() => child.kill("SIGKILL"));
  const heard: Heard[] = [];
  createInterface({ input: child.stdout }).on("line", (line) => heard.push(JSON.parse(line) as Heard));
  const next = async (): Promise<Heard> => {
    await until("the connection says something", 60_000, () => heard.length > 0);
    return heard.shift() ?? {};
  };
  assert.ok((await next()).up);
  return async (line) => {
    child.stdin.write(`${line}\n`);
    const { said, ms, over } = await next();
    assert.equal(over, undefined, "the connection of before goes on");
    return { said: said ?? "", ms: ms ?? NaN };
  };
}

async function started(name: string, node = "node-a"): Promise<{ workload: WorkloadHandle; place: Place }> {
  const workload = await e2e.client.workloads.run({ name, node, command: REDIS });
  const { spec } = await workload.status();
  const place = { pid: await clientPid(e2e), host: spec.network.ip.replace(/\/.*$/, ""), port: 6379 };
  await untilRedisAnswers(place, 15_000 * patience());
  return { workload, place };
}

const becomes = (workload: WorkloadHandle, wanted: WorkloadState, withinMs: number): Promise<void> =>
  until(`it is ${wanted}`, withinMs, async () => {
    const { state, operation } = await workload.status();
    return state === wanted && operation === undefined;
  });

async function letGo(workload: WorkloadHandle): Promise<void> {
  const report = await (await workload.checkpoint({ stop: true, wakeOnTraffic: true })).result();
  assert.equal(report.state, "sleeping", JSON.stringify(report.failure));
  await becomes(workload, "sleeping", 10_000);
}

/** Interfaces and namespaces of workloads. */
async function networksOn(node: string): Promise<string> {
  const links = await labRun(e2e.state, node, ["sh", "-c", "ls /sys/class/net | grep ^fv; ls /run/netns 2>/dev/null"], {
    allow: [1, 2],
  });
  return links.stdout.trim();
}
/** Who answers for an address, asked from the client host. */
async function answersFor(ip: string): Promise<string[]> {
  const { stdout } = await labRun(e2e.state, "client", ["arping", "-c", "2", "-w", "2", "-I", "eth0", ip], {
    allow: [1],
  });
  return [...stdout.matchAll(/\[([0-9A-Fa-f:]{17})\]/g)].map((match) => (match[1] ?? "").toLowerCase());
}

test("idle: it sleeps, and nothing of it is left but its address; who connects is answered on that connect", async () => {
  const { workload, place } = await started("napper");
  const before = await talk(place);
  assert.match((await before("INCR counter")).said, /^:1/);
  await e2e.client.schedules.scaleDown("napper", { idleMs: 10_000, cpuPercent: 10, wakeOnTraffic: true });
  await becomes(workload, "sleeping", 120_000);
  // Not once more while the test looks.
  await e2e.client.schedules.pause("idle/napper");
  assert.equal((await copies(e2e))["node-a"], 0);
  assert.equal(await networksOn("node-a"), "");
  const { spec, epoch } = await workload.status();
  assert.deepEqual([...new Set(await answersFor(place.host))], [spec.network.mac]);
  // Asking who has the address is no reason to wake.
  assert.equal((await workload.status()).state, "sleeping");

  const connects = performance.now();
  const [value] = await redis(place, [["INCR", "counter"]]);
  const firstAnswerMs = Math.round(performance.now() - connects);
  assert.equal(value, 2);
  await becomes(workload, "running", 30_000);
  assert.ok((await workload.status()).epoch > epoch);
  assert.match((await before("INCR counter")).said, /^:3/, "a connection of before the sleep goes on");

  // What is sent on that connection wakes it just the same.
  await letGo(workload);
  const said = await before("INCR counter");
  assert.match(said.said, /^:4/);
  await becomes(workload, "running", 30_000);

  const report = await (await workload.checkpoint({ stop: true })).result();
  assert.equal(report.state, "checkpointed");
  await becomes(workload, "checkpointed", 10_000);
  const asked = performance.now();
  await workload.restore();
  const restoreMs = Math.round(performance.now() - asked);
  console.log(
    `# first answer: a new connection ${firstAnswerMs} ms, one of before ${Math.round(said.ms)} ms; restore alone ${restoreMs} ms`,
  );
  const files = await labRun(e2e.state, "node-a", ["sh", "-c", "ls /var/lib/ferry/superseded 2>/dev/null | wc -l"], {});
  assert.equal(files.stdout.trim(), "1", "files of a sleep do not pile up: only those of the restore by hand are kept");
  await workload.remove({ force: true });
});

test("something comes while it is frozen to be let go for being idle: it runs on, and answers; nothing is stored", async () => {
  const { workload, place } = await started("restless");
  const say = await talk(place);
  await say("PING");
  const { name, epoch } = await workload.status();
  const agent = createAgentClient(`/proc/${(await labNode(e2e.state, "node-a")).pid}/root/run/ferry/agent.sock`);
  const operation = `${name}.checkpoint.2`;
  const ref = { schema: 1, operation, workload: name, epoch, to: epoch + 1, source: "node-a", destination: "node-a" };
  const options = { stop: true, reason: "test", requestedBy: "tests", labels: {}, maxBlackoutMs: 30_000 };
  const input: SaveInput = { ref, options: { ...options, ifQuiet: true, wakeOnTraffic: true }, request: randomUUID() };
  await armFailpoint(e2e, "node-a", "checkpoint.transfer", "pause");
  const save = async (): Promise<Saved> => {
    for (;;) {
      const step = await agent.saveCheckpoint(input, 1_000);
      if (step.done) return step.result;
    }
  };
  const saving = save();
  await reached(e2e, "node-a", "checkpoint.transfer");
  const answer = say("PING");
  await new Promise((resolve) => setTimeout(resolve, 300));
  await goOn(e2e, "node-a", "checkpoint.transfer");
  const saved = await saving;
  assert.deepEqual([saved.state, saved.failure?.code, saved.checkpoint], ["OWNER", "E_BUSY", undefined]);
  assert.match((await answer).said, /PONG/);
  await workload.remove({ force: true });
});

test("its agent is killed while it sleeps: it holds the address again, and what comes still wakes it", async () => {
  const { workload, place } = await started("sleeper");
  await redis(place, [["SET", "key", "value"]]);
  await letGo(workload);
  const killed = await servicePid(e2e, "node-a", "agent");
  await signalService(e2e, "node-a", "agent", "SIGKILL");
  await until("another agent is there", 30_000, async () => {
    const pid = await servicePid(e2e, "node-a", "agent").catch(() => killed);
    return pid !== killed;
  });
  assert.deepEqual(await redis(place, [["GET", "key"]]), ["value"]);
  await becomes(workload, "running", 30_000);
  assert.equal((await copies(e2e))["node-a"], 1);
  await workload.remove({ force: true });
});

test("restored on the other node while it sleeps: one answers, there; removed while it sleeps: nobody", async () => {
  const { workload, place } = await started("mover");
  await letGo(workload);
  await workload.restore({ node: "node-b" });
  assert.deepEqual(await redis(place, [["PING"]]), ["PONG"]);
  assert.deepEqual(await copies(e2e), { "node-a": 0, "node-b": 1 });
  const { spec } = await workload.status();
  assert.equal((await answersFor(place.host)).length, 2, "one answer to each question");

  await letGo(workload);
  await workload.remove();
  assert.deepEqual(await answersFor(place.host), []);
  for (const node of ["node-a", "node-b"]) assert.equal(await networksOn(node), "", node);
  // The address is free for another one.
  const other = await e2e.client.workloads.run({ name: "heir", node: "node-a", command: REDIS, ip: spec.network.ip });
  await untilRedisAnswers(place, 15_000 * patience());
  await other.remove({ force: true });
});

test("on a node that is gone: restored on the other one, and the node that comes back does not take the address", async () => {
  const { workload, place } = await started("stranded");
  await letGo(workload);
  await labKillNode(e2e.state, "node-a");
  try {
    const unfenced = (error: unknown) => error instanceof FerryError && error.code === "E_STATE";
    await assert.rejects(workload.restore({ node: "node-b", off: ["node-a"] }), unfenced);
    await e2e.client.nodes.fence("node-a", "the test has killed it");
    await workload.restore({ node: "node-b", off: ["node-a"] });
    assert.deepEqual(await redis(place, [["PING"]]), ["PONG"]);
  } finally {
    await labStartNode(e2e.state, "node-a");
  }
  await until("node-a has let the address go", 60_000, async () => {
    const { stdout } = await labRun(
      e2e.state,
      "node-a",
      ["grep", "-c", '"kind":"awake"', "/var/lib/ferry/journal.jsonl"],
      {
        allow: [1],
      },
    );
    return Number(stdout) > 0;
  });
  assert.deepEqual(await redis(place, [["PING"]]), ["PONG"]);
  assert.deepEqual(await copies(e2e), { "node-a": 0, "node-b": 1 });
  assert.ok((await labNode(e2e.state, "node-a")).pid > 0);
  await workload.remove({ force: true });
});

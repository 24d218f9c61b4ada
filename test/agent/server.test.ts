import assert from "node:assert/strict";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Server } from "node:http";
import { callAgent, createAgentClient } from "../../src/agent/client.js";
import { quarantined } from "../../src/agent/quarantine.js";
import { parseInput, prepareRunDirs, serveAgent } from "../../src/agent/server.js";
import type { Verb } from "../../src/agent/verbs.js";
import { CONTRACT_SCHEMA } from "../../src/model/contract.js";
import { checkGrace } from "../../src/client/requests.js";
import { FerryError } from "../../src/model/failure.js";
import { MAX_GRACE_MS, stopProblems } from "../../src/model/request-check.js";

const dir = mkdtempSync(join(tmpdir(), "ferry-agent-"));
const socketPath = join(dir, "agent.sock");
const ref = {
  schema: CONTRACT_SCHEMA,
  operation: "redis.migrate.1",
  workload: "redis",
  epoch: 1,
  to: 2,
  source: "node-a",
  destination: "node-b",
};
let server: Server;

before(async () => {
  // A quarantined agent answers every well-formed request with one known failure: what is tested is the edge.
  server = await serveAgent(quarantined({ code: "E_JOURNAL_CORRUPT", message: "damaged at line 7" }), {
    socketPath,
    log: () => undefined,
  });
});
after(() => {
  server.close();
  rmSync(dir, { recursive: true, force: true });
});

const refused = async (verb: string, input: unknown, expected: string): Promise<FerryError> => {
  let seen: unknown;
  await callAgent(socketPath, verb as Verb, input).catch((error: unknown) => (seen = error));
  assert.ok(seen instanceof FerryError, `${verb} was not refused`);
  assert.equal(seen.code, expected);
  return seen;
};

test("the socket is not open to everybody", () => {
  assert.equal(statSync(socketPath).mode & 0o007, 0);
});

test("a well-formed request reaches the agent, and its failure comes back as it is", async () => {
  const error = await refused("inquire", ref, "E_JOURNAL_CORRUPT");
  assert.match(error.message, /line 7/);
});

test("hostile inputs are named field by field and never reach the agent", async () => {
  const bad: [unknown, RegExp][] = [
    [{ ...ref, workload: "../etc" }, /workload/],
    [{ ...ref, workload: "a b" }, /workload/],
    [{ ...ref, workload: "ü" }, /workload/],
    [{ ...ref, workload: "x".repeat(300) }, /workload/],
    [{ ...ref, operation: "../../x" }, /operation/],
    [{ ...ref, epoch: -1 }, /epoch/],
    [{ ...ref, epoch: 1.5 }, /epoch/],
    [{ ...ref, epoch: "1" }, /epoch/],
    [{ ...ref, to: 1 }, /later/],
    [{ ...ref, schema: 99 }, /version 99 of the contract/],
    [{ ...ref, extra: 1 }, /extra/i],
    [{}, /operation/],
    [[], /input/],
    [null, /./],
    ["text", /./],
  ];
  for (const [input, expected] of bad) assert.match((await refused("inquire", input, "E_REQUEST")).message, expected);
});

test("what another version asks is refused with both versions, or the field, and what to do", async () => {
  const later = { ...ref, schema: CONTRACT_SCHEMA + 1 };
  const newer: [string, unknown][] = [
    ["inquire", { ...later, lease: 7 }],
    ["burn", later],
    ["deliver", { ref: later, token: {} }],
    ["handOver", { input: { ref: later, options: {}, reservation: {} }, waitMs: 0 }],
    ["observeWorkload", { schema: CONTRACT_SCHEMA + 1, workload: "redis" }],
  ];
  for (const [verb, input] of newer) {
    const { message, data } = await refused(verb, input, "E_REQUEST");
    assert.match(
      message,
      new RegExp(`version ${CONTRACT_SCHEMA + 1} of the contract.* knows version ${CONTRACT_SCHEMA}`),
    );
    assert.match(data.remedy ?? "", /agents first, then workers/);
  }
  const field = await refused("inquire", { ...ref, lease: 7 }, "E_REQUEST");
  assert.match(field.message, /lease/);
  assert.match(field.data.remedy ?? "", /agents first, then workers/);
  const verb = await refused("levitate", {}, "E_REQUEST");
  assert.match(verb.data.remedy ?? "", /agents first, then workers/);
});

test("an unknown verb, another method and a body that is not JSON are refused", async () => {
  await refused("selfdestruct", {}, "E_REQUEST");
  await refused("constructor", {}, "E_REQUEST");
  const raw = (method: string, body: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const outgoing = request({ socketPath, path: "/v1/inquire", method }, (incoming) => {
        let text = "";
        incoming.on("data", (chunk: Buffer) => (text += chunk.toString()));
        incoming.on("end", () => resolve(text));
      });
      outgoing.on("error", reject);
      outgoing.end(body);
    });
  assert.match(await raw("GET", ""), /E_REQUEST/);
  assert.match(await raw("POST", "{not json"), /E_REQUEST/);
  assert.match(await raw("POST", "x".repeat(5 * 1024 * 1024)).catch(() => "E_REQUEST"), /E_REQUEST/);
  await refused("inquire", ref, "E_JOURNAL_CORRUPT");
});

test("a stop is waited for as long as its grace lasts, and other verbs are not", async () => {
  const path = join(dir, "slow.sock");
  const slow = (): Promise<never> =>
    new Promise((_, reject) => {
      setTimeout(() => reject(new FerryError({ code: "E_STATE", message: "answered" })), 600);
    });
  const agent = { ...quarantined({ code: "E_INTERNAL", message: "" }), stopWorkload: slow, cleanup: slow };
  const slowServer = await serveAgent(agent, { socketPath: path, log: () => undefined });
  try {
    const client = createAgentClient(path, { timeoutMs: 200 });
    const stop = { schema: CONTRACT_SCHEMA, workload: "redis", epoch: 1 };
    const code = (expected: string) => (error: unknown) => error instanceof FerryError && error.code === expected;
    await assert.rejects(client.stopWorkload({ ...stop, graceMs: 2_000 }), code("E_STATE"));
    await assert.rejects(client.stopWorkload({ ...stop, graceMs: 0 }), code("E_AGENT_DOWN"));
    await assert.rejects(client.cleanup(ref), code("E_AGENT_DOWN"));
    await assert.rejects(client.stopWorkload({ ...stop, graceMs: MAX_GRACE_MS + 1 }), code("E_REQUEST"));
  } finally {
    slowServer.close();
    slowServer.closeAllConnections();
  }
});

test("the grace of a stop has one limit everywhere", () => {
  const stop = { schema: CONTRACT_SCHEMA, workload: "redis", epoch: 1 };
  for (const [graceMs, fine] of [
    [MAX_GRACE_MS, true],
    [MAX_GRACE_MS + 1, false],
  ] as const) {
    const verdicts = [
      () => parseInput("stopWorkload", { ...stop, graceMs }),
      () => checkGrace(graceMs),
      () => assert.deepEqual(stopProblems({ graceMs }), []),
    ];
    for (const verdict of verdicts)
      if (fine) verdict();
      else assert.throws(verdict);
  }
});

test("an agent that is not there is E_AGENT_DOWN, which says what to look at", async () => {
  const away = createAgentClient(join(dir, "nobody.sock"));
  await assert.rejects(
    away.describeNode(),
    (error) => error instanceof FerryError && error.code === "E_AGENT_DOWN" && error.data.remedy !== undefined,
  );
});

test("a second agent on the same socket is refused", async () => {
  await assert.rejects(
    serveAgent(quarantined({ code: "E_INTERNAL", message: "" }), { socketPath, log: () => undefined }),
    (error) => error instanceof FerryError && error.code === "E_JOURNAL_LOCKED",
  );
});

test("the run directory and the socket's are made for root and the socket's group; others' are left alone", (t) => {
  if (process.getuid?.() !== 0) return t.skip("needs root");
  const mode = (path: string): [number, number] => [statSync(path).mode & 0o777, statSync(path).gid];
  const own = join(dir, "run", "ferry");
  prepareRunDirs(own, join(own, "agent.sock"), 60_971);
  assert.deepEqual(mode(own), [0o750, 60_971]);
  // Made by somebody who did not think of the group: it is let in.
  chownSync(own, 0, 0);
  chmodSync(own, 0o700);
  prepareRunDirs(own, join(own, "agent.sock"), 60_971);
  assert.deepEqual(mode(own), [0o750, 60_971]);
  // A directory that all may enter stays as it is, and so does one that only the socket is in.
  const foreign = join(dir, "foreign");
  mkdirSync(foreign, { mode: 0o700 });
  chmodSync(own, 0o755);
  prepareRunDirs(own, join(foreign, "agent.sock"), 60_971);
  assert.deepEqual(
    [mode(own), mode(foreign)],
    [
      [0o755, 60_971],
      [0o700, 0],
    ],
  );
});

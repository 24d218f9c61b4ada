/**
 * Whoever schedules the agent's verbs himself (anybody who may write to Temporal's namespace can) does not get past the
 * node's policy: the gate stands at start, reserve and hand-over, and nothing is journaled or touched before it.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { FerryAgent } from "../../src/agent/agent.js";
import { Book } from "../../src/agent/book.js";
import { Sleepers } from "../../src/agent/sleepers.js";
import { parseAgentConfig } from "../../src/agent/config.js";
import { CostBook } from "../../src/agent/costs.js";
import type { NodeContext } from "../../src/agent/operations/node-context.js";
import { newSigningKey, signSpec } from "../../src/keys/spec-signing.js";
import { noCheckpoints } from "../../src/model/checkpoints.js";
import { NodeStore } from "../../src/agent/checkpoints.js";
import { CONTRACT_SCHEMA, type OperationRef } from "../../src/model/contract.js";
import { FerryError } from "../../src/model/failure.js";
import type { WorkloadSpec } from "../../src/model/workload.js";
import { spec } from "./preflight-support.js";

const dir = mkdtempSync(join(tmpdir(), "ferry-gate-"));
const policyFile = join(dir, "policy.json");
const touched: string[] = [];
let book: Book;
let agent: FerryAgent;

before(() => {
  const config = parseAgentConfig({ node: "node-b", stateDir: dir, runDir: dir, linkHost: "127.0.0.1", policyFile });
  book = new Book(dir);
  // Nothing of the runtime may be asked for: whoever touches it is found out.
  const runtime = new Proxy({} as NodeContext["runtime"], {
    get: (_target, name) => {
      touched.push(String(name));
      throw new Error(`the runtime's ${String(name)} was touched`);
    },
  });
  const identity = { node: "node-b", caFile: "/none", certFile: "/none", keyFile: "/none" };
  agent = new FerryAgent({
    config,
    book,
    runtime,
    checkpoints: noCheckpoints("node-b"),
    store: new NodeStore({ node: "node-b", file: undefined, log: () => undefined }),
    identity,
    log: () => undefined,
    costs: new CostBook(dir),
    sleepers: new Sleepers({ book, bridge: "none", log: () => undefined }),
  });
});
after(() => {
  book.close();
  rmSync(dir, { recursive: true, force: true });
});
beforeEach(() => touched.splice(0));

const ref: OperationRef = {
  schema: CONTRACT_SCHEMA,
  operation: "probe.migrate.2",
  workload: "probe",
  epoch: 1,
  to: 2,
  source: "node-a",
  destination: "node-b",
};
const options = { mode: "cold" as const, dryRun: false, maxBlackoutMs: 1000 };
const start = (subject: WorkloadSpec): Promise<unknown> =>
  agent.startWorkload({ schema: CONTRACT_SCHEMA, operation: "probe.start.1", epoch: 1, spec: subject });
const reserve = (subject: WorkloadSpec): Promise<unknown> =>
  agent.reserve({ ref, options, spec: subject, memoryBytes: 0, volumeBytes: 0 });

async function refused(act: () => Promise<unknown>, code: string, words: RegExp): Promise<void> {
  const entries = book.entries;
  const error = await act().then(
    () => assert.fail("it was not refused"),
    (caught: unknown) => caught,
  );
  assert.ok(error instanceof FerryError, String(error));
  assert.equal(error.code, code, error.message);
  assert.match(error.message, words);
  assert.ok((error.data.remedy ?? "") !== "");
  assert.equal(book.entries, entries, "something was journaled");
  assert.deepEqual(touched, []);
}
const policy = (value: object): void => writeFileSync(policyFile, JSON.stringify(value));

test("a start is held against the policy as it is now", async () => {
  policy({ users: ["nobody"], commands: ["redis-server"] });
  await refused(
    () => start(spec),
    "E_POLICY",
    /node node-b does not allow probe: command "python3".*; user root is not/,
  );
  writeFileSync(policyFile, "{");
  await refused(() => start(spec), "E_POLICY", /is not JSON/);
});

test("what arrives is held against the destination's policy when it reserves, preflight or not", async () => {
  policy({ peers: { sources: ["node-c"] }, maxMemoryBytes: 1048576 });
  await refused(
    () => reserve(spec),
    "E_POLICY",
    /memory limit of at most 1048576.*workloads from node-a are not allowed/,
  );
  await refused(() => reserve({ ...spec, dir: "/proc/self/fd/7" }), "E_SPEC", /must not lie in \/proc/);
  policy({ sharedVolumes: {} });
  const asking: WorkloadSpec = { ...spec, volumes: [{ name: "etc", path: "/srv/etc", kind: "shared" }] };
  await refused(() => reserve(asking), "E_POLICY", /has no shared volume etc/);
});

test("unsigned, forged and changed specs neither start nor arrive where a signature is required", async () => {
  const { publicLine, privatePem } = newSigningKey();
  policy({ trustedSigners: { ci: publicLine }, requireSignature: true });
  const sign = (pem: string): WorkloadSpec =>
    signSpec(spec, { signer: "ci", privatePem: pem, signedAt: Date.now(), expiresAt: Date.now() + 60_000 });
  const good = sign(privatePem);
  for (const act of [start, reserve]) {
    await refused(() => act(spec), "E_SIGNATURE", /is not signed/);
    await refused(() => act(sign(newSigningKey().privatePem)), "E_SIGNATURE", /was not made with a key of ci/);
    await refused(() => act({ ...good, user: "nobody" }), "E_SIGNATURE", /is of another spec/);
  }
  // The good one gets past the gate: to the runtime, or to what this machine lacks.
  await start(good).catch((error: unknown) => assert.ok(!/signature|signed/.test(String(error)), String(error)));
});

test("a source whose policy names destinations hands over to no other", async () => {
  policy({ peers: { destinations: ["node-c"] } });
  const own = { ...ref, source: "node-b", destination: "node-a", workload: "leaver", operation: "leaver.migrate.2" };
  book.record({ workload: "leaver", epoch: 1, state: "OWNER", operation: "leaver.start.1" });
  const reservation = { agent: { host: "127.0.0.1", port: 1 }, mover: { host: "127.0.0.1", port: 1 } };
  const act = (): Promise<unknown> => agent.handOver({ ref: own, options, reservation }, 0);
  await refused(act, "E_POLICY", /does not let workloads go to node-a \(allowed: node-c\)/);
});

test("a node is full", async () => {
  policy({ maxWorkloads: 1 });
  await refused(() => reserve(spec), "E_POLICY", /takes at most 1 at a time, and has 1/);
});

/** Specs and requests, as a Temporal client, the SDK's user or a stranger at the agent's socket may send them. */
import { parseInput } from "../../src/agent/server.js";
import type { Verb } from "../../src/agent/verbs.js";
import { checkMigrate, checkRun } from "../../src/client/requests.js";
import {
  checkCheckpoint,
  checkClone,
  checkId,
  checkPrune,
  checkRestore,
} from "../../src/client/requests-checkpoints.js";
import { checkpointProblems, restoreProblems } from "../../src/model/checkpoint-check.js";
import { askProblems, migrateProblems, startProblems } from "../../src/model/request-check.js";
import { checkSteer } from "../../src/model/steering.js";
import { acceptInput, refuseUnless } from "../../src/workflows/accept.js";
import { refused, type Refused, type Room } from "./entry.js";
import { DEEP_LIST } from "./mutate.js";
import { DIGEST, OPTIONS, REF, SPEC } from "./samples.js";

/** A spec as the agent gets it: the same words come from the entity and from the agent. */
const start = (spec: unknown): unknown =>
  parseInput("startWorkload", { schema: 1, operation: REF.operation, epoch: 1, spec });
const spec = (input: string, says: string, change: object): Refused =>
  refused(input, "E_REQUEST", says, () => {
    const whole = { ...SPEC, ...change };
    refuseUnless(
      "the request",
      startProblems({ spec: whole, node: "node-a" }).length > 0 ? [] : ["the entity takes it"],
    );
    return start(whole);
  });
const net = (change: object): object => ({ network: { ...SPEC.network, gateway: undefined, ...change } });
const own = (json: string): unknown => JSON.parse(json);
const many = (count: number): object => Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, 1]));

export const SPECS: Room = {
  title: "Specs",
  entries: [
    spec("`__proto__` as a field", '"__proto__" is not a known field', own('{"__proto__":{"a":1}}') as object),
    spec("OCI hooks", '"hooks" is not a known field', { hooks: { prestart: [{ path: "/bin/sh" }] } }),
    spec("annotation `org.criu.config`", '"org.criu.config" is not a known field', { "org.criu.config": "/tmp/x" }),
    spec("a mount of `/`", '"mounts" is not a known field', { mounts: [{ source: "/", target: "/host" }] }),
    spec("runtime `toString`", 'runtime "toString" is not known', { runtime: "toString" }),
    spec("an argument with a NUL", 'command[1] "b\\u0000c" contains a NUL character', { command: ["a", "b\0c"] }),
    spec("a million arguments", "has 1000000 arguments", { command: Array.from({ length: 1_000_000 }, () => "x") }),
    spec("a command of 140 KiB", "bytes, at most 131072 are allowed", { command: ["a", "ü".repeat(70_000)] }),
    spec("environment `__proto__`", 'env name "__proto__" is not valid', { env: own('{"__proto__":"x"}') }),
    spec("100,000 unknown fields", "more problems", many(100_000)),
    spec("a list nested 20,000 times", "env must be an object of names and values, got a list", {
      env: own(DEEP_LIST),
    }),
    spec("a volume whose kind has an own toString", "is not known: use copy or shared", {
      volumes: [{ name: "a", path: "/srv/a", kind: { toString: 1 } }],
    }),
    spec("directory `/proc/self/fd/7`", "must not lie in /proc", { dir: "/proc/self/fd/7" }),
    spec("directory with `..`", "must not contain ..", { dir: "/data/../../etc" }),
    spec("user `-x`", 'user "-x" is not valid', { user: "-x" }),
    spec("user 2^32 - 1", "numbers go up to", { user: "4294967295" }),
    spec("memory of -1 bytes", "limits.memoryBytes -1 must be whole bytes", { limits: { memoryBytes: -1 } }),
    spec("memory of 2^53 + 2 bytes", "limits.memoryBytes 9007199254740994 must be", {
      limits: { memoryBytes: 2 ** 53 + 2 },
    }),
    spec("address 0.0.0.0", "is not an address of a host", net({ ip: "0.0.0.0/24" })),
    spec("the broadcast address", "is the broadcast address", net({ ip: "255.255.255.255/24" })),
    spec("the network's broadcast address", "network's broadcast address", net({ ip: "10.77.0.255/24" })),
    spec("address `010.0.0.1`", 'network.ip "010.0.0.1/8" is not valid', net({ ip: "010.0.0.1/8" })),
    spec("an IPv4-mapped IPv6 address", "use an IPv4 address with prefix length", net({ ip: "::ffff:10.0.0.1/120" })),
    spec("address 10.77.0.300", 'network.ip "10.77.0.300/24" is not valid', net({ ip: "10.77.0.300/24" })),
    spec("a multicast MAC", "is a multicast address", net({ mac: "01:00:5e:00:00:01" })),
    spec("a MAC of zeros", "is all zeros", net({ mac: "00:00:00:00:00:00" })),
    spec("a gateway elsewhere", "is not in the network of", net({ gateway: "10.78.0.1" })),
  ],
};

const verb = (input: string, says: string, name: Verb, body: unknown): Refused =>
  refused(input, "E_REQUEST", says, () => parseInput(name, body));
const run = (input: string, says: string, change: object): Refused =>
  refused(input, "E_SPEC", says, () => checkRun({ name: "web", node: "node-a", command: ["true"], ...change }));
const options = (change: object): object => ({ ref: REF, options: { ...OPTIONS, ...change } });
const token = {
  workload: "redis-1",
  operation: REF.operation,
  from: 1,
  to: 2,
  source: "node-a",
  destination: "node-b",
  digest: DIGEST,
  certificate: "c",
  signature: "s",
};

const SAVE = { stop: false, reason: "r", requestedBy: "p", labels: {}, maxBlackoutMs: 500 };
const save = (change: object): string[] => checkpointProblems({ options: { ...SAVE, ...change } });
const update = (input: string, says: string, problems: () => string[]): Refused =>
  refused(`update: ${input}`, "E_REQUEST", says, () => refuseUnless("the request", problems()));
const sdk = (input: string, says: string, act: () => unknown): Refused =>
  refused(`SDK: ${input}`, "E_REQUEST", says, act);

/** Of checkpoints and what is made from them. */
const CHECKPOINTS: Refused[] = [
  update("a checkpoint with label `__proto__`", 'label "__proto__" is not valid', () =>
    save({ labels: own('{"__proto__":"x"}') }),
  ),
  update("a label of 300 characters", "must be a text of at most 200 characters", () =>
    save({ labels: { a: "x".repeat(300) } }),
  ),
  update("100,000 labels", "there are 100000 labels", () => save({ labels: many(100_000) })),
  update("labels nested 20,000 times", "labels must be an object, got a deeply nested list", () =>
    save({ labels: own(DEEP_LIST) }),
  ),
  update("a reason with a NUL", "reason must be a text", () => save({ reason: "a\0b" })),
  update("a reason of a megabyte", "reason must be a text of at most 1000", () =>
    save({ reason: "x".repeat(2 ** 20) }),
  ),
  update("a checkpoint that may freeze for ever", "maxBlackoutMs must be milliseconds", () =>
    save({ maxBlackoutMs: "Infinity" }),
  ),
  update("stop: 1", "stop must be true or false", () => save({ stop: 1 })),
  update("one that runs on and sleeps", "wakeOnTraffic needs stop", () => save({ wakeOnTraffic: true })),
  update("a wake at epoch -1 of `..`", 'node name ".." is not valid', () =>
    restoreProblems({ wake: { node: "..", epoch: -1 } }),
  ),
  refused("workflow: idle for ever, at NaN percent", "E_REQUEST", "idleMs must be a whole number", () =>
    acceptInput("idle", { workload: "web", idleMs: Number.POSITIVE_INFINITY, cpuPercent: NaN, wakeOnTraffic: 1 }),
  ),
  update("restore checkpoint `../../../etc/shadow`", "is not a checkpoint's id", () =>
    restoreProblems({ checkpoint: "../../../etc/shadow" }),
  ),
  update("restore at 10^300", "at must be a whole number", () => restoreProblems({ at: 1e300 })),
  update("restore at NaN", "at must be a whole number", () => restoreProblems({ at: Number.NaN })),
  update("restore lazily, perhaps", "lazy must be true or false", () => restoreProblems({ lazy: "perhaps" })),
  update("restore on a node with a slash", "node name", () => restoreProblems({ node: "a/b" })),
  update("a clone with OCI hooks", '"hooks" is not a known field', () =>
    restoreProblems({ node: "node-a", clone: { of: "web", spec: { ...SPEC, hooks: {} } } }),
  ),
  update("a clone of `..`", 'workload name ".." is not valid', () =>
    restoreProblems({ node: "node-a", clone: { of: "..", spec: SPEC } }),
  ),
  update("a question for another workload's files", "is not a checkpoint's id", () =>
    askProblems({ ask: "removeCheckpoint", workload: "web", checkpoint: "../db/20260101" }),
  ),
  update("pin with a word", "pinned must be true or false", () =>
    askProblems({ ask: "pin", workload: "web", checkpoint: "c-1", pinned: "yes" }),
  ),
  refused("workflow: a checkpoint of null", "E_REQUEST", "the input must be an object, got null", () =>
    acceptInput("checkpoint", null),
  ),
  refused("workflow: a checkpoint with another's operation", "E_REQUEST", 'operation "../x" is not valid', () =>
    acceptInput("checkpoint", { ref: { ...REF, operation: "../x" }, runtime: "process", options: SAVE, tuning: {} }),
  ),
  sdk("a label with a newline in its name", "is not valid", () => checkCheckpoint("web", { labels: { "a\nb": "c" } })),
  sdk("a checkpoint with a field that nobody knows", 'Unrecognized key: "force"', () =>
    checkCheckpoint("web", own('{"force":true}') as object),
  ),
  sdk("a restore at no time", "at:", () => checkRestore("web", { at: new Date(Number.NaN) })),
  sdk("a million clones", "at most 100 at once", () => checkClone({ of: "web", as: "x", count: 1_000_000 })),
  sdk("-1 clones", "count:", () => checkClone({ of: "web", as: "x", count: -1 })),
  sdk("a clone at 0.0.0.0", '"0.0.0.0" is not an address of a host', () =>
    checkClone({ of: "web", as: "x", ips: ["0.0.0.0"] }),
  ),
  sdk("prune to none", "the newest always stays", () => checkPrune("web", { keep: 0 })),
  sdk("prune what is older than NaN", "olderThanMs", () => checkPrune("web", { olderThanMs: Number.NaN })),
  sdk("an id that is an option", "is not a checkpoint's id", () => checkId("--all")),
];

export const REQUESTS: Room = {
  title: "Requests",
  entries: [
    run("SDK: address `010.0.0.1`", 'ip: "010.0.0.1" is not valid', { ip: "010.0.0.1" }),
    run("SDK: address 0.0.0.0", 'ip: "0.0.0.0" is not an address of a host', { ip: "0.0.0.0" }),
    run("SDK: directory in /proc", "must not lie in /proc", { dir: "/proc/1/root" }),
    run("SDK: an argument with a NUL", "must not contain a NUL character", { command: ["a\0"] }),
    run("SDK: a field that nobody knows", 'Unrecognized key: "privileged"', { privileged: true }),
    refused("SDK: a deadline that is NaN", "E_REQUEST", "maxBlackoutMs", () =>
      checkMigrate("web", { to: "node-b", maxBlackoutMs: Number.NaN }),
    ),
    refused("SDK: to no node", "E_NAME", "node name must be a string", () => checkMigrate("web", null)),
    refused("SDK: steer with another command's field", "E_REQUEST", 'go has no field "ms"', () =>
      checkSteer({ do: "go", ms: 5 }),
    ),
    refused("workflow: an input that is null", "E_REQUEST", "the input must be an object, got null", () =>
      acceptInput("migrate", null),
    ),
    refused("workflow: an input nested 20,000 times", "E_REQUEST", "got a deeply nested list", () =>
      acceptInput("settle", own(DEEP_LIST)),
    ),
    refused("workflow: 100,000 nodes with wrong names", "E_REQUEST", "more problems", () =>
      acceptInput("sweep", {
        handOver: {},
        moved: 1,
        nodes: Array.from({ length: 100_000 }, () => "../x"),
        tuning: {},
      }),
    ),
    refused("workflow: tuning of a million years", "E_REQUEST", "tuning must be an object", () =>
      acceptInput("workload", { name: "web", tuning: -1 }),
    ),
    ...CHECKPOINTS,
    refused("update: a downtime limit of 10^12 ms", "E_REQUEST", "maxBlackoutMs must be milliseconds", () =>
      refuseUnless("the request", migrateProblems({ to: "node-b", options: { ...OPTIONS, maxBlackoutMs: 1e12 } })),
    ),
    verb(
      "agent: a schema of another version",
      "was asked by version 2 of the contract between workflows and agents",
      "removeWorkload",
      {
        schema: 2,
        workload: "web",
      },
    ),
    verb("agent: epoch 0", "epoch: Too small", "startWorkload", {
      schema: 1,
      operation: REF.operation,
      epoch: 0,
      spec: SPEC,
    }),
    verb("agent: a hand-over to an older epoch", "`to` must be later than `epoch`", "burn", { ...REF, to: 1 }),
    verb("agent: operation `../../x`", "operation: is not a valid operation id", "cleanup", {
      ...REF,
      operation: "../../x",
    }),
    verb("agent: memory of -1 bytes", "memoryBytes: Too small", "reserve", {
      ...options({}),
      spec: SPEC,
      memoryBytes: -1,
      volumeBytes: 0,
    }),
    verb("agent: a mode that is none", "options.mode: Invalid option", "preflightSource", options({ mode: "warp" })),
    verb(
      "agent: bandwidth 0",
      "options.bandwidthBytesPerSec: Too small",
      "preflightSource",
      options({ bandwidthBytesPerSec: 0 }),
    ),
    verb("agent: a spec with `..` in its directory", "must not contain ..", "takeOver", {
      input: { ref: REF, options: OPTIONS, spec: { ...SPEC, dir: "/data/../etc" } },
      waitMs: 1,
    }),
    verb("agent: a wait of an hour", "waitMs: Too big", "takeOver", {
      input: { ref: REF, options: OPTIONS, spec: SPEC },
      waitMs: 3_600_000,
    }),
    verb("agent: a grace time of 10^12 ms", "graceMs: Too big", "stopWorkload", {
      schema: 1,
      workload: "web",
      epoch: 1,
      graceMs: 1e12,
    }),
    verb("agent: a log of 2^53 bytes", "maxBytes: Too big", "readLog", {
      schema: 1,
      workload: "web",
      offset: 0,
      maxBytes: 2 ** 53 - 1,
    }),
    verb("agent: link port 70000", "reservation.agent.port: Too big", "handOver", {
      input: { ...options({}), reservation: { agent: { host: "h", port: 70_000 }, mover: { host: "h", port: 1 } } },
      waitMs: 1,
    }),
    verb("agent: a token with a field more", 'Unrecognized key: "force"', "deliver", {
      ref: REF,
      token: { ...token, force: 1 },
    }),
    verb("agent: a body that is no object", "expected object, received string", "inquire", "redis"),
  ],
};

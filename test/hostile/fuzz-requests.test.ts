/** Properties of what people and Temporal clients say: commands, requests, specs, configuration, the agent's verbs. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after } from "node:test";
import * as fc from "fast-check";
import { readLab } from "../../deploy/lab/state.js";
import { parseAgentConfig } from "../../src/agent/config.js";
import { parsePolicy } from "../../src/agent/policy.js";
import { parseInput } from "../../src/agent/server.js";
import { VERBS, type Verb } from "../../src/agent/verbs.js";
import { readConfig } from "../../src/cli/commands/fence.js";
import * as parse from "../../src/cli/parse.js";
import { checkGrace, checkMigrate, checkName, checkRun } from "../../src/client/requests.js";
import { keptFailure } from "../../src/model/foreign-failure.js";
import { checkpointProblems, restoreProblems } from "../../src/model/checkpoint-check.js";
import * as parseOf from "../../src/cli/parse-checkpoints.js";
import * as checks from "../../src/client/requests-checkpoints.js";
import * as requests from "../../src/model/request-check.js";
import { isSpec, specProblems } from "../../src/model/spec-check.js";
import { checkSteer } from "../../src/model/steering.js";
import { volumesProblems } from "../../src/model/volumes.js";
import type { RunRequest } from "../../src/client/types.js";
import { parseWorkerConfig } from "../../src/workers/config.js";
import { ferry } from "../cli/support.js";
import { fuzz, fuzzJson, mutatedJsonText, mutatedText } from "./mutate.js";
import { DIGEST, FAILURE, OPTIONS, REF, SPEC, LAB } from "./samples.js";

const root = mkdtempSync("/dev/shm/ferry-fuzz-requests-");
after(() => rmSync(root, { recursive: true, force: true }));
const file = (text: string): string => {
  const path = join(root, "input.json");
  writeFileSync(path, text);
  return path;
};

/** Lists of problems: never a throw, one line each, bounded in all. */
const sentences = (problems: readonly string[]): void => {
  for (const problem of problems)
    assert.ok(problem.length > 5 && problem.length < 800 && !problem.includes("\n"), problem);
  assert.ok(problems.length <= 200, `${problems.length} problems`);
};
const TUNING = { stepMs: 1 };
const MIGRATE = {
  workload: "redis-1",
  source: "node-a",
  destination: "node-b",
  sequence: 3,
  epoch: 1,
  spec: SPEC,
  options: OPTIONS,
  tuning: TUNING,
};
const SAVE = { stop: false, reason: "r", requestedBy: "p", labels: { a: "b" }, maxBlackoutMs: 500 };
const SLEEP = { ...SAVE, stop: true, wakeOnTraffic: true };
const HAND_OVER = { ref: REF, options: OPTIONS, spec: SPEC };
const INPUTS = {
  workload: { name: "redis-1", tuning: TUNING },
  migrate: { ...MIGRATE, unsettled: HAND_OVER },
  settle: { handOver: HAND_OVER, tuning: TUNING },
  sweep: { handOver: HAND_OVER, moved: true, nodes: ["node-a"], tuning: TUNING },
  node: { node: "node-a" },
  protect: { workload: "web", everyMs: 300_000, retention: { keep: 12, maxBytes: 1 }, maxBlackoutMs: 30_000 },
  scale: { workload: "web", to: "down", cron: "0 20 * * 1-5", timezone: "Europe/Berlin" },
  idle: { workload: "web", idleMs: 900_000, cpuPercent: 1, wakeOnTraffic: true },
  checkpoint: {
    ref: REF,
    runtime: "process",
    options: SAVE,
    tuning: TUNING,
    late: { startedAt: 1, since: 2, problem: "away" },
  },
};
for (const [type, sample] of Object.entries(INPUTS)) {
  fuzzJson(`input of workflow ${type}`, [sample], requests.INPUT_PROBLEMS[type as keyof typeof INPUTS], sentences);
}
const ASKS: [string, (ask: unknown) => string[], unknown[]][] = [
  ["start", requests.startProblems, [{ spec: SPEC, node: "node-a", off: ["node-c"] }]],
  ["migrate", requests.migrateProblems, [{ to: "node-b", options: OPTIONS }]],
  ["stop", requests.stopProblems, [{ graceMs: 1000 }]],
  ["resolve", requests.resolveProblems, [{ keep: "source", acceptRollback: true }]],
  ["fence", requests.fenceProblems, [{ evidence: "it is off" }]],
  ["remove", requests.removeProblems, [{ force: true, graceMs: 1 }]],
  ["ask", requests.askProblems, [{ ask: "log", workload: "web", offset: -1, maxBytes: 4 }, { ask: "describe" }]],
  ["checkpoint", checkpointProblems, [{ options: SAVE }, { options: { ...SLEEP, ifQuiet: true } }]],
  [
    "restore",
    restoreProblems,
    [
      { node: "node-a", checkpoint: "c-1", off: ["node-c"], dryRun: true },
      { node: "node-a", at: 5, clone: { spec: SPEC, of: "redis-1" } },
      { wake: { node: "node-a", epoch: 3 } },
    ],
  ],
  [
    "ask about the store",
    requests.askProblems,
    [
      { ask: "checkpoints", workload: "web" },
      { ask: "pin", workload: "web", checkpoint: "c-1", pinned: true },
      { ask: "diff", workload: "web", checkpoint: "c-1", with: "c-2" },
    ],
  ],
];
for (const [what, problemsOf, samples] of ASKS) {
  fuzzJson(`update ${what}`, [...samples], problemsOf, sentences);
}
fuzzJson("specs", [SPEC], specProblems, (problems, spec) => {
  sentences(problems);
  assert.equal(isSpec(spec), problems.length === 0);
  if (!isSpec(spec)) return;
  assert.match(spec.name, /^[a-z0-9-]{1,40}$/);
  assert.ok(spec.dir.startsWith("/") && !spec.dir.split("/").includes("..") && !spec.dir.includes("\0"));
});
fuzzJson("volumes", [SPEC.volumes], volumesProblems, sentences);
fuzzJson(
  "steer",
  [
    { do: "hold", forMs: 5 },
    { do: "bandwidth", bytesPerSec: null },
  ],
  checkSteer,
);
fuzzJson(
  "a failure of somebody else's",
  [FAILURE],
  (value) => keptFailure(value, "E_LINK_LOST"),
  (kept) => {
    assert.ok(JSON.stringify(kept ?? null).length < 2 ** 22);
  },
);

const RUN = { ...SPEC, node: "node-a", off: ["node-c"], ip: "10.77.0.9", mac: "02:fe:00:00:00:64", network: undefined };
fuzzJson("SDK: run", [JSON.parse(JSON.stringify(RUN))], (request) => checkRun(request as RunRequest));
fuzzJson("SDK: migrate", [{ to: "node-b", mode: "cold", maxBlackoutMs: 500 }], (ask) => checkMigrate("redis-1", ask));
fuzzJson("SDK: names", ["redis-1"], (name) => checkName("workload", name));
fuzzJson(
  "SDK: checkpoint",
  [SAVE, SLEEP],
  (options) => checks.checkCheckpoint("redis-1", options as object),
  (options) => {
    assert.deepEqual(checkpointProblems({ options }), []);
  },
);
fuzzJson(
  "SDK: restore",
  [{ node: "node-a", checkpoint: "c-1", off: ["node-c"], dryRun: true }],
  (options) => checks.checkRestore("redis-1", options as object),
  (request) => assert.deepEqual(restoreProblems(request), []),
);
fuzzJson(
  "SDK: clone",
  [{ of: "redis-1", as: "copy", count: 2, ips: ["10.77.0.9"], node: "node-a", checkpoint: "c-1" }],
  (request) => checks.checkClone(request as Parameters<typeof checks.checkClone>[0]),
  ({ names }) => assert.ok(names.length <= 100 && names.every((name) => /^[a-z0-9-]{1,40}$/.test(name))),
);
fuzzJson("SDK: prune", [{ keep: 1, olderThanMs: 5, maxBytes: 7, dryRun: true }], (options) =>
  checks.checkPrune("redis-1", options as object),
);
fuzzJson("SDK: a checkpoint's id", ["20260101T000000000Z-ab"], checks.checkId);
fuzzJson("SDK: grace", [1000], checkGrace);

const TOKEN = {
  workload: "redis-1",
  operation: REF.operation,
  digest: DIGEST,
  certificate: "c",
  signature: "s",
};
const NODE = {
  node: "node-a",
  version: "1",
  linkHost: "h",
  linkPort: 1,
  kernel: "6",
  arch: "x64",
  criuVersion: "4.2",
  cpus: 2,
  memoryTotalBytes: 1,
  memoryAvailableBytes: 1,
  diskAvailableBytes: 1,
  bootId: "b",
  workloads: [],
};
const FACTS = {
  findings: [],
  node: NODE,
  spec: SPEC,
  memoryBytes: 1,
  volumeBytes: 1,
  processes: 1,
  threads: 1,
  cpuFlags: ["fpu"],
  files: [{ path: "/usr/bin/x", sizeBytes: 1, mode: 33_261, buildId: "ab", mapped: true }],
};
const endpoint = { host: "127.0.0.1", port: 7400 };
const BODIES: Record<Verb, unknown> = {
  describeNode: {},
  endings: {},
  sleepers: { waitMs: 1 },
  idleWorkload: { schema: 1, workload: "redis-1", epoch: 1, cpuPercent: 1 },
  saveCheckpoint: {
    input: {
      ref: REF,
      options: {
        stop: true,
        reason: "r",
        requestedBy: "p",
        labels: { a: "b" },
        maxBlackoutMs: 500,
        wakeOnTraffic: true,
        ifQuiet: true,
      },
      request: "r-1",
    },
    waitMs: 1,
  },
  restoreWorkload: { ref: REF, spec: SPEC, checkpoint: "c-1", of: "redis-1" },
  listCheckpoints: { schema: 1, workload: "redis-1" },
  pinCheckpoint: { schema: 1, workload: "redis-1", checkpoint: "c-1", pinned: true },
  removeCheckpoint: { schema: 1, workload: "redis-1", checkpoint: "c-1" },
  verifyCheckpoint: { schema: 1, workload: "redis-1", checkpoint: "c-1" },
  diffCheckpoints: { schema: 1, workload: "redis-1", checkpoint: "c-1", with: "c-2" },
  startWorkload: { schema: 1, operation: REF.operation, epoch: 1, spec: SPEC },
  stopWorkload: { schema: 1, workload: "redis-1", epoch: 1, graceMs: 1 },
  removeWorkload: { schema: 1, workload: "redis-1" },
  observeWorkload: { schema: 1, workload: "redis-1" },
  readLog: { schema: 1, workload: "redis-1", offset: 0, maxBytes: 1 },
  preflightSource: { ref: REF, options: OPTIONS },
  preflightDestination: { ref: REF, options: OPTIONS, facts: FACTS },
  reserve: { ref: REF, options: OPTIONS, spec: SPEC, memoryBytes: 1, volumeBytes: 1 },
  takeOver: { input: { ref: REF, options: OPTIONS, spec: SPEC }, waitMs: 1 },
  handOver: { input: { ref: REF, options: OPTIONS, reservation: { agent: endpoint, mover: endpoint } }, waitMs: 1 },
  inquire: REF,
  burn: REF,
  refuse: REF,
  deliver: { ref: REF, token: { ...TOKEN, from: 1, to: 2, source: "node-a", destination: "node-b" } },
  steer: { ref: REF, command: { do: "go" } },
  acknowledge: { ref: REF, receipt: { ...TOKEN, epoch: 2, owner: "node-b" } },
  retake: { ref: REF, evidence: "e", acceptRollback: true },
  claim: { ref: REF, evidence: "e" },
  newestCheckpoint: { schema: 1, workload: "redis-1" },
  recoverWorkload: { ref: REF, spec: SPEC, checkpoint: "c-1" },
  supersede: { ref: REF, receipt: { ...TOKEN, epoch: 2, owner: "node-b" } },
  cleanup: REF,
};
for (const verb of Object.keys(VERBS) as Verb[]) {
  assert.doesNotThrow(() => parseInput(verb, BODIES[verb]), verb);
  fuzzJson(`agent verb ${verb}`, [BODIES[verb]], (body) => parseInput(verb, body), undefined, { share: 0.4 });
}

const POLICY = {
  users: ["redis"],
  subnets: ["10.77.0.0/24"],
  maxMemoryBytes: 1,
  sharedVolumes: { files: "/srv" },
  forbiddenEnv: ["A"],
};
const texts = (...samples: unknown[]): fc.Arbitrary<string> =>
  fc.oneof(mutatedText(samples.map((sample) => JSON.stringify(sample))), mutatedJsonText(...samples));
fuzz("policy.json", texts(POLICY), (text) => parsePolicy(text));
fuzz("fence.json", texts({ command: ["off", "{node}"], timeoutMs: 500 }), (text) => readConfig(file(text)));
const HOST = { name: "node-a", kind: "node", octet: 1, ip: "10.77.0.1", init: { pid: 7, ticks: "99" } };
const A_LAB = { ...LAB, directory: root, hosts: [HOST] };
fuzz("lab.json", texts(A_LAB), async (text) => {
  writeFileSync(join(root, "lab.json"), text);
  return readLab(root);
});
const AGENT = {
  node: "node-a",
  linkHost: "192.0.2.1",
  stateDir: "/var/lib/ferry",
  cgroupParent: "ferry/x",
  bridge: "br0",
};
fuzzJson("options of the agent", [AGENT], parseAgentConfig, (config) => {
  assert.ok(!config.cgroupParent.split("/").some((part) => part === ".." || part === "."));
});
fuzzJson("options of the worker", [{ node: "node-a", agentSocket: "/s", address: "h:7233" }], parseWorkerConfig);

const WORDS = [
  "512M",
  "1.5GiB",
  "100MB/s",
  "250ms",
  "A=b",
  "files:/srv:copy",
  "memory=1G,cpu=2",
  "[::1]:7233",
  "node-a",
];
const typed = mutatedText(WORDS);
fuzz("a size", typed, parse.parseSize, (bytes) => assert.ok(Number.isSafeInteger(bytes) && bytes > 0));
fuzz("a rate", typed, parse.parseRate, (bytes) => assert.ok(Number.isSafeInteger(bytes) && bytes > 0));
fuzz("a duration", typed, parse.parseDuration, (ms) => assert.ok(Number.isInteger(ms) && ms > 0 && ms <= 604_800_000));
fuzz("limits", typed, (text) => parse.parseLimits(text));
fuzz("a variable", typed, (text) => parse.parseEnv(text));
fuzz(
  "a volume",
  typed,
  (text) => parse.parseVolume(text),
  (all) => assert.deepEqual(volumesProblems(all), []),
);
fuzz("a mode", typed, parse.parseMode);
fuzz("an address", typed, parse.parseAddress);
const told = mutatedText([
  "release=7",
  "2026-03-01T10:00:00Z",
  "2026-03-01 10:00",
  "7d",
  "20260301T100000Z-ab",
  "10.77.0.9/24",
]);
fuzz("a label", told, (text) => parseOf.parseLabel(text));
fuzz("an age", told, parseOf.parseAge, (ms) => assert.ok(Number.isInteger(ms) && ms >= 0));
fuzz(
  "a time",
  told,
  parseOf.parseMoment(() => 2 ** 41),
  (at) => assert.ok(at.getTime() >= 0),
);
fuzz("a checkpoint's id", told, parseOf.parseCheckpointId, (id) => assert.ok(!id.includes("/") && id.length <= 128));
fuzz("addresses", told, (text) => parseOf.parseIps(text));
fuzz("a count", typed, parse.parseCount("nodes", 1, 26));

// Nothing that starts something, and no server that could be reached.
const COMMANDS =
  "run ps inspect logs migrate steer cancel resolve stop rm nodes fence ui checkpoint restore clone checkpoints".split(
    " ",
  );
const FLAGS = [
  ..."-- - --to --node --mode --json --follow --env --limit --volume --max-blackout --keep --bandwidth".split(" "),
  ..."--stop --label --reason --at --as --count --ip --checkpoint --older-than --max-size ls prune rm".split(" "),
  ..."--dry-run --lab --help --i-have-powered-it-off --yes --force --grace".split(" "),
];
const argv = fc.tuple(
  fc.constantFrom(...COMMANDS),
  fc.array(fc.oneof(fc.constantFrom(...FLAGS, ...WORDS.slice(0, 7), "node-a", "redis"), typed), { maxLength: 6 }),
);
fuzz(
  "a command line",
  argv,
  ([command, words]) => ferry([command, ...words]),
  ({ code, stderr, stdout }) => {
    assert.ok([0, 1, 2, 3].includes(code), String(code));
    assert.doesNotMatch(stderr, /\n\s+at .*:\d+/, "a stack trace");
    // oxlint-disable-next-line no-control-regex -- what a terminal would obey
    assert.doesNotMatch(stderr + stdout, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/, "a control character");
    if (code !== 0) assert.match(stderr, /what to do: |Usage: /);
  },
  { share: 0.4 },
);

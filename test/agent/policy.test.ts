/** The node's policy: its file is authority, and what it refuses is said in words. */
import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { loadPolicy, parsePolicy, type Policy } from "../../src/agent/policy.js";
import { checkDestination, checkPolicy, type Asked } from "../../src/agent/policy-check.js";
import { packageRoot } from "../../src/host/package-root.js";
import { FerryError } from "../../src/model/failure.js";
import type { WorkloadSpec } from "../../src/model/workload.js";
import { spec } from "./preflight-support.js";

const ASKED: Asked = { side: "destination", node: "node-b", nowMs: 1_000_000_000_000, others: 0 };

const messages = (subject: WorkloadSpec, policy: Policy, asked: Partial<Asked> = {}): string =>
  checkPolicy(subject, policy, { ...ASKED, ...asked })
    .map((finding) => `${finding.level} ${finding.side}: ${finding.message}`)
    .join("\n");

test("without a file only code-loading variables are refused", () => {
  const policy = loadPolicy(join(tmpdir(), "no-such-folder", "policy.json"));
  assert.equal(messages(spec, policy), "");
  const env = { LD_PRELOAD: "/x.so", CRIU_CONFIG_FILE: "/x", NODE_OPTIONS: "--require x", A: "1" };
  assert.match(
    messages({ ...spec, env }, policy),
    /^block destination: environment LD_PRELOAD, CRIU_CONFIG_FILE, NODE_OPTIONS is not allowed/,
  );
});

test("a directory of the node is refused unless the policy names it, with a policy and without", () => {
  const asking: WorkloadSpec = { ...spec, volumes: [{ name: "media", path: "/srv/media", kind: "shared" }] };
  assert.match(messages(asking, {}), /no shared volume media \(it has: none\)/);
  assert.match(
    messages(asking, { sharedVolumes: { other: "/srv/other" } }),
    /no shared volume media \(it has: other\)/,
  );
  assert.equal(messages(asking, { sharedVolumes: { media: "/srv/media" } }), "");
});

test("users, networks, memory and further variables", () => {
  const policy = parsePolicy(
    '{"users":["redis","1000"],"subnets":["10.77.0.0/26"],"maxMemoryBytes":1048576,"forbiddenEnv":["SECRET"]}',
  );
  const refused = messages({ ...spec, env: { SECRET: "x" } }, policy, { side: "source" });
  assert.match(refused, /block source: environment SECRET/);
  assert.match(refused, /user root is not allowed .*redis, 1000/);
  assert.match(refused, /address 10\.77\.0\.100\/24 is not allowed .*10\.77\.0\.0\/26/);
  assert.match(refused, /wants a memory limit of at most 1048576/);
  const fine = {
    ...spec,
    user: "redis",
    limits: { memoryBytes: 1048576 },
    network: { ...spec.network, ip: "10.77.0.63/24" },
  };
  assert.equal(messages(fine, policy), "");
  assert.match(messages({ ...fine, limits: { memoryBytes: 1048577 } }, policy), /is over this node's 1048576/);
  // Another way to write root, or root's group, is not an allowed user.
  for (const user of ["0", "00", "1000:0", "01000"])
    assert.match(messages({ ...fine, user }, policy), /is not allowed/);
});

test("names, runtimes, cores, how many workloads, and where from and to", () => {
  const policy = parsePolicy(
    '{"workloads":["web-*","redis"],"runtimes":["process"],"maxCpus":2,"maxWorkloads":3,"peers":{"sources":["node-a"],"destinations":["rack1-*"]}}',
  );
  const refused = messages({ ...spec, runtime: "simulated" }, policy, { others: 3, from: "node-c" });
  for (const words of [
    /a workload named probe is not allowed on this node \(allowed: web-\*, redis\)/,
    /runtime simulated is not allowed .*process/,
    /wants a cpu limit of at most 2 cores/,
    /takes at most 3 at a time, and has 3/,
    /workloads from node-c are not allowed .*node-a/,
  ]) {
    assert.match(refused, words);
  }
  const fine: WorkloadSpec = { ...spec, name: "web-1", limits: { cpus: 1.5 } };
  assert.equal(messages(fine, policy, { others: 2, from: "node-a" }), "");
  assert.match(messages({ ...fine, limits: { cpus: 2.5 } }, policy), /cpu limit of 2.5 cores is over this node's 2/);
  assert.match(messages({ ...fine, name: "a-web-1" }, policy), /is not allowed/);
  assert.deepEqual(checkDestination("rack1-b", policy), []);
  assert.deepEqual(checkDestination("rack2-b", {}), []);
  const [finding] = checkDestination("rack2-b", policy);
  assert.equal(finding?.level, "block");
  assert.match(finding.message, /does not let workloads go to rack2-b \(allowed: rack1-\*\)/);
});

test("only named programs, by whatever way another one is asked for", () => {
  const policy = parsePolicy('{"commands":["redis-server","/usr/bin/*","/opt/jobs/*/run"]}');
  const ask = (command: string[], env: Record<string, string> = {}): string =>
    messages({ ...spec, command, env }, policy);
  for (const command of ["redis-server", "/usr/bin/python3", "/opt/jobs/a/run"])
    assert.equal(ask([command]), "", command);
  for (const command of [
    "redis-serve",
    "redis-server2",
    "sh",
    "/bin/sh",
    "/usr/bin/../../bin/sh",
    "/usr/bin/a/b",
    "//usr/bin/x",
    "/usr/bin/./x",
    "/usr/bin/",
    "./redis-server",
    "bin/redis-server",
    "/opt/jobs/a/b/run",
    "/opt/jobs//run",
    "/usr/bin/\n/../sh",
    "",
  ]) {
    assert.match(ask([command]), /^block destination: command ".*" is not allowed on this node/, command);
  }
  for (const name of ["PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PERL5OPT"]) {
    assert.match(ask(["redis-server"], { [name]: "/data" }), new RegExp(`environment ${name} is not allowed`));
  }
  // Where no programs are named, whoever starts one may say where it looks.
  assert.equal(messages({ ...spec, env: { PATH: "/data" } }, {}), "");
});

test("a policy that can't be understood refuses everything, with the reason and the key", () => {
  const dir = mkdtempSync(join(tmpdir(), "ferry-policy-"));
  try {
    const file = join(dir, "policy.json");
    for (const [text, reason] of [
      ["{", /is not JSON/],
      ["[]", /is not valid/],
      ['{"user":["x"]}', /is not valid: \(file\): Unrecognized key: "user"/],
      ['{"peers":{"source":[]}}', /peers: Unrecognized key: "source"/],
      ['{"__proto__":{"users":[]}}', /__proto__/],
      ['{"subnets":["10.0.0.0"]}', /subnets\.0: must be a network/],
      ['{"subnets":["010.0.0.0/8"]}', /is not valid/],
      ['{"maxMemoryBytes":-1}', /maxMemoryBytes/],
      ['{"maxWorkloads":1.5}', /maxWorkloads/],
      ['{"commands":["bin/sh"]}', /commands\.0: must be a plain name or an absolute path/],
      ['{"commands":["/usr/../bin/sh"]}', /commands\.0/],
      ['{"runtimes":["docker"]}', /runtimes\.0/],
      ['{"sharedVolumes":{"media":"srv"}}', /sharedVolumes\.media: must be an absolute path/],
      ['{"requireSignature":true}', /requireSignature: needs trustedSigners/],
      ['{"trustedSigners":{"alice":"AAAA"}}', /trustedSigners\.alice/],
    ] as const) {
      writeFileSync(file, text);
      assert.throws(
        () => loadPolicy(file),
        (error) => error instanceof FerryError && error.code === "E_POLICY" && reason.test(error.message),
        text,
      );
    }
    assert.throws(() => loadPolicy(dir), /can't be read|can be written/);
    writeFileSync(file, "{}");
    chmodSync(file, 0o666);
    assert.throws(() => loadPolicy(file), /can be written by others \(owner \d+, mode 666\)/);
    chmodSync(file, 0o644);
    assert.deepEqual(loadPolicy(file), {});
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("the example in docs/security.md is a policy", () => {
  const text = readFileSync(join(packageRoot(), "docs", "security.md"), "utf8");
  const [, example = ""] = /```json\n([^`]+)```/.exec(text) ?? [];
  assert.equal(parsePolicy(example).requireSignature, true);
});

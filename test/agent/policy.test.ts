/** The node's policy: its file is authority, and what it refuses is said in words. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { checkPolicy, loadPolicy, parsePolicy } from "../../src/agent/policy.js";
import { FerryError } from "../../src/model/failure.js";
import { spec } from "./preflight-support.js";

const messages = (...args: Parameters<typeof checkPolicy>): string =>
  checkPolicy(...args)
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

test("users, networks, memory and further variables", () => {
  const policy = parsePolicy(
    '{"users":["redis","1000"],"subnets":["10.77.0.0/26"],"maxMemoryBytes":1048576,"forbiddenEnv":["SECRET"]}',
  );
  const refused = messages({ ...spec, env: { SECRET: "x" } }, policy, "source");
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
});

test("a policy that can't be understood refuses everything, with the reason", () => {
  const dir = mkdtempSync(join(tmpdir(), "ferry-policy-"));
  try {
    const file = join(dir, "policy.json");
    for (const [text, reason] of [
      ["{", /is not JSON/],
      ["[]", /is not valid/],
      ['{"user":["x"]}', /is not valid/],
      ['{"subnets":["10.0.0.0"]}', /is not valid/],
      ['{"subnets":["010.0.0.0/8"]}', /is not valid/],
      ['{"maxMemoryBytes":-1}', /is not valid/],
    ] as const) {
      writeFileSync(file, text);
      assert.throws(
        () => loadPolicy(file),
        (error) => error instanceof FerryError && error.code === "E_POLICY" && reason.test(error.message),
        text,
      );
    }
    assert.throws(() => loadPolicy(dir), /can't be read/);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

/**
 * The import walls of docs/architecture.md hold: oxlint, with the rules of this repository, complains about what is planted
 * on the wrong side of each, and about nothing else.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { packageRoot } from "../../src/host/package-root.js";

const root = packageRoot();
const oxlint = join(root, "node_modules", ".bin", "oxlint");
const skip = existsSync(oxlint) ? false : "oxlint is not installed (npm ci --omit=dev)";

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), "ferry-walls-"));
});
after(() => rmSync(dir, { recursive: true, force: true }));

interface Complaint {
  code: string;
  filename: string;
}

/** What the wall rules say of these files; others (unused imports and the like) are not asked. */
function lint(files: Record<string, string>): string[] {
  const tree = mkdtempSync(join(dir, "tree-"));
  copyFileSync(join(root, ".oxlintrc.json"), join(tree, ".oxlintrc.json"));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    writeFileSync(join(tree, path), `${text}\n`);
  }
  const { stdout, stderr } = spawnSync(oxlint, ["--format", "json"], { cwd: tree, encoding: "utf8" });
  const { diagnostics, number_of_files: seen } = JSON.parse(stdout) as {
    diagnostics: Complaint[];
    number_of_files: number;
  };
  assert.equal(seen, Object.keys(files).length, stderr);
  return diagnostics
    .filter(({ code }) => code.includes("no-restricted-"))
    .map(({ code, filename }) => `${filename}: ${/no-restricted-[a-z]+/.exec(code)?.[0] ?? code}`);
}

const ROOMS = [
  "model",
  "keys",
  "host",
  "transfer",
  "store",
  "checkpoints",
  "runtimes",
  "agent",
  "activities",
  "workers",
  "workflows",
  "client",
  "cli",
];
/** Which room may import which others, by name. `agent` here: more of it than the socket client. */
const MAY: Record<string, readonly string[]> = {
  model: [],
  keys: ["model"],
  host: ["model"],
  transfer: ["model", "host", "store"],
  store: ["model", "host", "transfer"],
  checkpoints: ["model", "host", "transfer", "store"],
  runtimes: ["model", "host", "transfer", "store"],
  agent: ["model", "keys", "host", "transfer", "store", "checkpoints", "runtimes"],
  activities: ["model"],
  workers: ["model", "keys", "activities"],
  workflows: ["model"],
  client: ["model", "keys"],
  cli: ["model", "keys", "client"],
};

test("each room imports what it may, and nothing else", { skip }, () => {
  const files: Record<string, string> = {};
  const wrong: string[] = [];
  for (const [room, may] of Object.entries(MAY)) {
    for (const other of [...ROOMS, "deploy"].filter((one) => one !== room)) {
      const path = `src/${room}/${other}.ts`;
      files[path] = `import "${other === "deploy" ? "../../deploy/x" : `../${other}/x`}.js";`;
      if (!may.includes(other)) wrong.push(`${path}: no-restricted-imports`);
    }
  }
  for (const other of ROOMS) {
    files[`deploy/lab/${other}.ts`] = `import "../../src/${other}/x.js";`;
    if (!["model", "host", "client"].includes(other)) wrong.push(`deploy/lab/${other}.ts: no-restricted-imports`);
  }
  assert.deepEqual(lint(files).toSorted(), wrong.toSorted());
});

test("the rooms of the sandbox and of the SDK have no node builtins; only some know of Temporal", { skip }, () => {
  const files: Record<string, string> = {
    "src/model/a.ts": 'import "node:fs";',
    "src/workflows/a.ts": 'import "node:fs";',
    "src/client/a.ts": 'import "node:fs";',
    "src/model/b.ts": 'import "@temporalio/common";',
    "src/host/b.ts": 'import "@temporalio/common";',
    "src/keys/b.ts": 'import "@temporalio/client";',
    "src/transfer/b.ts": 'import "@temporalio/common";',
    "src/runtimes/b.ts": 'import "@temporalio/common";',
    "src/agent/b.ts": 'import "@temporalio/common";',
    "src/workflows/b.ts": 'import "@temporalio/client";',
    "src/client/b.ts": 'import "@temporalio/worker";',
    "src/cli/b.ts": 'import "@temporalio/worker";',
  };
  const expected = Object.keys(files).map((path) => `${path}: no-restricted-imports`);
  const fine = {
    "src/host/fine.ts": 'import "node:fs";',
    "src/workflows/fine.ts": 'import "@temporalio/workflow";',
    "src/client/fine.ts": 'import "@temporalio/client";',
    "src/workers/fine.ts": 'import "../agent/client.js";',
    "src/activities/fine.ts": 'import "../agent/client.js";',
  };
  assert.deepEqual(lint({ ...files, ...fine }).toSorted(), expected.toSorted());
});

test("model has no clock, no randomness, and reaches nothing outside", { skip }, () => {
  const globals = {
    now: "Date.now()",
    date: "new Date()",
    performance: "performance.now()",
    timeout: "setTimeout(() => 1, 1)",
    interval: "setInterval(() => 1, 1)",
    immediate: "setImmediate(() => 1)",
    process: "process.pid",
    buffer: 'Buffer.from("")',
    console: "console.log(1)",
    fetch: 'fetch("")',
    crypto: "crypto.randomUUID()",
    world: "globalThis.name",
  };
  const files = Object.fromEntries(
    Object.entries(globals).map(([k, v]) => [`src/model/${k}.ts`, `export const x = ${v};`]),
  );
  const expected = Object.keys(files).map((path) => `${path}: no-restricted-globals`);
  const random = { "src/model/random.ts": "export const x = Math.random();" };
  const fine = {
    "src/model/fine.ts": "export const x = (date: number) => Math.max(date, 1);",
    "src/host/fine.ts": "export const x = Date.now() + Math.random();",
  };
  assert.deepEqual(
    lint({ ...files, ...random, ...fine }).toSorted(),
    [...expected, "src/model/random.ts: no-restricted-properties"].toSorted(),
  );
});

test("exceptions of cli are named one by one", { skip }, () => {
  const allowed = {
    "src/cli/main.ts": "../host/package-root.js",
    "src/cli/supervise.ts": "../host/package-root.js",
    "src/cli/commands/doctor.ts": "../../host/checks.js",
    "src/cli/commands/fence.ts": "../../host/exec.js",
    "src/cli/commands/agent.ts": "../../agent/main.js",
    "src/cli/commands/worker.ts": "../../workers/worker.js",
    "src/cli/commands/checkpoints-store.ts": "../../checkpoints/keeping.js",
    "src/cli/commands/lab.ts": "../../../deploy/lab/index.js",
    "src/cli/commands/demo.ts": "../../../deploy/demo/demo.js",
  };
  const files = Object.fromEntries(Object.entries(allowed).map(([path, from]) => [path, `import "${from}";`]));
  assert.deepEqual(lint(files), []);
  const others = Object.fromEntries(Object.keys(allowed).map((path) => [path, 'import "../transfer/x.js";']));
  assert.equal(lint({ ...others, "src/cli/main.ts": 'import "../host/exec.js";' }).length, Object.keys(others).length);
});

/** oxlint does not look at `import()`: what is imported that way is planted as a plain import at the same place. */
test("what is imported late is behind the same walls", { skip }, () => {
  const files: Record<string, string> = {};
  for (const top of ["src", "deploy"]) {
    for (const name of readdirSync(join(root, top), { recursive: true, encoding: "utf8" })) {
      if (!name.endsWith(".ts")) continue;
      const text = readFileSync(join(root, top, name), "utf8");
      const late = [...text.matchAll(/\bimport\(\s*["']([^"']+)["']/g)].map(([, from]) => `import "${from ?? ""}";`);
      if (late.length > 0) files[join(top, name)] = late.join("\n");
    }
  }
  assert.ok(Object.keys(files).length > 5);
  assert.deepEqual(lint(files), []);
});

/**
 * Kept histories of every path still replay: a change of the workflows' code that would break runs that are open fails
 * here. Needs no server. The histories lie in the source tree, beside this file's source.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { Worker, Runtime, DefaultLogger } from "@temporalio/worker";
import { historyOf } from "./history.js";
import { workflowBundle } from "../support/temporal.js";

const here = fileURLToPath(new URL(".", import.meta.url));
/** Compiled to <out>/test/replay, or <dir>/<out>/test/replay: go up until the sources are found. */
function histories(): string {
  for (let up = here, i = 0; i < 6; i += 1, up = resolve(up, "..")) {
    const candidate = join(up, "test/replay/histories");
    if (existsSync(join(up, "package.json")) && existsSync(candidate)) return candidate;
  }
  throw new Error(`no test/replay/histories above ${here}`);
}

Runtime.install({ logger: new DefaultLogger("ERROR"), shutdownSignals: [] });

const MODES = ["migrate-moved", "migrate-moved-postcopy", "migrate-precopy", "migrate-hybrid"];
const ENDS = [
  ...["rolled-back", "refused", "planned", "cancelled", "token-carried", "steered", "stuck", "left-to-sweep"].map(
    (end) => `migrate-${end}`,
  ),
  "workload",
  "node",
  "settle",
  "sweep",
  "sweep-told",
];

test("kept histories replay", async () => {
  const dir = histories();
  const files = readdirSync(dir).filter((file) => file.endsWith(".json"));
  for (const path of [...MODES, ...ENDS]) assert.ok(files.includes(`${path}.json`), `no history of ${path}`);
  const names = new Map<string, string>();
  const kept = files.map((file) => {
    const history = historyOf(JSON.parse(readFileSync(join(dir, file), "utf8")));
    // Ids of children are made of it, so it must be the one of then.
    const workflowId = history.events?.[0]?.workflowExecutionStartedEventAttributes?.workflowId ?? file;
    names.set(workflowId, file);
    return { workflowId, history };
  });
  const results = Worker.runReplayHistories({ workflowBundle: await workflowBundle() }, kept);
  let count = 0;
  for await (const { workflowId, error } of results) {
    assert.equal(error, undefined, `${names.get(workflowId) ?? ""} (${workflowId}): ${String(error)}`);
    count += 1;
  }
  assert.equal(count, files.length);
});

test("a history that does not fit the code is found out", async () => {
  const text = readFileSync(join(histories(), "migrate-moved.json"), "utf8").replaceAll('"reserve"', '"release"');
  const kept = [{ workflowId: "wrong", history: historyOf(JSON.parse(text)) }];
  for await (const { error } of Worker.runReplayHistories({ workflowBundle: await workflowBundle() }, kept)) {
    assert.match(String(error), /[Nn]ondeterminism/);
  }
});

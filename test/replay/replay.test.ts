/**
 * Kept histories of every path still replay: a change of the workflows' code that would break runs that are open fails
 * here. Needs no server. The histories lie in the source tree, beside this file's source.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { Worker, Runtime, DefaultLogger, type WorkflowBundle } from "@temporalio/worker";
import { historyOf } from "./history.js";
import { bundleOf, workflowBundle } from "../support/temporal.js";

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

/** Names of the kept files; record.ts makes them. `-1` and `-2`: the first and the last of several runs. */
const PATHS = `
  migrate-moved migrate-moved-postcopy migrate-precopy migrate-hybrid migrate-auto migrate-planned migrate-refused
  migrate-rolled-back migrate-cancelled migrate-stuck migrate-left-to-sweep migrate-steered migrate-token-carried
  migrate-in-doubt migrate-resolved-source migrate-resolved-destination migrate-settled-first migrate-long-1 migrate-long-2
  settle settle-long-1 settle-long-2 sweep sweep-told sweep-long-1 sweep-long-2
  workload workload-refused workload-ended workload-1 workload-2
  node node-fenced node-forgotten node-watched node-1 node-2 workload-recovered supersede
  checkpoint-saved checkpoint-stopped checkpoint-refused checkpoint-unanswered checkpoint-called-off
  checkpoint-long-1 checkpoint-long-2 workload-saved workload-restored workload-restored-off workload-cloned workload-recovered-unsaved node-store
  workload-address-taken workload-cloned-address-taken node-without-beats workload-restore-called-off workload-undone
  protect-saved protect-pruned protect-skipped protect-failed protect-gone scale-down scale-up
  idle-active idle-slept idle-skipped workload-slept
  migrate-reset migrate-reset-late workload-reset`;

interface Kept {
  /** Below `histories`, without .json. */
  file: string;
  workflowId: string;
  history: ReturnType<typeof historyOf>;
}

function kept(): Kept[] {
  const dir = histories();
  return readdirSync(dir, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".json"))
    .map((file) => {
      const history = historyOf(JSON.parse(readFileSync(join(dir, file), "utf8")));
      // Ids of children are made of it, so it must be the one of then.
      const { workflowId } = history.events?.[0]?.workflowExecutionStartedEventAttributes ?? {};
      return { file: file.replace(/\.json$/, ""), workflowId: workflowId ?? file, history };
    });
}

/** Files that do not fit the code, with what the SDK says. */
async function misfits(workflowBundle: WorkflowBundle, all: readonly Kept[]): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  let replayed = 0;
  // Several files may be of one workflow, and results come by its id: only one of each at a time.
  for (let left = [...all]; left.length > 0;) {
    const batch = new Map(left.map((one) => [one.workflowId, one]));
    for await (const { workflowId, error } of Worker.runReplayHistories({ workflowBundle }, batch.values())) {
      replayed += 1;
      if (error !== undefined) found.set(batch.get(workflowId)?.file ?? workflowId, String(error));
    }
    left = left.filter((one) => batch.get(one.workflowId) !== one);
  }
  assert.equal(replayed, all.length);
  return found;
}

test("every path has a kept history", () => {
  const names = new Set(kept().map(({ file }) => basename(file)));
  assert.deepEqual(
    PATHS.trim()
      .split(/\s+/)
      .filter((path) => !names.has(path)),
    [],
  );
});

test("kept histories replay, of this and of every earlier version", async () => {
  assert.deepEqual(await misfits(await workflowBundle(), kept()), new Map());
});

test("a step that is put in without patched() is found out", async () => {
  const careless = await bundleOf("../workflows/versions/careless.js", import.meta.url);
  const moved = kept().filter(({ file }) => basename(file) === "migrate-moved");
  const found = await misfits(careless, moved);
  assert.equal(found.size, moved.length);
  for (const error of found.values()) assert.match(error, /[Nn]ondeterminism/);
});

/** Whoever reaches Temporal can send anything: it is refused in words, no task fails for ever, and the entity lives on. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { WorkflowFailedError, WorkflowUpdateFailedError } from "@temporalio/client";
import { ApplicationFailure } from "@temporalio/common";
import { INPUT_PROBLEMS, askProblems, migrateProblems, startProblems } from "../../src/model/request-check.js";
import { WORKFLOW_TASK_QUEUE } from "../../src/model/names.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { QUICK, Stage, specOf } from "./support.js";

const RUBBISH: unknown[] = [undefined, null, 42, "x", [], {}, { name: "../x", node: "../.." }, { spec: null, to: 7 }];
const TYPES = Object.keys(INPUT_PROBLEMS) as (keyof typeof INPUT_PROBLEMS)[];

const isRequestError = (error: unknown): true => {
  assert.ok(error instanceof WorkflowFailedError || error instanceof WorkflowUpdateFailedError, String(error));
  assert.ok(error.cause instanceof ApplicationFailure, String(error.cause));
  assert.equal(error.cause.type, "E_REQUEST", error.cause.message);
  return true;
};

test("every problem of a message is named, and none of a good one", () => {
  for (const type of TYPES) {
    for (const input of RUBBISH) assert.notDeepEqual(INPUT_PROBLEMS[type](input), [], `${type} ${String(input)}`);
  }
  const options = { mode: "cold", dryRun: false, maxBlackoutMs: 30_000 };
  assert.deepEqual(startProblems({ spec: specOf("web"), node: "node-a" }), []);
  assert.deepEqual(migrateProblems({ to: "node-b", options }), []);
  assert.deepEqual(INPUT_PROBLEMS.workload({ name: "web", tuning: QUICK }), []);
  assert.deepEqual(askProblems({ ask: "log", workload: "web", offset: -4096, maxBytes: 4096 }), []);
  const wrong = migrateProblems({ to: "a/b", options: { mode: "warp", dryRun: 1, maxBlackoutMs: Number.NaN } });
  assert.equal(wrong.length, 4, wrong.join("\n"));
});

describe("rubbish from another client", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up();
  });
  after(() => stage.down());

  test("a workflow that is started with it fails at once", async () => {
    const started = TYPES.flatMap((type) => [null, 42, {}].map((input, i) => ({ type, input, i })));
    for (const { type, input, i } of started) {
      const handle = await stage.client.workflow.start(type, {
        taskQueue: WORKFLOW_TASK_QUEUE,
        workflowId: `rubbish/${type}/${i}`,
        args: [input],
      });
      await assert.rejects(handle.result(), isRequestError);
    }
  });

  test("an update with it is refused, and the workload moves as if nothing had been", async () => {
    const subject = await stage.run();
    for (const update of ["start", "migrate", "stop", "remove"]) {
      for (const body of RUBBISH) {
        if (update === "start" && typeof body === "object" && body !== null && "node" in body) continue; // E_NAME
        await assert.rejects(subject.handle.executeUpdate(update, { args: [body] }), isRequestError);
      }
    }
    assert.equal((await subject.moveTo("node-b")).outcome, "moved");
  });

  test("a signal with it is not heard, and the workload moves as if nothing had been", async () => {
    const subject = await stage.run();
    const { name } = subject;
    const news = [`${name}.migrate.2`, `${name}.checkpoint.2`].flatMap((operation) => [
      { operation },
      { operation, state: "working", handOver: {} },
      { operation, state: "done", checkpoint: { operation, outcome: "saved" } },
      { operation, state: "in-doubt", problem: { no: "text" } },
    ]);
    for (const signal of ["operation", "ended"]) {
      for (const body of [...RUBBISH, ...news]) await subject.handle.signal(signal, body);
    }
    assert.equal((await subject.status()).state, "running");
    assert.equal((await subject.moveTo("node-b")).outcome, "moved");
  });
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { ApplicationFailure, CancelledFailure } from "@temporalio/activity";
import { MockActivityEnvironment } from "@temporalio/testing";
import { createNodeActivities } from "../../src/activities/index.js";
import type { NodeAgent, SideOutcome, Step, TakeOverInput } from "../../src/model/contract.js";
import { FerryError, ferryError, type FailureCode } from "../../src/model/failure.js";

const input = {} as TakeOverInput;
const outcome = { state: "OWNER" } as SideOutcome;
const agentOf = (takeOver: () => Promise<Step<SideOutcome>>): NodeAgent => ({ takeOver }) as unknown as NodeAgent;
const activities = (agent: NodeAgent) =>
  createNodeActivities({
    agent,
    node: "node-b",
    fenceOf: () => Promise.resolve(null),
    knownNodes: () => Promise.resolve(["node-a", "node-b"]),
    pollMs: 5,
    agentAwayMs: 300,
  });

test("a long step polls until it is done and heartbeats the progress", async () => {
  const env = new MockActivityEnvironment();
  const beats: unknown[] = [];
  env.on("heartbeat", (beat: unknown) => beats.push(beat));
  let polls = 0;
  const agent = agentOf(async () => {
    polls += 1;
    await Promise.resolve();
    return polls < 3 ? { done: false, progress: { bytesSent: polls } as never } : { done: true, result: outcome };
  });
  assert.deepEqual(await env.run(() => activities(agent).takeOver(input)), outcome);
  assert.deepEqual(beats.slice(1), [{ bytesSent: 1 }, { bytesSent: 2 }]);
});

test("a short step beats as well: its worker's death is found out before the step's time is over", async () => {
  const env = new MockActivityEnvironment();
  const beat = new Promise<void>((resolve) => env.on("heartbeat", () => resolve()));
  // It is answered when the beat has come.
  const agent = { describeNode: () => beat.then(() => ({ node: "node-b" })) } as unknown as NodeAgent;
  assert.deepEqual(await env.run(() => activities(agent).describeNode()), { node: "node-b" });
});

test("an agent that is away is asked again; for too long, it is a retryable failure", async () => {
  let calls = 0;
  const coming = agentOf(async () => {
    calls += 1;
    if (calls < 2) throw ferryError("E_AGENT_DOWN", "away");
    return Promise.resolve({ done: true, result: outcome });
  });
  assert.deepEqual(await new MockActivityEnvironment().run(() => activities(coming).takeOver(input)), outcome);
  const gone = agentOf(() => Promise.reject(ferryError("E_AGENT_DOWN", "away")));
  await assert.rejects(
    new MockActivityEnvironment().run(() => activities(gone).takeOver(input)),
    (error: unknown) =>
      error instanceof ApplicationFailure && error.type === "E_AGENT_DOWN" && error.nonRetryable === false,
  );
});

test("an agent that dies in a restore or a recovery is asked again; a cancel ends that, and what it says is an answer", async () => {
  const away = (): Promise<never> => Promise.reject(ferryError("E_AGENT_DOWN", "away"));
  for (const verb of ["restoreWorkload", "recoverWorkload"] as const) {
    const from = (answer: () => Promise<unknown>) => activities({ [verb]: answer } as unknown as NodeAgent);
    const run = (answer: () => Promise<unknown>, env = new MockActivityEnvironment()) =>
      env.run(() => from(answer)[verb]({} as never));
    let calls = 0;
    const coming = (): Promise<unknown> => ((calls += 1) < 2 ? away() : Promise.resolve({ pid: 7, epoch: 2 }));
    assert.deepEqual(await run(coming), { pid: 7, epoch: 2 });
    await assert.rejects(
      run(away),
      (error) => error instanceof ApplicationFailure && error.type === "E_AGENT_DOWN" && error.nonRetryable === false,
    );
    await assert.rejects(
      run(() => Promise.reject(ferryError("E_RESTORE", "no"))),
      (error) => error instanceof ApplicationFailure && error.type === "E_RESTORE" && error.nonRetryable === true,
    );
    const asked = new MockActivityEnvironment();
    setTimeout(() => asked.cancel("CANCELLED", { cancelRequested: true } as never), 50);
    await assert.rejects(run(away, asked), CancelledFailure);
  }
});

test("an answer that says no is not retried, and carries its data", async () => {
  for (const code of ["E_RESTORE", "E_STALE_EPOCH", "E_NO_SPACE"] as FailureCode[]) {
    const no = agentOf(() => Promise.reject(new FerryError({ code, message: "no", remedy: "mend it" })));
    await assert.rejects(
      new MockActivityEnvironment().run(() => activities(no).takeOver(input)),
      (error: unknown) => {
        assert.ok(error instanceof ApplicationFailure);
        assert.equal(error.type, code);
        assert.equal(error.nonRetryable, true);
        assert.deepEqual(error.details, [{ code, message: "no", remedy: "mend it" }]);
        return true;
      },
    );
  }
});

test("a cancel by a person ends the waiting; a worker that shuts down detaches", async () => {
  const forever = agentOf(async () => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    return { done: false };
  });
  const asked = new MockActivityEnvironment();
  setTimeout(() => asked.cancel("CANCELLED", { cancelRequested: true } as never), 20);
  await assert.rejects(
    asked.run(() => activities(forever).takeOver(input)),
    CancelledFailure,
  );
  const stopping = new MockActivityEnvironment();
  setTimeout(() => stopping.cancel("WORKER_SHUTDOWN", { workerShutdown: true } as never), 20);
  await assert.rejects(
    stopping.run(() => activities(forever).takeOver(input)),
    (error: unknown) =>
      error instanceof ApplicationFailure && error.type === "E_AGENT_DOWN" && error.nonRetryable === false,
  );
});

const watching = (answers: () => Promise<never[]>, stopping?: AbortSignal) =>
  createNodeActivities({
    agent: { endings: answers } as unknown as NodeAgent,
    node: "node-b",
    fenceOf: () => Promise.resolve(null),
    knownNodes: () => Promise.resolve([]),
    ...(stopping && { stopping }),
  });

test("a watch ends when the agent was there for as long as is asked for, without a break", async () => {
  let calls = 0;
  let brokeAt = 0;
  const flapping = watching(() => {
    calls += 1;
    // The second one: a busy machine may be late for the third.
    if (calls !== 2) return Promise.resolve([]);
    brokeAt = performance.now();
    return Promise.reject(ferryError("E_AGENT_DOWN", "away"));
  });
  await new MockActivityEnvironment().run(() => flapping.watchNode({ forMs: 40, everyMs: 10 }));
  assert.ok(calls > 2, "it went on after the break");
  assert.ok(performance.now() - brokeAt >= 40, "begun anew after the break");
});

test("a watch fails when the agent is away, or hangs, for too long; a refusal is a sign of life", async () => {
  for (const answer of [
    () => Promise.reject(ferryError("E_AGENT_DOWN", "away")),
    () => new Promise<never[]>(() => undefined),
  ]) {
    await assert.rejects(
      new MockActivityEnvironment().run(() => watching(answer).watchNode({ forMs: 60_000, everyMs: 5, awayMs: 30 })),
      (error: unknown) =>
        error instanceof ApplicationFailure && error.type === "E_AGENT_DOWN" && error.nonRetryable === true,
    );
  }
  const refuses = watching(() => Promise.reject(ferryError("E_JOURNAL_CORRUPT", "line 7")));
  await new MockActivityEnvironment().run(() => refuses.watchNode({ forMs: 20, everyMs: 5, awayMs: 10 }));
});

test("a worker that shuts down does not wait for its watch, which the next one goes on with", async () => {
  const stop = new AbortController();
  const watch = new MockActivityEnvironment().run(() =>
    watching(() => Promise.resolve([]), stop.signal).watchNode({ forMs: 3_600_000, everyMs: 3_600_000 }),
  );
  setTimeout(() => stop.abort(), 20);
  await assert.rejects(
    watch,
    (error: unknown) =>
      error instanceof ApplicationFailure && error.type === "E_AGENT_DOWN" && error.nonRetryable !== true,
  );
});

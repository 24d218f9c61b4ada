/**
 * Activities of one node: thin calls "ensure that operation X has reached state Y" to the node's agent.
 *
 * They hold no state: a worker may die in the middle and another attempt asks the agent again. So every step beats, that the
 * server knows of it soon. Long steps poll the agent and heartbeat its progress. A cancel ends the waiting only; what is undone is decided by the workflow, which
 * asks for `burn`. A worker that shuts down detaches: the agent goes on working.
 */
import { ApplicationFailure, CancelledFailure, Context } from "@temporalio/activity";
import type { Fence, NodeActivities, NodeAgent, Step, WatchInput } from "../model/contract.js";
import { ferryError } from "../model/failure.js";
import { isAgentDown, toApplicationFailure } from "./failures.js";
import { notePhase } from "./phase.js";

export interface NodeActivitiesOptions {
  agent: NodeAgent;
  node: string;
  /** Every node that has registered. */
  knownNodes: () => Promise<string[]>;
  /** What a person has said of a node, if it was fenced and has not come back since. */
  fenceOf: (node: string) => Promise<Fence | null>;
  /** This worker shuts down: a watch ends at once, it would only make it wait. */
  stopping?: AbortSignal;
  /** How long one poll of a long step waits in the agent, in milliseconds; also the pace of heartbeats. */
  pollMs?: number;
  /** How long a long step goes on asking an agent that is away before it fails (and is retried by the server). */
  agentAwayMs?: number;
}

/** Of a short step; most are over before the first one. Workflows take a worker for dead after five times that (calls.ts). */
const BEAT_MS = 2_000;
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 2_000;

export function createNodeActivities(options: NodeActivitiesOptions): NodeActivities {
  const { agent, node, knownNodes, fenceOf, stopping, pollMs = 300, agentAwayMs = 60_000 } = options;

  const beatingEvery = async <Result>(everyMs: number, call: () => Promise<Result>): Promise<Result> => {
    const context = Context.current();
    const beat = setInterval(() => context.heartbeat(), everyMs);
    try {
      return await call();
    } finally {
      clearInterval(beat);
    }
  };

  const ask = <Result>(call: () => Promise<Result>, everyMs = BEAT_MS): Promise<Result> =>
    beatingEvery(everyMs, async () => {
      try {
        return await call();
      } catch (error) {
        throw toApplicationFailure(error);
      }
    });

  /** Asks until the step is done. */
  const follow = async <Result>(poll: (waitMs: number) => Promise<Step<Result>>): Promise<Result> => {
    const context = Context.current();
    let last: unknown;
    let away = patience(agentAwayMs);
    context.heartbeat();
    for (;;) {
      throwWhenCancelled(context, node);
      try {
        const step = await poll(pollMs);
        away = patience(agentAwayMs);
        if (step.done) return step.result;
        last = step.progress ?? last;
        notePhase(context, last);
        context.heartbeat(last);
      } catch (error) {
        const pause = away(error);
        context.heartbeat(last);
        await sleepUnlessCancelled(context, pause);
      }
    }
  };

  /** One call that may take long. It is asked again when this worker dies. */
  const beating = <Result>(call: () => Promise<Result>): Promise<Result> => {
    Context.current().heartbeat();
    return ask(call, pollMs);
  };

  /** Such a call that an agent which dies under it goes on with when it is back: asked again, as a long step is. */
  const insisting = <Result>(call: () => Promise<Result>): Promise<Result> => {
    const context = Context.current();
    const away = patience(agentAwayMs);
    context.heartbeat();
    return beatingEvery(pollMs, async () => {
      for (;;) {
        throwWhenCancelled(context, node);
        try {
          return await call();
        } catch (error) {
          await sleepUnlessCancelled(context, away(error));
        }
      }
    });
  };

  /** Nobody's answer within `ms` is no answer: a stopped agent would keep the worker from saying so. */
  const agentAnswers = async (ms: number): Promise<boolean> => {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), ms);
    });
    // An agent that answers with a refusal is there.
    const answer = agent.endings().then(
      () => true,
      (error: unknown) => !isAgentDown(error),
    );
    return Promise.race([answer, late]).finally(() => clearTimeout(timer));
  };

  const watchNode = async ({ forMs, everyMs, awayMs }: WatchInput): Promise<void> => {
    const context = Context.current();
    let since = performance.now();
    let heardAt = since;
    for (;;) {
      throwWhenCancelled(context, node);
      if (stopping?.aborted === true) throw detached(node);
      context.heartbeat();
      const answers = await agentAnswers(everyMs);
      const now = performance.now();
      if (answers) {
        heardAt = now;
        if (now - since >= forMs) return;
      } else {
        if (awayMs === undefined) since = now;
        else if (now - heardAt >= awayMs) throw agentIsDown(node);
      }
      await sleepUnlessCancelled(context, Math.min(everyMs, Math.max(forMs - (now - since), 1)), stopping);
    }
  };

  return {
    watchNode,
    knownNodes: () => ask(knownNodes),
    fenceOf: (name) => ask(() => fenceOf(name)),
    describeNode: () => ask(() => agent.describeNode()),
    startWorkload: (input) => ask(() => agent.startWorkload(input)),
    stopWorkload: (input) => ask(() => agent.stopWorkload(input)),
    removeWorkload: (input) => ask(() => agent.removeWorkload(input)),
    newestCheckpoint: (input) => ask(() => agent.newestCheckpoint(input)),
    recoverWorkload: (input) => insisting(() => agent.recoverWorkload(input)),
    saveCheckpoint: (input) => follow((waitMs) => agent.saveCheckpoint(input, waitMs)),
    restoreWorkload: (input) => insisting(() => agent.restoreWorkload(input)),
    listCheckpoints: (input) => ask(() => agent.listCheckpoints(input)),
    pinCheckpoint: (input) => ask(() => agent.pinCheckpoint(input)),
    removeCheckpoint: (input) => ask(() => agent.removeCheckpoint(input)),
    verifyCheckpoint: (input) => beating(() => agent.verifyCheckpoint(input)),
    diffCheckpoints: (input) => ask(() => agent.diffCheckpoints(input)),
    observeWorkload: (input) => ask(() => agent.observeWorkload(input)),
    idleWorkload: (input) => ask(() => agent.idleWorkload(input)),
    readLog: (input) => ask(() => agent.readLog(input)),
    preflightSource: (input) => ask(() => agent.preflightSource(input)),
    preflightDestination: (input) => ask(() => agent.preflightDestination(input)),
    reserve: (input) => ask(() => agent.reserve(input)),
    takeOver: (input) => follow((waitMs) => agent.takeOver(input, waitMs)),
    handOver: (input) => follow((waitMs) => agent.handOver(input, waitMs)),
    inquire: (input) => ask(() => agent.inquire(input)),
    burn: (input) => ask(() => agent.burn(input)),
    refuse: (input) => ask(() => agent.refuse(input)),
    deliver: (input) => ask(() => agent.deliver(input)),
    steer: (input) => ask(() => agent.steer(input)),
    acknowledge: (input) => ask(() => agent.acknowledge(input)),
    retake: (input) => ask(() => agent.retake(input)),
    claim: (input) => ask(() => agent.claim(input)),
    supersede: (input) => ask(() => agent.supersede(input)),
    cleanup: (input) => ask(() => agent.cleanup(input)),
  };
}

/** With an agent that is away: how long to pause before it is asked again. Throws what is an answer, or lasts too long. */
function patience(agentAwayMs: number): (error: unknown) => number {
  let since: number | undefined;
  let next = FIRST_PAUSE_MS;
  return (error) => {
    since ??= Date.now();
    if (!isAgentDown(error) || Date.now() - since > agentAwayMs) throw toApplicationFailure(error);
    const pause = next;
    next = Math.min(next * 2, LONGEST_PAUSE_MS);
    return pause;
  };
}

/**
 * Asked for by a person (through the workflow): stop waiting, the workflow asks the journals.
 * Anything else (this worker shuts down, the server has given the step to somebody else): detach.
 */
function throwWhenCancelled(context: Context, node: string): void {
  if (!context.cancellationSignal.aborted) return;
  const why = context.cancellationDetails;
  if (why?.cancelRequested === true) throw new CancelledFailure("no longer waited for; the agent was not told to stop");
  throw detached(node);
}

const detached = (node: string): ApplicationFailure => {
  const { data } = ferryError("E_AGENT_DOWN", `the worker of ${node} shuts down; its agent goes on with the step`, {
    node,
  });
  return ApplicationFailure.create({ message: data.message, type: data.code, nonRetryable: false, details: [data] });
};

const agentIsDown = (node: string): ApplicationFailure => {
  const { data } = ferryError("E_AGENT_DOWN", `the agent of ${node} does not answer`, { node });
  return ApplicationFailure.nonRetryable(data.message, data.code, data);
};

function sleepUnlessCancelled(context: Context, ms: number, stopping?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const { cancellationSignal } = context;
    const signals = stopping === undefined ? [cancellationSignal] : [cancellationSignal, stopping];
    const done = (): void => {
      clearTimeout(timer);
      for (const signal of signals) signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    for (const signal of signals) signal.addEventListener("abort", done);
    if (signals.some((signal) => signal.aborted)) done();
  });
}

/**
 * How workflows call nodes: proxies with timeouts for each kind of step, and any failure as Ferry's data.
 */
import {
  ActivityCancellationType,
  ActivityFailure,
  ApplicationFailure,
  ChildWorkflowFailure,
  isCancellation,
  patched,
  proxyActivities,
  TerminatedFailure,
  TimeoutFailure,
} from "@temporalio/workflow";
import { CONTRACT_SCHEMA, type NodeActivities } from "../model/contract.js";
import { failureClass, isFailureCode, type FailureData } from "../model/failure.js";
import { isFailureData, type Tuning } from "../model/messages.js";
import { nodeTaskQueue } from "../model/names.js";
import type { NodeFacts } from "../model/node.js";
import type { Hold } from "../model/ownership.js";

type ActivityOptions = Parameters<typeof proxyActivities>[0];
export type NodeProxy = ReturnType<typeof proxyActivities<NodeActivities>>;

const base = (node: string, summary: string): ActivityOptions => ({
  taskQueue: nodeTaskQueue(node),
  summary: `${summary} @ ${node}`,
  cancellationType: ActivityCancellationType.TRY_CANCEL,
});

/** A worker that takes a step says every two seconds that it is at it: one that was silent for this long is dead. */
const SILENT_MS = 10_000;

/**
 * Calls of steps whose workers beat: a worker that dies is noticed within ten seconds, however long the step may take.
 *
 * Workers of before did not beat. What lasts longer than ten seconds with one of those looks like a death; so what was
 * given up for want of beats alone is asked for once more without them, as it was then. Steps may be asked for again at
 * any time: that costs time, and nothing else.
 */
export function beaten<Steps extends object>(options: ActivityOptions & { startToCloseTimeout: number }) {
  const plain = proxyActivities<Steps>(options);
  // What is over sooner by itself needs no beats.
  if (options.startToCloseTimeout <= SILENT_MS) return plain;
  const beating = proxyActivities<Steps>({ ...options, heartbeatTimeout: SILENT_MS });
  type Call = (...args: unknown[]) => Promise<unknown>;
  const of = (steps: object, name: string | symbol): Call => (steps as Record<string | symbol, Call>)[name] as Call;
  return new Proxy(plain, {
    get:
      (_, name): Call =>
      async (...args) => {
        try {
          return await of(beating, name)(...args);
        } catch (error) {
          if (!wasSilent(error) || !patched("a step that nobody beat for is asked for without beats")) throw error;
          return of(plain, name)(...args);
        }
      },
  });
}

const wasSilent = (error: unknown): boolean =>
  error instanceof ActivityFailure && error.cause instanceof TimeoutFailure && error.cause.timeoutType === "HEARTBEAT";

/** A step that is over soon. Retried a little, when the agent is away. */
export const shortly = (node: string, tuning: Tuning, summary: string): NodeProxy =>
  beaten<NodeActivities>({
    ...base(node, summary),
    scheduleToStartTimeout: tuning.scheduleToStartMs,
    startToCloseTimeout: tuning.startToCloseMs,
    retry: { initialInterval: tuning.backoffMs, backoffCoefficient: 2, maximumInterval: "2 s", maximumAttempts: 3 },
  });

/** A question that is asked again by the caller, so never by the server. */
export const once = (node: string, tuning: Tuning, summary: string): NodeProxy =>
  beaten<NodeActivities>({
    ...base(node, summary),
    scheduleToStartTimeout: tuning.scheduleToStartMs,
    startToCloseTimeout: tuning.startToCloseMs,
    retry: { maximumAttempts: 1 },
  });

/** A step that goes on for as long as it takes: whoever dies meanwhile, the next worker asks the agent again. */
export const patiently = (node: string, tuning: Tuning, summary: string): NodeProxy =>
  proxyActivities<NodeActivities>({
    ...base(node, summary),
    scheduleToStartTimeout: tuning.longScheduleToStartMs,
    startToCloseTimeout: "24 hours",
    heartbeatTimeout: tuning.heartbeatMs,
    retry: { initialInterval: tuning.backoffMs, backoffCoefficient: 1.5, maximumInterval: "5 s", maximumAttempts: 3 },
  });

/** A failure of ours, thrown inside a workflow: a plain Error would only fail the task and hang. */
export const failure = (data: FailureData): ApplicationFailure =>
  ApplicationFailure.nonRetryable(data.message, data.code, data);

/** Whatever a call threw, as data. `node` says who was asked. */
export function readFailure(error: unknown, node?: string): FailureData {
  const at = node === undefined ? {} : { node };
  if (isCancellation(error)) {
    return { code: "E_CANCELLED", message: "cancelled by request", ...at };
  }
  if (error instanceof ActivityFailure || error instanceof ChildWorkflowFailure) {
    return error.cause === undefined
      ? { code: "E_INTERNAL", message: error.message, ...at }
      : readFailure(error.cause, node);
  }
  if (error instanceof TimeoutFailure) return timeoutFailure(error, node);
  if (error instanceof TerminatedFailure) {
    return { code: "E_IN_DOUBT", message: "the workflow of the operation was terminated", ...at };
  }
  if (error instanceof ApplicationFailure) {
    const data = error.details?.[0];
    if (isFailureCode(error.type) && isFailureData(data)) return { ...at, ...data };
    return { code: "E_INTERNAL", message: error.message, ...at };
  }
  return { code: "E_INTERNAL", message: error instanceof Error ? error.message : String(error), ...at };
}

/** Nobody polls for the node: neither its agent nor its worker is there. One whose worker answers, with whatever, is not off. */
export const nobodyThere = (data: FailureData): boolean =>
  data.code === "E_NODE_UNREACHABLE" && data.message.startsWith(NOBODY);
const NOBODY = "no worker of ";

function timeoutFailure(error: TimeoutFailure, node: string | undefined): FailureData {
  const name = node ?? "the node";
  const at = node === undefined ? {} : { node };
  const remedy = `see whether node ${name} is up and its worker runs: ferry nodes`;
  return error.timeoutType === "SCHEDULE_TO_START"
    ? {
        code: "E_NODE_UNREACHABLE",
        message: `${NOBODY}${name} took the task: the node is out of reach`,
        remedy,
        ...at,
      }
    : {
        code: "E_NODE_UNREACHABLE",
        message: `the worker of ${name} took the task and did not answer in time`,
        remedy,
        ...at,
      };
}

/** Nobody answered, as opposed to an answer that says no. */
export const isSilence = (data: FailureData): boolean =>
  data.code === "E_NODE_UNREACHABLE" || data.code === "E_AGENT_DOWN";

/** The request was wrong or refused: nothing was begun, so there is nothing to undo. */
export const isRefusal = (data: FailureData): boolean =>
  failureClass(data.code) === "user" || failureClass(data.code) === "protocol";

export type Answer<Result> = { answer: Result; failure?: never } | { answer?: never; failure: FailureData };

/** What one says, and who it is. */
export type Said<Result> = Answer<Result> & { node: string };

/** All of them at once, each by itself; the answers in the order of the nodes. */
export const askEach = <Result>(
  nodes: readonly string[],
  call: (node: string) => Promise<Result>,
): Promise<Said<Result>[]> =>
  Promise.all(nodes.map(async (node) => ({ ...(await tryAsk(node, () => call(node))), node })));

/**
 * What another node holds of a workload, and (unless `patched` says that it was not asked then) everything else that it holds: one of
 * those may have its address.
 */
export async function askForCopies(node: string, tuning: Tuning, workload: string): Promise<Copies> {
  const asks = patched("another workload may have its address");
  const [{ holds }, facts] = await Promise.all([
    shortly(node, tuning, "does it have it?").observeWorkload({ schema: CONTRACT_SCHEMA, workload }),
    asks ? shortly(node, tuning, "what else does it have?").describeNode() : undefined,
  ]);
  return { holds, held: facts?.workloads ?? [] };
}
export interface Copies {
  holds: Hold[];
  held: NodeFacts["workloads"];
}

/** Milliseconds before the next try: longer each round. */
export const backoffMs = (tuning: Tuning, round: number, longestMs: number = tuning.maxBackoffMs): number =>
  Math.min(tuning.backoffMs * 1.6 ** round, longestMs);

/** The answer or the failure; only a cancel is thrown. */
export async function tryAsk<Result>(node: string, call: () => Promise<Result>): Promise<Answer<Result>> {
  try {
    return { answer: await call() };
  } catch (error) {
    if (isCancellation(error)) throw error;
    return { failure: readFailure(error, node) };
  }
}

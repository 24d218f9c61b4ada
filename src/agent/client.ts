/**
 * The worker's way to its agent: HTTP with JSON over the agent's unix socket. Any failure to get an answer is
 * E_AGENT_DOWN, which is worth asking again: every verb is idempotent.
 */
import { request } from "node:http";
import { z } from "zod";
import type { NodeAgent } from "../model/contract.js";
import { FerryError, ferryError, isFailureCode, type FailureData } from "../model/failure.js";
import type { Verb } from "./verbs.js";

const replySchema = z.union([
  z.strictObject({ ok: z.literal(true), result: z.unknown() }),
  z.strictObject({ ok: z.literal(false), failure: z.looseObject({ code: z.string(), message: z.string() }) }),
]);

const ANSWER_MS = 60_000;
/** Longer, where a whole checkpoint is read. */
const STORE_MS = 600_000;

export interface AgentClientOptions {
  /** Give up on an answer after this long (default 60 s): E_AGENT_DOWN. */
  timeoutMs?: number;
}

/** POST one verb. Resolves with the raw result; throws FerryError. */
export async function callAgent(
  socketPath: string,
  verb: Verb,
  input: unknown,
  options: AgentClientOptions = {},
): Promise<unknown> {
  const down = (why: string, cause?: unknown): FerryError =>
    new FerryError(
      {
        code: "E_AGENT_DOWN",
        message: `the agent at ${socketPath} does not answer ${verb}: ${why}`,
        remedy: "is `ferry agent` running on this node? its log says why it stopped",
      },
      { cause },
    );
  const body = Buffer.from(JSON.stringify(input ?? {}));
  const text = await new Promise<string>((resolve, reject) => {
    const outgoing = request(
      {
        socketPath,
        path: `/v1/${verb}`,
        method: "POST",
        agent: false,
        headers: { "content-type": "application/json", "content-length": body.length },
        timeout: options.timeoutMs ?? ANSWER_MS,
      },
      (incoming) => {
        const chunks: Buffer[] = [];
        incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
        incoming.on("end", () => resolve(Buffer.concat(chunks).toString("utf8")));
        incoming.on("error", (error) => reject(down(error.message, error)));
        incoming.on("aborted", () => reject(down("the connection was cut")));
      },
    );
    outgoing.on("timeout", () => outgoing.destroy(new Error("no answer in time")));
    outgoing.on("error", (error) => reject(down(error.message, error)));
    outgoing.end(body);
  });
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (error) {
    throw down("its answer is not JSON", error);
  }
  const reply = replySchema.safeParse(raw);
  if (!reply.success) throw down("its answer is not of the agreed form");
  if (reply.data.ok) return reply.data.result;
  const { failure } = reply.data;
  if (!isFailureCode(failure.code))
    throw ferryError("E_INTERNAL", `the agent failed in an unknown way: ${failure.message}`);
  throw new FerryError(failure as unknown as FailureData);
}

/** Typed verbs of the agent behind `socketPath`. */
export function createAgentClient(socketPath: string, options: AgentClientOptions = {}): NodeAgent {
  const { timeoutMs = ANSWER_MS } = options;
  const call = async <Result>(verb: Verb, input?: unknown, moreMs = 0): Promise<Result> =>
    (await callAgent(socketPath, verb, input, { timeoutMs: timeoutMs + moreMs })) as Result;
  return {
    describeNode: () => call("describeNode"),
    endings: () => call("endings"),
    sleepers: (input) => call("sleepers", input, input.waitMs),
    idleWorkload: (input) => call("idleWorkload", input),
    startWorkload: (input) => call("startWorkload", input),
    // Silent for as long as the workload takes to end.
    stopWorkload: (input) => call("stopWorkload", input, input.graceMs),
    removeWorkload: (input) => call("removeWorkload", input),
    newestCheckpoint: (input) => call("newestCheckpoint", input),
    recoverWorkload: (input) => call("recoverWorkload", input),
    saveCheckpoint: (input, waitMs) => call("saveCheckpoint", { input, waitMs }),
    // Silent for as long as files are brought here.
    restoreWorkload: (input) => call("restoreWorkload", input, STORE_MS),
    listCheckpoints: (input) => call("listCheckpoints", input),
    pinCheckpoint: (input) => call("pinCheckpoint", input),
    removeCheckpoint: (input) => call("removeCheckpoint", input),
    verifyCheckpoint: (input) => call("verifyCheckpoint", input, STORE_MS),
    diffCheckpoints: (input) => call("diffCheckpoints", input),
    observeWorkload: (input) => call("observeWorkload", input),
    readLog: (input) => call("readLog", input),
    preflightSource: (input) => call("preflightSource", input),
    preflightDestination: (input) => call("preflightDestination", input),
    reserve: (input) => call("reserve", input),
    takeOver: (input, waitMs) => call("takeOver", { input, waitMs }),
    handOver: (input, waitMs) => call("handOver", { input, waitMs }),
    inquire: (input) => call("inquire", input),
    burn: (input) => call("burn", input),
    refuse: (input) => call("refuse", input),
    deliver: (input) => call("deliver", input),
    steer: (input) => call("steer", input),
    acknowledge: (input) => call("acknowledge", input),
    retake: (input) => call("retake", input),
    claim: (input) => call("claim", input),
    supersede: (input) => call("supersede", input),
    cleanup: (input) => call("cleanup", input),
  };
}

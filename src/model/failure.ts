/**
 * Failures as data: what crosses the agent's socket, the link and Temporal.
 *
 * A failure says what went wrong (message), where (side, node, phase), with what evidence (command, exit code, quoted
 * log lines) and what to do next (remedy). The message never repeats the cause.
 */

import { REMEDIES } from "./remedies.js";

export type Side = "source" | "destination";

/** One row per kind of failure: its class decides retry, exit code and tone. */
const CODES = {
  // the request is wrong: never retried
  E_NAME: "user",
  E_SPEC: "user",
  E_REQUEST: "user",
  E_NODE_UNKNOWN: "user",
  E_NODE_UNREACHABLE: "node",
  E_SAME_NODE: "user",
  E_WORKLOAD_UNKNOWN: "user",
  E_WORKLOAD_EXISTS: "user",
  E_BUSY: "user",
  E_STATE: "user",
  E_PREFLIGHT: "user",
  E_POLICY: "user",
  /** A spec's signature is missing where a node requires it, or is not good. */
  E_SIGNATURE: "user",
  /** Something in Temporal's history is not encrypted, or not by a key that we have. */
  E_PAYLOAD: "user",
  E_IP_CONFLICT: "user",
  E_NO_CHECKPOINT: "user",
  // ownership: the protocol refused, never retried
  E_STALE_EPOCH: "protocol",
  E_TOMBSTONED: "protocol",
  E_PAST_COMMIT: "protocol",
  E_TOKEN: "protocol",
  E_IMAGE_SPENT: "protocol",
  E_IN_DOUBT: "protocol",
  E_STUCK: "protocol",
  E_BURNED: "protocol",
  // the link
  E_PEER_CERT: "link",
  E_PEER_ID: "link",
  E_LINK_VERSION: "link",
  E_FRAME: "link",
  E_LINK_LOST: "link",
  E_STREAM_SHORT: "link",
  // the engine and the node
  E_START: "engine",
  E_DUMP: "engine",
  E_RESTORE: "engine",
  E_FREEZE_TIMEOUT: "engine",
  E_DEADLINE: "engine",
  /** Pre-copy does not get under the downtime limit, and the policy says to give up. */
  E_CONVERGENCE: "engine",
  E_PAGES: "engine",
  E_VOLUME: "engine",
  E_IMAGE_DIGEST: "engine",
  E_IMAGE_INCOMPLETE: "engine",
  // the checkpoint store
  /** The store can't be reached, or says no. */
  E_STORE: "node",
  /** An object of the store is missing, cut or changed. */
  E_STORE_CORRUPT: "engine",
  /** No key, the wrong key, or a store that is not as encrypted as was asked for. */
  E_STORE_KEY: "user",
  E_STORE_SIGNATURE: "protocol",
  /** The writer's lease ran out: what it has written may be collected. */
  E_STORE_LEASE: "protocol",
  E_CHECKPOINT_UNKNOWN: "user",
  E_NO_SPACE: "node",
  E_TOOL: "node",
  E_JOURNAL_CORRUPT: "node",
  E_JOURNAL_LOCKED: "node",
  E_AGENT_DOWN: "node",
  E_TEMPORAL_DOWN: "node",
  /** The server answers, and does not let us in, or not do that. */
  E_TEMPORAL_DENIED: "user",
  E_CANCELLED: "user",
  E_INTERNAL: "bug",
} as const;

export type FailureCode = keyof typeof CODES;
export type FailureClass = (typeof CODES)[FailureCode];
export const failureClass = (code: FailureCode): FailureClass => CODES[code];
export const isFailureCode = (code: unknown): code is FailureCode =>
  typeof code === "string" && Object.hasOwn(CODES, code);

/** Only an agent that is away, or a node that is out of reach, is worth asking again: everything else is an answer. */
export const isRetryable = (code: FailureCode): boolean => code === "E_AGENT_DOWN";

export interface Evidence {
  /** The program and its arguments, as run. */
  command?: string[];
  exitCode?: number;
  signal?: string;
  /** Lines of its log or standard error that say why. */
  lines?: string[];
}

export interface FailureData {
  code: FailureCode;
  message: string;
  side?: Side;
  node?: string;
  phase?: string;
  workload?: string;
  /** What a person can do about it. */
  remedy?: string;
  evidence?: Evidence;
  cause?: FailureData;
}

/** The one error class that Ferry throws on purpose. */
export class FerryError extends Error {
  override readonly name = "FerryError";
  readonly data: FailureData;
  constructor(data: FailureData, options?: { cause?: unknown }) {
    super(data.message, options);
    this.data = data;
  }
  get code(): FailureCode {
    return this.data.code;
  }
}

export function ferryError(
  code: FailureCode,
  message: string,
  more: Omit<FailureData, "code" | "message"> = {},
): FerryError {
  return new FerryError({ code, message, ...more });
}

/** Any thrown value as failure data; what is not ours is a bug until shown otherwise. */
export function toFailure(error: unknown, fallback: FailureCode = "E_INTERNAL"): FailureData {
  if (error instanceof FerryError) return error.data;
  if (error instanceof Error) {
    const errno = (error as { code?: unknown }).code;
    if (errno === "ENOSPC" || errno === "EDQUOT") {
      return { code: "E_NO_SPACE", message: error.message, remedy: "free space on the node's disk, then try again" };
    }
    return { code: fallback, message: error.message };
  }
  return { code: fallback, message: String(error) };
}

const saysWhatToDo = ({ remedy, cause }: FailureData): boolean =>
  remedy !== undefined || (cause !== undefined && saysWhatToDo(cause));

/** The whole chain in words, one line per link: where, what, why, evidence, what next. */
export function describeFailure(failure: FailureData): string[] {
  const lines = describeChain(failure);
  const remedy = REMEDIES[failure.code];
  if (remedy !== undefined && !saysWhatToDo(failure)) lines.push(`  what to do: ${remedy}`);
  return lines;
}

function describeChain(failure: FailureData): string[] {
  const where = [failure.side, failure.node, failure.phase].filter((part) => part !== undefined).join(" ");
  const lines = [`${failure.message} [${failure.code}${where === "" ? "" : `, ${where}`}]`];
  const { evidence } = failure;
  if (evidence?.command) {
    const ended =
      evidence.signal !== undefined
        ? `killed by ${evidence.signal}`
        : evidence.exitCode !== undefined
          ? `exit code ${evidence.exitCode}`
          : "";
    lines.push(`  command: ${evidence.command.join(" ")}${ended === "" ? "" : ` (${ended})`}`);
  }
  for (const line of evidence?.lines ?? []) lines.push(`  | ${line}`);
  if (failure.cause)
    lines.push(...describeChain(failure.cause).map((line, i) => (i === 0 ? `  because: ${line}` : `  ${line}`)));
  if (failure.remedy !== undefined) lines.push(`  what to do: ${failure.remedy}`);
  return lines;
}

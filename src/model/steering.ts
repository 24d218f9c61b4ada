/** What a person may say to a migration under way. Audited: each command is an update in the workflow's history. */
import { ferryError, type FerryError } from "./failure.js";
import { firstProblems, shown } from "./words.js";

export type SteerCommand =
  /** No more rounds and no more pages until `resume`; before the freeze only. */
  | { do: "pause" }
  | { do: "resume" }
  /** Freeze as soon as possible, whatever the convergence policy says. */
  | { do: "switch-now" }
  /** Freeze, resume on the destination first, and let what remains follow. Until the destination has restored. */
  | { do: "post-copy-now" }
  /** Upper bound of the page traffic; null lifts it. */
  | { do: "bandwidth"; bytesPerSec: number | null }
  | { do: "max-downtime"; ms: number }
  /** Do not freeze until `go`, or until so many milliseconds have passed; rounds go on meanwhile. */
  | { do: "hold"; forMs?: number }
  | { do: "go" };
export const STEER_WORDS = [
  "pause",
  "resume",
  "switch-now",
  "post-copy-now",
  "bandwidth",
  "max-downtime",
  "hold",
  "go",
] as const satisfies readonly SteerCommand["do"][];
export type SteerWord = (typeof STEER_WORDS)[number];

/** What a person has said so far, as the node keeps it for an agent that is started again in the middle. */
export interface KeptCourse {
  maxDowntimeMs: number;
  /** Missing: no limit. */
  bandwidthBytesPerSec?: number;
  paused: boolean;
  /** Missing: not held; null: until `go`; else until then, in milliseconds of the machine's monotonic clock. */
  heldUntil?: number | null;
  now: boolean;
  resumeFirst: boolean;
}

/** How the migration stands after a command. */
export interface Steered {
  /** In words, what the command has changed. */
  message: string;
  paused: boolean;
  held: boolean;
  maxDowntimeMs: number;
  bandwidthBytesPerSec?: number;
}

const MAX_MS = 86_400_000;
export const MIN_BANDWIDTH = 1024;

/** Problems of a command from outside, in words; none: it is a SteerCommand. */
export function steerProblems(value: unknown): string[] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return ["a command must be an object"];
  const fields = value as Record<string, unknown>;
  const word = fields["do"];
  if (typeof word !== "string" || !(STEER_WORDS as readonly string[]).includes(word)) {
    return [`there is no command ${shown(word)}: use one of ${STEER_WORDS.join(", ")}`];
  }
  const known: Record<string, readonly string[]> = {
    bandwidth: ["bytesPerSec"],
    "max-downtime": ["ms"],
    hold: ["forMs"],
  };
  const problems = Object.keys(fields)
    .filter((key) => key !== "do" && !(known[word] ?? []).includes(key))
    .map((key) => `${word} has no field ${shown(key)}`);
  const within = (what: string, number: unknown, min: number, max: number): void => {
    if (typeof number !== "number" || !(number >= min && number <= max)) {
      problems.push(`${what} must be a number from ${min} to ${max}`);
    }
  };
  if (word === "bandwidth" && fields["bytesPerSec"] !== null) {
    within("bytesPerSec", fields["bytesPerSec"], MIN_BANDWIDTH, 1e12);
  }
  if (word === "max-downtime") within("ms", fields["ms"], 0, MAX_MS);
  if (word === "hold" && fields["forMs"] !== undefined) within("forMs", fields["forMs"], 1, MAX_MS);
  return firstProblems(problems);
}

/** Throws E_REQUEST with every problem. */
export function checkSteer(value: unknown): SteerCommand {
  const problems = steerProblems(value);
  if (problems.length === 0) return value as SteerCommand;
  throw badSteer(problems);
}
const badSteer = (problems: readonly string[]): FerryError =>
  ferryError("E_REQUEST", `the command can't be carried out: ${problems.join("; ")}`, {
    remedy: "see the commands and what they take: ferry steer --help",
  });

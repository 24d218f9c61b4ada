/**
 * Which mode a migration takes, and why, by what preflight has measured. Pure.
 *
 * `auto` is precopy where the rounds get under the downtime limit. Where they don't it is hybrid, if the user allows that it
 * needs both nodes after the resume (`--on-stall hybrid`); else precopy, with the policy that was asked for.
 */
import type { SourceFacts } from "./contract.js";
import { predict, type Prediction } from "./convergence.js";
import { hasRounds, limitsOf, type AskedOptions, type Mode } from "./plan.js";

export interface ModeChoice {
  mode: Mode;
  /** In words, with the numbers that decided. */
  reason: string;
  /** For the chosen mode. */
  prediction?: Prediction;
}

/** Bandwidth between two nodes that have not exchanged anything yet: what a 10 Gbit/s link half gives. */
const UNKNOWN_BANDWIDTH = 600_000_000;

const MIB = 1024 * 1024;
const mib = (bytes: number): string => `${(bytes / MIB).toFixed(bytes < 10 * MIB ? 1 : 0)} MiB`;
const ms = (value: number): string => `${value.toFixed(0)} ms`;

export function chooseMode(options: AskedOptions, facts: SourceFacts): ModeChoice {
  const { mode } = options;
  if (mode !== "auto") {
    const prediction = predictionOf(mode, options, facts);
    return { mode, reason: `${mode}, as asked`, ...(prediction === undefined ? {} : { prediction }) };
  }
  // Would rounds alone get there? What happens when they don't is the next question.
  const alone = predictionOf("precopy", { ...options, onStall: "stop-and-copy" }, facts);
  if (alone === undefined) {
    return { mode: "precopy", reason: "precopy: how fast the memory changes could not be looked at, see the findings" };
  }
  const limit = limitsOf(options).maxDowntimeMs;
  const measured =
    `in a look of ${ms(facts.dirty?.windowMs ?? 0)} ${mib(alone.dirtyRateBytesPerSec)}/s changed and ` +
    `${mib(alone.bandwidthBytesPerSec)}/s can be sent${facts.bandwidthBytesPerSec === undefined ? " (supposed: nothing was sent there before)" : ""}, ` +
    `so a downtime of ${ms(alone.downtimeMs)} is expected of the rounds`;
  if (alone.converges) {
    return { mode: "precopy", reason: `precopy: ${measured}, within the limit of ${ms(limit)}`, prediction: alone };
  }
  const chosen = options.onStall === "hybrid" ? "hybrid" : "precopy";
  const prediction = predictionOf(chosen, options, facts) ?? alone;
  const why =
    chosen === "hybrid"
      ? "above the limit of LIMIT, and --on-stall hybrid allows that it resumes first"
      : "above the limit of LIMIT; hybrid would resume first, and needs --on-stall hybrid";
  return { mode: chosen, reason: `${chosen}: ${measured}, ${why.replace("LIMIT", ms(limit))}`, prediction };
}

function predictionOf(mode: Mode, options: AskedOptions, facts: SourceFacts): Prediction | undefined {
  const { dirty, fixedBlackoutMs, bandwidthBytesPerSec = UNKNOWN_BANDWIDTH, memoryBytes } = facts;
  // Without rounds the rate changes nothing; a dry run shows it, so it must be true.
  if (fixedBlackoutMs === undefined || (dirty === undefined && (hasRounds(mode) || options.dryRun))) return undefined;
  return predict({
    limits: limitsOf({ ...options, mode }),
    memoryBytes,
    dirtyRateBytesPerSec: dirty?.rateBytesPerSec ?? 0,
    workingSetBytes: Math.min(memoryBytes, dirty?.workingSetBytes ?? memoryBytes),
    bandwidthBytesPerSec: Math.min(bandwidthBytesPerSec, options.bandwidthBytesPerSec ?? Number.POSITIVE_INFINITY),
    fixedMs: fixedBlackoutMs,
    frozenBytes: facts.frozenBytes ?? 0,
    filesBytes: facts.volumeBytes,
    mode,
  });
}

/**
 * What a migration is asked to do and what preflight found: the plan that `--dry-run` prints.
 */
import { DEFAULT_LIMITS, type ConvergenceLimits, type OnStall, type Prediction } from "./convergence.js";
import type { Side } from "./failure.js";
import type { TrackerKind } from "./mover.js";

export const MODES = ["precopy", "hybrid", "postcopy", "cold"] as const;
export type Mode = (typeof MODES)[number];
/** What may be asked for: `auto` (the default) is made precopy or hybrid by what preflight measures (mode-choice.ts). */
export const ASKED_MODES = ["auto", ...MODES] as const;
export type AskedMode = (typeof ASKED_MODES)[number];
/** Modes that copy memory in rounds while the workload runs. */
export const hasRounds = (mode: AskedMode): boolean => mode === "precopy" || mode === "hybrid" || mode === "auto";

export interface MigrateOptions {
  mode: Mode;
  dryRun: boolean;
  /** Longest time frozen before the source takes the workload back by itself, in milliseconds. */
  maxBlackoutMs: number;
  /** Upper bound for page traffic; undefined is no limit. */
  bandwidthBytesPerSec?: number;
  /** precopy, hybrid: see ConvergenceLimits; what is left out has its default (DEFAULT_LIMITS). */
  maxDowntimeMs?: number;
  onStall?: OnStall;
  maxRounds?: number;
  timeoutMs?: number;
  /** How changes are found; `auto` (the default) takes the best that the node has. */
  tracker?: TrackerKind | "auto";
  /** Make rounds, but do not freeze before a person says `go`. */
  hold?: boolean;
  /** Keep frames that arrive for it during the blackout and deliver them after the resume (the default). */
  keepFrames?: boolean;
}

/** As a person asks for it, before preflight has chosen. */
export type AskedOptions = Omit<MigrateOptions, "mode"> & { mode: AskedMode };

/** The limits of the rounds that these options ask for. */
export const limitsOf = (options: AskedOptions): ConvergenceLimits => ({
  maxDowntimeMs: options.maxDowntimeMs ?? DEFAULT_LIMITS.maxDowntimeMs,
  onStall: options.onStall ?? DEFAULT_LIMITS.onStall,
  maxRounds: options.maxRounds ?? DEFAULT_LIMITS.maxRounds,
  timeoutMs: options.timeoutMs ?? DEFAULT_LIMITS.timeoutMs,
  resumeFirst: options.mode === "hybrid",
  maxBlackoutMs: options.maxBlackoutMs,
});

/** A blackout longer than this is taken back: TCP peers and health checks give up at about this time. */
export const DEFAULT_MAX_BLACKOUT_MS = 30_000;

/** One reason for or against, in words. A `block` refuses the migration, a `warn` is shown and goes on. */
export interface Finding {
  level: "block" | "warn" | "info";
  /** What was checked, e.g. "criu version". */
  check: string;
  side: Side;
  message: string;
  remedy?: string;
}

export interface MigratePlan {
  workload: string;
  source: string;
  destination: string;
  epoch: number;
  mode: Mode;
  findings: Finding[];
  memoryBytes: number;
  volumeBytes: number;
  /** Why each choice was made. */
  reasons: string[];
  /** From a short look at how fast the memory changes; missing: the source could not look, `findings` says why. */
  prediction?: Prediction;
}

export const blockers = (findings: readonly Finding[]): Finding[] => findings.filter((f) => f.level === "block");

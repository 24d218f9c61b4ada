/**
 * What a migration is asked to do and what preflight found: the plan that `--dry-run` prints.
 */
import type { Side } from "./failure.js";

export const MODES = ["cold", "postcopy"] as const;
export type Mode = (typeof MODES)[number];

export interface MigrateOptions {
  mode: Mode;
  dryRun: boolean;
  /** Longest time frozen before the source takes the workload back by itself, in milliseconds. */
  maxBlackoutMs: number;
  /** Upper bound for page traffic; undefined is no limit. */
  bandwidthBytesPerSec?: number;
}

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
}

export const blockers = (findings: readonly Finding[]): Finding[] => findings.filter((f) => f.level === "block");

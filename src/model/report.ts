/**
 * Progress and the report of a migration.
 *
 * blackoutMs: frozen on the source until resumed on the destination, by the nodes' clocks.
 * residualMs: post-copy only, from resume to the last page.
 */
import type { FailureData, Side } from "./failure.js";
import type { Finding, MigratePlan, Mode } from "./plan.js";
import type { Outcome, Phase } from "./phase.js";

/** When a phase ran on one side. `startedAt` is wall time (Unix ms) for people; durations come from monotonic clocks. */
export interface PhaseTime {
  name: Phase;
  side: Side;
  startedAt: number;
  durationMs: number;
}

/** What one side knows while it works; the heartbeat of takeOver and handOver. */
export interface Progress {
  phase: Phase;
  side: Side;
  bytesSent: number;
  bytesTotal: number;
  pagesSent: number;
  pagesTotal: number;
  rateBytesPerSec: number;
  /** Unix milliseconds of the observation. */
  at: number;
}

export interface TransferCounts {
  bytesSent: number;
  pagesSent: number;
  /** Pages that were asked for by a fault (post-copy). */
  pagesFaulted: number;
  volumeBytes: number;
  bandwidthBytesPerSec: number;
}

export interface MigrationReport {
  outcome: Outcome;
  workload: string;
  operation: string;
  mode: Mode;
  source: string;
  destination: string;
  /** Epoch under which the workload runs now. */
  epoch: number;
  /** Node that holds the workload now. */
  node: string;
  phases: PhaseTime[];
  blackoutMs: number;
  residualMs: number;
  totalMs: number;
  bytesSent: number;
  pagesSent: number;
  rounds: number;
  bandwidthBytesPerSec: number;
  /** Why each choice was made, in words. */
  reasons: string[];
  findings: Finding[];
  plan?: MigratePlan;
  failure?: FailureData;
}

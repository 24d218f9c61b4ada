/**
 * Progress and the report of a migration.
 *
 * blackoutMs: frozen on the source until resumed on the destination, by the nodes' clocks, corrected by their offset.
 * residualMs: from resume to the last page, where the workload resumed before all of its pages were there.
 * Either is null where it is not known: a side that was replaced in the middle can't say any more when that was.
 */
import type { Action } from "./convergence.js";
import type { FailureData, Side } from "./failure.js";
import type { TrackerKind } from "./mover.js";
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
  /** The source's rounds, as far as they are. */
  precopy?: PrecopyProgress;
}

/** One round of pre-copy: what its scan found, and what was sent before the next scan. */
export interface RoundReport {
  /** From 1. */
  round: number;
  /** Unix milliseconds by the source's clock, at the scan. */
  startedAt: number;
  scanMs: number;
  /** Pages that had changed since the scan before, and their rate; the first round: all present pages, no rate. */
  dirtyPages: number;
  dirtyRateBytesPerSec?: number;
  /** What the destination lacked after the scan. */
  remainingBytes: number;
  sentPages: number;
  sentBytes: number;
  sendMs: number;
  /** Blackout that was to be expected, had it frozen then. */
  expectedDowntimeMs?: number;
  action: Action;
  reason: string;
}

export interface PrecopyProgress {
  round: number;
  remainingBytes: number;
  /** Of this round. */
  roundBytes: number;
  roundSentBytes: number;
  roundPages: number;
  roundSentPages: number;
  dirtyRateBytesPerSec?: number;
  bandwidthBytesPerSec?: number;
  expectedDowntimeMs?: number;
  etaMs?: number;
  throttlePercent: number;
  paused: boolean;
  held: boolean;
  reason: string;
}

/** How the rounds went. */
export interface PrecopyReport {
  tracker: TrackerKind;
  trackerReason: string;
  rounds: RoundReport[];
  /** Why they ended. */
  decision: string;
  /** What was expected when it froze, to hold beside what was measured. */
  expectedDowntimeMs?: number;
  /** Largest share of CPU time that was denied to the workload. */
  throttledPercent: number;
}

export interface TransferCounts {
  bytesSent: number;
  pagesSent: number;
  /** Pages that were asked for by a fault (post-copy). */
  pagesFaulted: number;
  volumeBytes: number;
  /** Of pages, by the time in which they flowed; 0: none did, or this side does not know. */
  bandwidthBytesPerSec: number;
}

/** Frames that arrived for the workload during the blackout. */
export interface FrameCounts {
  /** By the source, and sent on. */
  kept: number;
  /** Put on the workload's link right after the resume. */
  delivered: number;
  /** Over the limit, refused by the kernel, or not frames to the workload: their senders send them again. */
  dropped: number;
}

/** The destination's clock seen from the source, estimated over the link just before the freeze. */
export interface ClockOffset {
  /** What the destination's clock shows more than the source's. */
  offsetMs: number;
  /** The true offset is within this much of it: half of the shortest round trip. */
  uncertaintyMs: number;
}

interface Pair {
  predicted: number;
  measured: number;
}
/** What the plan expected, by a short look beforehand, and what was measured. */
export interface Forecast {
  /** Measured: the blackout. */
  downtimeMs: Pair;
  /** From the first byte of files or memory to the end of both sides' work: without the checks before and the sweep after. */
  totalMs: Pair;
  /** Memory and images; files don't count. */
  bytes: Pair;
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
  /** Highest number of an operation of it that a journal names; looked at only where its entity may not know it, after a reset. */
  sequence?: number;
  phases: PhaseTime[];
  /** null: not known, or it was frozen and taken back. 0: never frozen. */
  blackoutMs: number | null;
  /** Unix milliseconds by the source's clock: the blackout's ends, where both are known. */
  frozenAt?: number;
  resumedAt?: number;
  /** With it blackoutMs and the destination's times are corrected: all times of the report are by the source's clock. */
  clock?: ClockOffset;
  /** Missing: none were kept, by choice or because that side could not. */
  frames?: FrameCounts;
  /** null: not known. 0: nothing was missing when it resumed. */
  residualMs: number | null;
  totalMs: number;
  /** Memory and images; files are counted apart. */
  bytesSent: number;
  /** Files (/data, volumes of kind copy, the log). */
  volumeBytes: number;
  pagesSent: number;
  rounds: number;
  /** Of pages, by the time in which they flowed: rounds, transfer and drain. 0: none did. */
  bandwidthBytesPerSec: number;
  /** Pre-copy only. */
  precopy?: PrecopyReport;
  /** It resumed before all of its memory was there: by mode, by policy, or because a person said so. */
  resumedFirst?: boolean;
  /** Expected when it froze; beside blackoutMs. */
  predictedDowntimeMs?: number;
  /** Moved, and the plan had a prediction. */
  forecast?: Forecast;
  /** Why each choice was made, in words. */
  reasons: string[];
  findings: Finding[];
  plan?: MigratePlan;
  failure?: FailureData;
}

/** What the benchmark writes down. `--json FILE` is a BenchResult. */
import type { Latency, Seen, Spread } from "./stats.js";

export const SYSTEMS = [
  "ferry-precopy",
  "ferry-precopy-bare",
  "ferry-hybrid",
  "ferry-postcopy",
  "ferry-cold",
  "criu-cold",
  "criu-lazy",
  "podman",
  "podman-pre",
  "runc",
] as const;
export type System = (typeof SYSTEMS)[number];

export const SYSTEM_NAMES: Record<System, string> = {
  "ferry-precopy": "Ferry precopy",
  "ferry-precopy-bare": "the same, frames not kept",
  "ferry-hybrid": "Ferry hybrid",
  "ferry-postcopy": "Ferry postcopy",
  "ferry-cold": "Ferry cold",
  "criu-cold": "criu script, cold",
  "criu-lazy": "criu lazy-pages",
  podman: "podman export/import",
  "podman-pre": "podman, pre-checkpoint",
  runc: "runc by hand",
};

export type WorkloadKind = "toucher" | "redis" | "postgres";
export type LinkKind = "unlimited" | "1gbit";

/** One point of a figure: what is moved, over what. */
export interface Cell {
  workload: WorkloadKind;
  mib: number;
  /** toucher only: bytes of memory dirtied, in MB/s. */
  dirtyMBPerSec: number;
  link: LinkKind;
  /** Connections beside the counting one that speak once a second each. */
  idle?: number;
}

export interface CriuTime {
  dumpMs: number;
  restoreMs: number;
}

/** One side's processes of Ferry during one move. */
export interface SideCost {
  cpuMs: number;
  peakBytes: number;
}

export interface LoopDelay {
  p99Ms: number;
  maxMs: number;
}

/** One move, measured. */
export interface Move {
  /** From asking to the end: everything is on the destination and the source is gone or done. */
  totalMs: number;
  /** Frozen on the source until resumed on the destination, where that can be told. */
  blackoutMs?: number;
  /** From the resume to the last page. */
  residualMs?: number;
  criu?: CriuTime;
  rounds?: number;
  pagesSent?: number;
  phases?: { name: string; side: string; startedAt: number; durationMs: number }[];
  cost?: { source: SideCost; destination: SideCost };
  loops?: { agent?: LoopDelay; worker?: LoopDelay };
  events?: Record<string, number>;
  notes?: string[];
}

export interface Run extends Cell {
  system: System;
  repeat: number;
  ok: boolean;
  /** Why there is no result. */
  reason?: string;
  at: string;
  loadAverage: number;
  move?: Move;
  client?: Seen;
  /** Sent by the source's network interface while it moved. */
  wireBytes?: number;
  /** Read back at the end: every byte, or every key, is what it ought to be. */
  memoryIntact?: boolean;
  /** The longest that one of the idle connections waited while it moved. */
  idleGapMs?: number;
  /** Requests or transactions per second of the load beside the counting client. */
  loadPerSec?: number;
}

export interface Summary extends Cell {
  system: System;
  gapMs?: Spread;
  idleGapMs?: Spread;
  blackoutMs?: Spread;
  totalMs?: Spread;
  residualMs?: Spread;
  wireBytes?: Spread;
  criuMs?: Spread;
  ferryShare?: Spread;
  idleP50Ms?: Spread;
  idleP99Ms?: Spread;
  duringP50Ms?: Spread;
  duringP99Ms?: Spread;
  duringMaxMs?: Spread;
  afterP50Ms?: Spread;
  afterP99Ms?: Spread;
  afterMaxMs?: Spread;
  slowAfter?: Spread;
  sourceCpuMs?: Spread;
  destinationCpuMs?: Spread;
  sourcePeakBytes?: Spread;
  destinationPeakBytes?: Spread;
  agentLoopP99Ms?: Spread;
  workerLoopP99Ms?: Spread;
  failed: number;
  reasons: string[];
}

export interface Tracking {
  withoutPerSec: number[];
  /** A tracker looks at the pace of a migration that is held; nothing is sent: what tracking costs by itself. */
  whilePerSec: number[];
  /** A held migration with its page traffic limited: what sending a little on the same processors costs as well. */
  limitedPerSec: number[];
  /** The same with page traffic as fast as it can. */
  sendingPerSec: number[];
  looks: number;
  rounds: number;
  tracker: string;
}

export interface BenchResult {
  schema: 1;
  startedAt: string;
  endedAt: string;
  quick: boolean;
  machine: {
    cpus: number;
    memoryBytes: number;
    kernel: string;
    loadAverage: number[];
    pinning: string;
  };
  versions: Record<string, string>;
  settings: Record<string, string | number | boolean | null>;
  ratios: Record<string, number>;
  /** Ratios and systems that this run does not have, and why. */
  missing: Record<string, string>;
  tracking?: Tracking;
  summary: Summary[];
  runs: Run[];
}

export type { Latency, Seen, Spread };

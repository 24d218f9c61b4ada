/** Statistics of the benchmark. Pure. */
import type { Sample } from "../deploy/demo/verdict.js";

export interface Spread {
  median: number;
  min: number;
  max: number;
  n: number;
}

export function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const high = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? 0) + high) / 2;
}

/** Nearest rank: the smallest value that at least `share` (0 to 1) of all are not above. */
export function percentile(numbers: readonly number[], share: number): number {
  if (numbers.length === 0) return 0;
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))] ?? 0;
}

export function spread(numbers: readonly number[]): Spread | undefined {
  if (numbers.length === 0) return undefined;
  return { median: median(numbers), min: Math.min(...numbers), max: Math.max(...numbers), n: numbers.length };
}

export interface Latency {
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
  answers: number;
}

export function latencyOf(samples: readonly Sample[]): Latency {
  const all = samples.map((one) => one.latencyMs);
  return {
    p50Ms: percentile(all, 0.5),
    p99Ms: percentile(all, 0.99),
    maxMs: all.reduce((a, b) => Math.max(a, b), 0),
    answers: all.length,
  };
}

export interface Seen {
  /** The one request that waited longest while it moved. */
  gapMs: number;
  /** Before it was asked for. */
  idle: Latency;
  /** While it moved, without the gap. */
  during: Latency;
  /** From the gap on, as long as was looked. */
  after: Latency;
  /** Requests after the gap that took over 20 ms more than the longest one when idle. */
  slowAfter: number;
}

const SLOWER_MS = 20;

/** What the client saw of a move that was asked for at `from` and had come to its end at `to` (Unix milliseconds). */
export function seenByClient(samples: readonly Sample[], from: number, to: number): Seen {
  let gap: Sample | undefined;
  for (const one of samples) {
    if (one.sentAt > to || one.sentAt + one.latencyMs < from) continue;
    if (gap === undefined || one.latencyMs > gap.latencyMs) gap = one;
  }
  const gapEnd = gap === undefined ? to : gap.sentAt + gap.latencyMs;
  const idle = latencyOf(samples.filter((one) => one.sentAt + one.latencyMs < from));
  const after = samples.filter((one) => one.sentAt >= gapEnd);
  return {
    gapMs: gap?.latencyMs ?? 0,
    idle,
    during: latencyOf(samples.filter((one) => one !== gap && one.sentAt >= from && one.sentAt <= to)),
    after: latencyOf(after),
    slowAfter: after.filter((one) => one.latencyMs > idle.maxMs + SLOWER_MS).length,
  };
}

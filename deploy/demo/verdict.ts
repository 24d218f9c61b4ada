/** What the counter's file and the reports prove. Pure. */
import type { MigrationReport } from "../../src/model/report.js";

/** One answer to the counting client. Times in milliseconds. */
export interface Sample {
  value: number;
  sentAt: number;
  latencyMs: number;
}

export interface MoveResult {
  mode: string;
  source: string;
  destination: string;
  outcome: string;
  /** null: not known. */
  blackoutMs: number | null;
  /** Longest time that one request of the client took while the workload moved. */
  clientGapMs: number;
  residualMs: number | null;
  totalMs: number;
  /** Unix ms: when the move was asked for and when its report came. */
  from: number;
  to: number;
}

export interface Verdict {
  ok: boolean;
  connectionIntact: boolean;
  answers: number;
  missing: number;
  duplicates: number;
  liveCopies: number;
  /** The keyspace digest was the same before, between and after the moves. */
  memoryIntact: boolean;
  moves: MoveResult[];
  /** What is wrong, in words. */
  problems: string[];
}

/** Parses the counter's file. A torn last line (the counter was killed) is left out; anything else odd throws. */
export function parseSamples(text: string): Sample[] {
  const lines = text.split("\n");
  const last = lines.pop();
  if (last !== undefined && last !== "" && last.split("\t").length === 3) lines.push(last);
  return lines.map((line, i) => {
    const [value, sentAt, latencyMs] = line.split("\t").map(Number);
    if (
      value === undefined ||
      sentAt === undefined ||
      latencyMs === undefined ||
      !Number.isFinite(value + sentAt + latencyMs)
    ) {
      throw new Error(`line ${i + 1} of the counter's file is not "value, time, latency": ${line.slice(0, 80)}`);
    }
    return { value, sentAt, latencyMs };
  });
}

/** Values that never came, and values that came again (or went back). */
export function countSequence(samples: readonly Sample[]): { missing: number; duplicates: number } {
  let missing = 0;
  let duplicates = 0;
  let highest: number | undefined;
  for (const { value } of samples) {
    if (highest !== undefined) {
      if (value <= highest) duplicates += 1;
      else missing += value - highest - 1;
    }
    highest = Math.max(highest ?? value, value);
  }
  return { missing, duplicates };
}

/** The longest request that overlaps the time from `from` to `to`. */
export const longestLatency = (samples: readonly Sample[], from: number, to: number): number =>
  samples.reduce(
    (longest, { sentAt, latencyMs }) =>
      sentAt <= to && sentAt + latencyMs >= from ? Math.max(longest, latencyMs) : longest,
    0,
  );

const round = (ms: number): number => Math.round(ms * 10) / 10;
const roundKnown = (ms: number | null): number | null => (ms === null ? null : round(ms));

export function moveResult(report: MigrationReport, samples: readonly Sample[], from: number, to: number): MoveResult {
  const { mode, source, destination, outcome, blackoutMs, residualMs, totalMs } = report;
  return {
    mode,
    source,
    destination,
    outcome,
    blackoutMs: roundKnown(blackoutMs),
    clientGapMs: longestLatency(samples, from, to),
    residualMs: roundKnown(residualMs),
    totalMs: round(totalMs),
    from,
    to,
  };
}

export function judge(input: {
  samples: readonly Sample[];
  connections: number;
  breaks: number;
  errors: number;
  digests: readonly string[];
  /** Live copies found after each move, on all nodes together. */
  copies: readonly number[];
  moves: MoveResult[];
  /** How many moves there should have been. */
  asked: number;
}): Verdict {
  const { samples, connections, breaks, errors, digests, copies, moves, asked } = input;
  const { missing, duplicates } = countSequence(samples);
  const liveCopies = copies.find((count) => count !== 1) ?? copies.at(-1) ?? 0;
  const connectionIntact = connections === 1 && breaks === 0 && errors === 0 && samples.length > 0;
  const memoryIntact = digests.length > 1 && digests.every((digest) => digest === digests[0]);
  const problems = [
    ...moves
      .filter((move) => move.outcome !== "moved")
      .map((m) => `the ${m.mode} move to ${m.destination} ended as ${m.outcome}`),
    ...(moves.length < asked ? [`only ${moves.length} of ${asked} moves were made`] : []),
    ...(samples.length === 0 ? ["the client got no answer at all"] : []),
    ...(breaks === 0 ? [] : [`the connection broke ${breaks} times`]),
    ...(connections === 1 ? [] : [`the client needed ${connections} connections`]),
    ...(errors === 0 ? [] : [`the client got ${errors} error answers`]),
    ...(missing === 0 ? [] : [`${missing} values never reached the client`]),
    ...(duplicates === 0 ? [] : [`${duplicates} values came twice or went back`]),
    ...(memoryIntact ? [] : [`the digest of the keyspace changed: ${digests.join(", ") || "none taken"}`]),
    ...(liveCopies === 1 ? [] : [`${liveCopies} copies were alive after a move`]),
  ];
  return {
    ok: problems.length === 0,
    connectionIntact,
    answers: samples.length,
    missing,
    duplicates,
    liveCopies,
    memoryIntact,
    moves,
    problems,
  };
}

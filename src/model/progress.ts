/**
 * What both sides of a hand-over say, as one observation. The SDK's progress, the workflow's query and its details are
 * made by these, so that they can't disagree. Pure.
 */
import type { Side } from "./failure.js";
import { PHASES, type Phase } from "./phase.js";
import type { Progress } from "./report.js";

/** The last that each side said. */
export type SidesSeen = Partial<Record<Side, Progress>>;

/** The phase that is furthest: both sides go forward, each at its own pace. */
export function furthest(phase: Phase, ...others: readonly (Phase | undefined)[]): Phase {
  let last = phase;
  for (const next of others) if (next !== undefined && PHASES.indexOf(next) > PHASES.indexOf(last)) last = next;
  return last;
}

/** What was seen later counts. */
export function newer(seen: SidesSeen, more: readonly (Progress | undefined)[]): SidesSeen {
  const merged = { ...seen };
  for (const progress of more) {
    if (progress !== undefined && progress.at >= (merged[progress.side]?.at ?? 0)) merged[progress.side] = progress;
  }
  return merged;
}

export interface Amounts {
  bytesSent: number;
  bytesTotal: number;
  rateBytesPerSec: number;
  etaMs?: number;
}

export function amountsOf({ source, destination }: SidesSeen): Amounts {
  // The side that moves bytes at the moment knows best.
  const main = (source?.bytesSent ?? 0) >= (destination?.bytesSent ?? 0) ? source : destination;
  const { bytesSent = 0, bytesTotal = 0, rateBytesPerSec = 0 } = main ?? {};
  const left = bytesTotal - bytesSent;
  const rounds = source?.phase === "precopy" ? source.precopy : undefined;
  // Rounds bring up what changes meanwhile: only the policy knows when they end.
  const etaMs =
    rounds === undefined
      ? rateBytesPerSec > 0 && left > 0
        ? (left / rateBytesPerSec) * 1000
        : undefined
      : rounds.etaMs;
  return { bytesSent, bytesTotal, rateBytesPerSec, ...(etaMs === undefined ? {} : { etaMs }) };
}

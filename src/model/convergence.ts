/**
 * When to end pre-copy: pure, the time is passed in (design section 5; formulas: Clark et al., "Live Migration of Virtual
 * Machines", NSDI 2005, and QEMU's downtime limit).
 *
 * A round is one scan and the sending of what it found. With dirty rate D and bandwidth B the rounds shrink by D/B each;
 * where they don't, no number of rounds helps, and the policy says what else to do.
 *
 *   expected downtime = fixed costs + what remains / B
 *
 * The fixed costs (criu's dump and restore, the hand-over) come from the node, which measures them at each migration.
 */

export const ON_STALL = ["stop-and-copy", "hybrid", "throttle", "give-up"] as const;
/** What to do when more rounds don't help and the expected downtime is above the limit. */
export type OnStall = (typeof ON_STALL)[number];

export interface ConvergenceLimits {
  /** The downtime that is allowed, in milliseconds. */
  maxDowntimeMs: number;
  onStall: OnStall;
  maxRounds: number;
  /** Longest time for all rounds together, in milliseconds. */
  timeoutMs: number;
  /** Resume first and send what remains afterwards (mode hybrid), whenever that shortens the downtime. */
  resumeFirst: boolean;
  /** Frozen for longer than this, the source takes the workload back: an expected downtime above it is pointless. */
  maxBlackoutMs: number;
}
export const DEFAULT_LIMITS = {
  maxDowntimeMs: 1_000,
  onStall: "stop-and-copy",
  maxRounds: 30,
  timeoutMs: 600_000,
} as const satisfies Partial<ConvergenceLimits>;

/** One round as it looked right after its scan. */
export interface RoundSeen {
  /** When the scan was made, in milliseconds since the first scan began; time in which a person held or paused it is left out. */
  atMs: number;
  /** Bytes that changed since the scan before (the first: all present memory), and the time between the two scans. */
  dirtyBytes: number;
  sinceMs: number;
  /** Bytes that the destination lacks now: these and what earlier rounds left. */
  remainingBytes: number;
  /** What was sent between the scan before and this one: payload and time. Zero pages cost no payload. */
  sentBytes: number;
  sendMs: number;
  /** Made while a person held it: it tells of rates, and counts against no limit. */
  held?: boolean;
  /** Share of CPU time that was denied since the scan before; missing: none. */
  throttlePercent?: number;
}

export interface Outlook {
  /** The limits as they are now: a person may change them while the rounds run. */
  limits: ConvergenceLimits;
  rounds: readonly RoundSeen[];
  /** What a blackout costs when no page is left to send, in milliseconds. */
  fixedMs: number;
  /** Upper bound that was asked for. */
  bandwidthBytesPerSec?: number;
  /** Throttling under way: percent of its CPU time that the workload is denied. */
  throttlePercent: number;
  /** Bytes that only move while it is frozen, whatever the rounds do (shared memory, huge pages). */
  frozenBytes?: number;
  /** A person holds it: rounds go on, nothing is decided. */
  held?: boolean;
}

export type Action = "continue" | "switch" | "resume-first" | "throttle" | "give-up";
export interface Decision {
  action: Action;
  /** In words, with the numbers that decided. */
  reason: string;
  remainingBytes: number;
  /** Undefined as long as nothing was measured. */
  dirtyRateBytesPerSec?: number;
  bandwidthBytesPerSec?: number;
  expectedDowntimeMs?: number;
  /** Time until the expected end of the rounds, where one can be told. */
  etaMs?: number;
  /** action throttle: the new share. */
  throttlePercent?: number;
}

/** Fewer bytes than this are not worth another round: they cost less than a round does. */
const SMALL_BYTES = 1024 * 1024;
/** Sends shorter than this say nothing of the bandwidth. */
const TELLING_BYTES = 4 * 1024 * 1024;
/** A round must leave less than this share of the best so far, else it did not help. */
const PROGRESS = 0.9;
/** So many rounds without progress are a stall. */
const PATIENCE = 2;
/** Within the limit a round is short: so many without progress are waited for one that is as good as the best. */
const PATIENCE_WITHIN = 6;
/** As good as the best so far. */
const NEAR_LEAST = 1.1;
/** More than this many times the first round was sent: enough (Clark's bound on traffic). */
const MAX_TIMES = 4;
export const THROTTLE_STEPS: readonly number[] = [20, 40, 60, 80, 95];
/** The kernel gives out CPU time by this period: what a shorter look sees is chance. */
export const QUOTA_PERIOD_MS = 100;
/** A step of throttling is judged after this long at the earliest. */
export const THROTTLE_STEP_MS = 5 * QUOTA_PERIOD_MS;

const MIB = 1024 * 1024;
const ms = (value: number): string => (value >= 10_000 ? `${(value / 1000).toFixed(0)} s` : `${value.toFixed(0)} ms`);
const mib = (bytes: number): string => `${(bytes / MIB).toFixed(bytes < 10 * MIB ? 1 : 0)} MiB`;

/** Bytes per second of the latest rounds that sent enough to tell; the limit that was asked for bounds it. */
export function bandwidthOf(rounds: readonly RoundSeen[], limit?: number): number | undefined {
  let bytes = 0;
  let time = 0;
  for (const round of rounds.toReversed()) {
    bytes += round.sentBytes;
    time += round.sendMs;
    if (bytes >= TELLING_BYTES) break;
  }
  if (bytes === 0 || time <= 0) return limit;
  const measured = (bytes * 1000) / time;
  return limit === undefined ? measured : Math.min(measured, limit);
}

/** Bytes per second that changed between the last two scans. */
export function dirtyRateOf(rounds: readonly RoundSeen[]): number | undefined {
  const last = rounds.at(-1);
  if (rounds.length < 2 || last === undefined || last.sinceMs <= 0) return undefined;
  return (last.dirtyBytes * 1000) / last.sinceMs;
}

/** Rounds at the end in which what remained did not fall below PROGRESS of the least before. */
export function roundsWithoutProgress(rounds: readonly RoundSeen[]): number {
  let least = Number.POSITIVE_INFINITY;
  let without = 0;
  for (const { remainingBytes } of rounds) {
    if (remainingBytes < least * PROGRESS) without = 0;
    else without += 1;
    least = Math.min(least, remainingBytes);
  }
  return without;
}

/**
 * The rounds that count against the limits: since a person let it go, and since the present step of throttling was taken.
 * The first of them is what the others are measured by.
 */
function counted({ rounds, throttlePercent }: Outlook): readonly RoundSeen[] {
  const since = rounds.findLastIndex((round) => round.held === true) + 1;
  const step = rounds.findLastIndex((round) => (round.throttlePercent ?? 0) !== throttlePercent);
  return rounds.slice(Math.max(since, throttlePercent === 0 ? 0 : step));
}

/** What to do after the last scan. Needs at least one round. */
export function decide(outlook: Outlook): Decision {
  const { limits, rounds, fixedMs, frozenBytes = 0 } = outlook;
  const last = rounds.at(-1);
  if (last === undefined) return { action: "continue", reason: "nothing was looked at yet", remainingBytes: 0 };
  const bandwidth = bandwidthOf(rounds, outlook.bandwidthBytesPerSec);
  const dirtyRate = dirtyRateOf(rounds);
  const { remainingBytes } = last;
  const copyMs =
    bandwidth === undefined || bandwidth <= 0 ? undefined : ((remainingBytes + frozenBytes) * 1000) / bandwidth;
  const expected = copyMs === undefined ? undefined : fixedMs + copyMs;
  const eta = etaOf(outlook, bandwidth, dirtyRate);
  const say = (action: Action, reason: string, more: Partial<Decision> = {}): Decision => ({
    action,
    reason,
    remainingBytes,
    ...(bandwidth === undefined ? {} : { bandwidthBytesPerSec: Math.round(bandwidth) }),
    ...(dirtyRate === undefined ? {} : { dirtyRateBytesPerSec: Math.round(dirtyRate) }),
    ...(expected === undefined ? {} : { expectedDowntimeMs: expected }),
    ...(eta === undefined ? {} : { etaMs: eta }),
    ...more,
  });
  const go = (why: string): Decision => {
    const bytes = mib(remainingBytes);
    if (limits.resumeFirst && remainingBytes > SMALL_BYTES) {
      return say("resume-first", `${why}: it resumes first, ${bytes} follow`);
    }
    return say("switch", `${why}: ${bytes} are left${expected === undefined ? "" : `, expected ${ms(expected)}`}`);
  };

  if (rounds.length === 1) return say("continue", `round 1: ${mib(remainingBytes)} of memory are copied`);
  if (outlook.held === true) {
    return say("continue", `held until a person lets it go: ${mib(remainingBytes)} remain`);
  }
  const within = expected !== undefined && expected <= limits.maxDowntimeMs;
  if (remainingBytes <= SMALL_BYTES && (within || limits.resumeFirst)) return go("hardly anything is left");

  const window = counted(outlook);
  const without = roundsWithoutProgress(window);
  const exhausted = exhaustion(outlook, window, without, within ? PATIENCE_WITHIN : PATIENCE);
  // Under the limit already: go on for as long as each round makes it shorter, and leave at the least.
  if (within) {
    if (exhausted !== undefined) return go(exhausted);
    if (without > 0) {
      const least = Math.min(...window.map((round) => round.remainingBytes));
      if (remainingBytes <= least * NEAR_LEAST) return go("what remains does not fall any more");
      return say(
        "continue",
        `${mib(remainingBytes)} remain, and ${mib(least)} did before: a better moment is waited for`,
      );
    }
    return say("continue", `${mib(remainingBytes)} remain, and each round leaves less`);
  }
  if (exhausted === undefined) {
    return say("continue", `${mib(remainingBytes)} remain, more than fit into ${ms(limits.maxDowntimeMs)}`);
  }
  // Resuming first needs no page: only what the pages cost falls away.
  if (limits.resumeFirst) return go(exhausted);
  const above = `${exhausted}, and the expected downtime of ${expected === undefined ? "unknown length" : ms(expected)} is above the limit of ${ms(limits.maxDowntimeMs)}`;
  switch (limits.onStall) {
    case "hybrid":
      return say("resume-first", `${above}: it resumes first, ${mib(remainingBytes)} follow`);
    case "give-up":
      return say("give-up", above);
    case "throttle": {
      const next = THROTTLE_STEPS.find((percent) => percent > outlook.throttlePercent);
      const ended = last.atMs >= limits.timeoutMs;
      if (next === undefined || ended) return say("give-up", `${above}, throttled by ${outlook.throttlePercent} %`);
      return say("throttle", `${above}: throttled by ${next} %`, { throttlePercent: next });
    }
    case "stop-and-copy":
      break;
  }
  if (expected !== undefined && expected > limits.maxBlackoutMs) {
    return say("give-up", `${above}; longer than ${ms(limits.maxBlackoutMs)} it may not be frozen`);
  }
  return say("switch", `${above}: frozen and copied all the same, as asked`);
}

/** Why no more rounds are made, or undefined. `window`: the rounds that count. */
function exhaustion(
  { limits, rounds, throttlePercent }: Outlook,
  window: readonly RoundSeen[],
  without: number,
  patience: number,
): string | undefined {
  const last = rounds.at(-1);
  const first = rounds[0];
  const from = window[0];
  if (last === undefined || first === undefined || from === undefined) return undefined;
  if (last.atMs >= limits.timeoutMs) return `after ${ms(last.atMs)} the time for pre-copy is over`;
  // Each step of throttling gets rounds of its own, and time in which it can show.
  if (throttlePercent > 0 && last.atMs - from.atMs < THROTTLE_STEP_MS) return undefined;
  if (window.length > limits.maxRounds) return `${limits.maxRounds} rounds were made`;
  if (without >= patience) return `${without} rounds left no less than those before`;
  const sent = window.reduce((sum, round) => sum + round.sentBytes, 0);
  if (throttlePercent === 0 && sent > Math.max(MAX_TIMES * first.remainingBytes, 64 * MIB) && without > 0) {
    return `${mib(sent)} were sent for ${mib(first.remainingBytes)} of memory`;
  }
  return undefined;
}

/** Rounds shrink by D/B each: the time until what remains fits under the limit, when it will. */
function etaOf(
  { limits, rounds, fixedMs, frozenBytes = 0 }: Outlook,
  bandwidth: number | undefined,
  dirtyRate: number | undefined,
): number | undefined {
  const last = rounds.at(-1);
  if (last === undefined || bandwidth === undefined || bandwidth <= 0) return undefined;
  const copy = (bytes: number): number => (bytes * 1000) / bandwidth;
  const ratio = (dirtyRate ?? 0) / bandwidth;
  const goal = Math.max(SMALL_BYTES, ((limits.maxDowntimeMs - fixedMs) * bandwidth) / 1000 - frozenBytes);
  let bytes = last.remainingBytes;
  let time = 0;
  for (let round = 0; round < limits.maxRounds && bytes > goal; round += 1) {
    if (ratio >= 1) return undefined;
    time += copy(bytes);
    bytes *= ratio;
  }
  return time + fixedMs + copy(bytes + frozenBytes);
}

/** What a plan can say from a short look at the dirty rate. */
export interface Prediction {
  downtimeMs: number;
  /** From the beginning of the hand-over to the last page. */
  totalMs: number;
  bytes: number;
  rounds: number;
  dirtyRateBytesPerSec: number;
  bandwidthBytesPerSec: number;
  /** Does pre-copy get under the downtime limit? */
  converges: boolean;
  reason: string;
}

export interface PredictionInput {
  limits: ConvergenceLimits;
  memoryBytes: number;
  /** Measured over a window; unique bytes a second, so an upper bound for longer times. */
  dirtyRateBytesPerSec: number;
  /** Most bytes that can be dirty at all (the working set); the memory, when unknown. */
  workingSetBytes: number;
  bandwidthBytesPerSec: number;
  fixedMs: number;
  /** Of the memory: bytes that only move while it is frozen. */
  frozenBytes?: number;
  /** Files that are copied while it runs: they take time, `bytes` are memory. */
  filesBytes?: number;
  /** Pre-copy, or all of the memory in the blackout (cold), or none of it (postcopy). */
  mode: "cold" | "precopy" | "postcopy" | "hybrid";
}

/** V0 = M, V(i+1) = min(W, D * V(i) / B): performance.md section 4. */
export function predict(input: PredictionInput): Prediction {
  const { limits, memoryBytes, bandwidthBytesPerSec: rate, dirtyRateBytesPerSec, mode, frozenBytes = 0 } = input;
  const copy = (bytes: number): number => (bytes * 1000) / rate;
  const base = { dirtyRateBytesPerSec, bandwidthBytesPerSec: rate };
  const files = copy(input.filesBytes ?? 0);
  const fixedMs = input.fixedMs + copy(frozenBytes);
  const pages = Math.max(0, memoryBytes - frozenBytes);
  if (mode === "cold" || mode === "postcopy") {
    const inside = mode === "cold" ? copy(pages) : 0;
    return {
      ...base,
      downtimeMs: fixedMs + inside,
      totalMs: files + fixedMs + copy(pages),
      bytes: memoryBytes,
      rounds: 0,
      converges: true,
      reason: mode === "cold" ? "all memory is copied while it is frozen" : "memory follows after the resume",
    };
  }
  const ratio = dirtyRateBytesPerSec / rate;
  let remaining = pages;
  let bytes = 0;
  let time = 0;
  let rounds = 0;
  while (rounds < limits.maxRounds && time < limits.timeoutMs) {
    rounds += 1;
    bytes += remaining;
    time += copy(remaining);
    const next = Math.min(input.workingSetBytes, remaining * ratio);
    const stalled = next >= remaining * PROGRESS;
    remaining = next;
    if (remaining <= SMALL_BYTES || stalled) break;
  }
  const resumesFirst =
    mode === "hybrid" || (limits.onStall === "hybrid" && fixedMs + copy(remaining) > limits.maxDowntimeMs);
  const downtimeMs = fixedMs + (resumesFirst ? 0 : copy(remaining));
  const converges = downtimeMs <= limits.maxDowntimeMs;
  return {
    ...base,
    downtimeMs,
    totalMs: files + time + fixedMs + copy(remaining),
    bytes: bytes + remaining + frozenBytes,
    rounds,
    converges,
    reason:
      `${mib(dirtyRateBytesPerSec)}/s change and ${mib(rate)}/s can be sent: ` +
      (ratio < 1 ? `each round leaves ${(ratio * 100).toFixed(0)} % of the one before` : "rounds do not shrink") +
      (frozenBytes > 0 ? `; ${mib(frozenBytes)} move while it is frozen` : "") +
      (converges ? "" : `; ${mib(remaining)} would be left for the blackout`),
  };
}

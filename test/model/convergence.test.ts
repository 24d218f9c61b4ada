/** The policy of pre-copy: each rule by example, and its promises over random histories. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  bandwidthOf,
  decide,
  DEFAULT_LIMITS,
  dirtyRateOf,
  ON_STALL,
  predict,
  roundsWithoutProgress,
  THROTTLE_STEPS,
  type ConvergenceLimits,
  type Decision,
  type OnStall,
  type Outlook,
  type RoundSeen,
} from "../../src/model/convergence.js";

const MIB = 1024 * 1024;
const limits = (more: Partial<ConvergenceLimits> = {}): ConvergenceLimits => ({
  ...DEFAULT_LIMITS,
  resumeFirst: false,
  maxBlackoutMs: 30_000,
  ...more,
});

/** What a machine does: a memory, a dirty rate, a bandwidth; it follows the decisions until one ends the rounds. */
function play(machine: {
  memoryBytes: number;
  dirtyRate: number;
  bandwidth: number;
  workingSet?: number;
  fixedMs?: number;
  limits?: Partial<ConvergenceLimits>;
}): { decision: Decision; rounds: RoundSeen[]; throttled: number[] } {
  const { memoryBytes, dirtyRate, bandwidth, workingSet = memoryBytes, fixedMs = 200 } = machine;
  const rounds: RoundSeen[] = [];
  const throttled: number[] = [];
  let now = 0;
  let remaining = memoryBytes;
  let sent = { bytes: 0, ms: 0 };
  let throttle = 0;
  for (let turn = 0; turn < 100_000; turn += 1) {
    const since = rounds.length === 0 ? 0 : sent.ms + 2;
    rounds.push({
      atMs: now,
      dirtyBytes: remaining,
      sinceMs: since,
      remainingBytes: remaining,
      sentBytes: sent.bytes,
      sendMs: sent.ms,
    });
    const outlook: Outlook = { limits: limits(machine.limits), rounds, fixedMs, throttlePercent: throttle };
    const decision = decide(outlook);
    if (decision.action === "throttle") {
      throttle = decision.throttlePercent ?? 0;
      throttled.push(throttle);
    } else if (decision.action !== "continue") return { decision, rounds, throttled };
    sent = { bytes: remaining, ms: (remaining * 1000) / bandwidth };
    now += sent.ms + 2;
    const rate = dirtyRate * (1 - throttle / 100);
    remaining = Math.min(workingSet, (rate * (sent.ms + 2)) / 1000);
  }
  throw new Error("the rounds never ended");
}

describe("convergence", () => {
  test("an idle workload freezes after the first copy", () => {
    const { decision, rounds } = play({ memoryBytes: 1024 * MIB, dirtyRate: 0, bandwidth: 500 * MIB });
    assert.equal(decision.action, "switch");
    assert.equal(rounds.length, 2);
    assert.match(decision.reason, /hardly anything is left/);
  });

  test("rounds that shrink are made until they don't, also when the limit is kept long before", () => {
    const { decision, rounds } = play({ memoryBytes: 1024 * MIB, dirtyRate: 250 * MIB, bandwidth: 500 * MIB });
    assert.equal(decision.action, "switch");
    assert.ok(rounds.length > 5, `${rounds.length} rounds`);
    assert.ok(decision.remainingBytes <= 2 * MIB, `${decision.remainingBytes} left`);
  });

  const stalling = { memoryBytes: 1024 * MIB, dirtyRate: 900 * MIB, bandwidth: 300 * MIB, workingSet: 800 * MIB };
  const ends: Record<OnStall, Decision["action"]> = {
    "stop-and-copy": "switch",
    hybrid: "resume-first",
    throttle: "switch",
    "give-up": "give-up",
  };
  for (const onStall of ON_STALL) {
    test(`a dirty rate above the bandwidth, on stall ${onStall}: ${ends[onStall]}`, () => {
      const { decision, rounds, throttled } = play({ ...stalling, limits: { onStall } });
      assert.equal(decision.action, ends[onStall], decision.reason);
      assert.ok(rounds.length < 60);
      if (onStall === "throttle") {
        assert.deepEqual(throttled, THROTTLE_STEPS.slice(0, throttled.length));
        assert.ok(throttled.length > 1 && decision.expectedDowntimeMs !== undefined);
        assert.ok(decision.expectedDowntimeMs <= DEFAULT_LIMITS.maxDowntimeMs);
      } else {
        assert.match(decision.reason, /above the limit of 1000 ms|resumes first/);
      }
    });
  }

  test("a throttled workload that still dirties too fast is given up, in words", () => {
    const { decision, throttled } = play({
      ...stalling,
      dirtyRate: 90_000 * MIB,
      limits: { onStall: "throttle" },
    });
    assert.equal(decision.action, "give-up");
    assert.deepEqual(throttled, THROTTLE_STEPS);
    assert.match(decision.reason, /throttled by 95 %/);
  });

  test("a downtime that the source would not wait for is not begun", () => {
    const { decision } = play({ ...stalling, limits: { onStall: "stop-and-copy", maxBlackoutMs: 1_000 } });
    assert.equal(decision.action, "give-up");
    assert.match(decision.reason, /may not be frozen/);
  });

  test("hybrid resumes first once the rounds don't help, and switches plainly when nothing is left", () => {
    assert.equal(play({ ...stalling, limits: { resumeFirst: true } }).decision.action, "resume-first");
    assert.equal(
      play({ memoryBytes: 64 * MIB, dirtyRate: 0, bandwidth: 100 * MIB, limits: { resumeFirst: true } }).decision
        .action,
      "switch",
    );
  });

  test("the time limit ends the rounds", () => {
    const { decision } = play({ ...stalling, limits: { timeoutMs: 1_000, onStall: "give-up" } });
    assert.equal(decision.action, "give-up");
    assert.match(decision.reason, /the time for pre-copy is over/);
  });

  test("a limit below the fixed costs stalls instead of going on for ever", () => {
    const { decision, rounds } = play({
      memoryBytes: 256 * MIB,
      dirtyRate: 10 * MIB,
      bandwidth: 500 * MIB,
      fixedMs: 400,
      limits: { maxDowntimeMs: 100, onStall: "give-up" },
    });
    assert.equal(decision.action, "give-up");
    assert.ok(rounds.length < 20);
  });

  test("measures: bandwidth of the rounds that tell, dirty rate of the last, rounds without progress", () => {
    const round = (atMs: number, more: Partial<RoundSeen>): RoundSeen => ({
      atMs,
      dirtyBytes: 0,
      sinceMs: 0,
      remainingBytes: 0,
      sentBytes: 0,
      sendMs: 0,
      ...more,
    });
    const rounds = [
      round(0, { remainingBytes: 100 * MIB, dirtyBytes: 100 * MIB }),
      round(1000, {
        remainingBytes: 10 * MIB,
        dirtyBytes: 10 * MIB,
        sinceMs: 1000,
        sentBytes: 100 * MIB,
        sendMs: 1000,
      }),
      round(1010, { remainingBytes: 9.5 * MIB, dirtyBytes: MIB, sinceMs: 10, sentBytes: 1024, sendMs: 10 }),
    ];
    assert.ok(Math.abs((bandwidthOf(rounds) ?? 0) - ((100 * MIB + 1024) * 1000) / 1010) < 1);
    assert.equal(bandwidthOf(rounds, 1000), 1000);
    assert.equal(dirtyRateOf(rounds), 100 * MIB);
    assert.equal(roundsWithoutProgress(rounds), 1);
    assert.equal(dirtyRateOf(rounds.slice(0, 1)), undefined);
  });

  test("over random machines: it always ends, with a reason, within its limits; the same twice", () => {
    let seed = 7;
    const random = (): number => {
      seed = (seed * 1_103_515_245 + 12_345) & 0x7fffffff;
      return seed / 0x7fffffff;
    };
    for (let i = 0; i < 400; i += 1) {
      const machine = {
        memoryBytes: Math.ceil(random() * 4096) * MIB,
        dirtyRate: Math.floor(random() ** 3 * 2000) * MIB,
        bandwidth: Math.ceil(random() * 1500) * MIB,
        workingSet: Math.ceil(random() * 4096) * MIB,
        fixedMs: Math.floor(random() * 800),
        limits: {
          maxDowntimeMs: Math.floor(random() * 2000),
          onStall: ON_STALL[Math.floor(random() * ON_STALL.length)] ?? "give-up",
          maxRounds: Math.ceil(random() * 40),
          timeoutMs: 100 + Math.floor(random() * 60_000),
          resumeFirst: random() < 0.3,
        },
      } as const;
      const end = play(machine);
      assert.deepEqual(play(machine).decision, end.decision);
      assert.notEqual(end.decision.reason, "");
      const { action, expectedDowntimeMs = 0, remainingBytes } = end.decision;
      const { maxDowntimeMs, onStall, resumeFirst, maxRounds } = machine.limits;
      assert.ok(end.rounds.length <= maxRounds * (1 + THROTTLE_STEPS.length) + 1 + THROTTLE_STEPS.length);
      if (action === "give-up") assert.ok(expectedDowntimeMs > maxDowntimeMs, JSON.stringify(machine));
      if (action === "switch" && expectedDowntimeMs > maxDowntimeMs) {
        assert.ok(onStall === "stop-and-copy" || (resumeFirst && remainingBytes <= MIB), JSON.stringify(machine));
      }
      if (action === "resume-first") assert.ok(resumeFirst || onStall === "hybrid");
    }
  });
});

describe("prediction", () => {
  const base = {
    limits: limits(),
    memoryBytes: 1024 * MIB,
    workingSetBytes: 1024 * MIB,
    bandwidthBytesPerSec: 512 * MIB,
    fixedMs: 300,
  } as const;
  test("cold copies all inside, postcopy nothing, precopy what is left", () => {
    const at = (mode: "cold" | "precopy" | "postcopy" | "hybrid") =>
      predict({ ...base, mode, dirtyRateBytesPerSec: 64 * MIB }).downtimeMs;
    assert.equal(at("cold"), 2300);
    assert.equal(at("postcopy"), 300);
    assert.ok(at("precopy") < 320 && at("precopy") >= 300);
    assert.equal(at("hybrid"), 300);
  });
  test("says when rounds don't help", () => {
    const bad = predict({ ...base, mode: "precopy", dirtyRateBytesPerSec: 900 * MIB });
    assert.equal(bad.converges, false);
    assert.match(bad.reason, /rounds do not shrink/);
    assert.ok(bad.downtimeMs > 2000);
  });
});

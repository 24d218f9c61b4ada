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
  QUOTA_PERIOD_MS,
  roundsWithoutProgress,
  THROTTLE_STEP_MS,
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
  /** Times the dirty rate, round by round. */
  noise?: (round: number) => number;
}): { decision: Decision; rounds: RoundSeen[]; throttled: number[]; stepsAt: number[] } {
  const { memoryBytes, dirtyRate, bandwidth, workingSet = memoryBytes, fixedMs = 200, noise = () => 1 } = machine;
  const rounds: RoundSeen[] = [];
  const throttled: number[] = [];
  const stepsAt: number[] = [];
  let now = 0;
  let remaining = memoryBytes;
  let sent = { bytes: 0, ms: 0 };
  let throttle = 0;
  for (let turn = 0; turn < 100_000; turn += 1) {
    // As the agent's loop does it: a round under a quota takes a period of it at least.
    const pauseMs = Math.max(2, throttle > 0 ? QUOTA_PERIOD_MS - sent.ms : 0);
    const since = rounds.length === 0 ? 0 : sent.ms + pauseMs;
    if (rounds.length > 0) {
      now += since;
      const rate = dirtyRate * (1 - throttle / 100) * noise(rounds.length);
      remaining = Math.min(workingSet, (rate * since) / 1000);
    }
    rounds.push({
      atMs: now,
      dirtyBytes: remaining,
      sinceMs: since,
      remainingBytes: remaining,
      sentBytes: sent.bytes,
      sendMs: sent.ms,
      ...(throttle > 0 ? { throttlePercent: throttle } : {}),
    });
    const outlook: Outlook = { limits: limits(machine.limits), rounds, fixedMs, throttlePercent: throttle };
    const decision = decide(outlook);
    if (decision.action === "throttle") {
      throttle = decision.throttlePercent ?? 0;
      throttled.push(throttle);
      stepsAt.push(now);
    } else if (decision.action !== "continue") {
      stepsAt.push(now);
      return { decision, rounds, throttled, stepsAt };
    }
    sent = { bytes: remaining, ms: (remaining * 1000) / bandwidth };
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

  test("each step of throttling is given a few periods of the quota, and rounds of its own", () => {
    // little memory, rounds of milliseconds: all steps were over within a second
    const { throttled, stepsAt, rounds } = play({
      memoryBytes: 8 * MIB,
      dirtyRate: 20_000 * MIB,
      bandwidth: 2000 * MIB,
      fixedMs: 300,
      limits: { onStall: "throttle", maxDowntimeMs: 100 },
    });
    assert.deepEqual(throttled, THROTTLE_STEPS);
    for (const [i, at] of stepsAt.entries()) {
      const before = stepsAt[i - 1];
      if (before !== undefined) assert.ok(at - before >= THROTTLE_STEP_MS, `step ${i} after ${at - before} ms`);
    }
    for (const step of THROTTLE_STEPS) {
      assert.ok(rounds.filter((round) => round.throttlePercent === step).length >= 3, `rounds at ${step} %`);
    }
  });

  test("rounds and time in which a person held it count against no limit, and nothing is decided meanwhile", () => {
    const held = Array.from({ length: 80 }, (_, i): RoundSeen => ({
      atMs: 1000,
      dirtyBytes: 300 * MIB,
      sinceMs: i === 0 ? 0 : 1000,
      remainingBytes: 300 * MIB,
      sentBytes: i === 0 ? 0 : 300 * MIB,
      sendMs: i === 0 ? 0 : 1000,
      held: true,
    }));
    const outlook = { limits: limits({ onStall: "throttle", maxDowntimeMs: 500 }), fixedMs: 200, throttlePercent: 0 };
    for (let i = 1; i <= held.length; i += 1) {
      assert.equal(decide({ ...outlook, rounds: held.slice(0, i), held: true }).action, "continue");
    }
    // Let go: a fresh policy, not one that is exhausted.
    const free = { ...held[1], held: false } as RoundSeen;
    const after = (n: number): Decision =>
      decide({ ...outlook, rounds: [...held, ...Array.from({ length: n }, () => free)] });
    assert.equal(after(1).action, "continue", after(1).reason);
    assert.equal(after(2).action, "continue", after(2).reason);
    assert.equal(after(3).action, "throttle", after(3).reason);
  });

  test("within the limit a sudden rise is waited out: it leaves at the least, or when patience is over", () => {
    const base = { memoryBytes: 1024 * MIB, bandwidth: 1000 * MIB, dirtyRate: 300 * MIB, fixedMs: 100 };
    // The fourth round finds twenty times as much as the third.
    const burst = play({ ...base, noise: (round) => (round === 4 ? 20 : 1) });
    assert.equal(burst.decision.action, "switch");
    const least = Math.min(...burst.rounds.map((round) => round.remainingBytes));
    assert.ok(burst.decision.remainingBytes <= Math.max(MIB, 1.1 * least), burst.decision.reason);
    // It never gets as good again: after some rounds it goes all the same.
    const worse = play({ ...base, noise: (round) => (round < 4 ? 1 : round === 4 ? 10 : 3.33) });
    assert.equal(worse.decision.action, "switch");
    assert.match(worse.decision.reason, /left no less than those before/);
  });

  test("over random noise: a switch within the limit is near the least so far, or says that patience was over", () => {
    let seed = 11;
    const random = (): number => {
      seed = (seed * 1_103_515_245 + 12_345) & 0x7fffffff;
      return seed / 0x7fffffff;
    };
    let waited = 0;
    for (let i = 0; i < 400; i += 1) {
      const bursts = Array.from({ length: 1000 }, () => (random() < 0.2 ? 1 + random() * 30 : 0.8 + random() * 0.4));
      const { decision, rounds } = play({
        memoryBytes: Math.ceil(64 + random() * 4000) * MIB,
        dirtyRate: Math.floor(random() * 400) * MIB,
        bandwidth: Math.ceil(200 + random() * 1500) * MIB,
        fixedMs: Math.floor(random() * 400),
        limits: { onStall: "give-up" },
        noise: (round) => bursts[round % bursts.length] ?? 1,
      });
      if (decision.action !== "switch" || decision.remainingBytes <= MIB) continue;
      const least = Math.min(...rounds.map((round) => round.remainingBytes));
      const near = decision.remainingBytes <= 1.1 * least;
      assert.ok(near || !/does not fall any more/.test(decision.reason), decision.reason);
      assert.ok(
        near ||
          roundsWithoutProgress(rounds) >= 6 ||
          rounds.length > DEFAULT_LIMITS.maxRounds ||
          /were sent/.test(decision.reason),
        decision.reason,
      );
      if (near && roundsWithoutProgress(rounds) > 1) waited += 1;
    }
    assert.ok(waited > 0, "no machine ever had to wait for a better moment");
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
      const inStep = Math.max(maxRounds, THROTTLE_STEP_MS / QUOTA_PERIOD_MS) + 1;
      assert.ok(end.rounds.length <= maxRounds + 1 + inStep * THROTTLE_STEPS.length);
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
  test("what only moves frozen is part of the downtime, files of the total time alone", () => {
    const at = (more: object) => predict({ ...base, mode: "precopy", dirtyRateBytesPerSec: 0, ...more });
    const plain = at({});
    const shared = at({ frozenBytes: 512 * MIB });
    assert.equal(Math.round(shared.downtimeMs - plain.downtimeMs), 1000);
    assert.equal(Math.round(shared.totalMs), Math.round(plain.totalMs));
    assert.equal(shared.bytes, plain.bytes);
    const files = at({ filesBytes: 512 * MIB });
    assert.deepEqual([files.downtimeMs, files.bytes], [plain.downtimeMs, plain.bytes]);
    assert.equal(Math.round(files.totalMs - plain.totalMs), 1000);
    const round = { atMs: 0, dirtyBytes: 0, sinceMs: 0, remainingBytes: 0, sentBytes: 20 * MIB, sendMs: 20 };
    const outlook = { limits: limits(), rounds: [round, round], fixedMs: 200, throttlePercent: 0 };
    assert.equal(decide(outlook).action, "switch");
    const more = decide({ ...outlook, frozenBytes: 2000 * MIB });
    assert.equal(Math.round(more.expectedDowntimeMs ?? 0), 2200);
    assert.equal(more.action, "continue");
  });
  test("says when rounds don't help", () => {
    const bad = predict({ ...base, mode: "precopy", dirtyRateBytesPerSec: 900 * MIB });
    assert.equal(bad.converges, false);
    assert.match(bad.reason, /rounds do not shrink/);
    assert.ok(bad.downtimeMs > 2000);
  });
});

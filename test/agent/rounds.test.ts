/** The loop of pre-copy with a mover that is played: order of requests, steering, throttle, reports. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Rounds } from "../../src/agent/operations/rounds.js";
import { Steering } from "../../src/agent/operations/steering.js";
import type { FerryError } from "../../src/model/failure.js";
import type { PrecopyStatus, SourceMoverRequest, SourceMoverStatus } from "../../src/model/mover.js";
import type { MigrateOptions } from "../../src/model/plan.js";
import type { KeptCourse } from "../../src/model/steering.js";

const MIB_PAGES = 256;
const never = new AbortController().signal;

/** A mover whose memory is dirtied at a rate per round, with a `sendUnsent` that takes a moment. */
class PlayedMover {
  readonly asked: SourceMoverRequest["verb"][] = [];
  limits: (number | null)[] = [];
  sendMs = 3;
  private precopy: PrecopyStatus | undefined;
  private cut = false;
  private readonly dirty: (round: number) => number;

  constructor(dirty: (round: number) => number) {
    this.dirty = dirty;
  }

  request = async (request: SourceMoverRequest): Promise<SourceMoverStatus> => {
    this.asked.push(request.verb);
    if (request.verb === "scan") {
      const scans = (this.precopy?.scans ?? 0) + 1;
      const dirtyPages = this.dirty(scans);
      this.precopy = {
        tracker: "compare",
        why: "played",
        scans,
        lastScan: { dirtyPages, presentPages: 1 << 16, durationMs: 1, sincePreviousMs: scans === 1 ? 0 : 20 },
        unsentPages: (this.precopy?.unsentPages ?? 0) + dirtyPages,
        sentPages: this.precopy?.sentPages ?? 0,
        sentBytes: this.precopy?.sentBytes ?? 0,
        round: { sentPages: 0, sentBytes: 0, durationMs: 0 },
      };
    } else if (request.verb === "sendUnsent" && this.precopy !== undefined) {
      this.cut = false;
      for (let left = this.sendMs; left > 0 && !this.cut; left -= 1) await new Promise((r) => setTimeout(r, 1));
      const pages = this.cut ? Math.floor(this.precopy.unsentPages / 2) : this.precopy.unsentPages;
      this.precopy = {
        ...this.precopy,
        unsentPages: this.precopy.unsentPages - pages,
        sentPages: this.precopy.sentPages + pages,
        sentBytes: this.precopy.sentBytes + pages * 4096,
      };
    } else if (request.verb === "cut") this.cut = true;
    else if (request.verb === "limit") this.limits.push(request.bandwidthBytesPerSec);
    return {
      side: "source",
      pid: 1,
      connected: true,
      volume: { bytesSent: 0, passes: 0, finalDone: false, last: { comparedBytes: 0, durationMs: 0, sinceMs: 0 } },
      images: { sent: false, bytes: 0 },
      pages: { total: 0, sent: 0, bytesSent: 0, allSent: false, allAcked: false },
      ...(this.precopy === undefined ? {} : { precopy: this.precopy }),
    };
  };
}

function stage(dirty: (round: number) => number, more: Partial<MigrateOptions> = {}) {
  const options: MigrateOptions = { mode: "precopy", dryRun: false, maxBlackoutMs: 30_000, ...more };
  const mover = new PlayedMover(dirty);
  const steering = new Steering(options);
  const throttles: number[] = [];
  const cgroup = { percent: 0, refuse: (_percent: number): boolean => false };
  const rounds = new Rounds({
    options,
    steering,
    request: mover.request,
    pids: () => Promise.resolve({ "1": 100 }),
    throttle: (percent) => {
      // As with two files: the first is written before the second fails.
      if (cgroup.refuse(percent) && percent === 0) return Promise.reject(new Error("not lifted"));
      cgroup.percent = percent;
      if (cgroup.refuse(percent)) return Promise.reject(new Error("half done"));
      throttles.push(percent);
      return Promise.resolve();
    },
    fixedMs: () => 200,
    log: () => undefined,
  });
  void steering.followBandwidth(
    (bandwidthBytesPerSec) => mover.request({ verb: "limit", bandwidthBytesPerSec }),
    (error) => assert.fail(String(error)),
    never,
  );
  return { mover, steering, throttles, rounds, cgroup };
}
const steady = (): number => 40 * MIB_PAGES;
async function until(what: () => boolean): Promise<void> {
  for (const end = Date.now() + 10_000; !what();) {
    assert.ok(Date.now() < end, "not in time");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

describe("rounds", () => {
  test("rounds that shrink end by themselves; the last one goes while it is frozen", async () => {
    const { mover, rounds, throttles } = stage((round) => Math.floor((64 * MIB_PAGES) / 8 ** (round - 1)));
    await rounds.run(never);
    const scans = mover.asked.filter((verb) => verb === "scan").length;
    assert.equal(mover.asked.at(-1), "scan");
    await rounds.last(Promise.resolve({ "1": 100 }), never);
    assert.deepEqual(mover.asked.slice(-2), ["scan", "sendUnsent"]);
    const report = rounds.report();
    assert.equal(report?.rounds.length, scans + 1);
    assert.match(report?.decision ?? "", /hardly anything is left/);
    assert.equal(report?.rounds[0]?.sentBytes, 64 * MIB_PAGES * 4096);
    assert.ok((report?.expectedDowntimeMs ?? 0) >= 200);
    assert.deepEqual(throttles, []);
  });

  test("a stall: give-up throws E_CONVERGENCE, hybrid resumes first, throttle is always lifted", async () => {
    const gives = stage(steady, { maxDowntimeMs: 100, onStall: "give-up" });
    await assert.rejects(gives.rounds.run(never), (error: FerryError) => error.code === "E_CONVERGENCE");
    const hybrid = stage(steady, { maxDowntimeMs: 100, onStall: "hybrid" });
    await hybrid.rounds.run(never);
    assert.equal(hybrid.steering.course.value.resumeFirst, true);
    const throttled = stage(steady, { maxDowntimeMs: 100, onStall: "throttle" });
    await assert.rejects(throttled.rounds.run(never));
    assert.deepEqual(throttled.throttles, [20, 40, 60, 80, 95, 0]);
  });

  test("pause cuts what is being sent; resume goes on; a cancel ends a pause", async () => {
    const { mover, steering, rounds } = stage(steady, { onStall: "give-up", maxDowntimeMs: 0, maxRounds: 1000 });
    mover.sendMs = 500;
    const undo = new AbortController();
    const running = rounds.run(undo.signal);
    running.catch(() => undefined);
    await until(() => mover.asked.includes("sendUnsent"));
    assert.equal(steering.take({ do: "pause" }, "precopy", false).paused, true);
    await until(() => mover.asked.includes("cut"));
    await new Promise((resolve) => setTimeout(resolve, 30));
    const asked = mover.asked.length;
    await new Promise((resolve) => setTimeout(resolve, 30));
    assert.equal(mover.asked.length, asked, "it went on while it was paused");
    mover.sendMs = 1;
    steering.take({ do: "resume" }, "precopy", false);
    await until(() => mover.asked.length > asked);
    steering.take({ do: "pause" }, "precopy", false);
    undo.abort(new Error("called back"));
    await assert.rejects(running, /called back/);
  });

  test("hold keeps it from freezing while rounds go on, until go", async () => {
    const { mover, steering, rounds } = stage(() => 10, { hold: true });
    let ended = false;
    const running = rounds.run(never).then(() => (ended = true));
    await until(() => mover.asked.filter((verb) => verb === "scan").length >= 3);
    assert.equal(ended, false);
    assert.equal(steering.take({ do: "go" }, "precopy", false).held, false);
    await running;
  });

  test("switch-now and post-copy-now end the round under way", async () => {
    for (const word of ["switch-now", "post-copy-now"] as const) {
      const { mover, steering, rounds } = stage(steady, { maxDowntimeMs: 0, maxRounds: 1000, onStall: "give-up" });
      mover.sendMs = 2000;
      const running = rounds.run(never);
      await until(() => mover.asked.includes("sendUnsent"));
      steering.take({ do: word }, "precopy", false);
      await running;
      assert.ok(mover.asked.includes("cut"));
      assert.equal(steering.course.value.resumeFirst, word === "post-copy-now");
      assert.match(rounds.report()?.decision ?? "", /a person said/);
    }
  });

  test("switch-now does not cut the last round, which goes while criu dumps", async () => {
    const { mover, steering, rounds } = stage(steady, { maxDowntimeMs: 0, maxRounds: 1000, onStall: "give-up" });
    const running = rounds.run(never);
    await until(() => mover.asked.includes("sendUnsent"));
    steering.take({ do: "switch-now" }, "precopy", false);
    await running;
    const before = mover.asked.length;
    await rounds.last(Promise.resolve({ "1": 100 }), never);
    assert.deepEqual(mover.asked.slice(before), ["scan", "sendUnsent"]);
    const last = rounds.report()?.rounds.at(-1);
    assert.equal((last?.sentPages ?? 0) * 4096, last?.remainingBytes, "all of it went");
  });

  test("held or paused, nothing is throttled; let go, the policy begins with fresh rounds", async () => {
    const { mover, steering, rounds, cgroup, throttles } = stage(steady, { maxDowntimeMs: 100, onStall: "throttle" });
    const undo = new AbortController();
    const running = rounds.run(undo.signal);
    running.catch(() => undefined);
    for (const [word, back] of [
      ["hold", "go"],
      ["pause", "resume"],
    ] as const) {
      await until(() => cgroup.percent > 0);
      steering.take({ do: word }, "precopy", false);
      await until(() => cgroup.percent === 0);
      const asked = throttles.length;
      await new Promise((resolve) => setTimeout(resolve, 700));
      assert.equal(throttles.length, asked, `throttled during ${word}`);
      steering.take({ do: back }, "precopy", false);
    }
    await until(() => cgroup.percent > 0);
    assert.equal(rounds.progress()?.throttlePercent, 20, "it begins with the first step again");
    assert.ok(mover.asked.includes("scan"));
    undo.abort(new Error("called back"));
    await assert.rejects(running, /called back/);
    assert.equal(cgroup.percent, 0);
  });

  test("a throttle that was set by half is lifted; one that can't be lifted at first is tried again", async () => {
    const half = stage(steady, { maxDowntimeMs: 100, onStall: "throttle" });
    half.cgroup.refuse = (percent) => percent > 0;
    await assert.rejects(half.rounds.run(never), /half done/);
    assert.equal(half.cgroup.percent, 0);

    const stubborn = stage(steady, { maxDowntimeMs: 100, onStall: "throttle" });
    let refused = 0;
    stubborn.cgroup.refuse = (percent) => percent === 0 && refused < 3 && ++refused > 0;
    await assert.rejects(stubborn.rounds.run(never), (error: FerryError) => error.code === "E_CONVERGENCE");
    assert.equal(refused, 3);
    assert.equal(stubborn.cgroup.percent, 0);
  });

  test("progress moves while a round is being sent, as the mover tells", async () => {
    const { mover, steering, rounds } = stage(steady, { hold: true });
    mover.sendMs = 500;
    const running = rounds.run(never);
    await until(() => mover.asked.includes("sendUnsent"));
    const status = await mover.request({ verb: "status" });
    assert.ok(status.precopy);
    const unsentPages = status.precopy.unsentPages - 1000;
    rounds.heard({ ...status, precopy: { ...status.precopy, unsentPages, sentPages: 1000 } });
    const { roundSentBytes, roundSentPages, roundPages } = rounds.progress() ?? {};
    assert.deepEqual([roundSentBytes, roundSentPages, roundPages], [1000 * 4096, 1000, 40 * MIB_PAGES]);
    steering.take({ do: "switch-now" }, "precopy", false);
    await running;
  });

  test("what a person said is kept before it has an effect, and an agent that is started again goes on by it", () => {
    const options: MigrateOptions = {
      mode: "precopy",
      dryRun: false,
      maxBlackoutMs: 30_000,
      bandwidthBytesPerSec: 1e6,
    };
    let kept: KeptCourse | undefined;
    const first = new Steering(options, undefined, (course) => (kept = course));
    const again = (): Steering => new Steering(options, kept);
    first.take({ do: "bandwidth", bytesPerSec: null }, "precopy", false);
    assert.equal(again().course.value.bandwidthBytesPerSec, undefined, "no limit is not the first limit");
    first.take({ do: "bandwidth", bytesPerSec: 5e6 }, "precopy", false);
    first.take({ do: "max-downtime", ms: 77 }, "precopy", false);
    first.take({ do: "pause" }, "precopy", false);
    first.take({ do: "hold" }, "precopy", false);
    const { course, held } = again();
    assert.equal(held, true);
    assert.equal(course.value.paused, true);
    assert.equal(course.value.bandwidthBytesPerSec, 5e6);
    assert.equal(course.value.limits.maxDowntimeMs, 77);
    first.take({ do: "hold", forMs: 60_000 }, "precopy", false);
    const left = again().course.value.heldUntil - performance.now();
    assert.ok(left > 50_000 && left <= 60_000, `${left} ms`);
    first.take({ do: "go" }, "precopy", false);
    assert.equal(new Steering({ ...options, hold: true }, kept).held, false, "go is remembered, too");
    first.take({ do: "post-copy-now" }, "precopy", false);
    assert.equal(again().course.value.resumeFirst, true);
    assert.equal(again().course.value.limits.maxRounds, 1);

    const full = new Steering(options, undefined, () => {
      throw new Error("no space");
    });
    assert.throws(() => full.take({ do: "hold" }, "precopy", false), /no space/);
    assert.equal(full.held, false, "what could not be kept was not taken");
  });

  test("a new bandwidth reaches the mover in the middle of a round; too late and senseless commands are refused", async () => {
    const { mover, steering, rounds } = stage(steady, { maxDowntimeMs: 0, maxRounds: 1000, onStall: "give-up" });
    mover.sendMs = 400;
    const running = rounds.run(never);
    await until(() => mover.asked.includes("sendUnsent"));
    steering.take({ do: "bandwidth", bytesPerSec: 5_000_000 }, "precopy", false);
    await until(() => mover.limits.length === 1);
    assert.deepEqual(mover.limits, [5_000_000]);
    steering.take({ do: "switch-now" }, "precopy", false);
    await running;
    assert.throws(() => steering.take({ do: "pause" }, "dump", true), /too late/);
    assert.throws(() => steering.take({ do: "post-copy-now" }, "drain", true), /too late/);
    const cold = new Steering({ mode: "cold", dryRun: false, maxBlackoutMs: 1000 });
    assert.throws(() => cold.take({ do: "pause" }, "presync", false), /means nothing in mode cold/);
    assert.equal(cold.take({ do: "post-copy-now" }, "transfer", true).held, false);
    assert.equal(cold.course.value.resumeFirst, true);
  });
});

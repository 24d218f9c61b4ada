/** When the volume is passed over again, beside the rounds and right before the freeze. Times are real, and short. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Level } from "../../src/agent/level.js";
import { Steering, type Course } from "../../src/agent/operations/steering.js";
import { VolumeFollower } from "../../src/agent/operations/volume-follower.js";
import type { SourceMoverStatus } from "../../src/model/mover.js";

const SOON = { freshMs: 100, leastRestMs: 20 };

interface Bench {
  follower: VolumeFollower;
  course: Level<Course>;
  signal: AbortSignal;
  /** When each pass began. */
  began: number[];
  cuts: number;
  /** How long the coming passes take, in milliseconds; then none. */
  takes: number[];
  busy: boolean;
  failures: unknown[];
}

function bench(): Bench {
  const { course } = new Steering({ mode: "precopy", maxBlackoutMs: 30_000 } as ConstructorParameters<
    typeof Steering
  >[0]);
  let cut: () => void = () => undefined;
  const b: Bench = {
    course,
    signal: new AbortController().signal,
    began: [],
    cuts: 0,
    takes: [],
    busy: false,
    failures: [],
    follower: new VolumeFollower(
      {
        course,
        pass: async () => {
          b.began.push(performance.now());
          const was = await Promise.race([
            sleep(b.takes.shift() ?? 0).then(() => "whole"),
            new Promise<string>((done) => (cut = () => done("cut"))),
          ]);
          return status((passes += was === "whole" ? 1 : 0));
        },
        cut: () => {
          b.cuts += 1;
          cut();
          return Promise.resolve();
        },
        busy: () => b.busy,
        failed: (error) => b.failures.push(error),
      },
      SOON,
    ),
  };
  let passes = 0;
  return b;
}

const status = (passes: number): SourceMoverStatus => ({
  side: "source",
  pid: 1,
  connected: true,
  volume: { bytesSent: 0, passes, finalDone: false, last: { comparedBytes: 0, durationMs: 0, sinceMs: 0 } },
  images: { sent: false, bytes: 0 },
  pages: { total: 0, sent: 0, bytesSent: 0, allSent: false, allAcked: false },
});

test("a volume that was just passed over is not passed over again before the freeze", async () => {
  const b = bench();
  await b.follower.first(b.signal);
  b.follower.follow(b.signal);
  assert.equal(await b.follower.finish(b.signal), false);
  assert.equal(b.began.length, 1);
});

test("a first pass that took long is followed by shorter ones, as long as they shrink", async () => {
  const b = bench();
  b.takes = [300, 150, 120, 0];
  await b.follower.first(b.signal);
  b.follower.follow(b.signal);
  assert.equal(await b.follower.finish(b.signal), true, "memory is due again");
  assert.equal(b.began.length, 3);
});

test("while memory goes over, the volume follows, with rests", async () => {
  const b = bench();
  await b.follower.first(b.signal);
  b.follower.follow(b.signal);
  await sleep(500);
  b.busy = true;
  await sleep(50);
  const { length } = b.began;
  assert.ok(length >= 3 && length < 30, `${length} passes`);
  await sleep(100);
  assert.equal(b.began.length, length, "none when memory is nearly done");
  await b.follower.finish(b.signal);
});

test("pause cuts a pass and rests until resume; switch-now cuts it and leaves the rest to the blackout", async () => {
  const b = bench();
  await b.follower.first(b.signal);
  b.takes = [60_000, 0, 60_000];
  b.follower.follow(b.signal);
  while (b.began.length < 2) await sleep(5);
  b.course.update({ paused: true });
  await sleep(100);
  assert.deepEqual([b.cuts, b.began.length], [1, 2]);
  b.course.update({ paused: false });
  while (b.began.length < 4) await sleep(5);
  b.course.update({ now: true });
  await b.follower.finish(b.signal);
  assert.deepEqual([b.cuts, b.began.length], [2, 4]);
});

test("a pass that fails is told", async () => {
  const b = bench();
  const why = new Error("no space");
  const failing = new VolumeFollower(
    {
      course: b.course,
      pass: () => Promise.reject(why),
      cut: () => Promise.resolve(),
      busy: () => false,
      failed: (error) => b.failures.push(error),
    },
    SOON,
  );
  failing.follow(b.signal);
  for (let i = 0; i < 100 && b.failures.length === 0; i += 1) await sleep(10);
  assert.deepEqual(b.failures, [why]);
});

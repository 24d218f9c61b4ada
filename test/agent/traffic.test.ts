import assert from "node:assert/strict";
import { test } from "node:test";
import { Traffic } from "../../src/agent/operations/traffic.js";
import type { SourceMoverStatus } from "../../src/model/mover.js";
import type { RoundReport } from "../../src/model/report.js";

const PAGE = 4096;
const MB = 1e6;

interface Said {
  pid?: number;
  images?: boolean;
  bytes?: number;
  acked?: boolean;
  volume?: number;
  total?: number;
  sent?: number;
  precopy?: { sentBytes: number; unsentPages: number };
}

const status = ({
  pid = 1,
  images = true,
  bytes = 0,
  acked = false,
  volume = 0,
  ...more
}: Said): SourceMoverStatus => ({
  side: "source",
  pid,
  connected: true,
  volume: {
    bytesSent: volume,
    passes: 1,
    finalDone: true,
    last: { comparedBytes: 0, durationMs: 0, sinceMs: 0 },
  },
  images: { sent: images, bytes: images ? MB : 0 },
  pages: { total: more.total ?? 0, sent: more.sent ?? 0, bytesSent: bytes, allSent: acked, allAcked: acked },
  ...(more.precopy === undefined
    ? {}
    : {
        precopy: {
          tracker: "compare",
          why: "test",
          scans: 1,
          lastScan: { dirtyPages: 0, presentPages: 0, durationMs: 1, sincePreviousMs: 0 },
          unsentPages: more.precopy.unsentPages,
          sentPages: more.precopy.sentBytes / PAGE,
          sentBytes: more.precopy.sentBytes,
          round: { sentPages: 0, sentBytes: 0, durationMs: 0 },
        },
      }),
});

const round = (sentBytes: number, sendMs: number): RoundReport => ({
  round: 1,
  startedAt: 0,
  scanMs: 1,
  dirtyPages: 0,
  remainingBytes: 0,
  sentPages: 0,
  sentBytes,
  sendMs,
  action: "continue",
  reason: "test",
});

test("post-copy: the bandwidth is of pages, over the time until the last one is acknowledged", () => {
  const traffic = new Traffic();
  traffic.heard(status({ images: false, volume: 7 * MB }), 0);
  traffic.heard(status({ volume: 7 * MB }), 1_000);
  traffic.heard(status({ bytes: 12 * MB, volume: 7 * MB }), 3_000);
  traffic.heard(status({ bytes: 24 * MB, acked: true, volume: 7 * MB }), 5_000);
  // What comes later is no flow.
  traffic.heard(status({ bytes: 24 * MB, acked: true, volume: 7 * MB }), 90_000);
  const sums = traffic.transfer();
  assert.equal(sums.bandwidthBytesPerSec, 6 * MB);
  assert.equal(sums.bytesSent, 25 * MB, "pages and images");
  assert.equal(sums.volumeBytes, 7 * MB, "files are counted apart");
});

test("hybrid: rounds and the rest, each with its own time", () => {
  const traffic = new Traffic();
  const precopy = { sentBytes: 40 * MB, unsentPages: 0 };
  traffic.heard(status({ images: false, precopy }), 0);
  traffic.heard(status({ precopy }), 20_000);
  traffic.heard(status({ precopy, bytes: 10 * MB, acked: true }), 21_000);
  const sums = traffic.transfer([round(30 * MB, 3_000), round(10 * MB, 1_000)]);
  assert.equal(sums.bandwidthBytesPerSec, 10 * MB);
  assert.equal(sums.bytesSent, 51 * MB);
});

test("what a mover has sent that died counts; its silence does not", () => {
  const traffic = new Traffic();
  traffic.heard(status({ bytes: 0 }), 0);
  traffic.heard(status({ bytes: 6 * MB }), 1_000);
  traffic.heard(status({ pid: 2, images: false }), 9_000);
  traffic.heard(status({ pid: 2 }), 10_000);
  traffic.heard(status({ pid: 2, bytes: 6 * MB, acked: true }), 11_000);
  const sums = traffic.transfer();
  assert.equal(sums.bandwidthBytesPerSec, 6 * MB);
  assert.equal(sums.bytesSent, 14 * MB);
});

test("an agent that comes in the middle counts what it sees, and one that comes late says nothing", () => {
  const middle = new Traffic();
  middle.heard(status({ bytes: 50 * MB }), 0);
  middle.heard(status({ bytes: 56 * MB, acked: true }), 1_000);
  assert.equal(middle.transfer().bandwidthBytesPerSec, 6 * MB);
  const late = new Traffic();
  late.heard(status({ bytes: 50 * MB, acked: true }), 0);
  assert.equal(late.transfer().bandwidthBytesPerSec, 0);
  assert.equal(new Traffic().transfer().bandwidthBytesPerSec, 0);
});

test("pages that are there with the first word: they flowed since the one before", () => {
  const traffic = new Traffic();
  traffic.heard(status({ images: false }), 0);
  traffic.heard(status({ bytes: MB, acked: true }), 100);
  assert.equal(traffic.transfer().bandwidthBytesPerSec, 10 * MB);
});

test("under way: what was sent, and what is to come", () => {
  const traffic = new Traffic();
  traffic.heard(status({ images: false, volume: PAGE, precopy: { sentBytes: 8 * PAGE, unsentPages: 2 } }), 0);
  assert.deepEqual(traffic.amounts(), {
    bytes: { sent: 9 * PAGE, total: 11 * PAGE },
    pages: { sent: 8, total: 10 },
  });
  const cold = new Traffic();
  cold.heard(status({ bytes: 30 * PAGE, total: 100, sent: 40 }), 0);
  // Ten of the forty were zero pages, which are not sent.
  assert.equal(cold.amounts().bytes.total - cold.amounts().bytes.sent, 60 * PAGE);
  assert.deepEqual(cold.amounts().pages, { sent: 40, total: 100 });
});

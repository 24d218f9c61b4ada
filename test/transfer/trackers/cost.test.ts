import assert from "node:assert/strict";
import { closeSync, openSync, readSync } from "node:fs";
import { freemem } from "node:os";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { trackerProblem } from "../../../src/transfer/trackers/choose.js";
import { CompareTracker } from "../../../src/transfer/trackers/compare.js";
import { PagemapScanTracker } from "../../../src/transfer/trackers/pagemap-scan.js";
import type { Scan } from "../../../src/transfer/trackers/tracker.js";
import { needsRoot, PAGE, presentPages, Program, Shadow } from "./kit.js";

const GIB_PAGES = 262_144;
const skip =
  needsRoot || (freemem() < 2.5 * 1024 ** 3 ? "needs 2.5 GiB" : ((await trackerProblem("pagemap-scan")) ?? false));

test("what tracking 1 GiB costs (measured, not judged)", { skip, timeout: 120_000 }, async () => {
  const program = await Program.start("hold", GIB_PAGES);
  const tracker = new PagemapScanTracker();
  const compare = new CompareTracker({ threads: 1 });
  try {
    const { pids } = program;
    const busy = async (): Promise<number> => Number(await program.ask("busy"));
    await busy();
    const [plain, plain2] = [await busy(), await busy()];
    const first = await tracker.scan(pids);
    assert.ok(first.pages > GIB_PAGES);
    const clean: number[] = [];
    for (let turn = 0; turn < 10; turn++) clean.push((await tracker.scan(pids)).durationMs);
    await program.ask("touch 4096");
    const some = await tracker.scan(pids);
    const work = { over: false };
    const tracking = busy().finally(() => (work.over = true));
    let scans = 0;
    for (; !work.over; scans++) {
      await sleep(100);
      await tracker.scan(pids);
    }
    const tracked = await tracking;
    const { stoppedMsMax, alteredMsMax } = tracker.figures;
    const endStart = performance.now();
    await tracker.end();
    const endMs = performance.now() - endStart;
    const all = await compare.scan(pids);
    const sentMs = tellAll(compare, program.pid, all);
    const looks = [await compare.scan(pids), await compare.scan(pids)].map(({ durationMs }) => durationMs);
    console.log(
      [
        `first look ${first.durationMs.toFixed(0)} ms, with the helper's start`,
        `stopped ${stoppedMsMax.toFixed(2)} ms, other registers ${alteredMsMax.toFixed(2)} ms`,
        `clean look ${Math.min(...clean).toFixed(2)} to ${Math.max(...clean).toFixed(2)} ms`,
        `${some.pages} pages dirty: ${some.durationMs.toFixed(2)} ms`,
        `writes/s ${plain}, ${plain2} untracked, ${tracked} with ${scans} looks in it: ${(tracked / ((plain + plain2) / 2)).toFixed(3)}`,
        `end ${endMs.toFixed(0)} ms`,
        `compare, one thread: first ${all.durationMs.toFixed(0)} ms, then ${looks.map((ms) => ms.toFixed(0)).join(", ")} ms`,
        `compare, telling what was sent: ${sentMs.toFixed(0)} ms in the caller`,
      ].join("\n"),
    );
  } finally {
    await tracker.end();
    await compare.end();
    await program.end();
  }
});

/** Reads what is dirty and tells it, as a sender does. Milliseconds of the telling alone. */
function tellAll(tracker: CompareTracker, pid: number, { dirty }: Scan): number {
  const mem = openSync(`/proc/${pid}/mem`, "r");
  const buffer = Buffer.alloc(1024 * 1024);
  let ms = 0;
  for (const { vpid, start, pages } of dirty) {
    for (let at = 0; at < pages * PAGE; at += buffer.length) {
      const piece = buffer.subarray(0, Math.min(buffer.length, pages * PAGE - at));
      readSync(mem, piece, 0, piece.length, start + at);
      const before = performance.now();
      tracker.sent(vpid, start + at, piece);
      ms += performance.now() - before;
    }
  }
  closeSync(mem);
  return ms;
}

test("compare calls clean what was told to it, and only that", { skip: needsRoot, timeout: 30_000 }, async () => {
  const program = await Program.start("hold", 256);
  const tracker = new CompareTracker({ threads: 2 });
  const shadow = new Shadow();
  try {
    await program.freeze();
    const { pids } = program;
    const { pages } = await tracker.scan(pids);
    const again = await tracker.scan(pids);
    assert.equal(again.pages, pages, "nothing was sent yet");
    shadow.apply(again, tracker);
    assert.equal((await tracker.scan(pids)).pages, 0);
    shadow.check(presentPages(pids));
  } finally {
    await tracker.end();
    await program.end();
  }
});

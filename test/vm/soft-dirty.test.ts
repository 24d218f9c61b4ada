/** A stock kernel that keeps soft-dirty bits and is older than PAGEMAP_SCAN: what Ferry makes of it, and what that costs. */
import assert from "node:assert/strict";
import { release } from "node:os";
import { test } from "node:test";
import { runChecks } from "../../src/host/checks.js";
import { FerryError } from "../../src/model/failure.js";
import { chooseTracker, trackerProblem } from "../../src/transfer/trackers/choose.js";
import { SoftDirtyTracker } from "../../src/transfer/trackers/soft-dirty.js";
import { Program, traces } from "../transfer/trackers/kit.js";
import { notInGuest } from "./kit.js";

const skip = notInGuest;
const GIB_PAGES = 262_144;

test("auto takes soft-dirty where PAGEMAP_SCAN is not to be had, and says why", { skip }, async (t) => {
  if ((await trackerProblem("pagemap-scan")) === undefined) return t.skip(`Linux ${release()} has PAGEMAP_SCAN`);
  const { tracker, why } = await chooseTracker("auto");
  await tracker.end();
  assert.equal(tracker.kind, "soft-dirty");
  assert.match(why, /^soft-dirty works here; not pagemap-scan: .*Linux 6\.7/);
  await assert.rejects(
    chooseTracker("pagemap-scan"),
    (error) => error instanceof FerryError && error.code === "E_PREFLIGHT",
  );
});

test("doctor finds nothing that fails on this kernel", { skip, timeout: 120_000 }, async () => {
  const checks = await runChecks({ directory: "/tmp" });
  for (const { name, status, value, detail } of checks) console.log(`${status} ${name}: ${value} ${detail}`);
  assert.deepEqual(
    checks.filter(({ status }) => status === "fail").map(({ name, detail }) => `${name}: ${detail}`),
    [],
  );
  const value = (name: string): string => checks.find((check) => check.name === name)?.value ?? "";
  assert.equal(value("soft-dirty"), "yes");
  assert.match(value("page tracking"), /soft-dirty, compare$/);
});

for (const pages of ["small", "huge"] as const) {
  const name = `what tracking 1 GiB of ${pages} pages by soft-dirty bits costs (measured, not judged)`;
  test(name, { skip, timeout: 300_000 }, async () => {
    const program = await Program.start("hold", GIB_PAGES, pages);
    const tracker = new SoftDirtyTracker();
    try {
      const { pids } = program;
      const busy = async (): Promise<number> => Number(await program.ask("busy"));
      await busy();
      const plain = await busy();
      const first = await tracker.scan(pids);
      assert.ok(first.pages > GIB_PAGES);
      const clean: number[] = [];
      for (let turn = 0; turn < 5; turn++) clean.push((await tracker.scan(pids)).durationMs);
      const { stoppedMsMax } = tracker.figures;
      await program.ask("touch 64");
      const some = await tracker.scan(pids);
      // One bit for a huge page: a byte that is written makes all of its 512 pages dirty.
      assert.ok(some.pages >= 60 && some.pages < 1024 + (pages === "huge" ? 64 * 512 : 0), `${some.pages} pages`);
      const tracking = busy();
      await tracker.scan(pids);
      const tracked = await tracking;
      await tracker.end();
      assert.deepEqual(traces(program.pid), []);
      console.log(
        [
          `1 GiB of ${pages} pages: first look ${first.durationMs.toFixed(0)} ms`,
          `clean look ${Math.min(...clean).toFixed(0)} to ${Math.max(...clean).toFixed(0)} ms, stopped at most ${stoppedMsMax.toFixed(0)} ms`,
          `64 pages touched: ${some.pages} dirty, ${some.durationMs.toFixed(0)} ms`,
          `writes/s ${plain} untracked, ${tracked} with a look in it`,
        ].join("\n"),
      );
    } finally {
      await tracker.end();
      await program.end();
    }
  });
}

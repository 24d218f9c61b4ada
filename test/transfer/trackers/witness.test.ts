import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { trackerProblem } from "../../../src/transfer/trackers/choose.js";
import { CompareTracker } from "../../../src/transfer/trackers/compare.js";
import { PagemapScanTracker } from "../../../src/transfer/trackers/pagemap-scan.js";
import { SoftDirtyTracker } from "../../../src/transfer/trackers/soft-dirty.js";
import type { Tracker } from "../../../src/transfer/trackers/tracker.js";
import { needsRoot, Program, Shadow, traces } from "./kit.js";

const SEED = Number(process.env["FERRY_SEED"] ?? Date.now() % 1e6);
const RUNS = Number(process.env["FERRY_RUNS"] ?? 3);

const MAKE: { name: string; kind: Tracker["kind"]; make: () => Tracker }[] = [
  { name: "pagemap-scan", kind: "pagemap-scan", make: () => new PagemapScanTracker() },
  { name: "soft-dirty", kind: "soft-dirty", make: () => new SoftDirtyTracker() },
  { name: "compare", kind: "compare", make: () => new CompareTracker({ threads: 2 }) },
  {
    name: "compare without PAGEMAP_SCAN",
    kind: "compare",
    make: () => new CompareTracker({ threads: 1, scans: false }),
  },
];

for (const { name, kind, make } of MAKE) {
  const skip = needsRoot || ((await trackerProblem(kind)) ?? false);
  test(
    `${name}: what it calls clean is clean, whatever the tree does meanwhile`,
    { skip, timeout: 120_000 },
    async () => {
      for (let run = 0; run < RUNS; run++) {
        const seed = SEED + run;
        const program = await Program.start("churn", seed);
        const tracker = make();
        const shadow = new Shadow();
        try {
          for (let freeze = 0; freeze < 2; freeze++) {
            for (let round = 0; round < 6; round++) {
              shadow.apply(await tracker.scan(program.pids), tracker);
              await sleep(20 + ((seed * 7 + round * 13) % 60));
            }
            await program.freeze();
            const { pids } = program;
            const last = await tracker.scan(pids);
            shadow.apply(last, tracker);
            const checked = shadow.check(pids);
            assert.ok(program.child.exitCode === null && checked > 1000, "the program has ended");
            console.log(
              `${name}, seed ${seed}: ${checked} pages of ${Object.keys(pids).length} tasks, ${last.pages} last`,
            );
            const idle = await tracker.scan(pids);
            assert.equal(idle.pages, 0, "a frozen tree is dirty");
            program.thaw();
          }
          await tracker.end();
          await program.freeze();
          for (const pid of program.tree) assert.deepEqual(traces(pid), []);
        } catch (error) {
          throw new Error(`seed ${seed}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
        } finally {
          await tracker.end();
          await program.end();
        }
      }
    },
  );
}

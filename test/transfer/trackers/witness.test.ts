import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { TrackerKind } from "../../../src/model/mover.js";
import { MUST, presentPages, Program, Shadow, skipWithout, traces, WAYS } from "./kit.js";

const SEED = Number(process.env["FERRY_SEED"] ?? Date.now() % 1e6);
const RUNS = Number(process.env["FERRY_RUNS"] ?? 3);
/** An emulated machine is slow: there only the tracker that it is there for gets more than one. */
const runsOf = (kind: TrackerKind): number => (MUST === undefined || kind === MUST ? RUNS : 1);

for (const { name, kind, make } of WAYS) {
  const skip = await skipWithout(kind);
  test(
    `${name}: what it calls clean is clean, whatever the tree does meanwhile`,
    { skip, timeout: MUST === undefined ? 120_000 : 300_000 },
    async () => {
      for (let run = 0; run < runsOf(kind); run++) {
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
            const present = presentPages(pids);
            const last = await tracker.scan(pids);
            shadow.apply(last, tracker);
            const checked = shadow.check(present);
            assert.ok(program.child.exitCode === null && checked > 1000, "the program has ended");
            console.log(
              `${name}, seed ${seed}: ${checked} pages of ${Object.keys(pids).length} tasks, ${last.pages} last`,
            );
            let idle = last;
            // again: the kernel itself may make a huge page meanwhile
            for (let turn = 0; turn < 3 && idle.pages > 0; turn++)
              shadow.apply((idle = await tracker.scan(pids)), tracker);
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

/** The main job on a stock kernel: a redis with a counting client moves by pre-copy with soft-dirty bits. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { MigrationReport } from "../../src/client/index.js";
import { ferry } from "../e2e/ferry.js";
import { assertLives, describeReport, startLab, startWitness, type E2eLab, type Witness } from "../e2e/support.js";
import { notInGuest } from "./kit.js";

const skip = notInGuest;
const MINUTES = 60_000;
const MEGABYTES = 24;

let e2e: E2eLab | undefined;
let witness: Witness | undefined;
before(
  async () => {
    if (skip !== false) return;
    e2e = await startLab();
    witness = await startWitness(e2e, "redis", "node-a", MEGABYTES);
  },
  { timeout: 10 * MINUTES },
);
after(
  async () => {
    witness?.counter.kill();
    await e2e?.down();
  },
  { timeout: 2 * MINUTES },
);

test("ferry migrate --mode precopy --tracker soft-dirty", { skip, timeout: 15 * MINUTES }, async () => {
  assert.ok(e2e !== undefined && witness !== undefined);
  const digest = await witness.digest();
  const options = ["--mode", "precopy", "--tracker", "soft-dirty", "--max-blackout", "60s", "--json"];
  const { code, stdout, stderr } = await ferry(e2e, ["migrate", "redis", "--to", "node-b", ...options]);
  assert.equal(code, 0, `${stdout}${stderr}`);
  const report = JSON.parse(stdout) as MigrationReport;
  assert.equal(report.outcome, "moved", describeReport(report));
  assert.equal(report.precopy?.tracker, "soft-dirty", report.precopy?.trackerReason);
  const [first, ...later] = report.precopy.rounds;
  const small = later.filter((round) => round.dirtyPages < (first?.dirtyPages ?? 0) / 2);
  assert.ok(small.length > 0, "later rounds are smaller");
  await assertLives(e2e, witness, digest, "node-b", MINUTES);
  const rounds = report.precopy.rounds.map((round) => `${round.dirtyPages} in ${round.scanMs.toFixed(0)} ms`);
  console.log(`rounds: ${rounds.join(", ")}; blackout ${report.blackoutMs?.toFixed(0)} ms`);
});

test("the client saw one connection, and no hole in its sequence", { skip, timeout: 2 * MINUTES }, async () => {
  assert.ok(witness !== undefined);
  const { end } = await witness.assertIntact();
  console.log(`${end.answers} answers`);
});

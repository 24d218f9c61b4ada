/** The main job, for real: a redis with a connected client moves in every mode, back and forth. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { labRun } from "../../deploy/lab/index.js";
import { FerryError, type MigrationReport } from "../../src/client/index.js";
import { assertMoved, copies, migrate, startLab, startWitness, until, type E2eLab, type Witness } from "./support.js";

let e2e: E2eLab;
let witness: Witness;
before(async () => {
  e2e = await startLab();
  witness = await startWitness(e2e, "redis", "node-a", 60);
});
after(async () => {
  witness?.counter.kill();
  await e2e?.down();
});

const code = (expected: string) => (error: unknown) => error instanceof FerryError && error.code === expected;

test("a dry run says what would be done, and does nothing", async () => {
  const reports: MigrationReport[] = [];
  // Where a busy machine has made the first scan too slow, it says so and predicts nothing.
  await until("it looks how fast the memory changes", 60_000, async () => {
    const report = await (await witness.workload.migrate({ to: "node-b", dryRun: true })).result();
    assert.equal(report.outcome, "planned", JSON.stringify(report.findings));
    reports.unshift(report);
    await until("its entity is at rest", 10_000, async () => (await witness.workload.status()).operation === undefined);
    return report.plan?.prediction !== undefined;
  });
  const [report] = reports;
  assert.ok((report?.plan?.memoryBytes ?? 0) > 50_000_000);
  const prediction = report?.plan?.prediction;
  assert.ok(prediction !== undefined, JSON.stringify(report?.findings));
  assert.ok(prediction.downtimeMs > 0 && prediction.totalMs >= prediction.downtimeMs && prediction.bytes > 50_000_000);
  // a client counts: it changes something
  assert.ok(prediction.dirtyRateBytesPerSec > 0);
  assert.equal((await witness.workload.status()).epoch, 1);
});

test("source equal to destination, and a node that does not exist, are refused in words", async () => {
  await assert.rejects(migrate(witness.workload, "node-a", "cold"), code("E_SAME_NODE"));
  await assert.rejects(migrate(witness.workload, "node-z", "cold"), code("E_NODE_UNKNOWN"));
  await assert.rejects(migrate(witness.workload, "../node-b", "cold"), FerryError);
});

for (const [mode, to] of [
  ["cold", "node-b"],
  ["postcopy", "node-a"],
  ["precopy", "node-b"],
  ["hybrid", "node-a"],
] as const) {
  test(`moves ${mode} to ${to} with memory, connection and sequence intact`, async () => {
    const before = await witness.digest();
    const { epoch } = await witness.workload.status();
    const report = await migrate(witness.workload, to, mode);
    assertMoved(report);
    assert.equal(report.node, to);
    assert.ok(report.epoch > epoch);
    const { blackoutMs } = report;
    assert.ok(blackoutMs !== null && blackoutMs > 0 && blackoutMs < 30_000);
    assert.ok(report.pagesSent > 10_000);
    const rounds = mode === "precopy" || mode === "hybrid";
    assert.equal(report.rounds > 1, rounds, JSON.stringify(report.precopy));
    assert.equal(report.precopy !== undefined, rounds);
    assert.equal(await witness.digest(), before);
    const alive = await copies(e2e);
    assert.equal(alive[to], 1);
    assert.equal(
      Object.values(alive).reduce((a, b) => a + b, 0),
      1,
    );
    const status = await witness.workload.status();
    assert.equal(status.node, to);
    assert.equal(status.state, "running");
  });
}

test("nothing of the moves is left on either node", async () => {
  for (const node of ["node-a", "node-b"]) {
    const { stdout } = await labRun(
      e2e.state,
      node,
      [
        "sh",
        "-c",
        "ls /run/ferry/ops 2>/dev/null | wc -l; pgrep -c criu; nft list tables | wc -l; ls /run/netns 2>/dev/null | wc -l",
      ],
      { allow: [0, 1] },
    );
    const [ops, criu, tables, netns] = stdout.trim().split("\n").map(Number);
    assert.deepEqual({ ops, criu, tables, netns }, { ops: 0, criu: 0, tables: 0, netns: node === "node-a" ? 1 : 0 });
  }
});

test("the client saw one connection, every number once", async () => {
  await witness.assertIntact();
});

/** What becomes of workloads and nodes when no migration is to blame: programs that end, starts that fail, full disks. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { labRun, labServicePid } from "../../deploy/lab/index.js";
import type { FerryError } from "../../src/client/index.js";
import {
  armFailpoint,
  copies,
  describeReport,
  goOn,
  migrate,
  reached,
  startLab,
  startWitness,
  until,
  type E2eLab,
} from "./support.js";

const LIMIT = { timeout: 90_000 };
let e2e: E2eLab;
before(async () => {
  e2e = await startLab();
});
after(() => e2e?.down());

const run = (name: string, script: string, node = "node-a") =>
  e2e.client.workloads.run({ name, node, command: ["sh", "-c", script] });

for (const [name, script, exitCode] of [
  ["quick", "exit 0", 0],
  ["slow", "sleep 2; exit 7", 7],
] as const) {
  test(
    `a workload that ends by itself (${script}) is exited, and can be started again and removed`,
    LIMIT,
    async () => {
      const workload = await run(name, script);
      await until("it is exited", 10_000, async () => (await workload.status()).state === "exited");
      const status = await workload.status();
      assert.equal(status.exitCode, exitCode);
      await until("the listing says so", 10_000, async () => {
        const listed = await e2e.client.workloads.list();
        return listed.find((l) => l.name === name)?.state === "exited";
      });
      const again = await run(name, script);
      assert.equal((await again.status()).epoch, status.epoch + 1);
      await until("it is exited again", 20_000, async () => (await workload.status()).state === "exited");
      await workload.remove();
      await assert.rejects(workload.status(), /no workload/);
    },
  );
}

test("killed from outside, after a move, while nobody looks: exited with the signal", LIMIT, async () => {
  const workload = await run("killed", "exec sleep 12345");
  assert.equal((await migrate(workload, "node-b", "cold")).outcome, "moved");
  // The agent looks every half second; give it one look at what it has got.
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  await labRun(e2e.state, "node-b", ["pkill", "-9", "-f", "sleep 12345"], {});
  await until("it is exited", 10_000, async () => (await workload.status()).state === "exited");
  const { exitCode, node } = await workload.status();
  assert.deepEqual({ exitCode, node }, { exitCode: 137, node: "node-b" });
  await workload.remove({ force: true });
});

test("a first run that fails keeps its log, and the name can be used for another try", LIMIT, async () => {
  await assert.rejects(run("failing", "echo my reason >&2; exit 3"), (error: FerryError) => error.code === "E_START");
  const workload = e2e.client.workloads.get("failing");
  assert.equal((await workload.status()).state, "failed");
  assert.match((await workload.logs()).text, /my reason/);
  const second = await run("failing", "echo better; exec sleep 12346", "node-b");
  assert.equal((await second.status()).state, "running");
  await second.remove({ force: true });
});

test(
  "the journal's disk is full in the blackout: taken back at once; new operations are refused in words",
  LIMIT,
  async () => {
    // A small disk of its own for everything that node-a keeps, before it has anything.
    const agent = await labServicePid(e2e.state, "node-a", "agent");
    assert.ok(agent);
    await labRun(e2e.state, "node-a", ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", "/var/lib/ferry"], {});
    process.kill(agent, "SIGKILL");
    await until("the agent is back", 20_000, async () => {
      const now = await labServicePid(e2e.state, "node-a", "agent");
      const nodes = await e2e.client.nodes.list();
      return now !== undefined && now !== agent && nodes.every((node) => node.reachable);
    });
    const witness = await startWitness(e2e, "redis", "node-a", 1);
    try {
      const digest = await witness.digest();
      await armFailpoint(e2e, "node-a", "source.transfer", "pause");
      const handle = await witness.workload.migrate({ to: "node-b" });
      const ended = handle.result();
      await reached(e2e, "node-a", "source.transfer", ended);
      const fill =
        "for s in 64k 1k 1; do dd if=/dev/zero of=/var/lib/ferry/filler.$s bs=$s; done 2>/dev/null; df /var/lib/ferry";
      await labRun(e2e.state, "node-a", ["sh", "-c", fill], { allow: [1] });
      await handle.cancel();
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      await goOn(e2e, "node-a", "source.transfer");
      const report = await ended;
      assert.equal(report.outcome, "rolled-back", describeReport(report));
      assert.equal(await witness.digest(), digest);
      assert.deepEqual(await copies(e2e), { "node-a": 1, "node-b": 0 });

      const refused = await migrate(witness.workload, "node-b", "cold");
      assert.equal(refused.outcome, "refused", describeReport(refused));
      assert.match(describeReport(refused), /the disk of the journal .* is full[^]*free at least/);
      await assert.rejects(run("more", "sleep 99"), (error: FerryError) => error.code === "E_NO_SPACE");

      await labRun(e2e.state, "node-a", ["sh", "-c", "rm /var/lib/ferry/filler.*"], {});
      const moved = await migrate(witness.workload, "node-b", "cold");
      assert.equal(moved.outcome, "moved", describeReport(moved));
      assert.equal(await witness.digest(), digest);
      await witness.assertIntact();
    } finally {
      witness.counter.kill();
    }
  },
);

/** What becomes of workloads and nodes when no migration is to blame: programs that end, starts that fail, full disks. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Client, Connection } from "@temporalio/client";
import { redis } from "../../deploy/demo/clients.js";
import { labNode, labRun, labServicePid } from "../../deploy/lab/index.js";
import { createAgentClient } from "../../src/agent/client.js";
import type { FerryError } from "../../src/client/index.js";
import { ferry } from "./ferry.js";
import {
  armFailpoint,
  assertLives,
  cancelHeard,
  clearFailpoints,
  copies,
  describeReport,
  goOn,
  journalSays,
  migrate,
  reached,
  REDIS,
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

/** As if the server's database had been lost: nobody looks after these workflows any more. */
async function terminate(...ids: string[]): Promise<void> {
  const connection = await Connection.connect({ address: e2e.lab.address ?? "" });
  try {
    for (const id of ids) await new Client({ connection }).workflow.getHandle(id).terminate("lost");
  } finally {
    await connection.close();
  }
}

async function killAgent(node: string): Promise<void> {
  const pid = await labServicePid(e2e.state, node, "agent");
  assert.ok(pid, `the agent of ${node} runs`);
  process.kill(pid, "SIGKILL");
}

test(
  "its entity is lost while it is held: run again is refused everywhere, the journals settle it, then it is taken over",
  LIMIT,
  async () => {
    const witness = await startWitness(e2e, "lost", "node-a", 1);
    try {
      const digest = await witness.digest();
      const { spec } = await witness.workload.status();
      await armFailpoint(e2e, "node-a", "source.transfer", "pause");
      const handle = await witness.workload.migrate({ to: "node-b", mode: "cold", maxBlackoutMs: 60_000 });
      const ended = handle.result();
      await reached(e2e, "node-a", "source.transfer", ended);
      await terminate("workload/lost");
      const again = (node: string) => e2e.client.workloads.run({ name: "lost", node, command: REDIS });
      for (const node of ["node-a", "node-b"]) {
        await assert.rejects(again(node), (error: FerryError) => {
          assert.equal(error.code, "E_BUSY", error.message);
          assert.match(
            error.message,
            /its epoch [12] is (FROZEN|RESERVED|RECEIVED) on node-[ab], so the hand-over lost\.migrate\.2/,
          );
          return true;
        });
      }
      // A client of its own, which asks no entity: the agent says no too.
      const root = `/proc/${(await labNode(e2e.state, "node-a")).pid}/root`;
      const operation = "lost.start.99";
      await assert.rejects(
        createAgentClient(`${root}/run/ferry/agent.sock`).startWorkload({ schema: 1, operation, epoch: 99, spec }),
        (error: FerryError) => error.code === "E_BUSY",
      );
      await goOn(e2e, "node-a", "source.transfer");
      const report = await ended;
      assert.equal(report.outcome, "moved", describeReport(report));
      await assert.rejects(again("node-a"), (error: FerryError) => error.code === "E_WORKLOAD_EXISTS");
      const status = await (await again("node-b")).status();
      assert.deepEqual([status.state, status.node, status.epoch], ["running", "node-b", 2]);
      await assertLives(e2e, witness, digest, "node-b", 10_000);
      await witness.assertIntact();
    } finally {
      witness.counter.kill();
      await clearFailpoints(e2e);
      await witness.workload.remove({ force: true });
    }
  },
);

test("its workflows are lost after the destination has reserved: nothing of it stays there", LIMIT, async () => {
  const workload = await run("reserved", "exec sleep 12347");
  await armFailpoint(e2e, "node-a", "source.freeze", "pause");
  const handle = await workload.migrate({ to: "node-b", mode: "cold" });
  await reached(e2e, "node-a", "source.freeze");
  const there = () => labRun(e2e.state, "node-b", ["ls", "/var/lib/ferry/volumes"], {});
  assert.match((await there()).stdout, /reserved/);
  await terminate("workload/reserved", handle.workflowId);
  await killAgent("node-b");
  await goOn(e2e, "node-a", "source.freeze");
  await until("its files are gone", 20_000, async () => !(await there()).stdout.includes("reserved"));
  await until("its source took it back", 20_000, () => journalSays(e2e, "node-a", handle.operation, "BURNED"));
  assert.equal((await (await run("reserved", "exec sleep 12347")).status()).node, "node-a");
  await until("it is removed", 20_000, async () => {
    try {
      await workload.remove({ force: true });
      return true;
    } catch (error) {
      // Burned, and not running again yet.
      if ((error as FerryError).code === "E_STATE") return false;
      throw error;
    }
  });
});

test(
  "a damaged journal, and one that was moved away: nothing is killed, ferry says what to do; put back, it goes on",
  LIMIT,
  async () => {
    const witness = await startWitness(e2e, "kept", "node-a", 1);
    const dir = "/var/lib/ferry";
    const shell = (script: string) => labRun(e2e.state, "node-a", ["sh", "-c", script], {});
    const quarantined = (why: RegExp) =>
      until(`node-a says ${String(why)}`, 20_000, async () => {
        const { problem, reachable } = await e2e.client.nodes.get("node-a");
        return !reachable && why.test(problem ?? "");
      });
    const lives = async (): Promise<void> => {
      assert.deepEqual(await copies(e2e), { "node-a": 1, "node-b": 0 });
      const count = async () => Number((await redis(witness.place, [["GET", "counter"]]))[0]);
      const before = await count();
      await until("the client counts on", 5_000, async () => (await count()) > before);
    };
    try {
      const digest = await witness.digest();
      await shell(`cp ${dir}/journal.jsonl ${dir}/whole && sed -i '2s/"prev"/"then"/' ${dir}/journal.jsonl`);
      await killAgent("node-a");
      await quarantined(/is damaged at line 2/);
      await lives();
      for (const args of [["nodes"], ["inspect", "kept"], ["logs", "kept"]]) {
        const { stdout, stderr } = await ferry(e2e, args);
        assert.match((stdout + stderr).replaceAll(/\s+/g, " "), /damaged at line 2/, args.join(" "));
      }
      const report = await migrate(witness.workload, "node-b", "cold");
      // No answer to the question whether it may move: a failure, not a refusal.
      assert.equal(report.outcome, "rolled-back", describeReport(report));
      assert.equal(report.node, "node-a");

      // What a person may try: without the file the agent must not take the workload for a stranger.
      await shell(`mv ${dir}/journal.jsonl ${dir}/damaged`);
      await killAgent("node-a");
      await quarantined(/is empty or was missing: it does not know kept \(epoch 1\)/);
      await lives();
      await assert.rejects(run("more", "sleep 99"), (error: FerryError) => error.code === "E_JOURNAL_CORRUPT");

      // An older copy lacks the lines of what was started since.
      await shell(`head -n 1 ${dir}/whole >${dir}/journal.jsonl`);
      await killAgent("node-a");
      await quarantined(/lacks later ones: it does not know kept/);
      await lives();

      await shell(`cp ${dir}/whole ${dir}/journal.jsonl && rm ${dir}/whole ${dir}/damaged`);
      await killAgent("node-a");
      await until("node-a answers", 20_000, async () => (await e2e.client.nodes.get("node-a")).reachable);
      const moved = await migrate(witness.workload, "node-b", "cold");
      assert.equal(moved.outcome, "moved", describeReport(moved));
      await assertLives(e2e, witness, digest, "node-b", 10_000);
      await witness.assertIntact();
    } finally {
      witness.counter.kill();
      await until("it is at rest", 20_000, async () => (await witness.workload.status()).operation === undefined);
      await witness.workload.remove({ force: true });
    }
  },
);

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
      await cancelHeard(e2e, handle, "node-a");
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

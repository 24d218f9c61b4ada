/**
 * A machine is lost for good in the one state that waits: fenced by a person, and resolved. After each, one live copy with
 * its connection, and the machine that comes back after all finds itself superseded.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, Connection } from "@temporalio/client";
import { labKillNode, labRun, labServicePid, labStartNode } from "../../deploy/lab/index.js";
import { ferry } from "./ferry.js";
import { settled, withRedis } from "./scene.js";
import { assertMoved, describeReport as why, journalSays, migrate, until } from "./support.js";

const LIMIT = { timeout: 240_000 };
const scene = withRedis(20);
const inDoubt = () =>
  until("it is in doubt", 60_000, async () => (await scene.witness.workload.status()).state === "in-doubt");
const redisOn = async (node: string): Promise<number> => {
  const { stdout } = await labRun(scene.e2e.state, node, ["pgrep", "-x", "-c", "redis-server"], { allow: [1] });
  return Number(stdout);
};

for (const [point, left] of [
  ["destination.switch", "TOMBSTONE"],
  ["destination.resume", "SUPERSEDED"],
] as const) {
  test(
    `the destination's machine is lost at ${point}, after the commit point: the source takes it back`,
    LIMIT,
    async () => {
      const { source, destination, handle } = await scene.pausedAt(point, { mode: "cold" });
      await until("the source has released", 10_000, () =>
        journalSays(scene.e2e, source, handle.operation, "RELEASED"),
      );

      const alive = await ferry(scene.e2e, ["fence", destination, "--i-have-powered-it-off"]);
      assert.equal(alive.code, 2, alive.stderr);
      assert.match(alive.stderr, /answers: it is not off/);

      await labKillNode(scene.e2e.state, destination);
      await inDoubt();
      const early = await ferry(scene.e2e, ["resolve", "redis", "--keep", "source"]);
      assert.equal(early.code, 2, early.stderr);
      assert.match(early.stderr, /nobody has fenced it[^]*ferry fence/);

      const fenced = await ferry(scene.e2e, ["fence", destination, "--i-have-powered-it-off"]);
      assert.equal(fenced.code, 0, fenced.stderr);
      assert.match(fenced.stdout, /ferry resolve redis --keep source/);
      const resolved = await ferry(scene.e2e, ["resolve", "redis", "--keep", "source"]);
      assert.equal(resolved.code, 0, resolved.stderr);
      const report = await settled(handle);
      assert.equal(report.outcome, "rolled-back", why(report));
      assert.equal(report.node, source);
      await assertOneCopyHere(source);

      await labStartNode(scene.e2e.state, destination);
      await until("it finds itself superseded", 60_000, () =>
        journalSays(scene.e2e, destination, handle.operation, left),
      );
      assert.equal(await redisOn(destination), 0);
      await scene.assertOneCopy(source);
      assertMoved(await migrate(scene.witness.workload, destination, "cold"));
      await scene.assertOneCopy(destination);
    },
  );
}

/** The other machine is off: it can't be asked. */
async function assertOneCopyHere(node: string): Promise<void> {
  await scene.atRest();
  assert.equal(await redisOn(node), 1);
  assert.equal(await scene.witness.digest(), scene.digest);
}

for (const released of [false, true]) {
  const when = released ? "just after it has released" : "with everything sent and nothing released";
  test(`the source's machine is lost ${when}: the destination runs what it has`, LIMIT, async () => {
    const { source, destination, handle, go } = await scene.pausedAt("source.switch", { mode: "cold" });
    if (released) {
      // The token gets through neither by the link nor by the workflow.
      const agent = await labServicePid(scene.e2e.state, destination, "agent");
      const worker = await labServicePid(scene.e2e.state, source, "worker");
      assert.ok(agent !== undefined && worker !== undefined);
      process.kill(worker, "SIGSTOP");
      process.kill(agent, "SIGSTOP");
      await go();
      await until("the source has released", 10_000, () =>
        journalSays(scene.e2e, source, handle.operation, "RELEASED"),
      );
      await labKillNode(scene.e2e.state, source);
      process.kill(agent, "SIGCONT");
    } else await labKillNode(scene.e2e.state, source);
    // A token that lay in the link's buffers is as good as one that came in time.
    const went = await Promise.race([
      inDoubt().then(() => false),
      until("it runs there", 60_000, () => journalSays(scene.e2e, destination, handle.operation, "RUNNING")).then(
        () => true,
      ),
    ]);
    if (!went) {
      const early = await ferry(scene.e2e, ["resolve", "redis", "--keep", "destination"]);
      assert.equal(early.code, 2, early.stderr);
      const fenced = await ferry(scene.e2e, ["fence", source, "--i-have-powered-it-off", "--json"]);
      assert.equal(fenced.code, 0, fenced.stderr);
      const { inDoubt: names } = JSON.parse(fenced.stdout) as { inDoubt: unknown };
      assert.deepEqual(names, [{ name: "redis", keep: "destination" }]);
      const unasked = await ferry(scene.e2e, ["resolve", "redis", "--keep", "destination"]);
      assert.equal(unasked.code, 2, unasked.stderr);
      assert.match(unasked.stderr, /--accept-rollback/);
      const resolved = await ferry(scene.e2e, ["resolve", "redis", "--keep", "destination", "--accept-rollback"]);
      assert.equal(resolved.code, 0, resolved.stderr);
    }
    const report = await settled(handle);
    assert.equal(report.outcome, "moved", why(report));
    await assertOneCopyHere(destination);

    await labStartNode(scene.e2e.state, source);
    const left = released ? "GONE" : "SUPERSEDED";
    await until("it is over there, too", 60_000, () => journalSays(scene.e2e, source, handle.operation, left));
    assert.equal(await redisOn(source), 0);
    await scene.assertOneCopy(destination);
    assertMoved(await migrate(scene.witness.workload, source, "cold"));
    await scene.assertOneCopy(source);
  });
}

test("every sweep has come to its end", LIMIT, async () => {
  const connection = await Connection.connect({ address: scene.e2e.lab.address ?? "" });
  try {
    const { workflow } = new Client({ connection });
    await until("no sweep goes on", 130_000, async () => {
      const { count } = await workflow.count("WorkflowType = 'sweep' AND ExecutionStatus = 'Running'");
      return count === 0;
    });
  } finally {
    await connection.close();
  }
});

test("through all of it the client saw one connection, every number once", async () => {
  await scene.witness.assertIntact();
});

test(
  "a machine is lost at rest: seen, fenced, and not recovered, for want of a checkpoint; up again when it is back",
  LIMIT,
  async () => {
    const { node: lost } = await scene.witness.workload.status();
    const other = lost === "node-a" ? "node-b" : "node-a";
    const read = async (...args: string[]): Promise<string> => (await ferry(scene.e2e, args)).stdout;
    await labKillNode(scene.e2e.state, lost);
    await until("ps says that it is silent", 60_000, async () => /running, node silent/.test(await read("ps")));
    const unfenced = await ferry(scene.e2e, ["recover", "redis", "--node", other]);
    assert.equal(unfenced.code, 2, unfenced.stderr);
    assert.match(unfenced.stderr, /nobody has fenced it/);
    const fenced = await ferry(scene.e2e, ["fence", lost, "--i-have-powered-it-off"]);
    assert.match(fenced.stdout, /redis ran there: ferry recover redis/);
    const recovered = await ferry(scene.e2e, ["recover", "redis", "--node", other, "--accept-rollback"]);
    assert.equal(recovered.code, 2, recovered.stderr);
    assert.match(recovered.stderr, /no checkpoints of redis are kept/);
    await labStartNode(scene.e2e.state, lost);
    await until("it is up again, and its workload has ended", 60_000, async () => {
      const [nodes, workloads] = [await read("nodes"), await read("ps")];
      return (
        !/silent|lost|fenced/.test(nodes) && /exited/.test(workloads) && !/node (silent|lost|fenced)/.test(workloads)
      );
    });
  },
);

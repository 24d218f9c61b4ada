/** Checkpoints by the SDK, over simulated agents: handles, progress, clones, and what is refused before anything is asked. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { connect, FerryError, type FailureCode, type FerryClient } from "../../src/client/index.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { Stage, until } from "../workflows/support.js";

const fails = async (code: FailureCode, pattern: RegExp, act: () => Promise<unknown>): Promise<void> => {
  let caught: unknown;
  try {
    await act();
  } catch (error) {
    caught = error;
  }
  assert.ok(caught instanceof FerryError, `expected a FerryError, got ${String(caught)}`);
  assert.equal(caught.code, code, caught.message);
  assert.match(caught.message, pattern);
};

describe("checkpoints by the SDK", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  let ferry: FerryClient;
  before(async () => {
    stage = await Stage.up(["node-a", "node-b"]);
    ferry = await connect({ address: stage.server.address });
    await until(
      () => ferry.nodes.list(),
      (nodes) => nodes.length === 2,
    );
  });
  after(async () => {
    await ferry.close();
    await stage.down();
  });
  const run = (name: string) => ferry.workloads.run({ name, node: "node-a", command: ["true"], runtime: "simulated" });

  test("progress until it ends, then the report; the next request is not refused as busy", async () => {
    const web = await run("web");
    assert.equal(await web.lastCheckpoint(), undefined);
    const go = stage.hold("save:frozen", "web");
    const handle = await web.checkpoint({ reason: "by hand", labels: { "team/name": "x" } });
    const seen: { phase: string; bytesSent: number }[] = [];
    for await (const progress of handle.progress({ everyMs: 50 })) {
      assert.equal(progress.node, progress.node === "" ? "" : "node-a");
      seen.push(progress);
      if (progress.phase === "transfer" && progress.bytesSent > 0) go();
    }
    const report = await handle.result();
    assert.deepEqual([report.outcome, report.state], ["saved", "running"]);
    assert.ok(
      seen.some(({ phase }) => phase === "transfer"),
      JSON.stringify(seen),
    );
    const again = await web.checkpoint();
    assert.equal((await again.result()).checkpoint?.requestedBy, "sdk");
    assert.equal((await web.lastCheckpoint())?.operation, again.operation);
    assert.equal((await (await web.lastCheckpoint())?.result())?.operation, again.operation);
    assert.equal(
      (await web.status()).lastCheckpoint?.id,
      (await ferry.checkpoints.list({ workload: "web" })).at(-1)?.id,
    );
  });

  test("stopped, restored elsewhere, and cloned while it runs; all are listed", async () => {
    const job = await run("job");
    const report = await (await job.checkpoint({ stop: true })).result();
    assert.equal((await job.status()).state, "checkpointed");
    assert.equal((await job.restore({ node: "node-b", dryRun: true })).planned, true);
    const restored = await job.restore({ node: "node-b" });
    assert.deepEqual([restored.node, restored.checkpoint], ["node-b", report.checkpoint?.id]);
    const clones = await ferry.workloads.clone({ of: "job", as: "copy", count: 2 });
    assert.deepEqual(
      clones.map(({ name }) => name),
      ["copy-1", "copy-2"],
    );
    for (const clone of clones) {
      const { spec, node } = await clone.status();
      assert.deepEqual([spec.command, node], [["true"], "node-b"]);
    }
    await until(
      () => ferry.workloads.list(),
      (all) =>
        ["job", "copy-1", "copy-2"].every((name) => all.some((one) => one.name === name && one.state === "running")),
    );
    assert.deepEqual(stage.world.violations, []);
  });

  test("a person's request is checked before anybody is asked", async () => {
    const web = ferry.workloads.get("web");
    await fails("E_REQUEST", /labels: label "a b" is not valid/, () => web.checkpoint({ labels: { "a b": "c" } }));
    await fails("E_REQUEST", /maxBlackoutMs: at least 100 ms/, () => web.checkpoint({ maxBlackoutMs: 1 }));
    await fails("E_REQUEST", /don't go together/, () => web.restore({ checkpoint: "a", at: new Date() }));
    await fails("E_REQUEST", /"\.\.\/x" is not a checkpoint's id/, () => web.restore({ checkpoint: "../x" }));
    await fails("E_NAME", /node name/, () => web.restore({ node: "A" }));
    await fails("E_NODE_UNKNOWN", /no node nowhere/, () => web.restore({ node: "nowhere" }));
    await fails("E_NAME", /workload name/, () => ferry.workloads.clone({ of: "web", as: "../x" }));
    await fails("E_REQUEST", /count/, () => ferry.workloads.clone({ of: "web", as: "x", count: 1_000 }));
    await fails("E_REQUEST", /more addresses/, () =>
      ferry.workloads.clone({ of: "web", as: "x", ips: ["10.77.0.2", "10.77.0.3"] }),
    );
    await fails("E_NAME", /has 41 characters/, () =>
      ferry.workloads.clone({ of: "web", as: "x".repeat(39), count: 2 }),
    );
    await fails("E_WORKLOAD_UNKNOWN", /no workload ghost/, () => ferry.workloads.clone({ of: "ghost", as: "x" }));
    await fails("E_REQUEST", /one of keep, olderThanMs and maxBytes/, () => ferry.checkpoints.prune("web", {}));
    await fails("E_REQUEST", /at least 1/, () => ferry.checkpoints.prune("web", { keep: 0 }));
    await fails("E_CHECKPOINT_UNKNOWN", /no checkpoint "zz" of web/, () => ferry.checkpoints.remove("web", "zz"));
    await fails("E_NO_CHECKPOINT", /no checkpoint of never/, async () => {
      await (await run("never")).stop();
      await ferry.workloads.get("never").restore();
    });
  });
});

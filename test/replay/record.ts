/**
 * Records the histories that replay.test.ts keeps: `node dist/test/replay/record.js test/replay/histories/VERSION`, with
 * the real server and simulated nodes. A file that is there is not written again, and none is ever deleted: a workload
 * may be older than any release. See CONTRIBUTING.
 */
import type { FailureData } from "../../src/model/failure.js";
import { QUERY, UPDATE, type NodeState, type OperationStarted } from "../../src/model/messages.js";
import { nodeWorkflowId } from "../../src/model/names.js";
import type { MigrateOptions } from "../../src/model/plan.js";
import { Stage, Subject, specOf, until } from "../workflows/support.js";
import { recordCheckpoints } from "./record-checkpoints.js";
import { recordDoubt } from "./record-doubt.js";
import { recordLong } from "./record-long.js";
import { recordSchedules } from "./record-schedules.js";
import { recordSteps } from "./record-steps.js";
import { Recorder } from "./recorder.js";

const directory = process.argv[2];
if (directory === undefined) throw new Error("usage: record.js DIRECTORY");

const stage = await Stage.up();
const recorder = new Recorder(stage, directory);

const record = async (): Promise<void> => {
  const subject = await stage.run("redis");
  await subject.moveTo("node-b");
  await recorder.keepMigration("moved", subject);
  await subject.moveTo("node-a", { mode: "postcopy" });
  await recorder.keepMigration("moved-postcopy", subject);

  const failure = { code: "E_RESTORE", message: "criu said no", node: "node-b" } as const;
  stage.world.order({ node: "node-b", verb: "takeOver", when: "before", times: 1, failure });
  await subject.moveTo("node-b");
  await recorder.keepMigration("rolled-back", subject);

  const finding = { level: "block", check: "test", side: "destination", message: "no room" } as const;
  stage.agent("node-b").findings.push(finding);
  await subject.moveTo("node-b");
  stage.agent("node-b").findings.length = 0;
  await recorder.keepMigration("refused", subject);

  await subject.moveTo("node-b", { dryRun: true });
  await recorder.keepMigration("planned", subject);

  stage.world.at("source:frozen", async () => {
    void subject.handle.executeUpdate("cancel").catch(() => undefined);
    const burned = () => stage.world.node("node-a").ledger.get("redis");
    const before = burned()?.size ?? 0;
    await until(
      () => burned()?.size ?? 0,
      (size) => size > before,
      3_000,
    ).catch(() => undefined);
  });
  await subject.moveTo("node-b", { maxBlackoutMs: 10_000 });
  await recorder.keepMigration("cancelled", subject);

  stage.world.at("source:released", () => stage.world.cut("node-a", "node-b"));
  await subject.moveTo("node-b");
  stage.world.mend("node-a", "node-b");
  await recorder.keepMigration("token-carried", subject);

  stage.world.at("source:frozen", async () => {
    const { sequence } = await subject.status();
    await stage.client.workflow.getHandle(`redis/migrate/${sequence}`).terminate("recording");
  });
  await subject.migrate("node-a").catch(() => undefined);
  await until(
    () => subject.status(),
    (s) => s.operation === undefined,
    15_000,
  );
  stage.world.at("source:released", async () => {
    const { sequence } = await subject.status();
    await stage.client.workflow.getHandle(`redis/migrate/${sequence}`).terminate("recording");
  });
  const { node } = await subject.status();
  await subject.migrate(node === "node-a" ? "node-b" : "node-a");
  const settled = await until(
    () => subject.status(),
    (s) => s.operation === undefined,
    15_000,
  );
  recorder.keep("settle", `redis/settle/${settled.sequence}`);

  await subject.handle.executeUpdate("stop", { args: [{ graceMs: 0 }] });
  await subject.handle.executeUpdate("remove", { args: [{ force: false, graceMs: 0 }] });
  recorder.keep("workload", "workload/redis");
  await stage.client.workflow.getHandle(nodeWorkflowId("node-a")).executeUpdate("ask", { args: [{ ask: "describe" }] });
  recorder.keep("node", nodeWorkflowId("node-a"));
};

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Modes with rounds, long enough that the workflow looks how far they are. */
const recordRounds = async (): Promise<void> => {
  const subject = await stage.run("rounds");
  const options: Partial<MigrateOptions> = { mode: "precopy", maxBlackoutMs: 20_000 };
  stage.world.at("source:precopy", () => pause(1_500), subject.name);
  await subject.moveTo("node-b", options);
  await recorder.keepMigration("precopy", subject);
  stage.world.at("source:precopy", () => pause(1_500), subject.name);
  await subject.moveTo("node-a", { ...options, mode: "hybrid" });
  await recorder.keepMigration("hybrid", subject);

  stage.world.at(
    "source:precopy",
    async () => {
      const last = await until(
        () => subject.handle.query<OperationStarted | null>("lastMigration"),
        (seen) => seen !== null && seen.operation.endsWith(".4"),
      );
      if (last === null) return;
      const migration = subject.operation(last);
      await migration.executeUpdate(UPDATE.steer, { args: [{ do: "pause" }] });
      await migration.executeUpdate(UPDATE.steer, { args: [{ do: "max-downtime", ms: 250 }] });
      await migration.executeUpdate(UPDATE.steer, { args: [{ do: "go" }] });
    },
    subject.name,
  );
  await subject.moveTo("node-b", options);
  await recorder.keepMigration("steered", subject);
};

/** An undo that is refused for a while, and a node that is away when it is to clear up. */
const recordUndone = async (): Promise<void> => {
  const stuck = await stage.run("stuck");
  const failure: FailureData = { code: "E_RESTORE", message: "criu said no", node: "node-b" };
  const broken: FailureData = { code: "E_JOURNAL_CORRUPT", message: "line 7 is damaged", node: "node-a" };
  const refuses = { node: "node-b", verb: "takeOver", when: "before", times: 1, failure } as const;
  stage.world.order({ ...refuses, workload: "stuck" });
  stage.world.order({ node: "node-a", verb: "burn", when: "before", times: 4, workload: "stuck", failure: broken });
  await stuck.moveTo("node-b");
  await recorder.keepMigration("stuck", stuck);

  const swept = await stage.run("swept");
  stage.world.order({ ...refuses, workload: "swept" });
  stage.world.order({ node: "node-b", verb: "cleanup", when: "before", times: 12, workload: "swept" });
  await swept.moveTo("node-b");
  await recorder.keepMigration("left-to-sweep", swept);
  const sweep = `swept/migrate/${(await swept.status()).sequence}/sweep`;
  await stage.client.workflow.getHandle(sweep).result();
  // `sweep` is kept from before a sweep said anything at its end: such may be open for as long as a node is away.
  recorder.keep("sweep-told", sweep);
};

/** `auto`, a first start that is refused, a workload that ends by itself. */
const recordEnds = async (): Promise<void> => {
  const subject = await stage.run("auto");
  stage.agent("node-a").facts = { dirty: { tracker: "compare", rateBytesPerSec: 1_000, windowMs: 300 } };
  await subject.moveTo("node-b", { mode: "auto" });
  stage.agent("node-a").facts = {};
  await recorder.keepMigration("auto", subject);
  await subject.handle.signal("ended", { node: "node-b", epoch: 2, exitCode: 3 });
  await until(
    () => subject.status(),
    ({ state }) => state === "exited",
  );
  recorder.keep("workload-ended", "workload/auto");

  const refused = new Subject(stage, "refused");
  await refused.start("node-a", undefined, specOf("another-name")).catch(() => undefined);
  await refused.handle.result();
  recorder.keep("workload-refused", "workload/refused");
};

/** A node is lost with its workload, which is recovered on the other one; then it comes back. */
const recordLost = async (): Promise<void> => {
  const subject = await stage.run("lost");
  const where = "the simulated store";
  stage.world.checkpoints.set("lost", { id: "c1", workload: "lost", epoch: 1, takenAt: Date.now(), where });
  stage.world.powerOff("node-a");
  await stage.workers.stopNode("node-a");
  const lost = stage.client.workflow.getHandle(nodeWorkflowId("node-a"));
  await until(
    () => lost.query<NodeState>(QUERY.status),
    ({ presence }) => presence?.state === "silent",
  );
  await lost.executeUpdate(UPDATE.fence, { args: [{ evidence: "the plug is in my hand" }] });
  await subject.handle.executeUpdate(UPDATE.recover, { args: [{ node: "node-b", acceptRollback: true }] });
  stage.agent("node-a").restart();
  await stage.startNode("node-a");
  const supersede = `lost/recover/${(await subject.status()).sequence}/supersede/node-a`;
  await stage.client.workflow.getHandle(supersede).result();
  await until(
    () => lost.query<NodeState>(QUERY.status),
    ({ presence }) => presence?.state === "up",
  );
  recorder.keep("supersede", supersede);
  recorder.keep("workload-recovered", "workload/lost");
  recorder.keep("node-watched", nodeWorkflowId("node-a"));
};
try {
  await record();
  await recordRounds();
  await recordUndone();
  await recordEnds();
  await recordCheckpoints(recorder);
  await recordSchedules(recorder);
  await recordDoubt(recorder);
  await recordLong(recorder);
  await recordLost();
  await recordSteps(recorder);
} finally {
  await stage.down();
}

/**
 * Records the histories that replay.test.ts keeps: `node record.js DIRECTORY`. Run it when a path is new. What is there is
 * not written again: a kept history may only go when no workflow of its kind can be open any more.
 */
import { execFileSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { FailureData } from "../../src/model/failure.js";
import { UPDATE, type OperationStarted } from "../../src/model/messages.js";
import { nodeWorkflowId } from "../../src/model/names.js";
import type { MigrateOptions } from "../../src/model/plan.js";
import { temporalBinary } from "../support/temporal.js";
import { Stage, until, type Subject } from "../workflows/support.js";

const directory = process.argv[2];
if (directory === undefined) throw new Error("usage: record.js DIRECTORY");

const stage = await Stage.up();
const keep = async (name: string, workflowId: string): Promise<void> => {
  const file = join(directory, `${name}.json`);
  if (existsSync(file)) return;
  // By the CLI: the SDK's own historyToJSON fails when npm has installed protobufjs twice ("type must be a Type").
  const args = ["workflow", "show", "--address", stage.server.address, "-w", workflowId, "--output", "json"];
  const text = execFileSync(temporalBinary() ?? "temporal", args, { encoding: "utf8", maxBuffer: 2 ** 26 });
  writeFileSync(file, `${JSON.stringify(JSON.parse(text), null, 1)}\n`);
  await Promise.resolve();
};
const keepMigration = async (name: string, subject: Subject): Promise<void> => {
  await keep(`migrate-${name}`, `${subject.name}/migrate/${(await subject.status()).sequence}`);
};

const record = async (): Promise<void> => {
  const subject = await stage.run("redis");
  await subject.moveTo("node-b");
  await keepMigration("moved", subject);
  await subject.moveTo("node-a", { mode: "postcopy" });
  await keepMigration("moved-postcopy", subject);

  const failure = { code: "E_RESTORE", message: "criu said no", node: "node-b" } as const;
  stage.world.order({ node: "node-b", verb: "takeOver", when: "before", times: 1, failure });
  await subject.moveTo("node-b");
  await keepMigration("rolled-back", subject);

  const finding = { level: "block", check: "test", side: "destination", message: "no room" } as const;
  stage.agent("node-b").findings.push(finding);
  await subject.moveTo("node-b");
  stage.agent("node-b").findings.length = 0;
  await keepMigration("refused", subject);

  await subject.moveTo("node-b", { dryRun: true });
  await keepMigration("planned", subject);

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
  await keepMigration("cancelled", subject);

  stage.world.at("source:released", () => stage.world.cut("node-a", "node-b"));
  await subject.moveTo("node-b");
  stage.world.mend("node-a", "node-b");
  await keepMigration("token-carried", subject);

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
  await keep("settle", `redis/settle/${settled.sequence}`);

  await subject.handle.executeUpdate("stop", { args: [{ graceMs: 0 }] });
  await subject.handle.executeUpdate("remove", { args: [{ force: false, graceMs: 0 }] });
  await keep("workload", "workload/redis");
  await stage.client.workflow.getHandle(nodeWorkflowId("node-a")).executeUpdate("ask", { args: [{ ask: "describe" }] });
  await keep("node", nodeWorkflowId("node-a"));
};

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Modes with rounds, long enough that the workflow looks how far they are. */
const recordRounds = async (): Promise<void> => {
  const subject = await stage.run("rounds");
  const options: Partial<MigrateOptions> = { mode: "precopy", maxBlackoutMs: 20_000 };
  stage.world.at("source:precopy", () => pause(1_500), subject.name);
  await subject.moveTo("node-b", options);
  await keepMigration("precopy", subject);
  stage.world.at("source:precopy", () => pause(1_500), subject.name);
  await subject.moveTo("node-a", { ...options, mode: "hybrid" });
  await keepMigration("hybrid", subject);

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
  await keepMigration("steered", subject);
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
  await keepMigration("stuck", stuck);

  const swept = await stage.run("swept");
  stage.world.order({ ...refuses, workload: "swept" });
  stage.world.order({ node: "node-b", verb: "cleanup", when: "before", times: 12, workload: "swept" });
  await swept.moveTo("node-b");
  await keepMigration("left-to-sweep", swept);
  const sweep = `swept/migrate/${(await swept.status()).sequence}/sweep`;
  await stage.client.workflow.getHandle(sweep).result();
  // `sweep` is kept from before a sweep said anything at its end: such may be open for as long as a node is away.
  await keep("sweep-told", sweep);
};
try {
  await record();
  await recordRounds();
  await recordUndone();
} finally {
  await stage.down();
}

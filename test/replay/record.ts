/**
 * Records the histories that replay.test.ts keeps: `node record.js DIRECTORY`. Run it when a path is new; a kept
 * history is only replaced when no workflow of its kind can be open any more.
 */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { nodeWorkflowId } from "../../src/model/names.js";
import { temporalBinary } from "../support/temporal.js";
import { Stage, until, type Subject } from "../workflows/support.js";

const directory = process.argv[2];
if (directory === undefined) throw new Error("usage: record.js DIRECTORY");

const stage = await Stage.up();
const keep = async (name: string, workflowId: string): Promise<void> => {
  // By the CLI: the SDK's own historyToJSON fails when npm has installed protobufjs twice ("type must be a Type").
  const args = ["workflow", "show", "--address", stage.server.address, "-w", workflowId, "--output", "json"];
  const text = execFileSync(temporalBinary() ?? "temporal", args, { encoding: "utf8", maxBuffer: 2 ** 26 });
  writeFileSync(join(directory, `${name}.json`), `${JSON.stringify(JSON.parse(text), null, 1)}\n`);
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
try {
  await record();
} finally {
  await stage.down();
}

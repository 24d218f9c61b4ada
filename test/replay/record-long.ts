/** Paths over several runs: operations and entities that go on by continue-as-new. Their runs are long at 50 events. */
import { UPDATE } from "../../src/model/messages.js";
import { nodeWorkflowId, workloadWorkflowId } from "../../src/model/names.js";
import { QUICK, until } from "../workflows/support.js";
import type { Recorder } from "./recorder.js";

const SHORT = { ...QUICK, watchMs: 1, maxWatchMs: 1, backoffMs: 10, maxBackoffMs: 20, longEvents: 50 };

export async function recordLong(recorder: Recorder): Promise<void> {
  const { stage } = recorder;
  const long = await stage.run("long", "node-a", SHORT);
  const go = stage.hold("source:precopy", long.name);
  const started = await long.migrate("node-b", { mode: "precopy", maxBlackoutMs: 60_000 });
  await recorder.untilLong(started.workflowId);
  go();
  await long.settled();
  await recorder.keepRuns("migrate-long", started.workflowId);

  const settled = await stage.run("settled", "node-a", SHORT);
  stage.world.at("source:released", () => stage.world.crash("node-b"), settled.name);
  const { workflowId } = await settled.migrate("node-b", { mode: "postcopy" });
  await until(
    () => settled.status(),
    ({ state }) => state === "in-doubt",
  );
  await stage.client.workflow.getHandle(workflowId).terminate("recording");
  const { sequence } = await until(
    () => settled.status(),
    (status) => status.operation?.includes(".settle.") === true,
  );
  await recorder.untilLong(`settled/settle/${sequence}`);
  stage.agent("node-b").restart();
  await settled.settled();
  await recorder.keepRuns("settle-long", `settled/settle/${sequence}`);

  const away = await stage.run("away", "node-a", SHORT);
  const failure = { code: "E_RESTORE", message: "criu said no", node: "node-b" } as const;
  const on = { node: "node-b", when: "before", workload: "away" } as const;
  stage.world.order({ ...on, verb: "takeOver", times: 5, failure });
  stage.world.order({ ...on, verb: "cleanup", times: 14 });
  await away.moveTo("node-b");
  const sweep = `away/migrate/${(await away.status()).sequence}/sweep`;
  await stage.client.workflow.getHandle(sweep).result();
  await recorder.keepRuns("sweep-long", sweep);

  const entity = await stage.run("entity", "node-a", { ...QUICK, longEvents: 50 });
  for (const to of ["node-b", "node-a", "node-b", "node-a"]) await entity.moveTo(to);
  await recorder.keepRuns("workload", workloadWorkflowId("entity"));

  const node = stage.client.workflow.getHandle(nodeWorkflowId("node-a"));
  const ask = () => node.executeUpdate(UPDATE.ask, { args: [{ ask: "observe", workload: "entity" }] });
  await until(
    async () => {
      await Promise.all([ask(), ask(), ask(), ask()]);
      return (await node.describe()).raw.workflowExecutionInfo;
    },
    (info) => info?.firstRunId !== info?.execution?.runId,
  );
  await node.signal("offline");
  await node.signal("online", null);
  await ask();
  await recorder.keepRuns("node", nodeWorkflowId("node-a"));
}

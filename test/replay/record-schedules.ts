/** Ticks of schedules, started as Temporal would, one by one. */
import { UPDATE, WORKFLOW } from "../../src/model/messages.js";
import { WORKFLOW_TASK_QUEUE } from "../../src/model/names.js";
import type { IdleScaleInput, ProtectInput, ScaleInput } from "../../src/model/schedules.js";
import { until } from "../workflows/support.js";
import type { Recorder } from "./recorder.js";

export async function recordSchedules(recorder: Recorder): Promise<void> {
  const { stage } = recorder;
  const subject = await stage.run("ticked");
  const workload = subject.name;
  const tick = async (name: string, type: string, input: ProtectInput | ScaleInput | IdleScaleInput): Promise<void> => {
    const workflowId = `${workload}/${name}`;
    const options = { workflowId, taskQueue: WORKFLOW_TASK_QUEUE, args: [input] };
    await stage.client.workflow.execute(type, options);
    recorder.keep(name, workflowId);
    if (name !== "protect-gone") {
      await until(
        () => subject.status(),
        ({ operation }) => operation === undefined,
      );
    }
  };
  const input: ProtectInput = { workload, everyMs: 300_000, retention: { keep: 1 }, maxBlackoutMs: 2_000 };
  const scale = (to: "down" | "up"): ScaleInput => ({ workload, to, cron: "0 20 * * *", timezone: "UTC" });
  await tick("protect-saved", WORKFLOW.protect, input);
  await tick("protect-pruned", WORKFLOW.protect, input);
  stage.world.node("node-a").hasStore = false;
  await tick("protect-failed", WORKFLOW.protect, input);
  stage.world.node("node-a").hasStore = true;
  await tick("scale-down", WORKFLOW.scale, scale("down"));
  await tick("protect-skipped", WORKFLOW.protect, input);
  await tick("scale-up", WORKFLOW.scale, scale("up"));
  const idle: IdleScaleInput = { workload, idleMs: 60_000, cpuPercent: 1, wakeOnTraffic: true };
  await tick("idle-active", WORKFLOW.idle, idle);
  stage.world.node("node-a").idleMs.set(workload, 60_000);
  await tick("idle-slept", WORKFLOW.idle, idle);
  await tick("idle-skipped", WORKFLOW.idle, idle);
  const { epoch } = await subject.status();
  await subject.handle.executeUpdate(UPDATE.restore, { args: [{ wake: { node: "node-a", epoch } }] });
  await stage.client.workflow.execute(WORKFLOW.idle, {
    workflowId: `${workload}/idle-again`,
    taskQueue: WORKFLOW_TASK_QUEUE,
    args: [idle],
  });
  await subject.settled();
  await subject.handle.executeUpdate(UPDATE.restore, { args: [{ node: "node-b" }] });
  await subject.settled();
  recorder.keep("workload-slept", subject.handle.workflowId);
  await subject.handle.executeUpdate(UPDATE.remove, { args: [{ force: true, graceMs: 0 }] });
  await tick("protect-gone", WORKFLOW.protect, input);
}

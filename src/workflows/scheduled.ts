/**
 * Workflows `protect`, `scale` and `idle`: one tick of a schedule. Each asks the workload's entity, as a person would, waits for the end and
 * says what came of it: nothing is forced, a workload that is busy or does not run is left alone until the next tick. They end
 * well whatever happened; the outcome is their FerryState.
 *
 * The entity is asked by activities (see ScheduleSteps): a workflow can only signal another one, and a signal has no refusal, nor an
 * answer from an entity that is no more.
 */
import { proxyActivities, upsertMemo, workflowInfo } from "@temporalio/workflow";
import { CONTRACT_SCHEMA, type NodeActivities } from "../model/contract.js";
import { nodeTaskQueue } from "../model/names.js";
import {
  everyText,
  type IdleScaleInput,
  type ProtectInput,
  type ScaleInput,
  type ScheduleSteps,
  type Stepped,
  type TickReport,
} from "../model/schedules.js";
import { acceptInput } from "./accept.js";
import { beaten, isSilence, readFailure, tryAsk } from "./calls.js";
import { attributes, show as details } from "./console.js";

const RETRY = { initialInterval: "1 s", backoffCoefficient: 2, maximumInterval: "30 s", maximumAttempts: 6 } as const;

/** As long as it takes: each try finds what the one before has begun. */
const patient = (summary: string) =>
  proxyActivities<ScheduleSteps>({
    summary,
    scheduleToStartTimeout: "10 minutes",
    startToCloseTimeout: "24 hours",
    heartbeatTimeout: "10 s",
    retry: RETRY,
  });
const short = (summary: string) =>
  beaten<ScheduleSteps>({
    summary,
    scheduleToStartTimeout: "10 minutes",
    startToCloseTimeout: 600_000,
    retry: RETRY,
  });

export async function protect(input: ProtectInput): Promise<TickReport> {
  acceptInput("protect", input);
  const { workload, everyMs, retention, maxBlackoutMs } = input;
  const made = await attempt(() =>
    patient(`save ${workload}`).saveNow({
      workload,
      request: workflowInfo().firstExecutionRunId,
      options: {
        stop: false,
        reason: `protected every ${everyText(everyMs)}`,
        requestedBy: `schedule protect/${workload}`,
        labels: {},
        maxBlackoutMs,
      },
    }),
  );
  const { node } = made;
  if (made.outcome !== "saved" || node === undefined) return finish(workload, made);
  let pruned: string[] | undefined;
  try {
    const { removed, problem } = await short(`prune ${workload}`).pruneNow({ workload, node, retention });
    pruned = removed;
    if (removed.length > 0) made.message += `; ${removed.length} older removed`;
    if (problem !== undefined) made.message += `; not all of the older could be removed: ${problem}`;
  } catch (error) {
    made.message += `; the older could not be removed: ${readFailure(error).message}`;
  }
  return finish(workload, made, pruned);
}

export async function scale(input: ScaleInput): Promise<TickReport> {
  acceptInput("scale", input);
  const { workload, to, wakeOnTraffic } = input;
  const request = workflowInfo().firstExecutionRunId;
  const done = await attempt(() =>
    to === "up"
      ? patient(`wake ${workload}`).wakeNow({ workload, request })
      : patient(`save ${workload} and let it go`).saveNow({
          workload,
          request,
          options: {
            stop: true,
            reason: "scaled down",
            requestedBy: `schedule scale-down/${workload}`,
            labels: {},
            maxBlackoutMs: 3_600_000,
            ...(wakeOnTraffic === true && { wakeOnTraffic }),
          },
        }),
  );
  return finish(workload, done);
}

/** Its node says for how long it has been idle. What comes between that and the freeze calls it off: the node looks again. */
export async function idle(input: IdleScaleInput): Promise<TickReport> {
  acceptInput("idle", input);
  return finish(input.workload, await attempt(() => letGoIfIdle(input)));
}

async function letGoIfIdle({ workload, idleMs, cpuPercent, wakeOnTraffic }: IdleScaleInput): Promise<Stepped> {
  const seen = await short(`does ${workload} run?`).lookNow({ workload });
  if ("ended" in seen) return seen.ended;
  const { node, epoch } = seen.running;
  const there = proxyActivities<NodeActivities>({
    taskQueue: nodeTaskQueue(node),
    summary: `is ${workload} idle? @ ${node}`,
    scheduleToStartTimeout: "5 s",
    startToCloseTimeout: "10 s",
    retry: { maximumAttempts: 1 },
  });
  const said = await tryAsk(node, () => there.idleWorkload({ schema: CONTRACT_SCHEMA, workload, epoch, cpuPercent }));
  if (said.failure !== undefined) {
    const { code, message } = said.failure;
    // It has gone on meanwhile.
    const outcome = isSilence(said.failure) ? "unknown" : code === "E_STATE" ? "skipped" : "failed";
    return { outcome, message, node };
  }
  const { packetsMs, cpuMs } = said.answer;
  const ago = (ms: number): string => `${everyText(Math.floor(ms / 1_000) * 1_000)} ago`;
  if (Math.min(packetsMs, cpuMs) < idleMs) {
    const why =
      packetsMs <= cpuMs
        ? `its last packet was ${ago(packetsMs)}`
        : `it used more than ${cpuPercent}% of a core ${ago(cpuMs)}`;
    return { outcome: "active", message: `not idle for ${everyText(idleMs)}: ${why}, as far as was looked`, node };
  }
  return patient(`save ${workload} and let it go`).saveNow({
    workload,
    request: workflowInfo().firstExecutionRunId,
    options: {
      stop: true,
      reason: `idle for ${everyText(idleMs)}`,
      requestedBy: `schedule idle/${workload}`,
      labels: {},
      maxBlackoutMs: 3_600_000,
      ifQuiet: true,
      ...(wakeOnTraffic && { wakeOnTraffic }),
    },
  });
}

async function attempt(step: () => Promise<Stepped>): Promise<Stepped> {
  try {
    return await step();
  } catch (error) {
    return { outcome: "failed", message: readFailure(error).message };
  }
}

async function finish(workload: string, done: Stepped, pruned?: string[]): Promise<TickReport> {
  const { outcome, checkpoint } = done;
  let { message } = done;
  if (outcome === "gone") {
    try {
      const dropped = await short(`remove the schedules of ${workload}`).dropSchedules({ workload });
      message += dropped.length === 0 ? "; no schedule was left" : `; removed ${dropped.join(", ")}`;
    } catch (error) {
      message += `; its schedules could not be removed: ${readFailure(error).message}`;
    }
  }
  attributes()({ FerryWorkload: workload, FerryState: outcome });
  // For those who list schedules: reading it takes no worker.
  upsertMemo({ said: message });
  details([`### ${workload}: ${outcome}`, "", message]);
  return { workload, outcome, message, ...(checkpoint && { checkpoint }), ...(pruned && { pruned }) };
}

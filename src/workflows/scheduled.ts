/**
 * Workflows `protect` and `scale`: one tick of a schedule. Each asks the workload's entity, as a person would, waits for the end and
 * says what came of it: nothing is forced, a workload that is busy or does not run is left alone until the next tick. They end
 * well whatever happened; the outcome is their FerryState.
 *
 * The entity is asked by activities (see ScheduleSteps): a workflow can only signal another one, and a signal has no refusal, nor an
 * answer from an entity that is no more.
 */
import { proxyActivities, upsertMemo, workflowInfo } from "@temporalio/workflow";
import {
  everyText,
  type ProtectInput,
  type ScaleInput,
  type ScheduleSteps,
  type Stepped,
  type TickReport,
} from "../model/schedules.js";
import { acceptInput } from "./accept.js";
import { beaten, readFailure } from "./calls.js";
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
  const { workload, to } = input;
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
          },
        }),
  );
  return finish(workload, done);
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

/** What a tick of a schedule does: it asks the workload's entity like any client, and waits for the end. See ScheduleSteps. */
import { Context } from "@temporalio/activity";
import { ScheduleNotFoundError, WorkflowNotFoundError, type Client } from "@temporalio/client";
import { ApplicationFailure, defineSearchAttributeKey } from "@temporalio/common";
import type { CheckpointReport } from "../model/checkpoint-report.js";
import type { ListedCheckpoint } from "../model/checkpoints.js";
import {
  QUERY,
  UPDATE,
  type AskRequest,
  type CheckpointRequest,
  type OperationStarted,
  type Restored,
  type RestoreRequest,
} from "../model/messages.js";
import { nodeWorkflowId, workloadWorkflowId } from "../model/names.js";
import { prunable } from "../model/retention.js";
import { SCHEDULE_KINDS, scheduleId, type ScheduleSteps, type Stepped } from "../model/schedules.js";
import type { WorkloadStatus } from "../model/workload.js";
import { refusalOf } from "./refusals.js";
import { sleep } from "./sleep.js";

const BEAT_MS = 1_000;
const LOOK_MS = 300;
/** Its workflow was terminated: the entity begins it anew, or says how it ended. */
const LOOKS_AFTER_FAILURE = 10;
const ASK_MS = 90_000;
const STATE = defineSearchAttributeKey("FerryState", "KEYWORD");

export function scheduleSteps(client: Client): ScheduleSteps {
  const entityOf = (workload: string) => client.workflow.getHandle(workloadWorkflowId(workload));

  const askNode = <Result>(node: string, request: AskRequest): Promise<Result> =>
    client.withDeadline(Date.now() + ASK_MS, () =>
      client.workflow
        .getHandle(nodeWorkflowId(node))
        .executeUpdate<Result, [AskRequest]>(UPDATE.ask, { args: [request] }),
    );

  /** How it ended; undefined: its node does not answer, which may last. */
  const endOf = async (workflowId: string): Promise<CheckpointReport | undefined> => {
    const handle = client.workflow.getHandle(workflowId);
    const context = Context.current();
    for (let failed = 0; ;) {
      const { status, typedSearchAttributes } = await handle.describe();
      if (status.name === "COMPLETED") return (await handle.result()) as CheckpointReport;
      if (status.name !== "RUNNING" && (failed += 1) > LOOKS_AFTER_FAILURE) return undefined;
      if (typedSearchAttributes.get(STATE) === "in-doubt") return undefined;
      await sleep(LOOK_MS, context.cancellationSignal);
      if (context.cancellationSignal.aborted) throw detached();
    }
  };

  return {
    saveNow: ({ workload, request, options }) =>
      beating(async () => {
        const asked = await answered(workload, () =>
          entityOf(workload).executeUpdate<OperationStarted, [CheckpointRequest]>(UPDATE.checkpoint, {
            args: [{ options }],
            updateId: request,
          }),
        );
        if (asked.refused) return asked.refused;
        const { operation, workflowId } = asked.answer;
        const report = await endOf(workflowId);
        if (report === undefined || report.outcome === "unknown") {
          return { outcome: "unknown", message: `${operation}: its node does not say how it ended` };
        }
        const { checkpoint, failure, node } = report;
        if (checkpoint === undefined) {
          if (options.ifQuiet === true && failure?.code === "E_BUSY") {
            return { outcome: "active", message: `${operation}: ${failure.message}`, node };
          }
          return { outcome: "failed", message: `${operation}: ${failure?.message ?? "no checkpoint was made"}`, node };
        }
        const made = { checkpoint: checkpoint.id, node };
        if (!options.stop) return { outcome: "saved", message: `${operation}: ${checkpoint.id}`, ...made };
        return report.state === "checkpointed" || report.state === "sleeping"
          ? {
              outcome: "checkpointed",
              message: `${operation}: ${letGo(report.state)}, saved as ${checkpoint.id}`,
              ...made,
            }
          : {
              outcome: "failed",
              message: `${operation}: saved as ${checkpoint.id}, and it is ${report.state}`,
              ...made,
            };
      }),

    wakeNow: ({ workload, request }) =>
      beating(async () => {
        const seen = await answered(workload, () => entityOf(workload).query<WorkloadStatus>(QUERY.status));
        if (seen.refused) return seen.refused;
        const { state } = seen.answer;
        // The answer to an earlier try of this one was lost: the entity gives it again.
        if (
          state !== "checkpointed" &&
          state !== "sleeping" &&
          state !== "restoring" &&
          Context.current().info.attempt === 1
        ) {
          return { outcome: "skipped", message: `${workload} is ${state}: only what was checkpointed is woken` };
        }
        const asked = await answered(workload, () =>
          entityOf(workload).executeUpdate<Restored, [RestoreRequest]>(UPDATE.restore, {
            args: [{}],
            updateId: request,
          }),
        );
        if (asked.refused) return asked.refused;
        const { message, checkpoint, node } = asked.answer;
        return { outcome: "restored", message, checkpoint, node };
      }),

    lookNow: ({ workload }) =>
      beating(async () => {
        const seen = await answered(workload, () => entityOf(workload).query<WorkloadStatus>(QUERY.status));
        if (seen.refused) return { ended: seen.refused };
        const { state, node, epoch, operation } = seen.answer;
        if (state === "running" && operation === undefined) return { running: { node, epoch } };
        // Its workflow has ended, and can still be asked.
        if (state === "removed") return { ended: noSuch(workload) };
        const why = operation === undefined ? `is ${state}` : `is busy: ${operation} is under way`;
        return { ended: { outcome: "skipped", message: `${workload} ${why}` } };
      }),

    pruneNow: ({ workload, node, retention }) =>
      beating(async () => {
        const listed = await askNode<ListedCheckpoint[]>(node, { ask: "checkpoints", workload });
        const removed: string[] = [];
        let problem: string | undefined;
        for (const { checkpoint } of prunable(listed, retention, Date.now())) {
          try {
            await askNode<null>(node, { ask: "removeCheckpoint", workload, checkpoint: checkpoint.id });
            removed.push(checkpoint.id);
          } catch (error) {
            problem ??= `${checkpoint.id}: ${refusalOf(error)?.message ?? String(error)}`;
          }
        }
        return { removed, ...(problem !== undefined && { problem }) };
      }),

    dropSchedules: ({ workload }) =>
      beating(async () => {
        // Somebody may have made a new one of that name meanwhile, which may be protected by now.
        if (await isThere(client, workload)) return [];
        const dropped: string[] = [];
        for (const kind of SCHEDULE_KINDS) {
          const id = scheduleId(kind, workload);
          try {
            await client.schedule.getHandle(id).delete();
            dropped.push(id);
          } catch (error) {
            if (!(error instanceof ScheduleNotFoundError)) throw error;
          }
        }
        return dropped;
      }),
  };
}

const letGo = (state: "checkpointed" | "sleeping"): string => (state === "sleeping" ? "it sleeps" : "let go");

/** A cancel would be the end of it: this is given to the next worker. */
const detached = (): ApplicationFailure =>
  ApplicationFailure.retryable("this worker shuts down; what it waited for goes on", "E_AGENT_DOWN");

async function isThere(client: Client, workload: string): Promise<boolean> {
  try {
    return (await client.workflow.getHandle(workloadWorkflowId(workload)).describe()).status.name === "RUNNING";
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return false;
    throw error;
  }
}

/**
 * Beats until it has an answer: another worker goes on when this one dies. One that shuts down does not wait for an entity that it
 * serves itself.
 */
async function beating<Result>(step: () => Promise<Result>): Promise<Result> {
  const context = Context.current();
  const { cancellationSignal: signal } = context;
  context.heartbeat();
  const beat = setInterval(() => context.heartbeat(), BEAT_MS);
  let leave = (): void => undefined;
  const left = new Promise<never>((_, reject) => {
    leave = () => reject(detached());
  });
  signal.addEventListener("abort", leave);
  if (signal.aborted) leave();
  const done = step();
  try {
    return await Promise.race([done, left]);
  } finally {
    clearInterval(beat);
    signal.removeEventListener("abort", leave);
    done.catch(() => undefined);
  }
}

const noSuch = (workload: string): Stepped => ({
  outcome: "gone",
  message: `there is no workload ${workload} any more`,
});

type Answered<Result> = { answer: Result; refused?: never } | { answer?: never; refused: Stepped };

/** What the entity says no to is an outcome. Anything else, like a server that is away, is tried again. */
async function answered<Result>(workload: string, ask: () => Promise<Result>): Promise<Answered<Result>> {
  try {
    return { answer: await ask() };
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) {
      return { refused: noSuch(workload) };
    }
    const why = refusalOf(error);
    if (why === undefined) throw error;
    const leftAlone = why.code === "E_BUSY" || why.code === "E_STATE" || why.code === "E_WORKLOAD_UNKNOWN";
    return { refused: { outcome: leftAlone ? "skipped" : "failed", message: why.message } };
  }
}

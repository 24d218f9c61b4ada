/** A checkpoint that is being made, as the SDK shows it: its workflow's view, and the heartbeats of its node. */
import type { Client, WorkflowHandle } from "@temporalio/client";
import type { CheckpointReport } from "../model/checkpoint-report.js";
import { QUERY, type CheckpointView, type OperationStarted } from "../model/messages.js";
import { furthest } from "../model/progress.js";
import type { Phase } from "../model/phase.js";
import type { Progress } from "../model/report.js";
import { toFerryError, type Asked } from "./failures.js";
import { heartbeats, pause, untilHeard, type MigrationContext } from "./migration.js";
import type { CheckpointHandle, CheckpointProgress } from "./types.js";

const DEFAULT_EVERY_MS = 250;
const QUERY_TIMEOUT_MS = 10_000;
const LOOK_EVERY_MS = 1_000;

export function checkpointHandle(context: MigrationContext, started: OperationStarted): CheckpointHandle {
  const { client, address } = context;
  const { workflowId, operation } = started;
  // Whatever run there is: one that was terminated is begun anew under the same id.
  const workflow = client.workflow.getHandle(workflowId);
  const asked: Asked = { address, doing: `follow ${operation}` };

  /** The report; while the node does not answer, what is known so far. */
  const end = async (): Promise<CheckpointReport> => {
    const stop = new AbortController();
    const report = client.withAbortSignal(stop.signal, () => workflow.result() as Promise<CheckpointReport>);
    const doubt = unanswered(client, workflow, stop.signal);
    try {
      return await Promise.race([report, doubt]);
    } catch (error) {
      throw toFerryError(error, asked);
    } finally {
      stop.abort();
      report.catch(() => undefined);
      doubt.catch(() => undefined);
    }
  };

  return {
    workflowId,
    operation,
    progress: (options) => watch(context, workflow, operation, end, options?.everyMs ?? DEFAULT_EVERY_MS),
    result: async () => {
      const report = await end();
      await untilHeard(context, operation);
      return report;
    },
  };
}

/** Resolves with the interim report once its node is not waited for any more; never when the signal comes first. */
async function unanswered(client: Client, workflow: WorkflowHandle, signal: AbortSignal): Promise<CheckpointReport> {
  for (;;) {
    await pause(LOOK_EVERY_MS, signal);
    if (signal.aborted) return new Promise(() => undefined);
    const view = await viewOf(client, workflow);
    if (view?.state !== "in-doubt") continue;
    return client.withDeadline(Date.now() + QUERY_TIMEOUT_MS, () => workflow.query<CheckpointReport>(QUERY.report));
  }
}

async function viewOf(client: Client, workflow: WorkflowHandle): Promise<CheckpointView | undefined> {
  try {
    return await client.withDeadline(Date.now() + QUERY_TIMEOUT_MS, () => workflow.query<CheckpointView>(QUERY.view));
  } catch {
    // No worker at the moment: the next look may tell.
    return undefined;
  }
}

async function* watch(
  { client, workload }: MigrationContext,
  workflow: WorkflowHandle,
  operation: string,
  end: () => Promise<CheckpointReport>,
  everyMs: number,
): AsyncGenerator<CheckpointProgress> {
  const stop = new AbortController();
  void end().then(
    () => stop.abort(),
    () => stop.abort(),
  );
  const began = Date.now();
  let phase: Phase = "precopy";
  let seen: Progress | undefined;
  try {
    while (!stop.signal.aborted) {
      const [view, [beat]] = await Promise.all([viewOf(client, workflow), heartbeats(client, workflow)]);
      if (beat !== undefined && beat.at >= (seen?.at ?? 0)) seen = beat;
      phase = furthest(phase, view?.phase, seen?.phase);
      yield {
        workload,
        operation,
        node: view?.node ?? "",
        state: view?.state ?? "working",
        phase,
        bytesSent: seen?.bytesSent ?? 0,
        bytesTotal: seen?.bytesTotal ?? 0,
        rateBytesPerSec: seen?.rateBytesPerSec ?? 0,
        elapsedMs: Date.now() - (view?.startedAt ?? began),
      };
      if (view?.state === "done" || view?.state === "in-doubt") break;
      await pause(everyMs, stop.signal);
    }
  } finally {
    stop.abort();
  }
}

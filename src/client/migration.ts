/**
 * A migration as the SDK shows it: its workflow's view (a query) merged with the heartbeats of its two long steps (from
 * `describe`), so that watching costs no history.
 */
import type { Client, WorkflowHandle } from "@temporalio/client";
import { QUERY, UPDATE, type MigrationView, type OperationStarted } from "../model/messages.js";
import { workloadWorkflowId } from "../model/names.js";
import { isPhase, type Phase } from "../model/phase.js";
import { amountsOf, furthest, newer, type SidesSeen } from "../model/progress.js";
import type { MigrationReport, Progress } from "../model/report.js";
import type { FailureData } from "../model/failure.js";
import { checkSteer, type SteerCommand, type Steered } from "../model/steering.js";
import type { WorkloadStatus } from "../model/workload.js";
import { asking, toFerryError, type Asked } from "./failures.js";
import type { MigrationHandle, MigrationProgress } from "./types.js";

/** Doubt that lasts this long is reported; the migration itself goes on asking. */
const DOUBT_MS = 10_000;
const DEFAULT_EVERY_MS = 250;
const QUERY_TIMEOUT_MS = 10_000;
const HEARD_WITHIN_MS = 3_000;
const STEER_TIMEOUT_MS = 20_000;

const ended = (workload: string, operation: string): FailureData => ({
  code: "E_STATE",
  message: `${operation} has ended: there is nothing left to steer`,
  workload,
  remedy: `see where it runs: ferry inspect ${workload}`,
});

export interface MigrationContext {
  client: Client;
  address: string;
  workload: string;
  /** See DOUBT_MS; tests shorten it. */
  doubtMs?: number;
}

export function migrationHandle(context: MigrationContext, started: OperationStarted): MigrationHandle {
  const { client, address } = context;
  const { workflowId, operation, runId } = started;
  // The run of the moment: a long migration goes on in new runs.
  const handle = client.workflow.getHandle(workflowId, undefined, { firstExecutionRunId: runId });
  const asked = (doing: string): Asked => ({ address, doing: `${doing} ${operation}` });
  const end = ending(context, handle, asked("follow"));

  return {
    workflowId,
    operation,
    progress: (options) => watch(context, handle, started, end, options?.everyMs ?? DEFAULT_EVERY_MS),
    result: async () => {
      const report = await end();
      if (report.outcome !== "in-doubt" && report.outcome !== "stuck") await untilHeard(context, operation);
      return report;
    },
    steer: (command) =>
      asking({ ...asked("steer"), notFound: ended(context.workload, operation) }, () =>
        client.withDeadline(Date.now() + STEER_TIMEOUT_MS, () =>
          handle.executeUpdate<Steered, [SteerCommand]>(UPDATE.steer, { args: [checkSteer(command)] }),
        ),
      ),
    cancel: () =>
      asking(asked("cancel"), async () => {
        try {
          await handle.cancel();
        } catch (error) {
          // It has ended already: there is nothing left to cancel, and `result` says how it went.
          if (!(error instanceof Error && error.name === "WorkflowNotFoundError")) throw error;
        }
      }),
  };

  /** The report; while it is in doubt or stuck for long, what is known so far. */
  function ending(
    { doubtMs = DOUBT_MS }: MigrationContext,
    workflow: WorkflowHandle,
    asking_: Asked,
  ): () => Promise<MigrationReport> {
    return async () => {
      const stop = new AbortController();
      const report = client.withAbortSignal(stop.signal, () => workflow.result() as Promise<MigrationReport>);
      const doubt = inDoubt(workflow, doubtMs, stop.signal);
      try {
        return await Promise.race([report, doubt]);
      } catch (error) {
        throw toFerryError(error, asking_);
      } finally {
        stop.abort();
        report.catch(() => undefined);
        doubt.catch(() => undefined);
      }
    };
  }

  /** Resolves with the interim report once the doubt has lasted; never when the signal comes first. */
  async function inDoubt(workflow: WorkflowHandle, doubtMs: number, signal: AbortSignal): Promise<MigrationReport> {
    for (;;) {
      await pause(1_000, signal);
      if (signal.aborted) return new Promise(() => undefined);
      const view = await viewOf(client, workflow);
      if (view === undefined || (view.state !== "in-doubt" && view.state !== "stuck")) continue;
      if (Date.now() - view.since < doubtMs) continue;
      return client.withDeadline(Date.now() + QUERY_TIMEOUT_MS, () => workflow.query<MigrationReport>(QUERY.report));
    }
  }
}

/**
 * The workload's entity hears of the end an instant after the result is there: without waiting for it, the next request
 * could be refused as busy. Best effort: the report does not depend on it.
 */
export async function untilHeard({ client, workload }: MigrationContext, operation: string): Promise<void> {
  const entity = client.workflow.getHandle(workloadWorkflowId(workload));
  const until = Date.now() + HEARD_WITHIN_MS;
  try {
    while (Date.now() < until) {
      const status = await client.withDeadline(until, () => entity.query<WorkloadStatus>(QUERY.status));
      if (status.operation !== operation) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  } catch {
    // Nobody answers for it now: whoever asks next is told.
  }
}

async function viewOf(client: Client, workflow: WorkflowHandle): Promise<MigrationView | undefined> {
  try {
    return await client.withDeadline(Date.now() + QUERY_TIMEOUT_MS, () => workflow.query<MigrationView>(QUERY.view));
  } catch {
    // No worker at the moment: the next look may tell.
    return undefined;
  }
}

async function* watch(
  { client, workload }: MigrationContext,
  workflow: WorkflowHandle,
  { operation }: OperationStarted,
  end: () => Promise<MigrationReport>,
  everyMs: number,
): AsyncGenerator<MigrationProgress> {
  const stop = new AbortController();
  const ended = end().then(
    () => stop.abort(),
    () => stop.abort(),
  );
  const began = Date.now();
  let seen: SidesSeen = {};
  let phase: Phase = "preflight";
  try {
    while (!stop.signal.aborted) {
      const [view, beats] = await Promise.all([viewOf(client, workflow), heartbeats(client, workflow)]);
      // A step whose worker has died has no heartbeats: then what the workflow has asked for is all there is.
      seen = newer(seen, [view?.progress?.source, view?.progress?.destination, ...beats]);
      phase = furthest(phase, view?.phase, seen.source?.phase, seen.destination?.phase);
      const elapsedMs = Date.now() - (view?.startedAt ?? began);
      const mode = view === undefined ? {} : { mode: view.mode };
      yield { ...progressOf(workload, operation, phase, seen, elapsedMs), ...mode };
      if (view?.state === "done") break;
      await pause(everyMs, stop.signal);
    }
    if (!stop.signal.aborted) await ended;
  } finally {
    stop.abort();
  }
}

function progressOf(
  workload: string,
  operation: string,
  phase: Phase,
  seen: SidesSeen,
  elapsedMs: number,
): MigrationProgress {
  const { precopy } = seen.source ?? {};
  return {
    workload,
    operation,
    phase,
    ...seen,
    ...amountsOf(seen),
    elapsedMs,
    ...(precopy === undefined ? {} : { precopy }),
  };
}

export async function heartbeats({ options }: Client, workflow: WorkflowHandle): Promise<Progress[]> {
  try {
    const { raw } = await workflow.describe();
    const { payloadCodecs, payloadConverter } = options.loadedDataConverter;
    let payloads = (raw.pendingActivities ?? []).flatMap((activity) => activity.heartbeatDetails?.payloads?.[0] ?? []);
    for (const codec of payloadCodecs.toReversed()) payloads = await codec.decode(payloads);
    const beats = payloads.map((payload): unknown => payloadConverter.fromPayload(payload));
    return beats.filter(isProgress);
  } catch {
    return [];
  }
}

function isProgress(value: unknown): value is Progress {
  if (typeof value !== "object" || value === null) return false;
  const beat = value as Partial<Record<keyof Progress, unknown>>;
  return (
    isPhase(beat.phase) &&
    (beat.side === "source" || beat.side === "destination") &&
    typeof beat.bytesSent === "number" &&
    typeof beat.bytesTotal === "number" &&
    typeof beat.at === "number"
  );
}

export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}

/** The workloads: one entity workflow each. */
import type { WorkflowExecutionInfo } from "@temporalio/client";
import type { LogChunk, Observation } from "../model/contract.js";
import { FerryError, type FailureData } from "../model/failure.js";
import {
  QUERY,
  UPDATE,
  WORKFLOW,
  type CheckpointRequest,
  type MigrateRequest,
  type OperationStarted,
  type Recovered,
  type RecoverRequest,
  type RemoveRequest,
  type Restored,
  type RestoreRequest,
  type Resolved,
  type ResolveRequest,
  type StartRequest,
  type StopRequest,
  type WorkloadInput,
} from "../model/messages.js";
import { operationWorkflowId, workloadWorkflowId, type SearchAttributeName } from "../model/names.js";
import { WORKLOAD_STATES, type WorkloadState, type WorkloadStatus } from "../model/workload.js";
import { checkpointHandle } from "./checkpoint.js";
import { clones } from "./cloning.js";
import { asking, refuse, toFerryError, type Asked } from "./failures.js";
import { migrationHandle } from "./migration.js";
import { askNode, demandNode, type Context } from "./nodes.js";
import { checkGrace, checkMigrate, checkName, checkRun } from "./requests.js";
import { checkCheckpoint, checkRestore } from "./requests-checkpoints.js";
import { dropSchedules, schedulesOf } from "./schedules.js";
import { specFrom } from "./spec.js";
import { addressesOf, addressFor, demandFree, entityOf, existing, key } from "./starting.js";
import type { FerryClient, RunRequest, WorkloadHandle, WorkloadListing } from "./types.js";

const START_TIMEOUT_MS = 150_000;
const UPDATE_TIMEOUT_MS = 60_000;
/** Files are brought to the node before it runs. */
const RESTORE_TIMEOUT_MS = 3_600_000;
const QUERY_TIMEOUT_MS = 10_000;
const DEFAULT_GRACE_MS = 10_000;
/** How long a log may be between two nodes. */
const MOVING_LOG_MS = 10_000;
const DEFAULT_LOG_BYTES = 64 * 1024;

export function workloadsOf(context: Context): FerryClient["workloads"] {
  const { client, address } = context;
  const get = (name: string): WorkloadHandle => workloadHandle(context, checkName("workload", name));

  const executions = async (all: boolean): Promise<WorkflowExecutionInfo[]> =>
    asking({ address, doing: "list the workloads" }, async () => {
      const query = `WorkflowType = '${WORKFLOW.workload}'${all ? "" : " AND ExecutionStatus = 'Running'"}`;
      const found: WorkflowExecutionInfo[] = [];
      for await (const info of client.workflow.list({ query })) found.push(info);
      return found;
    });

  const run = async (request: RunRequest): Promise<WorkloadHandle> => {
    const checked = checkRun(request);
    const { name, node } = checked;
    await demandNode(context, node);
    const before = await existing(get(name));
    const taken = addressesOf(await executions(false), [name]);
    const ip = await addressFor(context, checked, before?.spec.network.ip, taken);
    demandFree(taken, ip);
    const spec = specFrom(checked, ip, before?.spec.network.mac);
    const startWorkflowOperation = entityOf(spec, node, "starting");
    await asking({ address, doing: `run ${name} on ${node}` }, () =>
      client.withDeadline(Date.now() + START_TIMEOUT_MS, () =>
        client.workflow.executeUpdateWithStart<
          (input: WorkloadInput) => Promise<unknown>,
          WorkloadStatus,
          [StartRequest]
        >(UPDATE.start, {
          startWorkflowOperation,
          args: [{ spec, node, ...(checked.off === undefined ? {} : { off: checked.off }) }],
        }),
      ),
    );
    return get(name);
  };

  return {
    run,
    clone: clones(context, { get, running: () => executions(false) }),
    get,
    list: async (options) => (await executions(options?.all ?? false)).map(listing),
  };
}

function listing(info: WorkflowExecutionInfo): WorkloadListing {
  const read = (name: SearchAttributeName): string | undefined => info.typedSearchAttributes.get(key(name));
  const state = read("FerryState");
  const mode = read("FerryMode");
  return {
    name: info.workflowId.replace(/^workload\//, ""),
    node: read("FerryNode") ?? "?",
    runtime: read("FerryRuntime") ?? "?",
    state: isState(state) ? state : "starting",
    startedAt: info.startTime,
    ...(mode === undefined ? {} : { mode }),
  };
}

const isState = (state: string | undefined): state is WorkloadState =>
  (WORKLOAD_STATES as readonly (string | undefined)[]).includes(state);

type UpdateRequest = MigrateRequest | RecoverRequest | StopRequest | RemoveRequest | CheckpointRequest | RestoreRequest;

function workloadHandle(context: Context, name: string): WorkloadHandle {
  const { client, address } = context;
  const handle = client.workflow.getHandle(workloadWorkflowId(name));
  const notFound: FailureData = {
    code: "E_WORKLOAD_UNKNOWN",
    message: `there is no workload ${name}`,
    workload: name,
    remedy: "see which workloads there are: ferry ps",
  };
  const asked = (doing: string): Asked => ({ address, doing: `${doing} ${name}`, notFound });
  const update = <Result>(doing: string, update_: string, request: UpdateRequest, timeoutMs: number) =>
    asking(asked(doing), () =>
      client.withDeadline(Date.now() + timeoutMs, () =>
        handle.executeUpdate<Result, [UpdateRequest]>(update_, { args: [request] }),
      ),
    );
  const query = <Result>(doing: string, query_: string): Promise<Result> =>
    asking(asked(doing), () => client.withDeadline(Date.now() + QUERY_TIMEOUT_MS, () => handle.query<Result>(query_)));
  const status = (): Promise<WorkloadStatus> => query("read the state of", QUERY.status);

  return {
    name,
    status,
    inspect: async () => {
      const now = await status();
      const schedules = await schedulesOf(context)
        .list({ workload: name })
        .catch(() => undefined);
      const more = schedules === undefined ? {} : { schedules };
      try {
        const observation = await askNode<Observation>(context, now.node, { ask: "observe", workload: name });
        // The entity is not told when the workload ends by itself; the node knows.
        const ended = now.state === "running" && observation.processes === 0;
        return { status: ended ? { ...now, state: "exited" } : now, observation, ...more };
      } catch (error) {
        return { status: now, problem: toFerryError(error, asked("inspect")).message, ...more };
      }
    },
    migrate: async (request) => {
      const { to, options } = checkMigrate(name, request);
      await demandNode(context, to);
      const started = await update<OperationStarted>("migrate", UPDATE.migrate, { to, options }, UPDATE_TIMEOUT_MS);
      return migrationHandle({ ...context, workload: name }, started);
    },
    migration: async () => {
      const last = await query<OperationStarted | null>("read the last migration of", QUERY.lastMigration);
      return last === null ? undefined : migrationHandle({ ...context, workload: name }, last);
    },
    logs: async (options) => {
      const deadline = Date.now() + MOVING_LOG_MS;
      for (;;) {
        const { node, state } = await status();
        try {
          return await askNode<LogChunk>(context, node, {
            ask: "log",
            workload: name,
            offset: options?.offset ?? -DEFAULT_LOG_BYTES,
            maxBytes: Math.min(options?.maxBytes ?? DEFAULT_LOG_BYTES, 2 * DEFAULT_LOG_BYTES),
          });
        } catch (error) {
          // At the end of a move the log has left the source an instant before the entity says where it is now.
          if (!(error instanceof FerryError) || error.code !== "E_WORKLOAD_UNKNOWN") throw error;
          if ((state === "running" && (await status()).node === node) || Date.now() > deadline) throw error;
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
      }
    },
    resolve: async ({ keep, acceptRollback = false }) => {
      const { operation, state } = await status();
      const [, kind, sequence] = /\.(migrate|settle)\.(\d+)$/.exec(operation ?? "") ?? [];
      if (kind === undefined || sequence === undefined) {
        throw refuse(
          "E_STATE",
          `nothing of ${name} is in doubt: it is ${state}`,
          state === "in-doubt" ? `ask both nodes once more: ferry migrate ${name}` : `see: ferry inspect ${name}`,
        );
      }
      const underWay = client.workflow.getHandle(operationWorkflowId(name, kind, Number(sequence)));
      return asking(asked("resolve"), () =>
        client.withDeadline(Date.now() + UPDATE_TIMEOUT_MS, () =>
          underWay.executeUpdate<Resolved, [ResolveRequest]>(UPDATE.resolve, { args: [{ keep, acceptRollback }] }),
        ),
      );
    },
    recover: async ({ node, acceptRollback = false }) => {
      await demandNode(context, checkName("node", node));
      return update<Recovered>("recover", UPDATE.recover, { node, acceptRollback }, START_TIMEOUT_MS);
    },
    checkpoint: async (options) => {
      const request = { options: checkCheckpoint(name, options) };
      const started = await update<OperationStarted>("save", UPDATE.checkpoint, request, UPDATE_TIMEOUT_MS);
      return checkpointHandle({ ...context, workload: name }, started);
    },
    lastCheckpoint: async () => {
      const last = await query<OperationStarted | null>("read the last checkpoint of", QUERY.lastCheckpoint);
      return last === null ? undefined : checkpointHandle({ ...context, workload: name }, last);
    },
    restore: async (options) => {
      const request = checkRestore(name, options);
      if (request.node !== undefined) await demandNode(context, request.node);
      return update<Restored>("restore", UPDATE.restore, request, RESTORE_TIMEOUT_MS);
    },
    cancelRestore: () =>
      asking(asked("call off the restore of"), () =>
        client.withDeadline(Date.now() + UPDATE_TIMEOUT_MS, () => handle.executeUpdate<void, []>(UPDATE.cancel)),
      ),
    stop: async (options) => {
      const graceMs = checkGrace(options?.graceMs ?? DEFAULT_GRACE_MS);
      return update<WorkloadStatus>("stop", UPDATE.stop, { graceMs }, UPDATE_TIMEOUT_MS * 3 + graceMs);
    },
    remove: async (options) => {
      const request = { force: options?.force ?? false, graceMs: DEFAULT_GRACE_MS };
      await update<void>("remove", UPDATE.remove, request, UPDATE_TIMEOUT_MS * 3);
      // Where that fails the next tick finds the workload gone, and removes them.
      await dropSchedules(context, name).catch(() => undefined);
    },
  };
}

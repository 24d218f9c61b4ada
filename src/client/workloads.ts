/** The workloads: one entity workflow each. */
import { WithStartWorkflowOperation, type WorkflowExecutionInfo } from "@temporalio/client";
import { TypedSearchAttributes, defineSearchAttributeKey } from "@temporalio/common";
import type { LogChunk, Observation } from "../model/contract.js";
import type { NodeFacts } from "../model/node.js";
import { FerryError, type FailureData } from "../model/failure.js";
import {
  QUERY,
  UPDATE,
  WORKFLOW,
  type MigrateRequest,
  type OperationStarted,
  type RemoveRequest,
  type Resolved,
  type ResolveRequest,
  type StartRequest,
  type StopRequest,
  type WorkloadInput,
} from "../model/messages.js";
import {
  WORKFLOW_TASK_QUEUE,
  operationWorkflowId,
  workloadWorkflowId,
  type SearchAttributeName,
} from "../model/names.js";
import { WORKLOAD_STATES, type WorkloadSpec, type WorkloadState, type WorkloadStatus } from "../model/workload.js";
import { addressRange, bareIp, chooseIp, DEFAULT_NETWORK, macOf, prefixOf } from "./addresses.js";
import { asking, refuse, toFerryError, type Asked } from "./failures.js";
import { migrationHandle } from "./migration.js";
import { askNode, demandNode, type Context } from "./nodes.js";
import { checkGrace, checkMigrate, checkName, checkRun } from "./requests.js";
import type { FerryClient, RunRequest, WorkloadHandle, WorkloadListing } from "./types.js";

const START_TIMEOUT_MS = 150_000;
const UPDATE_TIMEOUT_MS = 60_000;
const QUERY_TIMEOUT_MS = 10_000;
const DEFAULT_GRACE_MS = 10_000;
/** How long a log may be between two nodes. */
const MOVING_LOG_MS = 10_000;
const DEFAULT_LOG_BYTES = 64 * 1024;

const key = (name: SearchAttributeName) => defineSearchAttributeKey(name, "KEYWORD");

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
    const taken = new Map<string, string>();
    for (const info of await executions(false)) {
      const ip = info.memo?.["ip"];
      const owner = info.workflowId.replace(/^workload\//, "");
      if (typeof ip === "string" && owner !== name) taken.set(bareIp(ip), owner);
    }
    const ip = await addressFor(context, checked, before?.spec.network.ip, new Set(taken.keys()));
    const owner = taken.get(bareIp(ip));
    if (owner !== undefined) {
      throw refuse("E_IP_CONFLICT", `${bareIp(ip)} is the address of workload ${owner}`, "give another one with --ip");
    }
    const spec: WorkloadSpec = {
      name,
      runtime: checked.runtime ?? "process",
      command: checked.command,
      env: checked.env ?? {},
      dir: checked.dir ?? "/data",
      user: checked.user ?? "root",
      limits: {
        ...(checked.limits?.memoryBytes === undefined ? {} : { memoryBytes: checked.limits.memoryBytes }),
        ...(checked.limits?.cpus === undefined ? {} : { cpus: checked.limits.cpus }),
      },
      ...(checked.volumes === undefined || checked.volumes.length === 0 ? {} : { volumes: checked.volumes }),
      network: {
        ip,
        mac: checked.mac ?? before?.spec.network.mac ?? macOf(ip),
        ...(checked.gateway === undefined ? {} : { gateway: checked.gateway }),
      },
    };
    const input: WorkloadInput = { name };
    const startWorkflowOperation = new WithStartWorkflowOperation<(input: WorkloadInput) => Promise<unknown>>(
      WORKFLOW.workload,
      {
        workflowId: workloadWorkflowId(name),
        taskQueue: WORKFLOW_TASK_QUEUE,
        workflowIdConflictPolicy: "USE_EXISTING",
        args: [input],
        memo: { ip },
        // As code: the UI makes typographic dashes of --.
        staticSummary: `workload ${name}: \`${spec.command.join(" ").replaceAll("`", "'").slice(0, 120)}\``,
        staticDetails:
          "The current details say where it runs. Operations on it are children of this workflow, one at a time: see Relationships.",
        typedSearchAttributes: new TypedSearchAttributes([
          { key: key("FerryWorkload"), value: name },
          { key: key("FerryNode"), value: node },
          { key: key("FerryRuntime"), value: spec.runtime },
          { key: key("FerryState"), value: "starting" },
        ]),
      },
    );
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
    get,
    list: async (options) => (await executions(options?.all ?? false)).map(listing),
  };
}

/** The address that was asked for, the one it had, or a free one of the network that the node's bridge is in. */
async function addressFor(
  context: Context,
  { name, node, ip: given }: { name: string; node: string; ip?: string | undefined },
  before: string | undefined,
  taken: ReadonlySet<string>,
): Promise<string> {
  if (given?.includes("/")) return given;
  if (given === undefined && before !== undefined) return before;
  const facts = await askNode<NodeFacts>(context, node, { ask: "describe" });
  const network = facts.network ?? DEFAULT_NETWORK;
  if (given !== undefined) return `${given}/${prefixOf(network)}`;
  const chosen = chooseIp(name, taken, network);
  if (chosen !== undefined) return chosen;
  const { first, last } = addressRange(network);
  throw refuse("E_IP_CONFLICT", `every address from ${first} to ${last} is taken`, "give one with --ip");
}

async function existing(handle: WorkloadHandle): Promise<WorkloadStatus | undefined> {
  try {
    const status = await handle.status();
    return status.state === "removed" ? undefined : status;
  } catch (error) {
    if (error instanceof FerryError && error.code === "E_WORKLOAD_UNKNOWN") return undefined;
    throw error;
  }
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

type UpdateRequest = MigrateRequest | StopRequest | RemoveRequest;

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
      try {
        const observation = await askNode<Observation>(context, now.node, { ask: "observe", workload: name });
        // The entity is not told when the workload ends by itself; the node knows.
        const ended = now.state === "running" && observation.processes === 0;
        return { status: ended ? { ...now, state: "exited" } : now, observation };
      } catch (error) {
        return { status: now, problem: toFerryError(error, asked("inspect")).message };
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
    stop: async (options) => {
      const graceMs = checkGrace(options?.graceMs ?? DEFAULT_GRACE_MS);
      return update<WorkloadStatus>("stop", UPDATE.stop, { graceMs }, UPDATE_TIMEOUT_MS * 3 + graceMs);
    },
    remove: async (options) => {
      const request = { force: options?.force ?? false, graceMs: DEFAULT_GRACE_MS };
      await update<void>("remove", UPDATE.remove, request, UPDATE_TIMEOUT_MS * 3);
    },
  };
}

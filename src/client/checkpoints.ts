/** The checkpoints in the store, as a node sees them: questions go through that node's entity. */
import { byPrefix } from "../model/checkpoint-choice.js";
import type { CheckpointDiff, ListedCheckpoint } from "../model/checkpoints.js";
import { FerryError, ferryError } from "../model/failure.js";
import { QUERY, type StoreRequest } from "../model/messages.js";
import { workloadWorkflowId } from "../model/names.js";
import { prunable, type Retention } from "../model/retention.js";
import type { WorkloadState, WorkloadStatus } from "../model/workload.js";
import { toFerryError } from "./failures.js";
import { askNode, demandNode, knownNodes, type Context } from "./nodes.js";
import { checkId, checkPrune } from "./requests-checkpoints.js";
import { checkName } from "./requests.js";
import type { CheckpointsClient, StoreOptions } from "./types.js";

const QUERY_TIMEOUT_MS = 10_000;
const STORE_TIMEOUT_MS = 90_000;
/** All of it is read. */
const VERIFY_TIMEOUT_MS = 3_600_000;

/** States of a workload that runs nowhere and comes back from a checkpoint. */
const AT_REST: readonly WorkloadState[] = ["checkpointed", "sleeping"];

/** A node that is not there, or has no store: another one may be asked. */
const askAnother = (error: unknown): error is FerryError =>
  error instanceof FerryError &&
  (error.code === "E_NODE_UNREACHABLE" || error.code === "E_AGENT_DOWN" || error.code === "E_NO_CHECKPOINT");

export function checkpointsOf(context: Context): CheckpointsClient {
  const { client } = context;

  const statusOf = (workload: string): Promise<WorkloadStatus> =>
    client.withDeadline(Date.now() + QUERY_TIMEOUT_MS, () =>
      client.workflow.getHandle(workloadWorkflowId(workload)).query<WorkloadStatus>(QUERY.status),
    );

  /** Where the workload is, if there is one of that name. */
  const nodeOf = async (workload: string): Promise<string[]> => {
    try {
      return [(await statusOf(workload)).node];
    } catch {
      // Removed, or of another cluster: its checkpoints may be there all the same.
      return [];
    }
  };

  /** Id of the checkpoint that is all there is of the workload: it was let go with that one. */
  const onlyCopy = async (workload: string): Promise<string | undefined> => {
    try {
      const { state, lastCheckpoint } = await statusOf(workload);
      return AT_REST.includes(state) ? lastCheckpoint?.id : undefined;
    } catch (error) {
      // Removed: nobody wants it back. Whoever can't be asked may.
      if (error instanceof Error && /WorkflowNotFoundError|QueryNotRegistered/.test(error.name)) return undefined;
      throw toFerryError(error, {
        address: context.address,
        doing: `ask ${workload} which checkpoint it was let go with`,
      });
    }
  };

  /** All of them, and who said so. */
  const list = async (
    workload: string | undefined,
    options: StoreOptions | undefined,
  ): Promise<{ node: string; listed: ListedCheckpoint[] }> => {
    if (workload !== undefined) checkName("workload", workload);
    const request: StoreRequest = { ask: "checkpoints", ...(workload === undefined ? {} : { workload }) };
    if (options?.node !== undefined) {
      const node = checkName("node", options.node);
      await demandNode(context, node);
      return { node, listed: await askNode<ListedCheckpoint[]>(context, node, request, STORE_TIMEOUT_MS) };
    }
    const first = workload === undefined ? [] : await nodeOf(workload);
    let failed: FerryError | undefined;
    for (const node of new Set([...first, ...(await knownNodes(context))])) {
      try {
        return { node, listed: await askNode<ListedCheckpoint[]>(context, node, request, STORE_TIMEOUT_MS) };
      } catch (error) {
        if (!askAnother(error)) throw error;
        failed ??= error;
      }
    }
    throw (
      failed ??
      ferryError("E_NODE_UNKNOWN", "there is no node that could be asked for checkpoints", {
        remedy: "no node has registered yet: start one with ferry node --name NAME, or a lab with ferry lab up",
      })
    );
  };

  const found = async (workload: string, given: string, options: StoreOptions | undefined) => {
    const prefix = checkId(given);
    const { node, listed } = await list(workload, options);
    return { node, listed, checkpoint: byPrefix(workload, listed, prefix) };
  };

  const change = async (
    workload: string,
    given: string,
    options: StoreOptions | undefined,
    request: (checkpoint: string) => StoreRequest | Promise<StoreRequest>,
    timeoutMs = STORE_TIMEOUT_MS,
  ): Promise<void> => {
    const { node, checkpoint } = await found(workload, given, options);
    await askNode<null>(context, node, await request(checkpoint.id), timeoutMs);
  };
  const pin = (pinned: boolean) => (workload: string, given: string, options?: StoreOptions) =>
    change(workload, given, options, (checkpoint) => ({ ask: "pin", workload, checkpoint, pinned }));

  return {
    list: async (options) => (await list(options?.workload, options)).listed,
    show: async (workload, id, options) => (await found(workload, id, options)).checkpoint,
    diff: async (workload, before, after, options) => {
      checkId(after);
      const { node, listed, checkpoint } = await found(workload, before, options);
      const later = byPrefix(workload, listed, after);
      const request: StoreRequest = { ask: "diff", workload, checkpoint: checkpoint.id, with: later.id };
      return askNode<CheckpointDiff>(context, node, request, STORE_TIMEOUT_MS);
    },
    verify: (workload, id, options) =>
      change(workload, id, options, (checkpoint) => ({ ask: "verify", workload, checkpoint }), VERIFY_TIMEOUT_MS),
    pin: pin(true),
    unpin: pin(false),
    remove: (workload, given, options) =>
      change(workload, given, options, async (checkpoint) => {
        if (checkpoint === (await onlyCopy(workload))) {
          throw ferryError("E_STATE", `${checkpoint} is all that there is of ${workload}: it was let go with it`, {
            workload,
            remedy: `bring it back first: ferry restore ${workload}; or give the workload up: ferry rm ${workload}`,
          });
        }
        return { ask: "removeCheckpoint", workload, checkpoint };
      }),
    prune: async (workload, options) => {
      const { dryRun, node: asked, keep, olderThanMs, maxBytes } = checkPrune(workload, options);
      const retention: Retention = {
        ...(keep !== undefined && { keep }),
        ...(olderThanMs !== undefined && { olderThanMs }),
        ...(maxBytes !== undefined && { maxBytes }),
      };
      const { node, listed } = await list(workload, asked === undefined ? {} : { node: asked });
      const only = await onlyCopy(workload);
      const go = prunable(listed, retention, Date.now()).filter(({ checkpoint }) => checkpoint.id !== only);
      if (dryRun !== true) {
        for (const { checkpoint } of go) {
          const request: StoreRequest = { ask: "removeCheckpoint", workload, checkpoint: checkpoint.id };
          await askNode<null>(context, node, request, STORE_TIMEOUT_MS);
        }
      }
      return go;
    },
  };
}

/** How a worker makes its node known, and what it needs of the server's namespace. */
import type { Client } from "@temporalio/client";
import { defineSearchAttributeKey } from "@temporalio/common";
import type { NativeConnection } from "@temporalio/worker";
import type { Logger as Pino } from "pino";
import type { NodeActivitiesOptions } from "../activities/index.js";
import type { Fence, NodeAgent } from "../model/contract.js";
import { ferryError } from "../model/failure.js";
import { QUERY, SIGNAL, WORKFLOW, type NodeInput, type NodeState } from "../model/messages.js";
import { SEARCH_ATTRIBUTES, WORKFLOW_TASK_QUEUE, nodeWorkflowId } from "../model/names.js";
import type { NodeFacts } from "../model/node.js";
import { readNodeRuns, registeredNodes } from "../model/registry.js";
import type { Watch } from "../model/presence.js";
import type { WorkerConfig } from "./config.js";
import { sleep } from "./sleep.js";

type Node = (input: NodeInput) => Promise<void>;

const NODE = defineSearchAttributeKey("FerryNode", "KEYWORD");
/** temporal.api.enums.v1.IndexedValueType */
const KEYWORD = 2;
const ATTEMPTS = 20;
const PAUSE_MS = 1_000;
const LIST_MS = 10_000;
/** How often a worker looks whether its node's entity is still there. */
const LOOK_MS = 30_000;

/**
 * Ferry's search attributes: added when missing, since a workflow that sets one that is not there can't go on.
 * @throws FerryError E_TOOL when they are missing and can't be added.
 */
export async function ensureSearchAttributes(
  connection: NativeConnection,
  namespace: string,
  log: Pino,
): Promise<void> {
  const { operatorService } = connection;
  let missing: string[];
  try {
    const { customAttributes } = await operatorService.listSearchAttributes({ namespace });
    missing = SEARCH_ATTRIBUTES.filter((name) => customAttributes[name] === undefined);
  } catch (error) {
    // A server that doesn't let us look: whoever runs it has been told in the manual.
    log.warn({ error: String(error) }, "can't read the namespace's search attributes");
    return;
  }
  if (missing.length === 0) return;
  try {
    await operatorService.addSearchAttributes({
      namespace,
      searchAttributes: Object.fromEntries(missing.map((name) => [name, KEYWORD])),
    });
    log.info({ missing, namespace }, "added search attributes");
  } catch (error) {
    // Another worker may have been quicker.
    const { customAttributes } = await operatorService.listSearchAttributes({ namespace });
    const still = missing.filter((name) => customAttributes[name] === undefined);
    if (still.length === 0) return;
    throw ferryError(
      "E_TOOL",
      `namespace ${namespace} lacks the search attributes ${still.join(", ")} and this worker may not add them: ${String(error)}`,
      {
        remedy: `let an operator run: temporal operator search-attribute create --namespace ${namespace} ${still.map((name) => `--name ${name} --type Keyword`).join(" ")}`,
      },
    );
  }
}

/**
 * In the background: the worker serves meanwhile, and a server that hiccups is asked again. An entity that ended although this
 * worker is here (terminated by mistake, or replaced by a stranger) is there again within half a minute.
 */
export function registerNode(
  client: Client,
  agent: NodeAgent,
  { node, watch }: Pick<WorkerConfig, "node" | "watch">,
  stop: AbortSignal,
  log: Pino,
  lookMs = LOOK_MS,
): void {
  const attempt = async (round: number): Promise<void> => {
    if (stop.aborted) return;
    const facts = await agent.describeNode().catch((): null => null);
    try {
      const wanted = watch ?? {};
      const input: NodeInput = { node, watch: wanted };
      await client.workflow.signalWithStart<Node, [NodeFacts | null, Partial<Watch>]>(WORKFLOW.node, {
        workflowId: nodeWorkflowId(node),
        taskQueue: WORKFLOW_TASK_QUEUE,
        args: [input],
        signal: SIGNAL.online,
        signalArgs: [facts, wanted],
        staticSummary: `node ${node}`,
      });
      log.info({ agentAnswers: facts !== null }, "node is registered");
    } catch (error) {
      if (stop.aborted) return;
      log.warn({ error: error instanceof Error ? error.message : String(error) }, "the node is not registered yet");
      if (round >= ATTEMPTS) return;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      await attempt(round + 1);
    }
  };
  const keep = async (): Promise<void> => {
    await attempt(0);
    while (!stop.aborted) {
      await sleep(lookMs, stop);
      if (!stop.aborted && (await hasEnded(client, node))) await attempt(0);
    }
  };
  void keep();
}

async function hasEnded(client: Client, node: string): Promise<boolean> {
  try {
    const { status, type } = await client.workflow.getHandle(nodeWorkflowId(node)).describe();
    return status.name !== "RUNNING" || type !== WORKFLOW.node;
  } catch (error) {
    // Who can't be asked now is asked again.
    return error instanceof Error && error.name === "WorkflowNotFoundError";
  }
}

/** Every node that has registered and was not forgotten. @throws FerryError E_TEMPORAL_DOWN */
async function listNodes(client: Client): Promise<string[]> {
  try {
    return await client.withDeadline(Date.now() + LIST_MS, async () =>
      registeredNodes(await readNodeRuns(client.workflow.list({ query: `WorkflowType = '${WORKFLOW.node}'` }), NODE)),
    );
  } catch (error) {
    throw ferryError("E_TEMPORAL_DOWN", `the list of nodes could not be read: ${String(error)}`, {
      remedy: "see whether Temporal's visibility answers, then try again",
    });
  }
}

/** What a person has said of a node that is off. @throws FerryError E_TEMPORAL_DOWN */
async function fenceOf(client: Client, node: string): Promise<Fence | null> {
  try {
    const state = await client.withDeadline(Date.now() + LIST_MS, () =>
      client.workflow.getHandle(nodeWorkflowId(node)).query<NodeState>(QUERY.status),
    );
    return state.fence ?? null;
  } catch (error) {
    if (error instanceof Error && error.name === "WorkflowNotFoundError") return null;
    throw ferryError("E_TEMPORAL_DOWN", `whether ${node} was fenced could not be read: ${String(error)}`, {
      remedy: "see whether Temporal answers, then try again",
    });
  }
}

/** What the node's activities ask Temporal, and not their agent. */
export const registryOf = (client: Client): Pick<NodeActivitiesOptions, "knownNodes" | "fenceOf"> => ({
  knownNodes: () => listNodes(client),
  fenceOf: (node) => fenceOf(client, node),
});

/** Best effort: a worker that is killed can't say so either, and a probe tells the truth anyway. */
export async function signOff(client: Client, node: string, log: Pino): Promise<void> {
  try {
    await client.withDeadline(Date.now() + 1_000, () =>
      client.workflow.getHandle(nodeWorkflowId(node)).signal(SIGNAL.offline),
    );
  } catch (error) {
    log.debug({ error: String(error) }, "could not sign off");
  }
}

/** The nodes: every worker registers its node's entity at boot, so that a visibility query lists them. */
import { WithStartWorkflowOperation, type Client } from "@temporalio/client";
import { defineSearchAttributeKey } from "@temporalio/common";
import {
  QUERY,
  UPDATE,
  WORKFLOW,
  type AskRequest,
  type FenceRequest,
  type NodeInput,
  type NodeState,
} from "../model/messages.js";
import { nodeWorkflowId, WORKFLOW_TASK_QUEUE } from "../model/names.js";
import { AWAY, type Away } from "../model/presence.js";
import type { NodeFacts } from "../model/node.js";
import { readNodeRuns, registeredNodes } from "../model/registry.js";
import { FerryError, ferryError } from "../model/failure.js";
import { asking, toFerryError } from "./failures.js";
import { checkName } from "./requests.js";
import type { FerryClient, NodeListing } from "./types.js";

export interface Context {
  client: Client;
  address: string;
}

const NODE = defineSearchAttributeKey("FerryNode", "KEYWORD");
const STATE = defineSearchAttributeKey("FerryState", "KEYWORD");
const ASK_TIMEOUT_MS = 15_000;

/** Asks a node through its entity. @throws FerryError E_NODE_UNKNOWN, E_NODE_UNREACHABLE, or what the node says. */
export async function askNode<Result>(
  { client, address }: Context,
  node: string,
  request: AskRequest,
  timeoutMs = ASK_TIMEOUT_MS,
): Promise<Result> {
  try {
    return await client.withDeadline(Date.now() + timeoutMs, () =>
      client.workflow
        .getHandle(nodeWorkflowId(node))
        .executeUpdate<Result, [AskRequest]>(UPDATE.ask, { args: [request] }),
    );
  } catch (error) {
    const notFound = { code: "E_NODE_UNKNOWN" as const, message: `there is no node ${node}`, node };
    throw toFerryError(error, { address, doing: `ask node ${node}`, notFound });
  }
}

export async function knownNodes({ client, address }: Context): Promise<string[]> {
  return asking({ address, doing: "list the nodes" }, async () => {
    const names: string[] = [];
    const query = `WorkflowType = '${WORKFLOW.node}' AND ExecutionStatus = 'Running'`;
    for await (const { workflowId } of client.workflow.list({ query })) names.push(workflowId.replace(/^node\//, ""));
    return [...new Set(names)].sort();
  });
}

/** @throws FerryError E_NODE_UNKNOWN that lists the nodes that there are. */
export async function demandNode(context: Context, node: string): Promise<void> {
  const { client, address } = context;
  try {
    const { status } = await client.workflow.getHandle(nodeWorkflowId(node)).describe();
    if (status.name === "RUNNING") return;
  } catch (error) {
    if (!(error instanceof Error && error.name === "WorkflowNotFoundError")) {
      throw toFerryError(error, { address, doing: `look up node ${node}` });
    }
  }
  const known = await knownNodes(context);
  throw ferryError("E_NODE_UNKNOWN", `there is no node ${node}`, {
    node,
    remedy:
      known.length === 0
        ? "no node has registered yet: start one with ferry node --name NAME, or a lab with ferry lab up"
        : `choose one of: ${known.join(", ")}`,
  });
}

export function nodesOf(context: Context): FerryClient["nodes"] {
  const get = async (name: string): Promise<NodeListing> => {
    checkName("node", name);
    try {
      const facts = await askNode<NodeFacts>(context, name, { ask: "describe" });
      return { name, reachable: true, facts };
    } catch (error) {
      if (!(error instanceof FerryError) || error.code === "E_NODE_UNKNOWN") {
        await demandNode(context, name);
        throw error;
      }
      const { facts, fence, presence } = (await lastState(context, name)) ?? {};
      return {
        name,
        reachable: false,
        problem: error.message,
        ...(facts === undefined ? {} : { facts }),
        ...(fence === undefined ? {} : { fence }),
        ...(presence === undefined ? {} : { presence }),
      };
    }
  };
  return {
    get,
    list: async () => Promise.all((await knownNodes(context)).map(get)),
    away: () =>
      asking({ address: context.address, doing: "list the nodes that are away" }, async () => {
        const found: { name: string; state: Away }[] = [];
        const words = AWAY.map((word) => `'${word}'`).join(", ");
        const query = `WorkflowType = '${WORKFLOW.node}' AND ExecutionStatus = 'Running' AND FerryState IN (${words})`;
        for await (const { workflowId, typedSearchAttributes } of context.client.workflow.list({ query })) {
          const word = typedSearchAttributes.get(STATE);
          const state = AWAY.find((away) => away === word);
          if (state !== undefined) found.push({ name: workflowId.replace(/^node\//, ""), state });
        }
        return found.sort((a, b) => a.name.localeCompare(b.name));
      }),
    forget: async (name) => {
      checkName("node", name);
      await demandRegistered(context, name);
      await asking({ address: context.address, doing: `forget ${name}` }, () =>
        context.client.withDeadline(Date.now() + ASK_TIMEOUT_MS, () => tell<void>(context, name, UPDATE.forget, [])),
      );
    },
    fence: async (name, evidence) => {
      checkName("node", name);
      await demandRegistered(context, name);
      const state = await asking({ address: context.address, doing: `fence ${name}` }, () =>
        context.client.withDeadline(Date.now() + ASK_TIMEOUT_MS, () =>
          tell<NodeState>(context, name, UPDATE.fence, [{ evidence }]),
        ),
      );
      return state.fence ?? { at: Date.now(), evidence };
    },
  };
}

/** Also one whose entity was ended by something else than `forget`: until it is fenced and forgotten it is asked for its copies. */
async function demandRegistered(context: Context, node: string): Promise<void> {
  const { client, address } = context;
  const known = await asking({ address, doing: `look up node ${node}` }, async () => {
    const query = `WorkflowType = '${WORKFLOW.node}' AND WorkflowId = '${nodeWorkflowId(node)}'`;
    return registeredNodes(await readNodeRuns(client.workflow.list({ query }), NODE));
  });
  if (!known.includes(node)) await demandNode(context, node);
}

type NodeWorkflow = (input: NodeInput) => Promise<void>;

const tell = <Result>({ client }: Context, node: string, update: string, args: [FenceRequest] | []): Promise<Result> =>
  client.workflow.executeUpdateWithStart<NodeWorkflow, Result, [FenceRequest] | []>(update, {
    args,
    startWorkflowOperation: new WithStartWorkflowOperation<NodeWorkflow>(WORKFLOW.node, {
      workflowId: nodeWorkflowId(node),
      taskQueue: WORKFLOW_TASK_QUEUE,
      workflowIdConflictPolicy: "USE_EXISTING",
      args: [{ node }],
    }),
  });

/** What the node said of itself when it last answered. */
async function lastState({ client }: Context, node: string): Promise<NodeState | undefined> {
  try {
    return await client.withDeadline(Date.now() + ASK_TIMEOUT_MS, () =>
      client.workflow.getHandle(nodeWorkflowId(node)).query<NodeState>(QUERY.status),
    );
  } catch {
    return undefined;
  }
}

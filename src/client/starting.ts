/** What every new workload needs: an address that nobody has, and an entity that is started with its first update. */
import { WithStartWorkflowOperation, type WorkflowExecutionInfo } from "@temporalio/client";
import { TypedSearchAttributes, defineSearchAttributeKey } from "@temporalio/common";
import { bareIp } from "../model/address.js";
import { FerryError } from "../model/failure.js";
import { WORKFLOW, type WorkloadInput } from "../model/messages.js";
import { WORKFLOW_TASK_QUEUE, workloadWorkflowId, type SearchAttributeName } from "../model/names.js";
import type { NodeFacts } from "../model/node.js";
import type { WorkloadSpec, WorkloadState, WorkloadStatus } from "../model/workload.js";
import { addressRange, chooseIp, DEFAULT_NETWORK, prefixOf } from "./addresses.js";
import { refuse } from "./failures.js";
import { askNode, type Context } from "./nodes.js";
import type { WorkloadHandle } from "./types.js";

export const key = (name: SearchAttributeName) => defineSearchAttributeKey(name, "KEYWORD");

/** Address -> workload, of all that are there but these. */
export function addressesOf(executions: readonly WorkflowExecutionInfo[], but: readonly string[]): Map<string, string> {
  const taken = new Map<string, string>();
  for (const info of executions) {
    const ip = info.memo?.["ip"];
    const owner = info.workflowId.replace(/^workload\//, "");
    if (typeof ip === "string" && !but.includes(owner)) taken.set(bareIp(ip), owner);
  }
  return taken;
}

/** @throws FerryError E_IP_CONFLICT */
export function demandFree(taken: ReadonlyMap<string, string>, ip: string): void {
  const owner = taken.get(bareIp(ip));
  if (owner === undefined) return;
  throw refuse("E_IP_CONFLICT", `${bareIp(ip)} is the address of workload ${owner}`, "give another one with --ip");
}

export function entityOf({ name, runtime, command, network }: WorkloadSpec, node: string, state: WorkloadState) {
  const input: WorkloadInput = { name };
  return new WithStartWorkflowOperation<(input: WorkloadInput) => Promise<unknown>>(WORKFLOW.workload, {
    workflowId: workloadWorkflowId(name),
    taskQueue: WORKFLOW_TASK_QUEUE,
    workflowIdConflictPolicy: "USE_EXISTING",
    args: [input],
    memo: { ip: network.ip },
    // As code: the UI makes typographic dashes of --.
    staticSummary: `workload ${name}: \`${command.join(" ").replaceAll("`", "'").slice(0, 120)}\``,
    staticDetails:
      "The current details say where it runs. Operations on it are children of this workflow, one at a time: see Relationships.",
    typedSearchAttributes: new TypedSearchAttributes([
      { key: key("FerryWorkload"), value: name },
      { key: key("FerryNode"), value: node },
      { key: key("FerryRuntime"), value: runtime },
      { key: key("FerryState"), value: state },
    ]),
  });
}

/** The address that was asked for, the one it had, or a free one of the network that the node's bridge is in. */
export async function addressFor(
  context: Context,
  { name, node, ip: given }: { name: string; node: string; ip?: string | undefined },
  before: string | undefined,
  taken: ReadonlyMap<string, string>,
): Promise<string> {
  if (given?.includes("/")) return given;
  if (given === undefined && before !== undefined) return before;
  const facts = await askNode<NodeFacts>(context, node, { ask: "describe" });
  const network = facts.network ?? DEFAULT_NETWORK;
  if (given !== undefined) return `${given}/${prefixOf(network)}`;
  const chosen = chooseIp(name, new Set(taken.keys()), network);
  if (chosen !== undefined) return chosen;
  const { first, last } = addressRange(network);
  throw refuse("E_IP_CONFLICT", `every address from ${first} to ${last} is taken`, "give one with --ip");
}

export async function existing(handle: WorkloadHandle): Promise<WorkloadStatus | undefined> {
  try {
    const status = await handle.status();
    return status.state === "removed" ? undefined : status;
  } catch (error) {
    if (error instanceof FerryError && error.code === "E_WORKLOAD_UNKNOWN") return undefined;
    throw error;
  }
}

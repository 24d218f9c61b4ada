/**
 * Names: what a workload or node may be called, and every identifier that Ferry derives from a name.
 *
 * All names that reach a path, a cgroup, an interface or a workflow id pass through here. A name is strict enough
 * (lower case letters, digits, inner hyphens) to be safe in each of those places without escaping.
 */

import { cut, shown } from "./words.js";

/** Longest workload name: leaves room for the epoch in file, cgroup and namespace names. */
export const MAX_WORKLOAD_NAME = 40;
/** Longest node name: a DNS label. */
export const MAX_NODE_NAME = 63;

const NAME = /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/;

/** Why `name` can't be used, or undefined when it is fine. The sentence names the value and the rule. */
export function nameProblem(kind: "workload" | "node" | "volume" | "signer", name: unknown): string | undefined {
  const max = kind === "node" ? MAX_NODE_NAME : MAX_WORKLOAD_NAME;
  if (typeof name !== "string") return `${kind} name must be a string, got ${typeof name}`;
  const said = shown(cut(name, 60));
  if (name.length === 0) return `${kind} name is empty`;
  if (name.length > max) return `${kind} name ${said} has ${name.length} characters, at most ${max} are allowed`;
  if (!NAME.test(name)) {
    return `${kind} name ${said} is not valid: use lower case letters, digits and inner hyphens (a-z, 0-9, -)`;
  }
  return undefined;
}

export const isWorkloadName = (name: unknown): name is string => nameProblem("workload", name) === undefined;
export const isNodeName = (name: unknown): name is string => nameProblem("node", name) === undefined;

/** Queue on which workflow tasks run: polled by the worker of every node. */
export const WORKFLOW_TASK_QUEUE = "ferry";
/** Queue of the activities of one node: polled by that node's worker only. */
export const nodeTaskQueue = (node: string): string => `node:${node}`;

export const workloadWorkflowId = (workload: string): string => `workload/${workload}`;
export const nodeWorkflowId = (node: string): string => `node/${node}`;
/** Operations are child workflows: `redis/migrate/3` is the third operation on redis. */
export const operationWorkflowId = (workload: string, kind: string, sequence: number): string =>
  `${workload}/${kind}/${sequence}`;
/** The same operation as agents know it: safe as a directory name. */
export const operationId = (workload: string, kind: string, sequence: number): string =>
  `${workload}.${kind}.${sequence}`;
const OPERATION = /^[a-z0-9][a-z0-9-]{0,39}\.[a-z]{1,16}\.[0-9]{1,9}$/;
/** Ids of operations that run a workload from a checkpoint: after its node was lost, or because nothing of it ran. */
export const RECOVERY = /\.(?:recover|restore)\.\d+$/;
/** Ids of operations between two nodes: these alone are settled, and cleaned up, by asking both. */
export const MIGRATION = /\.migrate\.\d+$/;
export const isOperationId = (id: unknown): id is string => typeof id === "string" && OPERATION.test(id);
/** Names hold no dot: what stands before the first one is the workload. Anything that is no id at all is not judged here. */
export const isOperationOf = (id: unknown, workload: unknown): boolean =>
  !isOperationId(id) || id.split(".")[0] === workload;

/** One incarnation of a workload on a node: names its cgroup, network namespace and directories. */
export const incarnation = (workload: string, epoch: number): string => `${workload}.${epoch}`;

/** Search attributes of Ferry's workflows, all of type Keyword. */
export const SEARCH_ATTRIBUTES = ["FerryWorkload", "FerryNode", "FerryRuntime", "FerryState", "FerryMode"] as const;
export type SearchAttributeName = (typeof SEARCH_ATTRIBUTES)[number];

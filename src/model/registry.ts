/**
 * Which nodes there are, from the runs of their entities. Whoever wants to start a workload asks each of them first, so that what
 * ends a node's entity must not make the node unknown: not a person who terminates it, not a stranger who starts something else
 * under its id, not a visibility store that is behind. Only `forget` does, which completes it. Pure.
 */
import { isNodeName, nodeWorkflowId } from "./names.js";

export interface NodeRun {
  workflowId: string;
  /** As Temporal names it: RUNNING, COMPLETED, TERMINATED... */
  status: string;
  startedAt: number;
  /** The search attribute FerryNode: an entity sets it once it has taken its input; a run that was refused has none. */
  node: unknown;
}

/** A run as Temporal's client lists it; `Key`: of a search attribute, as that client makes them. */
export interface ListedRun<Key> {
  workflowId: string;
  status: { name: string };
  startTime: Date;
  typedSearchAttributes: { get(key: Key): unknown };
}

/** @param node the key of FerryNode */
export async function readNodeRuns<Key>(listed: AsyncIterable<ListedRun<Key>>, node: Key): Promise<NodeRun[]> {
  const runs: NodeRun[] = [];
  for await (const { workflowId, status, startTime, typedSearchAttributes } of listed) {
    runs.push({
      workflowId,
      status: status.name,
      startedAt: startTime.getTime(),
      node: typedSearchAttributes.get(node),
    });
  }
  return runs;
}

/** Names, sorted. */
export function registeredNodes(runs: readonly NodeRun[]): string[] {
  const latest = new Map<string, NodeRun>();
  const own = new Set<string>();
  for (const run of runs) {
    const name = run.workflowId.slice(nodeWorkflowId("").length);
    if (!isNodeName(name) || run.workflowId !== nodeWorkflowId(name)) continue;
    if (run.status === "RUNNING" || run.node === name) own.add(name);
    const before = latest.get(name);
    const later = before === undefined || (before.status !== "RUNNING" && run.startedAt >= before.startedAt);
    if (later || run.status === "RUNNING") latest.set(name, run);
  }
  return [...latest.keys()].filter((name) => own.has(name) && latest.get(name)?.status !== "COMPLETED").sort();
}

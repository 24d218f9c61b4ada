/**
 * Metrics for Prometheus, when asked for: what Temporal's SDK measures, and how many workloads are in doubt or stuck, and how
 * many nodes are away. Every
 * worker answers the same, since all read it from Temporal's visibility: alert on the largest of them.
 */
import type { Client } from "@temporalio/client";
import { Runtime } from "@temporalio/worker";
import type { Logger as Pino } from "pino";
import { WORKFLOW } from "../model/messages.js";
import { AWAY } from "../model/presence.js";
import { sleep } from "./sleep.js";

const EVERY_MS = 15_000;
const ASK_MS = 5_000;
/** States of a workload that an operator has to know of. */
const STATES = ["in-doubt", "stuck"] as const;

/** Until `over`: the gauges `ferry_workloads{state}` and `ferry_nodes{state}`, read anew every 15 s. A server that is away leaves them. */
export async function tellStates(client: Client, over: AbortSignal, log: Pino): Promise<void> {
  const { metricMeter } = Runtime.instance();
  const workloads = metricMeter.createGauge(
    "ferry_workloads",
    "int",
    "1",
    "workloads in doubt (nobody knows which node has it) or stuck (an undo was refused)",
  );
  const nodes = metricMeter.createGauge(
    "ferry_nodes",
    "int",
    "1",
    "nodes that are silent or lost (nothing is heard of them), or fenced (a person said that they are off)",
  );
  while (!over.aborted) {
    try {
      for (const state of STATES) workloads.set(await howMany(client, WORKFLOW.workload, state), { state });
      for (const state of AWAY) nodes.set(await howMany(client, WORKFLOW.node, state), { state });
    } catch (error) {
      log.debug({ error: String(error) }, "how many workloads are in doubt, and nodes away, could not be read");
    }
    await sleep(EVERY_MS, over);
  }
}

async function howMany(client: Client, type: string, state: string): Promise<number> {
  const query = `WorkflowType = '${type}' AND ExecutionStatus = 'Running' AND FerryState = '${state}'`;
  const { count } = await client.withDeadline(Date.now() + ASK_MS, () => client.workflow.count(query));
  return count;
}

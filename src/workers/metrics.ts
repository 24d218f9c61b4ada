/**
 * Metrics for Prometheus, when asked for: what Temporal's SDK measures, and how many workloads are in doubt or stuck. Every
 * worker answers the same, since all read it from Temporal's visibility: alert on the largest of them.
 */
import type { Client } from "@temporalio/client";
import { Runtime } from "@temporalio/worker";
import type { Logger as Pino } from "pino";
import { WORKFLOW } from "../model/messages.js";
import { sleep } from "./sleep.js";

const EVERY_MS = 15_000;
const ASK_MS = 5_000;
/** States of a workload that an operator has to know of. */
const STATES = ["in-doubt", "stuck"] as const;

/** Until `over`: the gauge `ferry_workloads{state}`, read anew every 15 s. A server that is away leaves it as it was. */
export async function tellStates(client: Client, over: AbortSignal, log: Pino): Promise<void> {
  const gauge = Runtime.instance().metricMeter.createGauge(
    "ferry_workloads",
    "int",
    "1",
    "workloads in doubt (nobody knows which node has it) or stuck (an undo was refused)",
  );
  while (!over.aborted) {
    for (const state of STATES) {
      try {
        gauge.set(await howMany(client, state), { state });
      } catch (error) {
        log.debug({ error: String(error) }, "how many workloads are in doubt could not be read");
      }
    }
    await sleep(EVERY_MS, over);
  }
}

async function howMany(client: Client, state: (typeof STATES)[number]): Promise<number> {
  const query = `WorkflowType = '${WORKFLOW.workload}' AND ExecutionStatus = 'Running' AND FerryState = '${state}'`;
  const { count } = await client.withDeadline(Date.now() + ASK_MS, () => client.workflow.count(query));
  return count;
}

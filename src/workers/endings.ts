/** Tells the entities of workloads that have ended by themselves: asks the node's agent now and then. */
import { WorkflowNotFoundError, type Client } from "@temporalio/client";
import type { Logger as Pino } from "pino";
import type { Ending, NodeAgent } from "../model/contract.js";
import { SIGNAL, type EndedNews } from "../model/messages.js";
import { workloadWorkflowId } from "../model/names.js";
import { sleep } from "./sleep.js";

const ASK_EVERY_MS = 1_000;

/** Until `stop`. Each end is told once per life of the worker: an entity that knows it already does not mind. */
export async function tellEndings(
  client: Client,
  agent: NodeAgent,
  node: string,
  stop: AbortSignal,
  log: Pino,
): Promise<void> {
  const told = new Set<string>();
  const tell = async ({ workload, epoch, exitCode }: Ending): Promise<void> => {
    const news: EndedNews = { node, epoch, ...(exitCode === undefined ? {} : { exitCode }) };
    try {
      await client.workflow.getHandle(workloadWorkflowId(workload)).signal(SIGNAL.ended, news);
      log.info({ workload, epoch, exitCode }, "told that it has ended");
    } catch (error) {
      // No entity: nobody to tell. Anything else is tried again.
      if (!(error instanceof WorkflowNotFoundError)) return;
    }
    told.add(`${workload} ${epoch}`);
  };
  while (!stop.aborted) {
    // An agent that is away is asked again.
    const endings = await agent.endings().catch((): Ending[] => []);
    for (const ending of endings) if (!told.has(`${ending.workload} ${ending.epoch}`)) await tell(ending);
    await sleep(ASK_EVERY_MS, stop);
  }
}

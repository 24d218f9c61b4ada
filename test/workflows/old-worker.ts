/** A worker as it was before short steps beat: of a node that is new, with a list of checkpoints that takes its time. */
import { Context } from "@temporalio/activity";
import type { WorkflowHandle } from "@temporalio/client";
import { NativeConnection, Worker } from "@temporalio/worker";
import { WORKFLOW } from "../../src/model/messages.js";
import { WORKFLOW_TASK_QUEUE, nodeTaskQueue, nodeWorkflowId } from "../../src/model/names.js";
import type { Stage } from "./support.js";

/** Longer than a worker may be silent. */
const SLOW_MS = 13_000;

export interface OldWorker {
  node: WorkflowHandle;
  /** How often it was asked. */
  asked(): number;
  stop(): Promise<void>;
}

export async function startOldWorker(stage: Stage, name: string): Promise<OldWorker> {
  const connection = await NativeConnection.connect({ address: stage.server.address });
  let asked = 0;
  const worker = await Worker.create({
    connection,
    taskQueue: nodeTaskQueue(name),
    activities: {
      watchNode: () => Context.current().cancelled,
      listCheckpoints: async () => {
        asked += 1;
        await new Promise((resolve) => setTimeout(resolve, SLOW_MS));
        return [];
      },
    },
    shutdownForceTime: 1_000,
  });
  const running = worker.run().catch(() => undefined);
  const node = await stage.client.workflow.start(WORKFLOW.node, {
    workflowId: nodeWorkflowId(name),
    taskQueue: WORKFLOW_TASK_QUEUE,
    args: [{ node: name }],
  });
  return {
    node,
    asked: () => asked,
    stop: async () => {
      await node.terminate();
      worker.shutdown();
      await running;
      await connection.close();
    },
  };
}

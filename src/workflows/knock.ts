/** Tells a node that is out of reach from one that never was: every node has an entity from its first start on. */
import { CancellationScope, getExternalWorkflowHandle } from "@temporalio/workflow";
import { SIGNAL } from "../model/messages.js";
import { nodeWorkflowId } from "../model/names.js";
import { failure } from "./calls.js";

/** Throws E_NODE_UNKNOWN when no worker of that name has ever registered. */
export async function knock(node: string): Promise<void> {
  try {
    await CancellationScope.nonCancellable(() => getExternalWorkflowHandle(nodeWorkflowId(node)).signal(SIGNAL.knock));
  } catch {
    throw failure({
      code: "E_NODE_UNKNOWN",
      message: `there is no node ${node}`,
      node,
      remedy: "see which nodes there are: ferry nodes",
    });
  }
}

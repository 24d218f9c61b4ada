/**
 * Keeps histories short: a workflow whose history got long goes on in a new run (continue-as-new) with what it knows. The
 * server ends a run at 51,200 events, and a hand-over in doubt, or a node that is to be swept, may wait for weeks.
 */
import { CancellationScope, allHandlersFinished, condition, patched, workflowInfo } from "@temporalio/workflow";
import type { OperationRef } from "../model/contract.js";
import type { Tuning } from "../model/messages.js";
import { failure } from "./calls.js";

/** What is under way when a run gets this long has room until 2,000. */
const LONG_EVENTS = 1_000;
const SHORTEST_LONG_EVENTS = 50;
/** Updates are refused from here on until the new run is there. */
const FULL_EVENTS = 1_800;

/**
 * Call it once, at the start of a workflow: then the answer says whether its history is long by now. Runs from before
 * there was such a limit: the server's own suggestion (at 4,096 events) if `entity`, else never.
 */
export function measure(tuning: Partial<Tuning> | undefined, kind: "operation" | "entity"): () => boolean {
  const limit = Math.max(tuning?.longEvents ?? LONG_EVENTS, SHORTEST_LONG_EVENTS);
  if (patched("a long history goes on in a new run")) {
    return () => workflowInfo().historyLength >= limit || workflowInfo().continueAsNewSuggested;
  }
  return () => kind === "entity" && workflowInfo().continueAsNewSuggested;
}

/** Until nobody waits for an answer of this run: those who do would not get it from the next. */
export const quiet = (): Promise<void> => CancellationScope.nonCancellable(() => condition(allHandlersFinished));

/** For validators. @throws E_BUSY when this run takes no more updates. */
export function refuseWhenFull({ operation, workload }: OperationRef): void {
  if (workflowInfo().historyLength < FULL_EVENTS) return;
  throw failure({
    code: "E_BUSY",
    message: `${operation} has been told so much that it is about to go on in a new run`,
    workload,
    remedy: "ask again in a second",
  });
}

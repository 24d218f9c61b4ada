/** Refuses what is no message of ours, in words, before a field of it is read (see model/request-check.ts). */
import { workflowInfo } from "@temporalio/workflow";
import { nodeWorkflowId, workloadWorkflowId } from "../model/names.js";
import { INPUT_PROBLEMS } from "../model/request-check.js";
import { failure } from "./calls.js";

export function refuseUnless(what: string, problems: readonly string[]): void {
  if (problems.length === 0) return;
  throw failure({
    code: "E_REQUEST",
    message: `${what} is not valid: ${problems.join("; ")}`,
    remedy: "use the ferry command or the SDK, of the same version as the workers",
  });
}

type Type = keyof typeof INPUT_PROBLEMS;
type Named = { workload: string };

/** Whose word an operation's workflow is taken for: its entity's, or (`sweep`) another operation's of the same workload. */
const PARENT: Partial<Record<Type, (input: never) => string>> = {
  migrate: ({ workload }: Named) => workloadWorkflowId(workload),
  checkpoint: ({ ref }: { ref: Named }) => workloadWorkflowId(ref.workload),
  supersede: ({ ref }: { ref: Named }) => workloadWorkflowId(ref.workload),
  settle: ({ handOver }: { handOver: { ref: Named } }) => workloadWorkflowId(handOver.ref.workload),
  sweep: ({ handOver }: { handOver: { ref: Named } }) => `${handOver.ref.workload}/`,
};
/** The only id under which an entity speaks for its workload or node: Temporal lets one of that id be open. */
const ID: Partial<Record<Type, (input: never) => string>> = {
  workload: ({ name }: { name: string }) => workloadWorkflowId(name),
  node: ({ node }: { node: string }) => nodeWorkflowId(node),
};

/**
 * What whoever may start workflows can forge, however well formed: an operation that its entity knows nothing of, a second
 * entity, and what one run hands on to the next (docs/security.md, threat 1).
 */
function forgeries(type: Type, input: { carried?: unknown }): string[] {
  const { workflowId, namespace, parent } = workflowInfo();
  const problems: string[] = [];
  const id = ID[type]?.(input as never);
  if (id !== undefined && id !== workflowId) problems.push(`its workflow id must be ${id}`);
  const under = PARENT[type]?.(input as never);
  const by = parent?.namespace === namespace ? parent.workflowId : "";
  if (under !== undefined && !(under.endsWith("/") ? by.startsWith(under) : by === under)) {
    problems.push(`only ${under} may start it: ask that one`);
  }
  if (input.carried !== undefined && !goesOn()) {
    problems.push("carried is what its own earlier run hands on, and there was none");
  }
  return problems;
}

/** By continue-as-new: a cron's next run, and a retry's, have the input of whoever started the first one. */
function goesOn(): boolean {
  const { continuedFromExecutionRunId, cronSchedule, retryPolicy, attempt } = workflowInfo();
  const again = (cronSchedule ?? "") !== "" || retryPolicy !== undefined || attempt > 1;
  return continuedFromExecutionRunId !== undefined && !again;
}

/** First line of every workflow: a wrong input fails it at once, instead of its task for ever. */
export function acceptInput(type: Type, input: unknown): void {
  const what = `the input of workflow ${type}`;
  refuseUnless(what, INPUT_PROBLEMS[type](input));
  refuseUnless(what, forgeries(type, input as { carried?: unknown }));
}

/** Resets of workflows, as Temporal's console and CLI do them. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { Client, WorkflowHandle } from "@temporalio/client";

type Events = NonNullable<Awaited<ReturnType<WorkflowHandle["fetchHistory"]>>["events"]>;
/** Which of its workflow tasks is undone, with all that came after it. */
export type Pick = (tasks: Events, all: Events) => Events[number] | undefined;

export const first: Pick = (tasks) => tasks[0];
export const latest: Pick = (tasks) => tasks.at(-1);
/** Of an entity: as if it had never been asked. The server then asks it again for what came after. */
export const before =
  (update: string): Pick =>
  (tasks, all) => {
    const asked = all.findIndex(
      (event) => event.workflowExecutionUpdateAcceptedEventAttributes?.acceptedRequest?.input?.name === update,
    );
    return tasks.findLast((task) => all.indexOf(task) < asked);
  };

/** Returns the new run. */
export async function reset(client: Client, workflowId: string, pick: Pick): Promise<string> {
  const { events } = await client.workflow.getHandle(workflowId).fetchHistory();
  const all = events ?? [];
  const task = pick(
    all.filter(({ workflowTaskCompletedEventAttributes: completed }) => completed),
    all,
  );
  assert.ok(task?.eventId, `${workflowId} has such a task`);
  const { runId } = await client.workflowService.resetWorkflowExecution({
    namespace: "default",
    workflowExecution: { workflowId },
    reason: "test",
    requestId: randomUUID(),
    workflowTaskFinishEventId: task.eventId,
  });
  return runId;
}

/** What an entity said no to, as data; undefined: it was something else that went wrong. */
import { WorkflowUpdateFailedError } from "@temporalio/client";
import { ApplicationFailure } from "@temporalio/common";
import type { FailureData } from "../model/failure.js";
import { isFailureData } from "../model/messages.js";

export function refusalOf(error: unknown): FailureData | undefined {
  if (!(error instanceof WorkflowUpdateFailedError) || !(error.cause instanceof ApplicationFailure)) return undefined;
  const data = error.cause.details?.[0];
  return isFailureData(data) ? data : undefined;
}

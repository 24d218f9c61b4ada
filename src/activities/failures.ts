/** FerryError <-> ApplicationFailure: the type is the code, the first detail is the data, the class decides retry. */
import { ApplicationFailure } from "@temporalio/activity";
import { FerryError, isRetryable, toFailure, type FailureData } from "../model/failure.js";

export function toApplicationFailure(error: unknown): ApplicationFailure {
  if (error instanceof ApplicationFailure) return error;
  const data: FailureData = toFailure(error);
  return ApplicationFailure.create({
    message: data.message,
    type: data.code,
    nonRetryable: !isRetryable(data.code),
    details: [data],
    ...(error instanceof Error ? { cause: error } : {}),
  });
}

export const isAgentDown = (error: unknown): boolean => error instanceof FerryError && isRetryable(error.code);

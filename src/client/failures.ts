/** Whatever the Temporal client throws, as a FerryError: a refusal keeps its code, an outage becomes a sentence. */
import {
  QueryRejectedError,
  ServiceError,
  WorkflowFailedError,
  WorkflowNotFoundError,
  WorkflowUpdateFailedError,
  WorkflowUpdateRPCTimeoutOrCancelledError,
  isGrpcServiceError,
} from "@temporalio/client";
import { ApplicationFailure, TerminatedFailure } from "@temporalio/common";
import { FerryError, ferryError, isFailureCode, type FailureData } from "../model/failure.js";
import { isFailureData } from "../model/messages.js";

const GRPC_CANCELLED = 1;
const GRPC_DEADLINE_EXCEEDED = 4;
const GRPC_PERMISSION_DENIED = 7;
const GRPC_UNAVAILABLE = 14;
const GRPC_UNAUTHENTICATED = 16;

export interface Asked {
  address: string;
  /** What was being done, in words: "list the workloads". */
  doing: string;
  /** Failure when the workflow that was asked does not exist. */
  notFound?: FailureData;
}

export function toFerryError(error: unknown, asked: Asked): FerryError {
  if (error instanceof FerryError) return error;
  // From below Temporal's client: what the codec refuses.
  if (error instanceof Error && error.cause instanceof FerryError) return error.cause;
  if (error instanceof WorkflowUpdateFailedError || error instanceof WorkflowFailedError) {
    return toFerryError(error.cause ?? new Error(error.message), asked);
  }
  if (error instanceof ApplicationFailure) {
    const data = error.details?.[0];
    if (isFailureCode(error.type) && isFailureData(data)) return new FerryError(data, { cause: error });
    return new FerryError({ code: "E_INTERNAL", message: `can't ${asked.doing}: ${error.message}` }, { cause: error });
  }
  if (error instanceof TerminatedFailure) {
    return new FerryError(
      {
        code: "E_IN_DOUBT",
        message: `can't ${asked.doing}: its workflow was terminated; the nodes finish or go back by themselves`,
        remedy: "see where the workload runs: ferry inspect",
      },
      { cause: error },
    );
  }
  if ((error instanceof WorkflowNotFoundError || error instanceof QueryRejectedError) && asked.notFound !== undefined) {
    return new FerryError(asked.notFound, { cause: error });
  }
  if (error instanceof WorkflowUpdateRPCTimeoutOrCancelledError) return noWorker(asked, error);
  const grpc = grpcOf(error);
  if (grpc === GRPC_DEADLINE_EXCEEDED || grpc === GRPC_CANCELLED) return noWorker(asked, error);
  if (grpc === GRPC_UNAVAILABLE) return temporalDown(asked.address, asked.doing, error);
  if (grpc === GRPC_UNAUTHENTICATED || grpc === GRPC_PERMISSION_DENIED) return denied(asked, error);
  const message = error instanceof Error ? error.message : String(error);
  return new FerryError({ code: "E_INTERNAL", message: `can't ${asked.doing}: ${message}` }, { cause: error });
}

const below = (error: unknown): unknown => (error instanceof ServiceError ? error.cause : error);

function grpcOf(error: unknown): number | undefined {
  const inner = below(error);
  return isGrpcServiceError(inner) ? inner.code : undefined;
}

function detailsOf(error: unknown): string {
  const inner = below(error);
  if (isGrpcServiceError(inner)) return inner.details;
  return inner instanceof Error ? inner.message : String(inner);
}

export function temporalDown(address: string, doing: string, cause: unknown): FerryError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new FerryError(
    {
      code: "E_TEMPORAL_DOWN",
      message: `can't ${doing}: the Temporal server at ${address} does not answer (${why})`,
      remedy: "is it running? start the lab with: ferry lab up, or name another server with --address",
    },
    { cause },
  );
}

const denied = ({ address, doing }: Asked, cause: unknown): FerryError =>
  new FerryError(
    {
      code: "E_TEMPORAL_DENIED",
      message: `can't ${doing}: the Temporal server at ${address} does not allow it (${detailsOf(cause)})`,
      remedy:
        "see FERRY_TEMPORAL_API_KEY (or _FILE), FERRY_TEMPORAL_TLS_CERT and _KEY, and what they may do in the namespace",
    },
    { cause },
  );

/** A connection that could not be made: nobody answers, or who answers does not let us in. */
export function notConnected(address: string, doing: string, cause: unknown): FerryError {
  const error = toFerryError(cause, { address, doing });
  return error.code === "E_TEMPORAL_DENIED" ? error : temporalDown(address, doing, cause);
}

const noWorker = (asked: Asked, cause: unknown): FerryError =>
  new FerryError(
    {
      code: "E_TEMPORAL_DOWN",
      message: `can't ${asked.doing}: the Temporal server at ${asked.address} has the request, and no worker took it in time`,
      remedy: "at least one node's worker must be running: ferry worker (or ferry lab status)",
    },
    { cause },
  );

/** Runs one request; everything that it throws leaves as FerryError. */
export async function asking<Result>(asked: Asked, request: () => Promise<Result>): Promise<Result> {
  try {
    return await request();
  } catch (error) {
    throw toFerryError(error, asked);
  }
}

export const refuse = (code: FailureData["code"], message: string, remedy?: string): FerryError =>
  ferryError(code, message, remedy === undefined ? {} : { remedy });

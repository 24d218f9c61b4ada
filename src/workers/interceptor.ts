/** Adds workload, operation, epoch, side and phase to every log line of an activity, from its input. */
import type { ActivityInterceptorsFactory } from "@temporalio/worker";
import type { OperationRef } from "../model/contract.js";

const PHASE_OF: Record<string, string> = {
  preflightSource: "preflight",
  preflightDestination: "preflight",
  reserve: "reserve",
  takeOver: "restore",
  handOver: "freeze",
  cleanup: "cleanup",
};

export const logFields =
  (node: string): ActivityInterceptorsFactory =>
  (context) => {
    let fields: Record<string, unknown> = {};
    const phase = PHASE_OF[context.info.activityType];
    return {
      inbound: {
        execute: (input, next) => {
          fields = { ...describe(input.args[0], node), ...(phase === undefined ? {} : { phase }) };
          return next(input);
        },
      },
      outbound: { getLogAttributes: (input, next) => next({ ...input, ...fields }) },
    };
  };

function describe(input: unknown, node: string): Record<string, unknown> {
  if (typeof input !== "object" || input === null) return {};
  const { ref = input, spec } = input as { ref?: unknown; spec?: { name?: unknown } };
  const { workload, operation, epoch, to, source, destination } = ref as Partial<OperationRef>;
  const side = source === node ? "source" : destination === node ? "destination" : undefined;
  return {
    ...((workload ?? spec?.name) === undefined ? {} : { workload: workload ?? spec?.name }),
    ...(operation === undefined ? {} : { operation }),
    ...(epoch === undefined ? {} : { epoch: side === "destination" ? to : epoch }),
    ...(side === undefined ? {} : { side }),
  };
}

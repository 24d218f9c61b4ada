/** Adds workload, operation, epoch, side and phase to every log line of an activity: from its input and what it hears. */
import type { ActivityInterceptorsFactory } from "@temporalio/worker";
import { phaseOf } from "../activities/phase.js";
import type { OperationRef } from "../model/contract.js";
import type { Phase } from "../model/phase.js";

/** Steps that are one phase. The long ones go through many: theirs is in their heartbeats. */
const PHASE_OF: Record<string, Phase> = {
  preflightSource: "preflight",
  preflightDestination: "preflight",
  reserve: "reserve",
  cleanup: "cleanup",
};

export const logFields =
  (node: string): ActivityInterceptorsFactory =>
  (context) => {
    let fields: Record<string, unknown> = {};
    return {
      inbound: {
        execute: (input, next) => {
          fields = describe(input.args[0], node);
          return next(input);
        },
      },
      outbound: {
        getLogAttributes: (input, next) => {
          const phase = phaseOf(context) ?? PHASE_OF[context.info.activityType];
          return next({ ...input, ...fields, ...(phase === undefined ? {} : { phase }) });
        },
      },
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

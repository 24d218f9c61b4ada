/** What names an operation, and how long its workflow waits for nodes: parts of many inputs. Pure. */
import { object, whole } from "./fields.js";
import { isOperationId, isOperationOf, nameProblem } from "./names.js";
import { shown } from "./words.js";

export const MAX_EPOCH = 1_000_000_000;

export const tuningProblems = (tuning: unknown): string[] =>
  object("tuning", tuning, (fields) =>
    Object.entries(fields).map(([name, value]) =>
      typeof value === "number" && value >= 0
        ? undefined
        : `tuning.${shown(name)} must be a number, got ${shown(value)}`,
    ),
  );

export const refProblems = (ref: unknown): string[] =>
  object("ref", ref, ({ operation, workload, epoch, to, source, destination }) => [
    isOperationId(operation) ? undefined : `operation ${shown(operation)} is not valid`,
    isOperationOf(operation, workload) ? undefined : `operation ${shown(operation)} is not one of ${shown(workload)}`,
    nameProblem("workload", workload),
    nameProblem("node", source),
    nameProblem("node", destination),
    whole("epoch", epoch, 0, MAX_EPOCH),
    whole("to", to, 1, MAX_EPOCH),
  ]);

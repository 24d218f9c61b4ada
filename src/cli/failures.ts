/** From a thrown value to an exit code and words: what, why, where, what to do; never a stack trace unless asked for. */
import { failureClass, FerryError, toFailure, type FailureData } from "../model/failure.js";
import type { Outcome } from "../model/phase.js";
import { EXIT } from "./io.js";

export function exitCodeOf(failure: FailureData): number {
  if (failure.code === "E_IN_DOUBT" || failure.code === "E_STUCK" || failure.code === "E_PAST_COMMIT")
    return EXIT.doubt;
  if (failure.code === "E_CANCELLED") return EXIT.failed;
  return failureClass(failure.code) === "user" ? EXIT.usage : EXIT.failed;
}

export const exitCodeOfOutcome: Readonly<Record<Outcome, number>> = {
  moved: EXIT.moved,
  planned: EXIT.moved,
  "rolled-back": EXIT.failed,
  refused: EXIT.usage,
  "in-doubt": EXIT.doubt,
  stuck: EXIT.doubt,
};

/** A thrown value as failure data, with a remedy for what is not ours. */
export function failureOf(error: unknown): FailureData {
  const failure = toFailure(error);
  if (error instanceof FerryError || failure.remedy !== undefined) return failure;
  return { ...failure, remedy: "this should not happen: run it again with FERRY_DEBUG=1 and report what it prints" };
}

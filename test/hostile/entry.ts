/** The form of the corpus: what somebody hands in, and with which code and words it is refused. */
import { ApplicationFailure } from "@temporalio/common";
import { FerryError, type FailureCode, type FailureData } from "../../src/model/failure.js";

/** What is refused. */
export interface Refused {
  /** What is handed in, in words: a row of docs/bad-input.md. */
  input: string;
  /** Hands it to the real parser, which throws or rejects. */
  run: () => unknown;
  code: FailureCode;
  /** The part of the sentence that names what is wrong. */
  says: string;
}

/** What looks hostile and is taken, and how. */
export interface Taken {
  input: string;
  /** Asserts what became of it. */
  run: () => unknown;
  taken: string;
}

export type Entry = Refused | Taken;

export interface Room {
  title: string;
  entries: readonly Entry[];
}

export const refused = (input: string, code: FailureCode, says: string, run: () => unknown): Refused => ({
  input,
  code,
  says,
  run,
});
export const taken = (input: string, outcome: string, run: () => unknown): Taken => ({ input, taken: outcome, run });

/** Throws it: for those who answer with a failure instead of throwing one. */
export function raise(failure: FailureData | undefined): void {
  if (failure !== undefined) throw new FerryError(failure);
}

/** What was thrown as failure data; undefined when it is nobody's failure, which is a bug. */
export function failureOf(error: unknown): FailureData | undefined {
  if (error instanceof FerryError) return error.data;
  if (error instanceof ApplicationFailure) return error.details?.[0] as FailureData | undefined;
  return undefined;
}

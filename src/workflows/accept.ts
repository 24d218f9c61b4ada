/** Refuses what is no message of ours, in words, before a field of it is read (see model/request-check.ts). */
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

/** First line of every workflow: a wrong input fails it at once, instead of its task for ever. */
export function acceptInput(type: keyof typeof INPUT_PROBLEMS, input: unknown): void {
  refuseUnless(`the input of workflow ${type}`, INPUT_PROBLEMS[type](input));
}

/** The word of a person that a silent node is off: looked up, and not believed where it can't be of now. */
import type { FailureData } from "../model/failure.js";
import type { Tuning } from "../model/messages.js";
import { failure, nobodyThere, readFailure, shortly } from "./calls.js";

export interface Silent {
  workload: string;
  node: string;
  /** How it did not answer. */
  silence: FailureData;
  /** A node whose worker can look it up. */
  asked: string;
  /** A fence of before this (Unix milliseconds) is over: the node has been there since. `began`: what was then, in words. */
  since: number;
  began: string;
}

/**
 * The evidence that it is off. Throws E_STATE. One whose worker answers that its agent does not is not off: its copies may
 * well run.
 */
export async function fenced(
  { workload, node, silence, asked, since, began }: Silent,
  tuning: Tuning,
): Promise<string> {
  const refusal = (message: string, remedy: string) => failure({ code: "E_STATE", message, workload, remedy });
  if (!nobodyThere(silence)) {
    throw refusal(
      `${node} is not off, it only does not say what it has: ${silence.message}`,
      "mend its agent (ferry nodes); it settles by itself then. If it can't be mended, switch the machine off",
    );
  }
  let fence;
  try {
    fence = await shortly(asked, tuning, `was ${node} fenced?`).fenceOf(node);
  } catch (error) {
    throw failure(readFailure(error, asked));
  }
  if (fence === null) {
    throw refusal(
      `${node} does not answer, and nobody has fenced it: it may run ${workload}`,
      `switch it off, then say so: ferry fence ${node} --i-have-powered-it-off`,
    );
  }
  if (fence.at < since) {
    throw refusal(
      `${node} was fenced before ${began}, and has been there since`,
      `make sure that it is off now, then say so again: ferry fence ${node} --i-have-powered-it-off`,
    );
  }
  return `${node} was fenced: ${fence.evidence}`;
}

/** A long operation that is asked for again and again until it is done. */
import type { Step } from "../../model/contract.js";
import type { Progress } from "../../model/report.js";

export interface Running<Result> {
  result: Promise<Result>;
  progress(): Progress;
}

/** Waits up to `waitMs` for its end. */
export async function step<Result>(running: Running<Result>, waitMs: number): Promise<Step<Result>> {
  const pending = Symbol("pending");
  let timer: NodeJS.Timeout | undefined;
  const first = await Promise.race([
    running.result,
    new Promise<typeof pending>((resolve) => {
      timer = setTimeout(() => resolve(pending), waitMs);
    }),
  ]).finally(() => clearTimeout(timer));
  return first === pending ? { done: false, progress: running.progress() } : { done: true, result: first as Result };
}

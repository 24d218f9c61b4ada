/**
 * Was a workload let go with this checkpoint, and has nothing of it run since? Only then its connections may go on: whoever
 * has heard of what came later holds something else to be true. Pure: the workflow asks it of all journals, an agent of its own.
 */
import type { Checkpoint } from "./checkpoints.js";
import { RECOVERY } from "./names.js";
import type { Hold, HoldState } from "./ownership.js";

const NEVER_RAN: readonly HoldState[] = ["RESERVED", "RECEIVED", "PREPARED", "TOMBSTONE", "BURNED"];

/** May anything have run here under this hold? What was owned for a restore that never got so far has not. */
export const mayHaveRun = ({ state, operation, letRun }: Hold): boolean =>
  !NEVER_RAN.includes(state) && (letRun === true || !RECOVERY.test(operation ?? ""));

/** yes, no: a journal says so. unknown: these holds say nothing of it. */
export function letGoWith(
  { id, epoch }: Pick<Checkpoint, "id" | "epoch">,
  holds: readonly Hold[],
): "yes" | "no" | "unknown" {
  if (holds.some((hold) => hold.epoch > epoch && mayHaveRun(hold))) return "no";
  const own = holds.filter((hold) => hold.epoch === epoch && !NEVER_RAN.includes(hold.state));
  if (own.length === 0) return "unknown";
  return own.every(({ state, digest }) => state === "STOPPED" && digest === id) ? "yes" : "no";
}

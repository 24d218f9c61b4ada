/** How a checkpoint ended: what its workflow returns, and what a journal says when nobody else did. Pure. */
import type { OperationRef } from "./contract.js";
import type { SaveOptions, StoredCheckpoint } from "./checkpoints.js";
import type { FailureData } from "./failure.js";
import type { Hold } from "./ownership.js";
import type { PhaseTime } from "./report.js";
import { running } from "./settlement.js";

/** saved: it is in the store. failed: it is not, the workload is in `state`. unknown: the node did not say. */
export type CheckpointOutcome = "saved" | "failed" | "unknown";
/** The workload afterwards. `stopped`: nobody asked for that, it was stopped or ended meanwhile. */
export type StateAfter = "running" | "checkpointed" | "sleeping" | "stopped" | "unknown";

/** What one that was let go is then. */
export const letGoAs = ({ wakeOnTraffic }: Pick<SaveOptions, "wakeOnTraffic">): StateAfter =>
  wakeOnTraffic === true ? "sleeping" : "checkpointed";

export interface CheckpointReport {
  outcome: CheckpointOutcome;
  workload: string;
  operation: string;
  node: string;
  state: StateAfter;
  /** Under which it runs on, or was stopped. */
  epoch: number;
  checkpoint?: StoredCheckpoint;
  /** `checkpointed`: the node says that it was let go with this very checkpoint. */
  letGo?: true;
  /** Frozen until it ran again, or (--stop) until the checkpoint was there. */
  frozenMs?: number;
  phases: PhaseTime[];
  rounds: number;
  totalMs: number;
  reasons: string[];
  failure?: FailureData;
}

export interface JournalVerdict {
  state: StateAfter;
  epoch: number;
  /** `checkpointed`: with the checkpoint that has this id, if there is one of its epoch; agents of before don't say. */
  letGoWith?: string;
}

/** What a node's journal says of a workload that was to be saved; undefined: it is still held, ask again. */
export function journalSays(
  ref: OperationRef,
  options: Pick<SaveOptions, "stop" | "wakeOnTraffic">,
  holds: readonly Hold[],
): JournalVerdict | undefined {
  const runs = running(holds);
  if (runs !== undefined) return { state: "running", epoch: runs.epoch };
  const hold = holds.find(({ epoch }) => epoch === ref.epoch);
  // Superseded, or forgotten: whatever it was, this checkpoint has no say in it any more.
  if (hold === undefined || hold.state === "SUPERSEDED") return { state: "unknown", epoch: ref.epoch };
  if (hold.state === "STOPPED") {
    const { digest } = hold;
    return {
      state: options.stop ? letGoAs(options) : "stopped",
      epoch: ref.epoch,
      ...(options.stop && digest !== undefined && { letGoWith: digest }),
    };
  }
  return undefined;
}

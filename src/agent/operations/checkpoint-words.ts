/** What a checkpoint says of itself in the store, and why there is none. */
import { arch, cpus, release } from "node:os";
import type { OperationRef, SaveInput } from "../../model/contract.js";
import { ferryError, type FailureData, type FerryError } from "../../model/failure.js";
import type { CheckpointSaid } from "../../model/mover.js";
import type { HoldState } from "../../model/ownership.js";
import type { WorkloadSpec } from "../../model/workload.js";
import { cut } from "../../model/words.js";
import { criuVersion } from "../../host/facts.js";
import type { SaveRecord } from "../book.js";

const MAX_WORDS = 500;

export const wasCut = (): FerryError =>
  ferryError("E_AGENT_DOWN", "the agent was restarted while the workload was frozen", {
    side: "source",
    remedy: "it runs on; take the checkpoint again",
  });

export const gone = (workload: string): FerryError =>
  ferryError("E_STATE", `${workload} is gone: this machine was switched off while it was frozen`, {
    side: "source",
    remedy: `run it from its last checkpoint: ferry restore ${workload}; or anew`,
  });

export const notHere = ({ epoch, workload }: OperationRef, state: HoldState | undefined): FerryError =>
  ferryError("E_STATE", `no checkpoint was taken: epoch ${epoch} of ${workload} is ${state ?? "unknown"}`, {
    side: "source",
    remedy: "take it again where the workload runs now",
  });

/** As the journal keeps it: a full disk has room for it, too. */
export const inShort = ({ code, message, remedy }: FailureData): NonNullable<SaveRecord["failure"]> => ({
  code,
  message: cut(message, MAX_WORDS),
  ...(remedy === undefined ? {} : { remedy: cut(remedy, MAX_WORDS) }),
});

/** It was to be let go with this one. */
export const notWhole = ({ id, workload }: { id: string; workload: string }, cause: FailureData): FerryError =>
  ferryError(cause.code, `${workload} was not let go: checkpoint ${id} was stored, and not all of it is found there`, {
    side: "source",
    cause,
    remedy:
      cause.code === "E_STORE"
        ? "it runs on; take it again when the store can be reached"
        : `it runs on; see what became of the store, remove that one (ferry checkpoints rm ${workload} ${id}), and take it again`,
  });

export async function saidOf(
  { ref, options }: SaveInput,
  spec: WorkloadSpec,
  frozenAt: number | undefined,
): Promise<CheckpointSaid> {
  const { reason, requestedBy, labels, stop } = options;
  return {
    workload: ref.workload,
    epoch: ref.epoch,
    runtime: spec.runtime,
    node: ref.source,
    criuVersion: await criuVersion(),
    kernel: release(),
    cpu: cpus()[0]?.model ?? "",
    arch: arch(),
    reason,
    requestedBy,
    labels,
    ...(frozenAt === undefined ? {} : { takenAt: Math.round(frozenAt) }),
    ...(stop ? { stopped: true } : {}),
  };
}

/** Starting a workload on a node. The undo (stop, forget) is decided before the start is asked for. */
import { sleep } from "@temporalio/workflow";
import { CONTRACT_SCHEMA, type Observation } from "../model/contract.js";
import type { FailureData } from "../model/failure.js";
import type { Tuning } from "../model/messages.js";
import { operationId } from "../model/names.js";
import { highestSequence, nextEpoch, running } from "../model/settlement.js";
import type { WorkloadSpec } from "../model/workload.js";
import { isRefusal, isSilence, readFailure, shortly, tryAsk } from "./calls.js";
import { knock } from "./knock.js";
import { sameSpec } from "./may.js";

export interface StartOn {
  spec: WorkloadSpec;
  node: string;
  sequence: number;
  /** Highest epoch that the entity knows of; 0 for a new one. */
  epoch: number;
  tuning: Tuning;
}
export type StartResult =
  | { started: true; epoch: number; sequence: number }
  | { started: false; failure: FailureData; nothingLeft: boolean; epoch?: number };

export async function startOn(ask: StartOn): Promise<StartResult> {
  const { spec, node, tuning } = ask;
  const workload = spec.name;
  const schema = CONTRACT_SCHEMA;
  const seen = await tryAsk(node, () =>
    shortly(node, tuning, "read the journal").observeWorkload({ schema, workload }),
  );
  if (seen.failure) return { started: false, nothingLeft: true, failure: await unknownOrAway(node, seen.failure) };

  const sequence = Math.max(ask.sequence, highestSequence(seen.answer.holds) + 1);
  const there = running(seen.answer.holds);
  if (there !== undefined && seen.answer.processes > 0) {
    if (seen.answer.spec !== undefined && sameSpec(seen.answer.spec, spec)) {
      // Its entity was lost (terminated): what runs is what was asked for, so it is taken over as it is.
      return { started: true, epoch: there.epoch, sequence };
    }
    return { started: false, nothingLeft: true, failure: exists(workload, node, seen.answer) };
  }

  const epoch = nextEpoch(ask.epoch, seen.answer.holds);
  const fresh = seen.answer.holds.length === 0;
  const operation = operationId(workload, "start", sequence);
  const started = await tryAsk(node, () =>
    shortly(node, tuning, "start").startWorkload({ schema, operation, epoch, spec }),
  );
  if (!started.failure) return { started: true, epoch: started.answer.epoch, sequence };
  if (isRefusal(started.failure)) return { started: false, nothingLeft: true, epoch, failure: started.failure };
  // It was tried, and its log says why it failed: kept, with its entity, until it is removed or started again.
  const tried = started.failure.code === "E_START";
  const undone = await undo(ask, epoch, fresh && !tried);
  const nothingLeft = undone && !tried;
  return { started: false, nothingLeft: nothingLeft && ask.epoch === 0, epoch, failure: started.failure };
}

/** Whether it was started or not: afterwards it is not. */
async function undo({ node, spec, tuning }: StartOn, epoch: number, fresh: boolean): Promise<boolean> {
  const ref = { schema: CONTRACT_SCHEMA, workload: spec.name };
  const deadline = Date.now() + tuning.patienceMs;
  for (let round = 0; ; round += 1) {
    const undone = await tryAsk(node, async () => {
      const there = shortly(node, tuning, "undo the start");
      const now = await there.observeWorkload(ref);
      if (now.holds.some((hold) => hold.epoch === epoch && hold.state === "OWNER")) {
        await there.stopWorkload({ ...ref, epoch, graceMs: 0 });
      }
      if (fresh) await there.removeWorkload(ref);
    });
    if (!undone.failure) return true;
    if (!isSilence(undone.failure) || Date.now() > deadline) return false;
    await sleep(Math.min(tuning.backoffMs * 1.6 ** round, tuning.maxBackoffMs));
  }
}

async function unknownOrAway(node: string, why: FailureData): Promise<FailureData> {
  if (why.code !== "E_NODE_UNREACHABLE") return why;
  try {
    await knock(node);
    return why;
  } catch (error) {
    return readFailure(error, node);
  }
}

const exists = (workload: string, node: string, seen: Observation): FailureData => ({
  code: "E_WORKLOAD_EXISTS",
  message: `${workload} runs on ${node} already (epoch ${running(seen.holds)?.epoch ?? 0}), with another spec`,
  workload,
  node,
  remedy: `choose another name, or stop what runs there`,
});

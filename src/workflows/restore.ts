/**
 * A workload of which nothing runs is run from one of its checkpoints; a new one from a checkpoint of another: a clone. Every
 * node that is known must say first that it has no copy of it, as before a start. It gets an epoch that nobody has seen.
 */
import type { ListedCheckpoint, StoredCheckpoint } from "../model/checkpoints.js";
import { chooseCheckpoint, type Wanted } from "../model/checkpoint-choice.js";
import { CONTRACT_SCHEMA, type OperationRef } from "../model/contract.js";
import { toFailure } from "../model/failure.js";
import type { Restored, Tuning } from "../model/messages.js";
import { operationId, operationWorkflowId } from "../model/names.js";
import type { Hold } from "../model/ownership.js";
import { highestSequence, nextEpoch, startProblem } from "../model/settlement.js";
import type { WorkloadSpec } from "../model/workload.js";
import { askEach, failure, patiently, shortly, tryAsk } from "./calls.js";
import { knock } from "./knock.js";
import { demandOff, goesOn, settleAttempts, staleOf, tellStale, type Attempts } from "./recover.js";

/** A node that has not answered within this long is silent. */
const OTHERS_MS = 3_000;

export interface RestoreOn extends Attempts {
  spec: WorkloadSpec;
  node: string;
  /** Whose checkpoint. */
  of: string;
  wanted: Wanted;
  /** Where it was; missing: it is new. */
  last?: string;
  /** Under which it was there (0: it is new), and the highest that was ever given out. */
  epoch: number;
  highest: number;
  sequence: number;
  off: readonly string[];
  lazy: boolean;
  dryRun: boolean;
  tuning: Tuning;
  /** It may run there from now on. */
  begins: (ref: OperationRef) => void;
}

/** Throws what stands against it: as long as `begins` was not called, nothing has been started anywhere. */
export async function restoreOn(ask: RestoreOn): Promise<Restored & { sequence: number }> {
  const { spec, node, of, tuning, dryRun } = ask;
  const lazy = ask.lazy ? { lazy: true } : {};
  const workload = spec.name;
  if (!dryRun) {
    const begun = await settleAttempts(ask, async (silent) => void (await demandOff(ask, silent)));
    if (begun !== undefined) {
      const { ref, checkpoint } = begun;
      const there = patiently(ref.destination, tuning, "go on with the restore");
      await goesOn(ask, ref, () => there.restoreWorkload({ ref, spec, checkpoint, of, ...lazy }));
      return { ...asBefore(ref), sequence: ask.sequence };
    }
  }
  const seen = await askAll(ask);
  const open = seen
    .map((other) => startProblem(workload, other.node, other.holds))
    .find((found) => found !== undefined);
  if (open !== undefined) throw failure(open);
  const checkpoint = await choose(ask);
  const holds = seen.map((other) => other.holds);
  // An entity that is new again: what its nodes remember goes on from there.
  const sequence = Math.max(ask.sequence, highestSequence(holds.flat()) + 1);
  const epoch = Math.max(ask.epoch, 1);
  const ref: OperationRef = {
    schema: CONTRACT_SCHEMA,
    operation: operationId(workload, "restore", sequence),
    workload,
    epoch,
    to: nextEpoch(Math.max(epoch, ask.highest, of === workload ? checkpoint.epoch : 0), ...holds),
    source: ask.last ?? node,
    destination: node,
  };
  const from = of === workload ? `checkpoint ${checkpoint.id}` : `checkpoint ${checkpoint.id} of ${of}`;
  const when = new Date(checkpoint.takenAt).toISOString();
  const said = (how: string): Restored & { sequence: number } => ({
    operation: ref.operation,
    node,
    epoch: ref.to,
    checkpoint: checkpoint.id,
    takenAt: checkpoint.takenAt,
    planned: dryRun,
    message: `${workload} ${how} on ${node} under epoch ${ref.to}, from ${from}: as it was at ${when}`,
    sequence,
  });
  if (dryRun) return said("would run");
  ask.begins(ref);
  const started = await tryAsk(node, () =>
    patiently(node, tuning, "restore").restoreWorkload({ ref, spec, checkpoint: checkpoint.id, of, ...lazy }),
  );
  if (started.failure) throw failure(started.failure);
  // Nodes that were asked before, fell silent and were fenced: whatever was said of them, one may run it when it is back.
  const stale = ask.attempted.map((attempt) => staleOf(ref, attempt));
  await tellStale(operationWorkflowId(workload, "restore", sequence), stale, tuning);
  return said("runs");
}

const asBefore = ({ operation, destination, workload, to }: OperationRef): Restored => ({
  operation,
  node: destination,
  epoch: to,
  checkpoint: "",
  takenAt: 0,
  planned: false,
  message: `${workload} runs on ${destination} under epoch ${to}, as was asked before (${operation})`,
});

/** What every node that is known holds of it. One that is silent is a reason to refuse, unless a person says that it is off. */
async function askAll({ spec, node, tuning, off }: RestoreOn): Promise<{ node: string; holds: Hold[] }[]> {
  const workload = spec.name;
  const known = await tryAsk(node, () => shortly(node, tuning, "which nodes are there?").knownNodes());
  if (known.failure) {
    if (known.failure.code === "E_NODE_UNREACHABLE") await knock(node);
    throw failure(known.failure);
  }
  const quick = {
    ...tuning,
    scheduleToStartMs: Math.min(tuning.scheduleToStartMs, OTHERS_MS),
    startToCloseMs: Math.min(tuning.startToCloseMs, OTHERS_MS),
  };
  const all = [...new Set([...known.answer, node])].sort();
  const said = await askEach(all, (name) =>
    shortly(name, name === node ? tuning : quick, "does it have it?").observeWorkload({
      schema: CONTRACT_SCHEMA,
      workload,
    }),
  );
  const away = said.filter((one) => one.failure !== undefined && (one.node === node || !off.includes(one.node)));
  const [first] = away;
  if (first?.failure !== undefined) {
    const names = away.map((one) => one.node).join(", ");
    throw failure({
      code: first.failure.code,
      message: `${workload} is not restored: ${names} can't say whether it has a copy of it: ${first.failure.message}`,
      workload,
      node: first.node,
      remedy: `bring ${names} back, then ask again; one that is switched off and stays so is named with --off`,
    });
  }
  return said.flatMap((one) => (one.answer === undefined ? [] : [{ node: one.node, holds: one.answer.holds }]));
}

async function choose({ of, node, wanted, tuning }: RestoreOn): Promise<StoredCheckpoint> {
  const listed = await tryAsk(node, () =>
    shortly(node, tuning, "which checkpoints are there?").listCheckpoints({ schema: CONTRACT_SCHEMA, workload: of }),
  );
  if (listed.failure) throw failure(listed.failure);
  const checkpoint = chosen(of, listed.answer, wanted);
  if (checkpoint.nodes !== undefined && !checkpoint.nodes.includes(node)) {
    throw failure({
      code: "E_NO_CHECKPOINT",
      message: `${node} can't read checkpoint ${checkpoint.id} of ${of} (${checkpoint.where})`,
      workload: of,
      remedy: `restore it on ${checkpoint.nodes.join(" or ")}`,
    });
  }
  return checkpoint;
}

/** A plain error would only fail the task, again and again. */
function chosen(of: string, listed: readonly ListedCheckpoint[], wanted: Wanted): StoredCheckpoint {
  try {
    return chooseCheckpoint(of, listed, wanted);
  } catch (error) {
    throw failure(toFailure(error));
  }
}

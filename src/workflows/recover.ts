/**
 * A workload whose node is lost runs elsewhere, from its newest checkpoint, by a person's word. Never by a clock: only when
 * the node was fenced, under an epoch that nobody has seen, and when it is known and accepted what is lost. The node that
 * comes back is told by the new owner's signed word, which waits in its queue, and kills its stale copy (`supersede`).
 */
import {
  ActivityCancellationType,
  CancellationScope,
  ParentClosePolicy,
  continueAsNew,
  patched,
  setCurrentDetails,
  sleep,
  startChild,
} from "@temporalio/workflow";
import type { Checkpoint } from "../model/checkpoints.js";
import { CONTRACT_SCHEMA, type Inquiry, type NodeActivities, type OperationRef } from "../model/contract.js";
import type { FailureData } from "../model/failure.js";
import { formatMs } from "../model/format.js";
import { WORKFLOW, type Recovered, type SupersedeInput, type Tuning } from "../model/messages.js";
import { nodeTaskQueue, operationId, operationWorkflowId } from "../model/names.js";
import type { Hold } from "../model/ownership.js";
import { nextEpoch, startProblem } from "../model/settlement.js";
import type { WorkloadSpec } from "../model/workload.js";
import { acceptInput } from "./accept.js";
import { askEach, backoffMs, beaten, failure, isSilence, once, shortly, tryAsk } from "./calls.js";
import { KEYS, attributes } from "./console.js";
import { fenced } from "./fenced.js";
import { knock } from "./knock.js";
import { measure } from "./length.js";

/** Earlier attempts to run it somewhere whose answer was lost: each may run it. One that is settled leaves the list. */
export interface Attempts {
  attempted: OperationRef[];
  spec: WorkloadSpec;
  /** Where it is to be. */
  node: string;
  /** Since when it was where it was last, Unix milliseconds. */
  arrivedAt: number;
  tuning: Tuning;
}

export interface RecoverOn extends Attempts {
  /** Where it was. */
  lost: string;
  /** Under which it was there, and the highest that was ever given out. */
  epoch: number;
  highest: number;
  sequence: number;
  acceptRollback: boolean;
  /** Another epoch under which it may run where it was: kept for a checkpoint whose end is not known. */
  kept?: number;
  /** It may run there from now on. */
  begins: (ref: OperationRef) => void;
}

/** Throws what stands against it: as long as `begins` was not called, nothing has been started anywhere. */
export async function recoverOn(ask: RecoverOn): Promise<Recovered> {
  const { spec, lost, node, tuning } = ask;
  const workload = spec.name;
  const before = await settleAttempts(ask, async (silent) => void (await demandOff(ask, silent)));
  if (before !== undefined) {
    const { ref: begun, checkpoint: id } = before;
    await goesOn(ask, begun, () =>
      shortly(begun.destination, tuning, "go on").recoverWorkload({ ref: begun, spec, checkpoint: id }),
    );
    await tellTheLost(begun, ask);
    return recovered(begun, `as was asked before (${begun.operation})`);
  }
  const evidence = await demandOff(ask, lost);
  const seen = await observeAll(ask);
  const open = seen
    .map((other) => startProblem(workload, other.node, other.holds))
    .find((found) => found !== undefined);
  if (open !== undefined) throw failure(open);
  const checkpoint = await newest(ask);
  const loss = `what it did after ${new Date(checkpoint.takenAt).toISOString()} (${formatMs(Date.now() - checkpoint.takenAt)} ago) is lost`;
  if (!ask.acceptRollback && spec.onNodeLoss !== "restore") {
    throw failure({
      code: "E_STATE",
      message: `the newest checkpoint of ${workload} is ${checkpoint.id} (${checkpoint.where}): ${loss}`,
      workload,
      remedy: `say that this is accepted: ferry recover ${workload} --node ${node} --accept-rollback`,
    });
  }
  const highest = Math.max(ask.epoch, ask.highest, checkpoint.epoch);
  const ref: OperationRef = {
    schema: CONTRACT_SCHEMA,
    operation: operationId(workload, "recover", ask.sequence),
    workload,
    epoch: ask.epoch,
    to: nextEpoch(highest, ...seen.map(({ holds }) => holds)),
    source: lost,
    destination: node,
  };
  ask.begins(ref);
  const started = await tryAsk(node, () =>
    shortly(node, tuning, "recover").recoverWorkload({ ref, spec, checkpoint: checkpoint.id }),
  );
  if (started.failure) {
    await neverBegins(ask, ref, started.failure);
    throw failure(started.failure);
  }
  await tellTheLost(ref, ask);
  return recovered(ref, `from checkpoint ${checkpoint.id}: ${loss}; ${evidence}`);
}

const recovered = ({ operation, destination, workload, to }: OperationRef, how: string): Recovered => ({
  operation,
  node: destination,
  epoch: to,
  message: `${workload} runs on ${destination} under epoch ${to}, ${how}`,
});

/** Earlier than now, and from which checkpoint. */
export interface Begun {
  ref: OperationRef;
  checkpoint: string;
}

/**
 * Attempts whose answer was lost: each node says now whether it runs it, or refuses it for ever. One that is silent must have
 * been fenced.
 */
export async function settleAttempts(
  ask: Attempts,
  demandOff: (silent: string) => Promise<void>,
): Promise<Begun | undefined> {
  const open: OperationRef[] = [];
  let begun: Begun | undefined;
  for (const ref of ask.attempted) {
    const { destination } = ref;
    const said = await tryAsk(destination, () => shortly(destination, ask.tuning, "did it begin?").refuse(ref));
    if (said.failure) {
      if (destination === ask.node) throw failure(said.failure);
      await demandOff(destination);
      open.push(ref);
    } else {
      const own = ownHold(said.answer, ref);
      if (own !== undefined) begun = { ref, checkpoint: own.digest ?? "" };
    }
  }
  ask.attempted.splice(0, ask.attempted.length, ...open);
  return begun;
}
/** By its holds: where source and destination are the same node, the answer's own state is of the epoch before. */
const ownHold = ({ holds }: Inquiry, ref: OperationRef): Hold | undefined =>
  holds.find((hold) => hold.epoch === ref.to && hold.state === "OWNER");

/**
 * Its journal owns it, which is written before anything runs: an agent that died then goes on only when it is asked again.
 * Asked of one that runs, it says so.
 */
export async function goesOn(ask: Attempts, ref: OperationRef, again: () => Promise<unknown>): Promise<void> {
  if (!patched("an attempt that owns it goes on")) return;
  const { failure: why } = await tryAsk(ref.destination, again);
  if (why === undefined) return;
  if (isSilence(why)) ask.attempted.push(ref);
  throw failure(why);
}

/**
 * The node has said no: from now on it says so for ever, also to a call of then that still hangs somewhere. Without its word
 * nobody knows whether it will run it.
 */
export async function neverBegins(ask: Attempts, ref: OperationRef, why: FailureData): Promise<void> {
  if (isSilence(why) || !patched("what was refused never begins")) return;
  const { destination } = ref;
  const said = await tryAsk(destination, () => shortly(destination, ask.tuning, "it never begins").refuse(ref));
  if (said.failure || ownHold(said.answer, ref) !== undefined) ask.attempted.push(ref);
}

const quick = (tuning: Tuning): Tuning => ({ ...tuning, startToCloseMs: Math.min(tuning.startToCloseMs, 5_000) });

/** It is silent, and was fenced since the workload came there. Returns the evidence. */
export async function demandOff({ spec, node, tuning, arrivedAt }: Attempts, lost: string): Promise<string> {
  const workload = spec.name;
  const { answer, failure: silence } = await tryAsk(lost, () =>
    once(lost, quick(tuning), "is it off?").observeWorkload({ schema: CONTRACT_SCHEMA, workload }),
  );
  if (answer !== undefined) {
    throw failure({
      code: "E_STATE",
      message: `${lost} answers: it is not lost, and has ${workload} (${answer.processes} processes)`,
      workload,
      node: lost,
      remedy: `move it instead: ferry migrate ${workload} --to ${node}`,
    });
  }
  return fenced(
    { workload, node: lost, silence, asked: node, since: arrivedAt, began: `${workload} came there` },
    tuning,
  );
}

/** What all nodes hold of it, the new one among them. Others that are silent have never been given it to keep. */
async function observeAll(ask: RecoverOn): Promise<{ node: string; holds: Hold[] }[]> {
  const { spec, node, lost, tuning } = ask;
  const workload = spec.name;
  const known = await tryAsk(node, () => shortly(node, tuning, "which nodes are there?").knownNodes());
  if (known.failure) {
    if (known.failure.code === "E_NODE_UNREACHABLE") await knock(node);
    throw failure(known.failure);
  }
  const all = [...new Set([...known.answer, node])].filter((name) => name !== lost).sort();
  const said = await askEach(all, (name) =>
    once(name, quick(tuning), "does it have it?").observeWorkload({ schema: CONTRACT_SCHEMA, workload }),
  );
  return said.flatMap((one) => {
    if (one.answer !== undefined) return [{ node: one.node, holds: one.answer.holds }];
    if (one.node === node) throw failure(one.failure);
    return [];
  });
}

async function newest({ spec, node, epoch, tuning }: RecoverOn): Promise<Checkpoint> {
  const workload = spec.name;
  const found = await tryAsk(node, () =>
    shortly(node, tuning, "newest checkpoint").newestCheckpoint({ schema: CONTRACT_SCHEMA, workload }),
  );
  if (found.failure) throw failure(found.failure);
  const checkpoint = found.answer;
  if (checkpoint === null) {
    throw failure({
      code: "E_NO_CHECKPOINT",
      message: `there is no checkpoint of ${workload} that ${node} could run it from`,
      workload,
      remedy: "bring the lost node back: what it runs is only there",
    });
  }
  if (checkpoint.epoch > epoch) {
    throw failure({
      code: "E_STATE",
      message: `checkpoint ${checkpoint.id} of ${workload} is of epoch ${checkpoint.epoch}, later than the ${epoch} that was lost`,
      workload,
      remedy: `see where it runs: ferry inspect ${workload}`,
    });
  }
  if (checkpoint.nodes !== undefined && !checkpoint.nodes.includes(node)) {
    throw failure({
      code: "E_NO_CHECKPOINT",
      message: `${node} can't read checkpoint ${checkpoint.id} of ${workload} (${checkpoint.where})`,
      workload,
      remedy: `recover it on ${checkpoint.nodes.join(" or ")}`,
    });
  }
  return checkpoint;
}

/** The node that was lost, and those where an attempt may yet run it. */
function tellTheLost(ref: OperationRef, { attempted, sequence, tuning, kept }: RecoverOn): Promise<void> {
  const under = operationWorkflowId(ref.workload, "recover", sequence);
  const stale = [ref, ...attempted.map((attempt) => staleOf(ref, attempt))];
  return tellStale(under, kept === undefined ? stale : [...stale, { ...ref, epoch: kept }], tuning, kept);
}

/** Where an earlier attempt may yet run it, as the one that `ref` supersedes. */
export const staleOf = (ref: OperationRef, { destination, to }: OperationRef): OperationRef => ({
  ...ref,
  source: destination,
  epoch: to,
});

/** Each is told when it comes back; `kept`: an epoch of a node that is told of another one, too. */
export async function tellStale(
  under: string,
  stale: readonly OperationRef[],
  tuning: Tuning,
  kept?: number,
): Promise<void> {
  for (const each of stale) {
    const input: SupersedeInput = { ref: each, tuning };
    await startChild(WORKFLOW.supersede, {
      workflowId: `${under}/supersede/${each.source}${each.epoch === kept ? `/${kept}` : ""}`,
      args: [input],
      parentClosePolicy: ParentClosePolicy.ABANDON,
      staticSummary: `${each.source} is told that ${each.workload} runs on ${each.destination} now, when it comes back`,
      typedSearchAttributes: [
        { key: KEYS.FerryWorkload, value: each.workload },
        { key: KEYS.FerryNode, value: each.source },
        { key: KEYS.FerryState, value: "superseding" },
      ],
    });
  }
}

/** It waits in the queue of the node that is away: its worker takes it as soon as it is back. */
const DAY_MS = 24 * 3_600_000;
/** The history of a workflow that waits for its owner's word must not grow for days. */
const LONGEST_PAUSE_MS = 600_000;

/** Workflow: open for as long as the lost node is away; ends when that has no copy of it any more. */
export async function supersede(input: SupersedeInput): Promise<void> {
  acceptInput("supersede", input);
  const { ref, tuning } = input;
  const long = measure(tuning, "operation");
  const show = attributes();
  const title = `### ${ref.workload}: ${ref.source} is told that ${ref.destination} has it now`;
  const waiting = beaten<NodeActivities>({
    taskQueue: nodeTaskQueue(ref.source),
    summary: `kill what is stale there @ ${ref.source}`,
    cancellationType: ActivityCancellationType.TRY_CANCEL,
    scheduleToStartTimeout: DAY_MS,
    startToCloseTimeout: tuning.startToCloseMs,
    retry: { maximumAttempts: 3 },
  });
  let { receipt } = input;
  await CancellationScope.nonCancellable(async () => {
    for (let round = input.round ?? 0; ; round += 1) {
      const owner = await tryAsk(ref.destination, () => once(ref.destination, tuning, "its word").inquire(ref));
      // It may have moved on, or be lost, meanwhile: what it has said once still holds.
      receipt = owner.answer?.receipt ?? receipt;
      let why = owner.failure?.message ?? `${ref.destination} does not say that it owns epoch ${ref.to}`;
      if (receipt !== undefined) {
        const signed = receipt;
        const told = await tryAsk(ref.source, () => waiting.supersede({ ref, receipt: signed }));
        if (told.answer !== undefined) break;
        why = told.failure.message;
      }
      setCurrentDetails(
        [
          title,
          "",
          `Not yet: ${why}`,
          "",
          "Nothing waits for this. A node that is away is told as soon as it is back.",
        ].join("\n"),
      );
      await sleep(backoffMs(tuning, round, LONGEST_PAUSE_MS));
      if (long()) {
        const next: SupersedeInput = { ref, tuning, round: round + 1, ...(receipt && { receipt }) };
        await continueAsNew<typeof supersede>(next);
      }
    }
  });
  show({ FerryState: "superseded" });
  setCurrentDetails([title, "", `Done: nothing of epoch ${ref.epoch} runs there.`].join("\n"));
}

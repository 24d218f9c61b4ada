/**
 * A workload of which nothing runs is run from one of its checkpoints; a new one from a checkpoint of another: a clone. Every
 * node that is known must say first that it has no copy of it, or have been fenced. It gets an epoch that nobody has seen.
 */
import { patched } from "@temporalio/workflow";
import { addressProblem } from "../model/address.js";
import type { ListedCheckpoint, StoredCheckpoint } from "../model/checkpoints.js";
import { chooseCheckpoint, type Wanted } from "../model/checkpoint-choice.js";
import { CONTRACT_SCHEMA, type OperationRef } from "../model/contract.js";
import { toFailure, type FailureData } from "../model/failure.js";
import { letGoWith } from "../model/let-go.js";
import type { Restored, Sleep, Tuning } from "../model/messages.js";
import { operationId, operationWorkflowId } from "../model/names.js";
import type { Hold } from "../model/ownership.js";
import { highestSequence, nextEpoch, startProblem } from "../model/settlement.js";
import type { WorkloadSpec } from "../model/workload.js";
import { askEach, askForCopies, failure, patiently, shortly, tryAsk, type Copies } from "./calls.js";
import { fenced } from "./fenced.js";
import { knock } from "./knock.js";
import { demandOff, goesOn, neverBegins, settleAttempts, staleOf, tellStale, type Attempts } from "./recover.js";

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
  /** Id of the checkpoint that it was let go with, as its node said; nothing was begun since. */
  letGo?: string;
  /** Its address is held there. It is let go before anything begins elsewhere: `sleepsNoMore`. */
  sleep?: Sleep;
  sleepsNoMore: () => void;
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
      if (ask.attempted.length > 0 && patched("attempts elsewhere are told")) {
        const stale = ask.attempted.map((attempt) => staleOf(ref, attempt));
        await tellStale(operationWorkflowId(workload, "restore", ask.sequence), stale, tuning);
      }
      return { ...asBefore(ref), sequence: ask.sequence };
    }
  }
  const { seen, silent } = await askAll(ask);
  const off = await demandFenced(ask, silent);
  const open = seen
    .flatMap(({ node: other, holds, held }) => [
      startProblem(workload, other, holds),
      addressProblem(spec, other, held),
    ])
    .find((found) => found !== undefined);
  if (open !== undefined) throw failure(open);
  const checkpoint = await choose(ask);
  const holds = seen.map((other) => other.holds);
  const letGo = wasLetGo(ask, checkpoint, holds.flat(), silent.length === 0);
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
  const byTime =
    ask.wanted.at === undefined ? "" : `: the newest by then, by the clock alone (epoch ${checkpoint.epoch})`;
  const said = (how: string): Restored & { sequence: number } => ({
    operation: ref.operation,
    node,
    epoch: ref.to,
    checkpoint: checkpoint.id,
    takenAt: checkpoint.takenAt,
    planned: dryRun,
    message: `${workload} ${how} on ${node} under epoch ${ref.to}, from ${from}: as it was at ${when}${byTime}`,
    sequence,
  });
  if (dryRun) return said("would run");
  await letAddressGo(ask, seen);
  ask.begins(ref);
  const started = await tryAsk(node, () =>
    patiently(node, tuning, "restore").restoreWorkload({
      ref,
      spec,
      checkpoint: checkpoint.id,
      of,
      ...lazy,
      ...(letGo && { letGoWith: checkpoint.id }),
    }),
  );
  if (started.failure) {
    await neverBegins(ask, ref, started.failure);
    throw failure(started.failure);
  }
  // Nodes that were asked before, or are off, and were fenced: whatever was said of them, one may run it when it is back.
  const stale = ask.attempted.map((attempt) => staleOf(ref, attempt));
  for (const node of off) if (stale.every(({ source }) => source !== node)) stale.push({ ...ref, source: node });
  await tellStale(operationWorkflowId(workload, "restore", sequence), stale, tuning);
  return said("runs");
}

/** Two that answer for one address are worse than none. A node that is off answers for nothing; when it is back it asks first. */
async function letAddressGo(ask: RestoreOn, seen: readonly { node: string }[]): Promise<void> {
  const { spec, node, tuning, sleep, sleepsNoMore } = ask;
  if (sleep === undefined || sleep.node === node) return;
  // Else a person has said that it is off: it has just been asked.
  const there = seen.some((other) => other.node === sleep.node);
  const told =
    there &&
    (await tryAsk(sleep.node, () =>
      shortly(sleep.node, tuning, "let its address go").stopWorkload({
        schema: CONTRACT_SCHEMA,
        workload: spec.name,
        epoch: sleep.epoch,
        graceMs: 0,
      }),
    ));
  if (told !== false && told.failure !== undefined) throw failure(told.failure);
  sleepsNoMore();
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

interface Asked {
  seen: (Copies & { node: string })[];
  /** A person says that these are off. */
  silent: { node: string; silence: FailureData }[];
}

/** What every node that is known holds of it. One that is silent is a reason to refuse, unless a person says that it is off. */
async function askAll({ spec, node, tuning, off }: RestoreOn): Promise<Asked> {
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
  const said = await askEach(all, (name) => askForCopies(name, name === node ? tuning : quick, workload));
  const away = said.filter((one) => one.failure !== undefined && (one.node === node || !off.includes(one.node)));
  const [first] = away;
  if (first?.failure !== undefined) {
    const names = away.map((one) => one.node).join(", ");
    throw failure({
      code: first.failure.code,
      message: `${workload} is not restored: ${names} can't say whether it has a copy of it: ${first.failure.message}`,
      workload,
      node: first.node,
      remedy: `bring ${names} back, then ask again; one that is switched off and stays so is fenced (ferry fence) and named with --off`,
    });
  }
  return {
    seen: said.flatMap((one) => (one.answer === undefined ? [] : [{ node: one.node, ...one.answer }])),
    silent: said.flatMap((one) => (one.failure === undefined ? [] : [{ node: one.node, silence: one.failure }])),
  };
}

/** A word is not enough that these are off: they were fenced. Answers whom to tell, when they are back, that it runs here now. */
async function demandFenced(ask: RestoreOn, silent: Asked["silent"]): Promise<string[]> {
  if (silent.length === 0 || !patched("what is off was fenced, and is told")) return [];
  const { spec, node: asked, last, arrivedAt, attempted, tuning } = ask;
  const workload = spec.name;
  for (const { node, silence } of silent) {
    if (attempted.some(({ destination }) => destination === node)) continue;
    const since = node === last ? arrivedAt : 0;
    await fenced({ workload, node, silence, asked, since, began: `${workload} came there` }, tuning);
  }
  return silent.map(({ node }) => node);
}

/** By all journals; what a node that is off would say, its entity must remember. */
function wasLetGo(ask: RestoreOn, checkpoint: StoredCheckpoint, holds: readonly Hold[], everybody: boolean): boolean {
  if (ask.of !== ask.spec.name || ask.epoch !== checkpoint.epoch) return false;
  const verdict = letGoWith(checkpoint, holds);
  return verdict !== "no" && (ask.letGo === checkpoint.id || (verdict === "yes" && everybody));
}

async function choose({ spec, of, node, wanted, epoch, tuning }: RestoreOn): Promise<StoredCheckpoint> {
  const listed = await tryAsk(node, () =>
    shortly(node, tuning, "which checkpoints are there?").listCheckpoints({ schema: CONTRACT_SCHEMA, workload: of }),
  );
  if (listed.failure) throw failure(listed.failure);
  const checkpoint = chosen(of, listed.answer, of === spec.name ? { ...wanted, epoch } : wanted);
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

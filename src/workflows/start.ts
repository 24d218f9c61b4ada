/**
 * Starting a workload on a node. The undo (stop, forget) is decided before the start is asked for.
 *
 * An entity may have been lost (terminated, a lost database) while its workload runs or is being handed over. So before a
 * new copy is started every node that is known says that it has none of it: nothing that runs, is held, or may come to run; nor
 * anything else that has its address.
 */
import { patched, sleep } from "@temporalio/workflow";
import { addressProblem } from "../model/address.js";
import { CONTRACT_SCHEMA, type Observation, type OperationRef } from "../model/contract.js";
import type { FailureData } from "../model/failure.js";
import type { Tuning } from "../model/messages.js";
import { operationId } from "../model/names.js";
import { mayRun, type Hold } from "../model/ownership.js";
import { highestSequence, nextEpoch, running, startProblem } from "../model/settlement.js";
import type { WorkloadSpec } from "../model/workload.js";
import {
  askEach,
  askForCopies,
  backoffMs,
  isRefusal,
  isSilence,
  readFailure,
  shortly,
  tryAsk,
  type Answer,
} from "./calls.js";
import { fenced } from "./fenced.js";
import { knock } from "./knock.js";
import { sameSpec } from "../model/spec-signature.js";

export interface StartOn {
  spec: WorkloadSpec;
  node: string;
  sequence: number;
  /** Highest epoch that the entity knows of; 0 for a new one. */
  epoch: number;
  tuning: Tuning;
  /** Nobody knows where the workload was: the other nodes are asked first. */
  askOthers: boolean;
  /** Nodes that are switched off, as a person says: if they were fenced their silence is no reason to refuse. */
  off: readonly string[];
}
/** A node that has not answered within this long is silent. */
const OTHERS_MS = 3_000;
export type StartResult =
  | { started: true; epoch: number; sequence: number }
  | { started: false; failure: FailureData; nothingLeft: boolean; epoch?: number };

export async function startOn(ask: StartOn): Promise<StartResult> {
  const { spec, node, tuning } = ask;
  const workload = spec.name;
  const schema = CONTRACT_SCHEMA;
  const careful = patched("a start asks whether a copy is open");
  const [seen, known] = await Promise.all([
    tryAsk(node, () => shortly(node, tuning, "read the journal").observeWorkload({ schema, workload })),
    careful && ask.askOthers ? tryAsk(node, () => shortly(node, tuning, "which nodes are there?").knownNodes()) : none,
  ]);
  const refused = (failure: FailureData): StartResult => ({ started: false, nothingLeft: true, failure });
  if (seen.failure) return refused(await unknownOrAway(node, seen.failure));

  const sequence = Math.max(ask.sequence, highestSequence(seen.answer.holds) + 1);
  const there = running(seen.answer.holds);
  const adopt = there !== undefined && seen.answer.processes > 0;
  if (adopt && (seen.answer.spec === undefined || !sameSpec(seen.answer.spec, spec))) {
    return refused(exists(workload, node, seen.answer));
  }
  const open = careful && !adopt ? startProblem(workload, node, seen.answer.holds) : undefined;
  if (open !== undefined) return refused(open);
  if (known.failure && !adopt) return refused(known.failure);
  const others = await askOthers(ask, known.answer ?? [], adopt);
  if (others.problem !== undefined) return refused(others.problem);
  if (adopt) {
    // Its entity was lost (terminated): what runs is what was asked for, so it is taken over as it is.
    return { started: true, epoch: there.epoch, sequence };
  }

  // One that had this name before is remembered by its nodes: epochs go on from there, also for those who compare checkpoints.
  const epoch = nextEpoch(ask.epoch, seen.answer.holds, ...others.holds);
  const fresh = seen.answer.holds.length === 0;
  const operation = operationId(workload, "start", sequence);
  const started = await tryAsk(node, () =>
    shortly(node, tuning, "start").startWorkload({ schema, operation, epoch, spec }),
  );
  if (!started.failure) return { started: true, epoch: started.answer.epoch, sequence };
  if (isRefusal(started.failure)) return { started: false, nothingLeft: true, epoch, failure: started.failure };
  // It was tried, and its log says why it failed: kept, with its entity, until it is removed or started again.
  const tried = started.failure.code === "E_START";
  const undone = await undo(ask, operation, epoch, fresh && !tried);
  const nothingLeft = undone && !tried;
  return { started: false, nothingLeft: nothingLeft && ask.epoch === 0, epoch, failure: started.failure };
}

const none: Answer<string[]> = { answer: [] };

/**
 * What the other nodes hold against it. What runs here already (`adopt`) is no new copy: only another one that may run
 * stands against taking it over, and nobody's silence does.
 */
async function askOthers(
  ask: StartOn,
  known: readonly string[],
  adopt: boolean,
): Promise<{ problem?: FailureData | undefined; holds: Hold[][] }> {
  const { spec, tuning } = ask;
  const workload = spec.name;
  const quick = {
    ...tuning,
    scheduleToStartMs: Math.min(tuning.scheduleToStartMs, OTHERS_MS),
    startToCloseMs: Math.min(tuning.startToCloseMs, OTHERS_MS),
  };
  const others = [...new Set(known)].filter((name) => name !== ask.node).sort();
  const said = await askEach(others, (node) => askForCopies(node, quick, workload));
  const holds = said.map(({ answer }) => answer?.holds ?? []);
  const problems = said.flatMap(({ node, answer }) => {
    const against = (answer?.holds ?? []).filter((hold) => !adopt || mayRun(hold.state));
    const copy = startProblem(workload, node, against);
    return copy ?? (adopt ? undefined : addressProblem(spec, node, answer?.held ?? [])) ?? [];
  });
  if (problems[0] !== undefined || adopt) return { problem: problems[0], holds };
  const away = said.filter(({ node, failure }) => failure !== undefined && !ask.off.includes(node));
  const first = away[0]?.failure;
  if (first === undefined) return { holds, problem: await notFenced(ask, said) };
  const silent = away.map(({ node }) => node);
  const names = silent.join(", ");
  const problem: FailureData = {
    code: first.code,
    message: `${workload} is not started: ${names} can't say whether it has a copy of it: ${first.message}`,
    workload,
    node: silent[0] ?? "",
    remedy: `bring ${names} back, then run it again; one that is switched off and stays so is fenced (ferry fence) and named: ferry run ${workload} ${silent.map((node) => `--off ${node}`).join(" ")} ...`,
  };
  return { problem, holds };
}

/** A word is not enough that those of `off` which are silent are off: each was fenced. Answers what stands against that. */
async function notFenced(
  { spec, node: asked, tuning }: StartOn,
  said: readonly { node: string; failure?: FailureData }[],
): Promise<FailureData | undefined> {
  if (!patched("a start believes a fence, not a word")) return undefined;
  for (const { node, failure: silence } of said) {
    if (silence === undefined) continue;
    try {
      await fenced({ workload: spec.name, node, silence, asked, since: 0, began: "" }, tuning);
    } catch (error) {
      return readFailure(error, asked);
    }
  }
  return undefined;
}

/** Whether it was started or not: afterwards it is not, and never will be. */
async function undo(ask: StartOn, operation: string, epoch: number, fresh: boolean): Promise<boolean> {
  const { node, spec, tuning } = ask;
  const ref = { schema: CONTRACT_SCHEMA, workload: spec.name };
  // A call of then may still hang somewhere. (The first epoch of all has none before it, which a reference needs.)
  const never: OperationRef | undefined =
    epoch > 1 && patched("a start that was undone never begins")
      ? { ...ref, operation, epoch: epoch - 1, to: epoch, source: node, destination: node }
      : undefined;
  const deadline = Date.now() + tuning.patienceMs;
  for (let round = 0; ; round += 1) {
    const undone = await tryAsk(node, async () => {
      const there = shortly(node, tuning, "undo the start");
      if (never !== undefined) await there.refuse(never);
      const now = await there.observeWorkload(ref);
      if (now.holds.some((hold) => hold.epoch === epoch && hold.state === "OWNER")) {
        await there.stopWorkload({ ...ref, epoch, graceMs: 0 });
      }
      if (fresh) await there.removeWorkload(ref);
    });
    if (!undone.failure) return true;
    if (!isSilence(undone.failure) || Date.now() > deadline) return false;
    await sleep(backoffMs(tuning, round));
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

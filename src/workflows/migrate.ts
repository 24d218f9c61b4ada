/**
 * The migration of a workload: the saga, as one table of steps.
 *
 * Every step means "ensure"; a step with an undo is taken as begun before it is called. Up to the commit point
 * (RELEASED in the source's journal, inside "hand over") a failure or a cancel goes back; after it, only forward. No
 * step decides that: when it did not simply go well, both journals are asked (settle.ts).
 *
 * No step lies inside the blackout: takeOver is armed first, and from the freeze on both agents talk to each other.
 */
import {
  CancellationScope,
  ContinueAsNew,
  allHandlersFinished,
  condition,
  isCancellation,
  sleep,
} from "@temporalio/workflow";
import type { Inquiry, SideOutcome } from "../model/contract.js";
import { failureClass } from "../model/failure.js";
import type { CarriedAt, MigrateInput } from "../model/messages.js";
import type { Phase } from "../model/phase.js";
import { chooseMode } from "../model/mode-choice.js";
import { blockers } from "../model/plan.js";
import { furthest, newer } from "../model/progress.js";
import type { MigrationReport } from "../model/report.js";
import { highestSequence, leftovers, nextEpoch, running } from "../model/settlement.js";
import { acceptInput } from "./accept.js";
import { failure, once, patiently, readFailure, shortly, tryAsk } from "./calls.js";
import { demandHere, demandNew } from "./forgotten.js";
import { knock } from "./knock.js";
import { mainFailure, phases, planOf, sideFailure } from "./report.js";
import { quiet } from "./length.js";
import { begin, chosen, finish, goOn, news, tellDoubt, type Saga, type Step } from "./saga.js";
import { clearUp, receiptFor, settleHandOver, type Settled } from "./settle.js";

/** What is shown is no older than a quarter of the time that it has taken so far (and than `maxWatchMs`). */
const WATCH_BACKOFF = 1.25;

/** name | side | phase | activities | undo | action */
export const STEPS: readonly Step[] = [
  step("observe", "both", "preflight", ["observeWorkload"], undefined, observe),
  step("settle what is left", "both", "preflight", ["inquire"], undefined, settleLeftovers),
  step("preflight", "both", "preflight", ["preflightSource", "preflightDestination"], undefined, preflight),
  step("reserve", "destination", "reserve", ["reserve"], "refuse", reserve),
  step("hand over", "both", "arm", ["takeOver", "handOver", "inquire", "deliver"], "burn", handOver),
];

function step(
  name: string,
  side: Step["side"],
  phase: Phase,
  activities: readonly string[],
  undo: Step["undo"],
  run: Step["run"],
): Step {
  return { name, side, phase, activities, ...(undo === undefined ? {} : { undo }), run };
}

export async function migrate(input: MigrateInput): Promise<MigrationReport> {
  acceptInput("migrate", input);
  const saga = begin(input);
  const made = await carryOut(saga);
  // Whoever steered it at the last moment gets an answer.
  await quiet();
  return made;
}

async function carryOut(saga: Saga): Promise<MigrationReport> {
  const at = saga.input.carried?.at ?? "begin";
  if (at === "undo") return CancellationScope.nonCancellable(() => unwind(saga));
  let early: "planned" | "refused" | undefined;
  let done = at === "hand over";
  try {
    for (const next of STEPS) {
      if (next.undo !== undefined) saga.begun.push(next);
      if (next.name === at) done = false;
      if (done) continue;
      saga.tell({ phase: furthest(next.phase, saga.view.phase) });
      early = await next.run(saga);
      if (early !== undefined) return finish(saga, early);
    }
  } catch (error) {
    if (error instanceof ContinueAsNew) throw error;
    const why = readFailure(error);
    saga.failures.push(why);
    if (saga.begun.length === 0) {
      // Refused is an answer to what was asked. A node that is away, or a bug, is a failure: asking again may help.
      const answered = !isCancellation(error) && failureClass(why.code) === "user";
      return finish(saga, answered ? "refused" : "rolled-back");
    }
    return await CancellationScope.nonCancellable(() => unwind(saga));
  }
  return CancellationScope.nonCancellable(() => complete(saga));
}

async function observe(saga: Saga): Promise<undefined> {
  const { input } = saga;
  const { schema, workload, source, destination } = saga.handOver.ref;
  const look = (node: string) => shortly(node, input.tuning, "read the journal").observeWorkload({ schema, workload });
  const [here, there] = await Promise.all([
    look(source),
    look(destination).catch(async (error: unknown) => {
      const data = readFailure(error, destination);
      if (data.code === "E_NODE_UNREACHABLE") await knock(destination);
      throw error;
    }),
  ]);
  await demandNew(saga, { here, there }, () => saga.begun.push(...STEPS.filter((next) => next.undo !== undefined)));
  const hold = running(here.holds);
  saga.handOver.ref.epoch = hold?.epoch ?? input.epoch;
  saga.handOver.ref.to = nextEpoch(saga.handOver.ref.epoch, here.holds, there.holds);
  const refs = leftovers(schema, workload, { node: source, seen: here }, { node: destination, seen: there });
  saga.leftovers = refs
    .filter((ref) => ref.operation !== saga.handOver.ref.operation)
    .map((ref) => ({ ref, options: chosen(input.options), spec: input.spec }));
  if (refs.length === 0) await demandHere(saga, { here, there });
  if (highestSequence(here.holds) > input.sequence) {
    saga.reasons.push(`${source} knows of later operations on ${workload}: this entity was started anew`);
  }
  return undefined;
}

/** A hand-over whose workflow was terminated is settled before a new one begins: else two would be under way. */
async function settleLeftovers(saga: Saga): Promise<undefined> {
  const older = saga.input.unsettled;
  const open = [...(older === undefined ? [] : [older]), ...saga.leftovers].filter(
    (handOver, i, all) => all.findIndex((h) => h.ref.operation === handOver.ref.operation) === i,
  );
  if (open.length === 0) return undefined;
  for (const handOver of open) {
    saga.settling = handOver;
    const settled = await settleHandOver(handOver, saga.input.tuning, {
      tell: (doubt) => tellDoubt(saga, doubt),
      rest: () => goOnWhenLong(saga, "begin"),
    });
    saga.reasons.push(`settled ${handOver.ref.operation} first: ${settled.verdict}, ${settled.why}`);
    await clearUp(handOver, saga.input.tuning, settled.verdict === "moved", settled.outstanding, receiptFor(settled));
    if (settled.verdict === "moved") {
      const { destination: node, to: epoch } = handOver.ref;
      saga.place = { node, epoch: settled.destinationOutcome?.epoch ?? epoch };
      throw failure({
        code: "E_STATE",
        message: `${handOver.ref.workload} was moved to ${handOver.ref.destination} by ${handOver.ref.operation}, which was settled just now`,
        remedy: "ask for the migration again, from where it runs now",
      });
    }
  }
  delete saga.settling;
  saga.tell({ state: "working" });
  return observe(saga);
}

async function preflight(saga: Saga): Promise<"planned" | "refused" | undefined> {
  const { ref } = saga.handOver;
  const { tuning, options: asked } = saga.input;
  const facts = await shortly(ref.source, tuning, "preflight").preflightSource({ ref, options: asked });
  saga.facts = facts;
  saga.findings = [...facts.findings];
  const choice = chooseMode(asked, facts);
  const options = { ...asked, mode: choice.mode };
  saga.handOver = { ...saga.handOver, options };
  if (asked.mode === "auto") saga.chose(choice.mode);
  const there = await shortly(ref.destination, tuning, "preflight").preflightDestination({ ref, options, facts });
  saga.findings = [...facts.findings, ...there];
  saga.plan = planOf(saga.handOver, facts, saga.findings, choice);
  saga.reasons.push(...saga.plan.reasons);
  const blocked = blockers(saga.findings);
  if (blocked.length > 0) {
    saga.failures.push({
      code: "E_PREFLIGHT",
      message: `preflight found ${blocked.length === 1 ? "a reason" : `${blocked.length} reasons`} against it: ${blocked.map((f) => f.message).join("; ")}`,
      remedy: blocked.flatMap((f) => f.remedy ?? []).join("; ") || "see the findings",
    });
    return "refused";
  }
  return options.dryRun ? "planned" : undefined;
}

async function reserve(saga: Saga): Promise<undefined> {
  const { ref, options, spec } = saga.handOver;
  const { memoryBytes, volumeBytes } = saga.facts ?? { memoryBytes: 0, volumeBytes: 0 };
  // The entity must know of it before the node does, should this workflow be terminated.
  await news(saga, { handOver: saga.handOver });
  const reservation = await shortly(ref.destination, saga.input.tuning, "reserve").reserve({
    ref,
    options,
    spec,
    memoryBytes,
    volumeBytes,
  });
  saga.handOver = { ...saga.handOver, reservation };
  await news(saga, { handOver: saga.handOver });
  return undefined;
}

/** The view shows the phase in which they are, and what they have sent: as of now, nothing is asked for that alone. */
function hear(saga: Saga, ...seen: readonly (Inquiry | undefined)[]): void {
  const said = seen.flatMap((inquiry) => inquiry?.progress ?? []);
  if (said.length === 0) return;
  const progress = newer(saga.view.progress ?? {}, said);
  const { precopy } = progress.source ?? {};
  saga.tell({
    progress,
    phase: furthest(saga.view.phase, progress.source?.phase, progress.destination?.phase),
    ...(precopy === undefined ? {} : { precopy }),
  });
}

/**
 * Both agents may wait for each other for ever, when the link broke after the source had released: nobody but the
 * workflow can then carry the token there, and the destination's receipt back. It looks now and then, more seldom the
 * longer it takes, and tells what it sees. Beside the hand-over: no agent waits for a look.
 */
async function carryWhatIsLost(saga: Saga): Promise<never> {
  const { ref } = saga.handOver;
  const { tuning } = saga.input;
  for (let round = 0; ; round += 1) {
    await sleep(Math.min(tuning.watchMs * WATCH_BACKOFF ** round, tuning.maxWatchMs));
    const source = await tryAsk(ref.source, () =>
      once(ref.source, tuning, "how far is it, has it released?").inquire(ref),
    );
    hear(saga, source.answer);
    const token = source.answer?.token;
    if (token === undefined) continue;
    const there = await tryAsk(ref.destination, () =>
      once(ref.destination, tuning, "has it got the token?").inquire(ref),
    );
    if (there.failure) {
      tellDoubt(saga, {
        state: "in-doubt",
        problem: `${ref.source} has released ${ref.workload}, and ${ref.destination} does not answer: ${there.failure.message}`,
        remedy: `bring ${ref.destination} back: it goes on from what it has; nothing is started twice meanwhile. If it is lost for good: ferry fence ${ref.destination}`,
      });
      continue;
    }
    hear(saga, there.answer);
    if (saga.view.state === "in-doubt") tellDoubt(saga, { state: "working" });
    const { state, receipt } = there.answer;
    if (receipt !== undefined && source.answer?.state === "RELEASED") {
      // It runs there and needs nothing more; the source can't hear that, and keeps its frozen copy.
      await tryAsk(ref.source, () => once(ref.source, tuning, "carry the receipt").acknowledge({ ref, receipt }));
      continue;
    }
    if (state !== "RESERVED" && state !== "RECEIVED" && state !== "PREPARED") continue;
    await tryAsk(ref.destination, () => once(ref.destination, tuning, "carry the token").deliver({ ref, token }));
  }
}

/** Both at once, the destination armed first. Whoever says no ends the waiting for the other. */
async function handOver(saga: Saga): Promise<undefined> {
  const { ref, options, spec, reservation } = saga.handOver;
  if (reservation === undefined) throw failure({ code: "E_INTERNAL", message: "hand over without a reservation" });
  const scope = new CancellationScope();
  saga.handing = true;
  try {
    await scope.run(async () => {
      const taking = patiently(ref.destination, saga.input.tuning, "take over, armed")
        .takeOver({ ref, options, spec })
        .then((outcome) => {
          saga.destinationOutcome = outcome;
          if (!hasRun(outcome)) throw failure(sideFailure("destination", ref.destination, outcome));
        });
      const handing = patiently(ref.source, saga.input.tuning, "freeze and hand over")
        .handOver({ ref, options, reservation })
        .then((outcome) => {
          saga.sourceOutcome = outcome;
          if (outcome.state !== "GONE") throw failure(sideFailure("source", ref.source, outcome));
        });
      const long = condition(() => saga.long() && allHandlersFinished());
      const over = await Promise.race([Promise.all([taking, handing]), carryWhatIsLost(saga), long]);
      // Both are asked again there: they mean "ensure", and the agents go on meanwhile.
      if (over === undefined) await goOn(saga, "hand over");
    });
  } finally {
    saga.handing = false;
    scope.cancel();
  }
  return undefined;
}

const hasRun = (outcome: SideOutcome): boolean => outcome.state === "OWNER" || outcome.state === "RUNNING";

/** Both sides said that it went well. */
async function complete(saga: Saga): Promise<MigrationReport> {
  saga.tell({ phase: "cleanup", phases: phases(saga.sourceOutcome, saga.destinationOutcome) });
  const left = await clearUp(saga.handOver, saga.input.tuning, true, []);
  if (left.length > 0) saga.reasons.push(`${left.join(" and ")} did not clear up yet: a sweep goes on asking`);
  return finish(saga, "moved");
}

/** Something did not go well, or a person cancelled: ask, go where the journals say, clear up. */
async function unwind(saga: Saga): Promise<MigrationReport> {
  const { ref } = saga.handOver;
  const cancelled = saga.failures.some((f) => f.code === "E_CANCELLED");
  const because = mainFailure(saga.failures)?.message;
  if (saga.input.carried?.at !== "undo")
    saga.tell({ state: "undoing", ...(because === undefined ? {} : { problem: because }) });
  const settled = await settleHandOver(saga.handOver, saga.input.tuning, {
    tell: (doubt) => tellDoubt(saga, doubt),
    rest: () => goOnWhenLong(saga, "undo"),
  });
  keep(saga, settled);
  const moved = settled.verdict === "moved";
  saga.tell({ phase: "cleanup", state: "undoing", phases: phases(saga.sourceOutcome, saga.destinationOutcome) });
  const left = await clearUp(saga.handOver, saga.input.tuning, moved, settled.outstanding, receiptFor(settled));
  if (left.length > 0) saga.reasons.push(`${left.join(" and ")} did not clear up yet: a sweep goes on asking`);
  saga.reasons.push(`settled by asking both journals: ${settled.why}`);
  if (moved && cancelled) saga.reasons.push("the cancel came after the commit point: the migration went on to its end");
  if (!moved) {
    const hold = settled.source === undefined ? undefined : running(settled.source.holds);
    if (hold !== undefined) saga.handOver.ref.epoch = hold.epoch;
    for (const side of [settled.sourceOutcome, settled.destinationOutcome, settled.source, settled.destination]) {
      if (side?.failure !== undefined && !saga.failures.some((f) => f.message === side.failure?.message)) {
        saga.failures.push(side.failure);
      }
    }
  } else {
    saga.reasons.push(...saga.failures.map((f) => `on the way: ${f.message} [${f.code}]`));
    saga.failures = [];
  }
  saga.view.problem = because ?? "";
  return finish(saga, moved ? "moved" : ref.source === ref.destination ? "refused" : "rolled-back");
}

const goOnWhenLong = async (saga: Saga, at: CarriedAt): Promise<void> => {
  if (saga.long()) await goOn(saga, at);
};

function keep(saga: Saga, settled: Settled): void {
  if (settled.sourceOutcome !== undefined) saga.sourceOutcome = settled.sourceOutcome;
  if (settled.destinationOutcome !== undefined) saga.destinationOutcome = settled.destinationOutcome;
}

/**
 * Settling a hand-over: ask both journals until they say how it ended, and help it there.
 *
 * The workflow only routes (design 4.3). It never decides who runs: the source's journal did, with RELEASED or BURNED.
 *   not released  -> burn on the source (it takes the workload back), refuse on the destination
 *   released      -> forward: carry the token, ask both again to finish
 *   nobody knows  -> wait, visibly in doubt, for as long as it takes
 * A node that is out of reach makes it in doubt; a node that answers "no" to an undo makes it stuck. Both go on asking.
 *
 * Call it in a non-cancellable scope.
 */
import {
  condition,
  continueAsNew,
  patched,
  sleep,
  startChild,
  ParentClosePolicy,
  workflowInfo,
} from "@temporalio/workflow";
import type { Inquiry, OperationRef, Receipt, SideOutcome } from "../model/contract.js";
import type { FailureData } from "../model/failure.js";
import { WORKFLOW, type HandOver, type MigrationState, type SweepInput, type Tuning } from "../model/messages.js";
import { asOwner, backHome, conclude, isFenced } from "../model/settlement.js";
import { acceptInput } from "./accept.js";
import { attributes, ofHandOver, showSweep, type SweepView } from "./console.js";
import { backoffMs, isSilence, once, patiently, shortly, tryAsk, type Answer } from "./calls.js";
import { measure } from "./length.js";

export interface Doubt {
  state: Extract<MigrationState, "undoing" | "in-doubt" | "stuck">;
  problem?: string;
  remedy?: string;
}

export interface Settled {
  verdict: "moved" | "rolled-back";
  why: string;
  /** Last answer of each side. */
  source?: Inquiry;
  destination?: Inquiry;
  sourceOutcome?: SideOutcome;
  destinationOutcome?: SideOutcome;
  /** Nodes that could not be asked to clear up. */
  outstanding: string[];
}

export interface Settler {
  tell: (doubt: Doubt) => void;
  /** After a round without an end. May end the run, when its history is long. */
  rest: () => Promise<void>;
}

export async function settleHandOver(handOver: HandOver, tuning: Tuning, { tell, rest }: Settler): Promise<Settled> {
  const { ref } = handOver;
  const memory: Memory = { outstanding: [], deaf: 0 };
  for (let round = 0; ; round += 1) {
    const [source, destination] = await Promise.all([
      tryAsk(ref.source, () => once(ref.source, tuning, "ask the journal").inquire(ref)),
      tryAsk(ref.destination, () => once(ref.destination, tuning, "ask the journal").inquire(ref)),
    ]);
    const said = destination.answer;
    const ended = said?.state === "STOPPED" && patched("what has ended there has moved there");
    const there = ended ? asOwner(said) : said;
    remember(memory, source.answer, there);
    // What a person has decided stays so, also in a round in which the source is silent.
    const known = source.answer ?? (isFenced(ref, memory.source) ? memory.source : undefined);
    const verdict = conclude(ref, known, there);
    let trouble = source.failure ?? destination.failure;
    switch (verdict.verdict) {
      case "moved": {
        const unfinished = await finishMove(handOver, tuning, memory);
        if (unfinished === undefined) return settled("moved", verdict.why, memory);
        trouble = unfinished;
        break;
      }
      case "rolled-back":
        return settled("rolled-back", verdict.why, memory);
      case "roll-back": {
        const unfinished = await rollBack(ref, tuning, memory, known);
        if (unfinished === undefined) return settled("rolled-back", verdict.why, memory);
        if (unfinished === "again") continue;
        trouble = unfinished;
        break;
      }
      case "forward": {
        const unfinished = await forward(handOver, tuning, source.answer);
        if (unfinished === undefined) continue;
        trouble = unfinished;
        break;
      }
      case "wait":
        break;
    }
    tell(doubtOf(ref, verdict.why, trouble));
    await rest();
    await sleep(backoffMs(tuning, round));
  }
}

/** The word of the side that has it, for a node that comes back later. */
export const receiptFor = ({ verdict, source, destination, destinationOutcome }: Settled): Receipt | undefined =>
  verdict === "moved" ? (destinationOutcome?.receipt ?? destination?.receipt) : source?.receipt;

interface Memory {
  source?: Inquiry;
  destination?: Inquiry;
  sourceOutcome?: SideOutcome;
  destinationOutcome?: SideOutcome;
  outstanding: string[];
  /** Rounds in which a node that is not needed for the answer stayed silent. */
  deaf: number;
}

function remember(memory: Memory, source: Inquiry | undefined, destination: Inquiry | undefined): void {
  if (source !== undefined) {
    memory.source = source;
    if (source.outcome !== undefined) memory.sourceOutcome = source.outcome;
  }
  if (destination !== undefined) {
    memory.destination = destination;
    if (destination.outcome !== undefined) memory.destinationOutcome = destination.outcome;
  }
}

const settled = (verdict: Settled["verdict"], why: string, memory: Memory): Settled => {
  const { deaf: _, ...rest } = memory;
  return { verdict, why, ...rest };
};

/** Before RELEASED: the source takes the workload back, then the destination refuses for ever. */
async function rollBack(
  ref: OperationRef,
  tuning: Tuning,
  memory: Memory,
  known: Inquiry | undefined,
): Promise<FailureData | "again" | undefined> {
  if (known === undefined) {
    // The destination has refused for ever; the source is asked for its part until it answers.
    return { code: "E_NODE_UNREACHABLE", node: ref.source, message: `${ref.source} does not answer` };
  }
  const back = await tryAsk(ref.source, () =>
    once(ref.source, tuning, "burn the epoch, take the workload back").burn(ref),
  );
  if (back.failure) return back.failure;
  remember(memory, back.answer, undefined);
  if (back.answer.state === "RELEASED" || back.answer.state === "GONE") {
    // Too late, or a local restore under way: what the journals say next decides.
    if (backHome(ref, back.answer) === undefined) return "again";
  }
  if (backHome(ref, back.answer) === undefined) {
    return { code: "E_IN_DOUBT", node: ref.source, message: `${ref.source} is still taking the workload back` };
  }
  const refused = await refuseAtDestination(ref, tuning, memory);
  if (refused.failure) {
    // The source has burned the epoch and runs: the destination can never get a token, so nobody needs to wait for it.
    if (!isSilence(refused.failure)) return refused.failure;
    memory.outstanding.push(ref.destination);
    return undefined;
  }
  remember(memory, undefined, refused.answer);
  return conclude(ref, back.answer, refused.answer).verdict === "rolled-back" ? undefined : "again";
}

async function refuseAtDestination(ref: OperationRef, tuning: Tuning, memory: Memory): Promise<Answer<Inquiry>> {
  const deadline = Date.now() + tuning.patienceMs;
  for (;;) {
    const refused = await tryAsk(ref.destination, () => refuseOrSupersede(ref, tuning, memory.source?.receipt));
    if (!refused.failure || !isSilence(refused.failure) || Date.now() > deadline) return refused;
    memory.deaf += 1;
    await sleep(backoffMs(tuning, memory.deaf));
  }
}

/** With the source's receipt it has taken back what it had released, by a person's word: then a copy there is stale. */
const refuseOrSupersede = (ref: OperationRef, tuning: Tuning, receipt: Receipt | undefined): Promise<Inquiry> =>
  receipt === undefined
    ? once(ref.destination, tuning, "refuse the epoch").refuse(ref)
    : once(ref.destination, tuning, "kill what is stale there").supersede({ ref, receipt });

/** After RELEASED: what the link could not carry, we carry; then both are asked again to finish. */
async function forward(
  handOver: HandOver,
  tuning: Tuning,
  source: Inquiry | undefined,
): Promise<FailureData | undefined> {
  const { ref, options, spec, reservation } = handOver;
  const token = source?.token;
  if (token !== undefined) {
    const delivered = await tryAsk(ref.destination, () =>
      once(ref.destination, tuning, "carry the token").deliver({ ref, token }),
    );
    if (delivered.failure) return delivered.failure;
  }
  const asked: Promise<Answer<SideOutcome>>[] = [
    tryAsk(ref.destination, () =>
      patiently(ref.destination, tuning, "finish taking over").takeOver({ ref, options, spec }),
    ),
  ];
  if (reservation !== undefined) {
    asked.push(
      tryAsk(ref.source, () =>
        patiently(ref.source, tuning, "finish handing over").handOver({ ref, options, reservation }),
      ),
    );
  }
  const answers = await Promise.all(asked);
  return answers.find((answer) => answer.failure !== undefined)?.failure;
}

/** The destination runs it: wait for the last page, and let the source finish if it answers. */
async function finishMove(handOver: HandOver, tuning: Tuning, memory: Memory): Promise<FailureData | undefined> {
  const { ref, options, spec, reservation } = handOver;
  // One side may need the other (post-copy): both are asked at once.
  const known = memory.destinationOutcome;
  const taking: Promise<Answer<SideOutcome>> | Answer<SideOutcome> =
    memory.destination?.state === "OWNER" && known?.resumedAt !== undefined
      ? { answer: known }
      : tryAsk(ref.destination, () =>
          patiently(ref.destination, tuning, "finish taking over").takeOver({ ref, options, spec }),
        );
  const handing: Promise<Answer<SideOutcome>> | undefined =
    memory.source?.state === "GONE" || reservation === undefined
      ? undefined
      : tryAsk(ref.source, () =>
          patiently(ref.source, tuning, "finish handing over").handOver({ ref, options, reservation }),
        );
  const taken = await taking;
  const receipt = taken.answer?.receipt;
  const state = memory.source?.state;
  // It has not released, as far as is known, and yet it is owned there: by a person's word.
  const decided =
    (state === "OWNER" || state === "FROZEN") && receipt !== undefined && patched("a stale source is told");
  if (receipt !== undefined && handing !== undefined && (state === "RELEASED" || decided)) {
    // The link may be cut for good: then nobody else tells the source that its frozen copy is not needed any more.
    await tryAsk(ref.source, () => once(ref.source, tuning, "carry the receipt").acknowledge({ ref, receipt }));
  }
  const handed = await handing;
  if (taken.failure) return taken.failure;
  memory.destinationOutcome = taken.answer;
  if (handed?.answer !== undefined) memory.sourceOutcome = handed.answer;
  // The source has released and can never run it again: its clearing up needs nobody to wait.
  const left = handed?.answer?.state;
  if (handed?.failure || (decided && left !== "GONE" && left !== "SUPERSEDED")) memory.outstanding.push(ref.source);
  return undefined;
}

function doubtOf(ref: OperationRef, why: string, trouble: FailureData | undefined): Doubt {
  if (trouble === undefined || trouble.code === "E_IN_DOUBT") {
    return {
      state: "in-doubt",
      problem: trouble?.message ?? why,
      remedy: "wait: both nodes are asked again and again",
    };
  }
  if (isSilence(trouble)) {
    return {
      state: "in-doubt",
      problem: `${trouble.message} (${why})`,
      remedy: `bring ${trouble.node ?? "the node"} back: it is asked again and again, and the workload is never started twice meanwhile. If it is lost for good: ferry fence ${trouble.node ?? "NODE"}`,
    };
  }
  return {
    state: "stuck",
    problem: `${trouble.message} [${trouble.code}]`,
    remedy:
      trouble.remedy ??
      `look at the agent's log on ${trouble.node ?? `${ref.source} and ${ref.destination}`}; the step is tried again and again, and goes on by itself once it can`,
  };
}

/**
 * Remove what the operation left on both nodes. Nodes that do not answer are left to a `sweep` of its own, which goes
 * on after this workflow has ended.
 */
export async function clearUp(
  handOver: HandOver,
  tuning: Tuning,
  moved: boolean,
  outstanding: readonly string[],
  receipt?: Receipt,
): Promise<string[]> {
  const { ref } = handOver;
  const left = new Set(outstanding);
  await Promise.all(
    [ref.source, ref.destination]
      .filter((node) => !left.has(node))
      .map(async (node) => {
        const cleaned = await tryAsk(node, () => shortly(node, tuning, "remove what is left").cleanup(ref));
        if (cleaned.failure) left.add(node);
      }),
  );
  const nodes = [...left];
  if (nodes.length > 0) {
    const input: SweepInput = { handOver, moved, nodes, tuning, ...(receipt === undefined ? {} : { receipt }) };
    await startChild(WORKFLOW.sweep, {
      workflowId: `${workflowInfo().workflowId}/sweep`,
      args: [input],
      parentClosePolicy: ParentClosePolicy.ABANDON,
      staticSummary: `clear up after ${ref.operation} on ${nodes.join(", ")}`,
      typedSearchAttributes: ofHandOver(handOver, { node: nodes.join(" "), state: "sweeping" }),
    });
  }
  return nodes;
}

/** Workflow: keeps asking nodes that were away until nothing of the operation is left on them. */
export async function sweep(input: SweepInput): Promise<void> {
  acceptInput("sweep", input);
  const { handOver, moved, tuning } = input;
  const { ref, options, reservation } = handOver;
  const long = measure(tuning, "operation");
  const show = attributes();
  const view: SweepView = {
    operation: ref.operation,
    workload: ref.workload,
    startedAt: input.startedAt ?? Date.now(),
    left: Object.fromEntries(input.nodes.map((node) => [node, "not asked yet"])),
    cleared: [],
  };
  showSweep(view);
  const asking = Promise.all(
    input.nodes.map(async (node) => {
      for (let round = 0; ; round += 1) {
        const done = await tryAsk(node, async () => {
          if (!moved && node === ref.destination) await refuseOrSupersede(ref, tuning, input.receipt);
          if (moved && node === ref.source && reservation !== undefined) {
            const there = await tryAsk(ref.destination, () =>
              once(ref.destination, tuning, "its receipt").inquire(ref),
            );
            // It may have moved on, or be stopped, meanwhile.
            const receipt = there.answer?.receipt ?? input.receipt;
            if (receipt !== undefined) await once(node, tuning, "carry the receipt").acknowledge({ ref, receipt });
            await patiently(node, tuning, "finish handing over").handOver({ ref, options, reservation });
          }
          await once(node, tuning, "remove what is left").cleanup(ref);
        });
        if (!done.failure) {
          delete view.left[node];
          view.cleared = [...view.cleared, node];
          showSweep(view);
          return;
        }
        view.left[node] = done.failure.message;
        showSweep(view);
        await sleep(backoffMs(tuning, round, 60_000));
      }
    }),
  );
  if ((await Promise.race([asking, condition(long)])) === undefined) {
    await continueAsNew<typeof sweep>({ ...input, nodes: Object.keys(view.left), startedAt: view.startedAt });
  }
  // A sweep may be open for as long as a node is away: those of before said nothing at their end.
  if (patched("a sweep says that it is over")) show({ FerryState: "swept" });
}

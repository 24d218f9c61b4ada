/**
 * Workflows that were reset in Temporal's console: they have forgotten what they did after that point, and agents and journals
 * have not. So what was begun is never begun a second time: it is settled by the journals. An entity that believes in an older
 * place learns where its workload is from the next migration that it asks for.
 */
import { WorkflowExecutionAlreadyStartedError } from "@temporalio/common";
import { ParentClosePolicy, patched, sleep, startChild, type ChildWorkflowHandle } from "@temporalio/workflow";
import type { Observation } from "../model/contract.js";
import { WORKFLOW, type MigrateInput } from "../model/messages.js";
import { openHold, type Hold } from "../model/ownership.js";
import { begunBefore, highestSequence, isLongOver, running } from "../model/settlement.js";
import { askEach, backoffMs, failure, once, shortly, tryAsk } from "./calls.js";
import { KEYS, asked } from "./console.js";
import type { migrate } from "./migrate.js";
import type { Saga } from "./saga.js";

/** Of an hour-long migration a handful of tries. */
const LONGEST_PAUSE_MS = 60_000;

interface Seen {
  here: Observation;
  there: Observation;
}

/** Throws, when this very operation is in the journals already: what is open of it is settled (`begun`), what is over stays so. */
export async function demandNew(saga: Saga, { here, there }: Seen, begun: () => void): Promise<void> {
  const { ref } = saga.handOver;
  const before = begunBefore({ ...ref, epoch: saga.input.epoch }, here.holds, there.holds);
  if (before === undefined || !patched("an operation is not begun a second time")) return;
  const { operation, workload } = before;
  const again = `ask for the migration again, from where ${workload} runs then`;
  if (!isLongOver(before, here.holds, there.holds)) {
    Object.assign(ref, before);
    begun();
    const message = `${operation} was begun before this run of its workflow, which was reset: it is settled, not begun a second time`;
    throw failure({ code: "E_STATE", message, workload, remedy: again });
  }
  await findIt(saga, { here, there });
  const message = `${operation} is long over, and its workflow was reset: nothing was done`;
  throw failure({ code: "E_STATE", message, workload, remedy: again });
}

/** Throws, when the source has nothing of it and another node runs it: this entity was reset, or is older than what it says. */
export async function demandHere(saga: Saga, seen: Seen): Promise<void> {
  const { ref } = saga.handOver;
  if (openHold(seen.here.holds) !== undefined || !patched("a workload that is elsewhere is looked for")) return;
  await findIt(saga, seen);
  if (saga.place === undefined) return;
  const { node, epoch } = saga.place;
  throw failure({
    code: "E_STATE",
    message: `${ref.workload} is not on ${ref.source}: ${node} runs it (epoch ${epoch})`,
    workload: ref.workload,
    remedy: "its entity knows that now: ask again",
  });
}

/** Where it runs, as far as nodes answer; and how far the numbers of its operations have come. */
async function findIt(saga: Saga, { here, there }: Seen): Promise<void> {
  const { schema, workload, source, destination } = saga.handOver.ref;
  const { tuning } = saga.input;
  const seen = [
    { node: source, holds: here.holds },
    { node: destination, holds: there.holds },
  ];
  if (latest(seen) === undefined) {
    const known = await tryAsk(source, () => shortly(source, tuning, "which nodes are there?").knownNodes());
    const others = (known.answer ?? []).filter((node) => node !== source && node !== destination).sort();
    const said = await askEach(others, (node) =>
      once(node, tuning, "does it have it?").observeWorkload({ schema, workload }),
    );
    seen.push(...said.flatMap(({ node, answer }) => (answer === undefined ? [] : [{ node, holds: answer.holds }])));
  }
  saga.sequence = Math.max(...seen.map(({ holds }) => highestSequence(holds)));
  const place = latest(seen);
  if (place !== undefined) saga.place = place;
}

const latest = (seen: readonly { node: string; holds: Hold[] }[]): { node: string; epoch: number } | undefined =>
  seen
    .flatMap(({ node, holds }) => {
      const hold = running(holds);
      return hold === undefined ? [] : [{ node, epoch: hold.epoch }];
    })
    .sort((a, b) => b.epoch - a.epoch)[0];

/**
 * Starts a migration. One of that id that is open already is this entity's own, from before it was reset: it goes on, and is
 * waited for; the new run then learns from the journals how it ended.
 */
export async function startMigration(
  workflowId: string,
  input: MigrateInput,
  waits: () => void,
): Promise<ChildWorkflowHandle<typeof migrate>> {
  const { workload, source, destination, options, spec, tuning } = input;
  for (let round = 0; ; round += 1) {
    try {
      return await startChild<typeof migrate>(WORKFLOW.migrate, {
        workflowId,
        args: [input],
        parentClosePolicy: ParentClosePolicy.ABANDON,
        staticSummary: `migrate ${workload}: ${source} -> ${destination}, ${options.mode}${options.dryRun ? " (dry run)" : ""}`,
        staticDetails: asked(options),
        typedSearchAttributes: [
          { key: KEYS.FerryWorkload, value: workload },
          { key: KEYS.FerryNode, value: destination },
          { key: KEYS.FerryRuntime, value: spec.runtime },
          { key: KEYS.FerryMode, value: options.mode },
          { key: KEYS.FerryState, value: "working" },
        ],
      });
    } catch (error) {
      const open = error instanceof WorkflowExecutionAlreadyStartedError;
      if (!open || !patched("a migration of before a reset is waited for")) throw error;
      waits();
      await sleep(backoffMs(tuning, round, LONGEST_PAUSE_MS));
    }
  }
}

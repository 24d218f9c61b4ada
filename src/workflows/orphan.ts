/**
 * Workflow `settle`: settles a hand-over whose migrate workflow was terminated (or failed) before it could answer.
 * Started by the entity; nothing new begins before it has ended.
 */
import { CancellationScope, continueAsNew, defineQuery, setHandler } from "@temporalio/workflow";
import { QUERY, type MigrationView, type SettleInput } from "../model/messages.js";
import { running } from "../model/settlement.js";
import { acceptInput } from "./accept.js";
import { attributes, showMigration } from "./console.js";
import { measure, quiet } from "./length.js";
import { resolvable } from "./resolve.js";
import { clearUp, receiptFor, settleHandOver } from "./settle.js";

export interface SettleResult {
  verdict: "moved" | "rolled-back";
  why: string;
  node: string;
  epoch: number;
}

export async function settle(input: SettleInput): Promise<SettleResult> {
  acceptInput("settle", input);
  const { handOver, tuning } = input;
  const { ref, options, spec } = handOver;
  const long = measure(tuning, "operation");
  const now = Date.now();
  const startedAt = input.startedAt ?? now;
  const show = attributes();
  // Where it runs, as far as is known: the source, until somebody says otherwise.
  let node = ref.source;
  let verdict = "";
  const view: MigrationView = {
    workload: ref.workload,
    operation: ref.operation,
    source: ref.source,
    destination: ref.destination,
    mode: options.mode,
    state: "in-doubt",
    phase: "cleanup",
    startedAt,
    since: now,
    phases: [],
    steering: [],
    problem: `the workflow of ${ref.operation} ended before it could say how it went`,
  };
  const tell = (change: Partial<MigrationView>): void => {
    if (change.state !== undefined && change.state !== view.state) view.since = Date.now();
    Object.assign(view, change);
    show({
      FerryWorkload: ref.workload,
      FerryNode: node,
      FerryRuntime: spec.runtime,
      FerryState: view.state === "done" ? verdict : view.state,
      FerryMode: options.mode,
    });
    showMigration(view);
  };
  setHandler(defineQuery<MigrationView>(QUERY.view), () => view);
  resolvable({ view, handOver: () => handOver, tuning });
  tell({});
  // A cancel changes nothing here: there is only one truth to find out.
  const result = await CancellationScope.nonCancellable(async () => {
    const settled = await settleHandOver(handOver, tuning, {
      tell,
      rest: async () => {
        if (!long()) return;
        await quiet();
        await continueAsNew<typeof settle>({ ...input, startedAt });
      },
    });
    const moved = settled.verdict === "moved";
    await clearUp(handOver, tuning, moved, settled.outstanding, receiptFor(settled));
    const side = moved ? settled.destination : settled.source;
    const hold = side === undefined ? undefined : running(side.holds);
    node = moved ? ref.destination : ref.source;
    verdict = settled.verdict;
    delete view.problem;
    delete view.remedy;
    tell({ state: "done", phase: "done" });
    return {
      verdict: settled.verdict,
      why: settled.why,
      node,
      epoch: hold?.epoch ?? (moved ? ref.to : ref.epoch),
    };
  });
  // Whoever resolved it gets an answer.
  await quiet();
  return result;
}

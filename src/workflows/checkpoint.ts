/**
 * Workflow `checkpoint`: one checkpoint of a workload, made by the agent of its node alone. The node's answer is waited for as
 * long as it works. If the node falls silent the entity is let go, and the node's journal is asked when it is back: nothing
 * is begun then that nobody waits for any more.
 *
 * There is no undo: whatever fails, the node takes the workload back by itself, or has let it go because the checkpoint is
 * there. So a cancel only ends the waiting for a node that is away; while the node works it is waited for.
 */
import {
  ActivityCancellationType,
  CancellationScope,
  continueAsNew,
  defineQuery,
  getExternalWorkflowHandle,
  isCancellation,
  setHandler,
  sleep,
  workflowInfo,
} from "@temporalio/workflow";
import {
  journalSays,
  letGoAs,
  type CheckpointReport,
  type JournalVerdict,
  type StateAfter,
} from "../model/checkpoint-report.js";
import { byAge, isBroken } from "../model/checkpoint-choice.js";
import type { StoredCheckpoint } from "../model/checkpoints.js";
import type { NodeActivities, Saved } from "../model/contract.js";
import type { FailureData } from "../model/failure.js";
import { QUERY, SIGNAL, type CheckpointInput, type CheckpointView, type OperationNews } from "../model/messages.js";
import { nodeTaskQueue } from "../model/names.js";
import { acceptInput } from "./accept.js";
import { backoffMs, beaten, isSilence, once, patiently, shortly, tryAsk } from "./calls.js";
import { attributes } from "./console.js";
import { showCheckpoint, showCheckpointReport } from "./console-checkpoints.js";
import { measure } from "./length.js";

/** A node that answers some questions and not this one is asked so often. */
const ROUNDS = 3;
/** It waits in the queue of the node that is away: its worker takes it as soon as it is back. */
const DAY_MS = 24 * 3_600_000;
const LONGEST_PAUSE_MS = 600_000;

/** It does not run, and nobody can show a checkpoint of it: it was stopped, or lost with its machine's power. */
const withoutOne = (state: StateAfter, made?: StoredCheckpoint): StateAfter =>
  (state === "checkpointed" || state === "sleeping") && made === undefined ? "stopped" : state;

export async function checkpoint(input: CheckpointInput): Promise<CheckpointReport> {
  acceptInput("checkpoint", input);
  const making = new Making(input);
  const made = input.late === undefined ? await CancellationScope.nonCancellable(() => making.make()) : undefined;
  if (made !== undefined) return making.finish(made);
  try {
    if (input.late === undefined) await CancellationScope.nonCancellable(() => making.letGo());
    return making.finish(await making.waitForNode());
  } catch (error) {
    if (!isCancellation(error)) throw error;
    // What became of the workload was decided without this node.
    return making.finish(making.report("unknown", "unknown", ["it was no longer waited for"]));
  }
}

class Making {
  private readonly input: CheckpointInput;
  private readonly view: CheckpointView;
  private readonly show = attributes();
  private readonly long: () => boolean;
  private readonly root = CancellationScope.current();
  private ended: CheckpointReport | undefined;

  constructor(input: CheckpointInput) {
    this.input = input;
    this.long = measure(input.tuning, "operation");
    const { ref, options, late } = input;
    const now = Date.now();
    this.view = {
      workload: ref.workload,
      operation: ref.operation,
      node: ref.source,
      stop: options.stop,
      state: late === undefined ? "working" : "in-doubt",
      phase: "precopy",
      startedAt: late?.startedAt ?? now,
      since: late?.since ?? now,
      phases: [],
      ...(late && { problem: late.problem, remedy: this.remedy() }),
    };
    setHandler(defineQuery<CheckpointView>(QUERY.view), () => this.view);
    setHandler(
      defineQuery<CheckpointReport>(QUERY.report),
      () => this.ended ?? this.report("unknown", "unknown", ["it is not known yet how it ended"]),
    );
    this.tell({});
  }

  /** Asks the node until it has said how it ended; undefined: it is silent. */
  async make(): Promise<CheckpointReport | undefined> {
    const { ref, options, tuning } = this.input;
    const { source: node, workload, schema } = ref;
    for (let round = 0; round < ROUNDS; round += 1) {
      const said = await tryAsk(node, () =>
        patiently(node, tuning, "checkpoint").saveCheckpoint({
          ref,
          options,
          request: this.input.request ?? workflowInfo().firstExecutionRunId,
        }),
      );
      if (said.answer !== undefined) return this.reportOf(said.answer);
      if (!isSilence(said.failure)) return this.refused(said.failure);
      this.tell({ problem: said.failure.message });
      const seen = await tryAsk(node, () => once(node, tuning, "is it there?").observeWorkload({ schema, workload }));
      // The same operation is asked for again: the agent makes one checkpoint of it.
      if (seen.failure !== undefined) break;
      await sleep(backoffMs(tuning, round));
    }
    return undefined;
  }

  /** The entity need not wait any longer. What it may do meanwhile is its own matter. */
  async letGo(): Promise<void> {
    const { source: node, operation } = this.input.ref;
    const why = this.view.problem ?? `${node} does not answer`;
    this.tell({ state: "in-doubt", problem: `${operation}: ${why}`, remedy: this.remedy() });
    await this.news({ state: "in-doubt", ...(this.view.problem && { problem: this.view.problem }) });
  }

  /** Changes nothing on the node, whenever it comes back: its journal says how it ended. */
  async waitForNode(): Promise<CheckpointReport> {
    const { ref, options, tuning } = this.input;
    const { source: node, workload, schema } = ref;
    const waiting = beaten<NodeActivities>({
      taskQueue: nodeTaskQueue(node),
      summary: `what its journal says of ${ref.operation} @ ${node}`,
      cancellationType: ActivityCancellationType.TRY_CANCEL,
      scheduleToStartTimeout: DAY_MS,
      startToCloseTimeout: tuning.startToCloseMs,
      retry: { maximumAttempts: 3 },
    });
    for (let round = 0; ; round += 1) {
      const said = await tryAsk(node, () => waiting.observeWorkload({ schema, workload }));
      const verdict = said.answer && journalSays(ref, options, said.answer.holds);
      if (verdict !== undefined) {
        const report = await this.fromJournal(verdict);
        await CancellationScope.nonCancellable(() => this.news({ state: "done", checkpoint: report }));
        return report;
      }
      const problem = said.failure?.message ?? `${node} still holds it frozen`;
      this.tell({ problem: `${ref.operation}: ${problem}` });
      const { startedAt, since } = this.view;
      if (this.long()) await continueAsNew<typeof checkpoint>({ ...this.input, late: { startedAt, since, problem } });
      await sleep(backoffMs(tuning, round, LONGEST_PAUSE_MS));
    }
  }

  report(outcome: CheckpointReport["outcome"], state: StateAfter, reasons: string[]): CheckpointReport {
    const { workload, operation, source: node, epoch } = this.input.ref;
    const totalMs = Date.now() - this.view.startedAt;
    return { outcome, workload, operation, node, state, epoch, phases: [], rounds: 0, totalMs, reasons };
  }

  finish(report: CheckpointReport): CheckpointReport {
    this.ended = report;
    delete this.view.problem;
    delete this.view.remedy;
    this.tell({ state: "done", phase: "done", phases: report.phases });
    this.show({ FerryState: report.outcome });
    showCheckpointReport(report);
    return report;
  }

  private reportOf(saved: Saved): CheckpointReport {
    const { checkpoint: made, failure, frozenMs, phases, rounds, epoch, state } = saved;
    const reasons: string[] = [];
    const letGo = made !== undefined && state === "STOPPED" ? saved.letGo : undefined;
    if (this.root.consideredCancelled) {
      reasons.push("a cancel was asked for: a checkpoint is not called back, it was waited for until it was over");
    }
    if (epoch !== this.input.ref.epoch) {
      reasons.push(`criu was lost while it was frozen: it was restored on its node and runs on under epoch ${epoch}`);
    }
    const now = state === "OWNER" ? "running" : state === "STOPPED" ? letGoAs(this.input.options) : "unknown";
    const after = letGo === false ? "stopped" : withoutOne(now, made);
    return {
      ...this.report(made === undefined ? "failed" : "saved", after, reasons),
      epoch,
      ...(letGo === true && { letGo }),
      phases,
      rounds,
      ...(made && { checkpoint: made }),
      ...(frozenMs !== undefined && { frozenMs }),
      ...(failure && { failure }),
    };
  }

  /** Nothing was begun, or it is over: where the workload is says its journal. */
  private async refused(why: FailureData): Promise<CheckpointReport> {
    const { ref, options, tuning } = this.input;
    const { source: node, workload, schema } = ref;
    const seen = await tryAsk(node, () =>
      shortly(node, tuning, "what its journal says").observeWorkload({ schema, workload }),
    );
    const verdict = seen.answer && journalSays(ref, options, seen.answer.holds);
    const { state, epoch } = verdict ?? { state: "unknown" as const, epoch: ref.epoch };
    return { ...this.report("failed", withoutOne(state), []), epoch, failure: why };
  }

  private async fromJournal({ state, epoch, letGoWith }: JournalVerdict): Promise<CheckpointReport> {
    const { ref, tuning } = this.input;
    const { source: node, workload, schema } = ref;
    const listed = await tryAsk(node, () =>
      shortly(node, tuning, "is the checkpoint there?").listCheckpoints({ schema, workload }),
    );
    const stored = (listed.answer ?? [])
      .filter((each): each is StoredCheckpoint => !isBroken(each) && each.epoch === ref.epoch)
      .sort(byAge);
    const newest = stored.at(-1);
    const letGo = stored.find(({ id }) => id === letGoWith);
    const made = letGo ?? (newest !== undefined && newest.takenAt >= this.view.startedAt ? newest : undefined);
    const reason = `${node} did not answer for a while: how it ended was read from its journal`;
    return {
      ...this.report(made === undefined ? "failed" : "saved", withoutOne(state, made), [reason]),
      epoch,
      ...(letGo !== undefined && { letGo: true as const }),
      ...(made
        ? { checkpoint: made }
        : {
            failure: {
              code: "E_NODE_UNREACHABLE",
              message: `${node} did not answer, and no checkpoint of it was found afterwards`,
              node,
              workload,
              remedy: `ask again: ferry checkpoint ${workload}`,
            },
          }),
    };
  }

  private remedy(): string {
    const { workload, source: node } = this.input.ref;
    return `bring ${node} back; if it is lost for good: ferry fence ${node}, then ferry recover ${workload}`;
  }

  private tell(change: Partial<CheckpointView>): void {
    if (change.state !== undefined && change.state !== this.view.state) this.view.since = Date.now();
    Object.assign(this.view, change);
    const { ref, runtime } = this.input;
    this.show({
      FerryWorkload: ref.workload,
      FerryNode: ref.source,
      FerryRuntime: runtime,
      FerryMode: this.view.stop ? "checkpoint-stop" : "checkpoint",
      ...(this.view.state !== "done" && { FerryState: this.view.state }),
    });
    showCheckpoint(this.view, this.input.options);
  }

  /** Tells the entity. One that is gone is no reason to stop. */
  private async news(more: Omit<OperationNews, "operation">): Promise<void> {
    const { parent } = workflowInfo();
    if (parent === undefined) return;
    try {
      await getExternalWorkflowHandle(parent.workflowId).signal(SIGNAL.operation, {
        operation: this.input.ref.operation,
        ...more,
      });
    } catch (error) {
      if (isCancellation(error)) throw error;
    }
  }
}

/** The entity's checkpoints and restores: what it does with the answers, and with those that do not come. */
import {
  ParentClosePolicy,
  condition,
  getExternalWorkflowHandle,
  startChild,
  type ChildWorkflowHandle,
} from "@temporalio/workflow";
import type { CheckpointReport } from "../model/checkpoint-report.js";
import { CONTRACT_SCHEMA, type OperationRef } from "../model/contract.js";
import {
  WORKFLOW,
  type CarriedWorkload,
  type CheckpointInput,
  type CheckpointRequest,
  type OperationNews,
  type OperationStarted,
  type Restored,
  type RestoreRequest,
  type Sleep,
  type Tuning,
  type Unanswered,
} from "../model/messages.js";
import { operationId, operationWorkflowId } from "../model/names.js";
import { highestSequence, nextEpoch, running } from "../model/settlement.js";
import type { WorkloadState, WorkloadStatus } from "../model/workload.js";
import { failure, isRefusal, isSilence, readFailure, shortly, tryAsk } from "./calls.js";
import type { checkpoint } from "./checkpoint.js";
import { KEYS } from "./console.js";
import { askedForCheckpoint } from "./console-checkpoints.js";
import { known } from "./may.js";
import { restoreOn } from "./restore.js";

/** What this needs of the entity. */
export interface Desk {
  readonly name: string;
  readonly tuning: Tuning;
  readonly status: WorkloadStatus | undefined;
  readonly highest: number;
  readonly arrivedAt: number;
  attempted: OperationRef[];
  /** An epoch was given out. */
  given(epoch: number): void;
  visit(node: string): void;
  /** Another incarnation, or a first one. */
  become(status: WorkloadStatus): void;
  tell(change: Partial<WorkloadStatus>): WorkloadStatus;
  done(change: Partial<WorkloadStatus> & { state: WorkloadState }): WorkloadStatus;
  /** Nothing is left of it: the workflow may complete. */
  end(): void;
}

export class Checkpoints {
  last: OperationStarted | undefined;
  /** A checkpoint whose node did not say how it ended. */
  unanswered: Unanswered | undefined;
  /** Where it slept when the attempts to restore it were begun. */
  private sleep: Sleep | undefined;
  /** It has ended after all, while something else was under way. */
  private late: CheckpointReport | undefined;
  /** Id of the checkpoint that it was let go with, until something of it is begun again. */
  private letGo: string | undefined;
  private readonly desk: Desk;
  /** A restore that its node was asked for. */
  private restoring: OperationRef | undefined;

  constructor(desk: Desk, carried: CarriedWorkload | undefined) {
    this.desk = desk;
    this.last = carried?.lastCheckpoint;
    this.unanswered = carried?.unanswered;
    this.letGo = carried?.letGo;
    this.sleep = carried?.sleep;
  }

  carried(): Pick<CarriedWorkload, "lastCheckpoint" | "unanswered" | "letGo" | "sleep"> {
    return {
      ...(this.last && { lastCheckpoint: this.last }),
      ...(this.unanswered && { unanswered: this.unanswered }),
      ...(this.letGo !== undefined && { letGo: this.letGo }),
      ...(this.sleep && { sleep: this.sleep }),
    };
  }

  async checkpoint({ options }: CheckpointRequest): Promise<OperationStarted> {
    const { desk } = this;
    const before = known(desk.name, desk.status);
    const { node, spec, runtime } = before;
    const workload = desk.name;
    const announced = before.sequence + 1;
    desk.tell({
      state: "checkpointing",
      sequence: announced,
      operation: operationId(workload, "checkpoint", announced),
    });
    try {
      const seen = await tryAsk(node, () =>
        shortly(node, desk.tuning, "read the journal").observeWorkload({ schema: CONTRACT_SCHEMA, workload }),
      );
      if (seen.failure) throw failure(seen.failure);
      const { holds } = seen.answer;
      const hold = running(holds);
      if (hold === undefined) {
        throw failure({
          code: "E_STATE",
          message: `${workload} does not run on ${node}, so there is nothing to save`,
          workload,
          node,
          remedy: `see what its journal says: ferry inspect ${workload}`,
        });
      }
      const sequence = Math.max(announced, highestSequence(holds) + 1);
      const operation = operationId(workload, "checkpoint", sequence);
      const ref: OperationRef = {
        schema: CONTRACT_SCHEMA,
        operation,
        workload,
        epoch: hold.epoch,
        to: nextEpoch(Math.max(desk.highest, hold.epoch), holds),
        source: node,
        destination: node,
      };
      desk.given(ref.to);
      desk.tell({ operation, sequence, epoch: hold.epoch });
      const workflowId = operationWorkflowId(workload, "checkpoint", sequence);
      const input: CheckpointInput = { ref, runtime, options, tuning: desk.tuning };
      const child = await this.startSaving(workflowId, input, spec.network.ip);
      this.last = { operation, workflowId, runId: child.firstExecutionRunId };
      void this.follow(child, workflowId, input, 0);
      return this.last;
    } catch (error) {
      const why = readFailure(error);
      desk.done({ state: "running", problem: `checkpoint: ${why.message}` });
      throw failure(why);
    }
  }

  private startSaving(workflowId: string, input: CheckpointInput, ip: string) {
    const { ref, runtime, options } = input;
    return startChild<typeof checkpoint>(WORKFLOW.checkpoint, {
      workflowId,
      args: [input],
      parentClosePolicy: ParentClosePolicy.ABANDON,
      staticSummary: `checkpoint ${ref.workload} (${ip}) on ${ref.source}${options.stop ? ", then let it go" : ""}`,
      staticDetails: askedForCheckpoint(options),
      typedSearchAttributes: [
        { key: KEYS.FerryWorkload, value: ref.workload },
        { key: KEYS.FerryNode, value: ref.source },
        { key: KEYS.FerryRuntime, value: runtime },
        { key: KEYS.FerryState, value: "working" },
      ],
    });
  }

  /** Waits for it in the background and takes over what it reports. */
  private async follow(
    child: ChildWorkflowHandle<typeof checkpoint>,
    workflowId: string,
    input: CheckpointInput,
    ended: number,
  ): Promise<void> {
    const { desk } = this;
    const { operation } = input.ref;
    try {
      this.take(await child.result());
    } catch (error) {
      const why = readFailure(error);
      if (desk.status?.operation !== operation && this.unanswered?.ref.operation !== operation) return;
      if (why.code === "E_IN_DOUBT" && ended === 0) {
        // Somebody terminated it. The node goes on: the same operation is asked for again, to learn how it ends.
        // To the node it is the same request: another one would be another checkpoint.
        const request = child.firstExecutionRunId;
        const again = { ...input, request, ...(this.unanswered !== undefined && { late: lateFrom(why.message) }) };
        try {
          const ip = known(desk.name, desk.status).spec.network.ip;
          void this.follow(await this.startSaving(workflowId, again, ip), workflowId, input, ended + 1);
          return;
        } catch (failed) {
          why.message += `; ${readFailure(failed).message}`;
        }
      }
      if (desk.status?.operation !== operation) return;
      desk.done({ state: "running", problem: `${operation}: ${why.message}` });
    }
  }

  /** True: it was of a checkpoint. */
  heard({ operation, state, problem, checkpoint: report }: OperationNews): boolean {
    const { desk } = this;
    if (!operation.startsWith(`${desk.name}.checkpoint.`)) return false;
    if (report !== undefined) this.takeLate(report);
    else if (state === "in-doubt" && desk.status?.operation === operation && this.last?.operation === operation) {
      const { epoch, node } = desk.status;
      const ref = { schema: CONTRACT_SCHEMA, operation, workload: desk.name, epoch, to: desk.highest };
      this.unanswered = { ref: { ...ref, source: node, destination: node }, workflowId: this.last.workflowId };
      // Nothing else is begun before its node has answered, or was fenced and the workload is recovered elsewhere.
      desk.done({ state: "in-doubt", ...(problem !== undefined && { problem }) });
    }
    return true;
  }

  private take(report: CheckpointReport): void {
    if (this.desk.status?.operation !== report.operation) return this.takeLate(report);
    this.apply(report);
  }

  /** The node is back. A person may have asked for something else meanwhile: that is decided first. */
  private takeLate(report: CheckpointReport): void {
    if (report.outcome === "unknown") return;
    this.late = report;
    this.settleLate();
  }

  /** Whenever an operation has ended: what the node has said meanwhile holds, unless it was decided without it. */
  settleLate(): void {
    const { late, desk } = this;
    if (late === undefined || desk.status?.operation !== undefined) return;
    this.late = undefined;
    if (this.unanswered?.ref.operation !== late.operation) return;
    this.unanswered = undefined;
    this.apply(late);
  }

  private apply(report: CheckpointReport): void {
    const { state, epoch, checkpoint: made, operation, failure: why, outcome, letGo } = report;
    this.letGo = (state === "checkpointed" || state === "sleeping") && letGo === true ? made?.id : undefined;
    this.desk.done({
      state: state === "unknown" ? "running" : state,
      epoch,
      ...(made && { lastCheckpoint: { id: made.id, takenAt: made.takenAt } }),
      ...(why && { problem: `${operation}: ${why.message}` }),
      ...(outcome === "unknown" && { problem: `${operation}: nobody said how it ended` }),
    });
  }

  /** Something else has decided what becomes of the workload. */
  async forget(): Promise<void> {
    const { unanswered } = this;
    if (unanswered === undefined) return;
    this.unanswered = undefined;
    try {
      await getExternalWorkflowHandle(unanswered.workflowId).cancel();
    } catch {
      // It has ended by itself.
    }
  }

  async restore(ask: RestoreRequest): Promise<Restored> {
    const { desk } = this;
    const before = desk.status;
    const spec = ask.clone?.spec ?? known(desk.name, before).spec;
    const node = ask.node ?? known(desk.name, before).node;
    const announced = (before?.sequence ?? 0) + 1;
    const dryRun = ask.dryRun === true;
    if (!dryRun) {
      if (before?.state === "sleeping") this.sleep = { node: before.node, epoch: before.epoch };
      else if (before?.state !== "in-doubt") this.sleep = undefined;
      desk.become({
        name: desk.name,
        runtime: spec.runtime,
        state: "restoring",
        node,
        epoch: before?.epoch ?? 0,
        spec,
        sequence: announced,
        operation: operationId(desk.name, "restore", announced),
        ...(before?.lastCheckpoint && { lastCheckpoint: before.lastCheckpoint }),
      });
    }
    let begun: OperationRef | undefined;
    const { answer, failure: why } = await tryAsk(node, () =>
      restoreOn({
        spec,
        node,
        of: ask.clone?.of ?? desk.name,
        wanted: {
          ...(ask.checkpoint !== undefined && { checkpoint: ask.checkpoint }),
          ...(ask.at !== undefined && { at: ask.at }),
        },
        ...(before && { last: before.node }),
        epoch: before?.epoch ?? 0,
        highest: desk.highest,
        arrivedAt: desk.arrivedAt,
        sequence: announced,
        attempted: desk.attempted,
        off: ask.off ?? [],
        ...((before?.state === "checkpointed" || before?.state === "sleeping") &&
          this.letGo !== undefined && { letGo: this.letGo }),
        ...(this.sleep && !dryRun && { sleep: this.sleep }),
        sleepsNoMore: () => {
          this.sleep = undefined;
        },
        lazy: ask.lazy === true,
        dryRun,
        tuning: desk.tuning,
        begins: (ref) => {
          begun = ref;
          this.letGo = undefined;
          this.restoring = ref;
          desk.given(ref.to);
        },
      }),
    );
    if (!dryRun) this.restoring = undefined;
    if (dryRun) {
      if (answer === undefined) throw failure(why);
      return answer;
    }
    if (answer !== undefined) {
      desk.attempted = [];
      this.sleep = undefined;
      desk.visit(answer.node);
      const { sequence, ...restored } = answer;
      desk.done({ state: "running", node: answer.node, epoch: answer.epoch, sequence });
      return restored;
    }
    desk.visit(node);
    if (begun !== undefined && isSilence(why)) desk.attempted.push(begun);
    // What is called off may have begun.
    const refused = isRefusal(why) && why.code !== "E_CANCELLED";
    await this.wentWrong(before, begun, `restore: ${why.message}`, refused);
    throw failure(why);
  }

  /** The restore under way ends where it stands; resolves when the entity knows how. One that is done stays. */
  async callOff(operation: string): Promise<void> {
    const { desk } = this;
    const ref = this.restoring;
    if (ref === undefined) {
      throw failure({
        code: "E_STATE",
        message: `the restore of ${desk.name} has not begun on its node, or has just ended`,
        workload: desk.name,
        remedy: `see its state: ferry inspect ${desk.name}`,
      });
    }
    const { destination: node, to: epoch } = ref;
    const asked = await tryAsk(node, () =>
      shortly(node, desk.tuning, "call the restore off").stopWorkload({
        schema: CONTRACT_SCHEMA,
        workload: desk.name,
        epoch,
        graceMs: 0,
        callOff: true,
      }),
    );
    if (asked.failure) throw failure(asked.failure);
    await condition(() => desk.status?.operation !== operation);
  }

  /** It is as it was before, unless it may run. What came to nothing leaves nothing. */
  private async wentWrong(
    before: WorkloadStatus | undefined,
    begun: OperationRef | undefined,
    problem: string,
    refused: boolean,
  ): Promise<void> {
    const { desk } = this;
    const now = known(desk.name, desk.status);
    const inDoubt = desk.attempted.length > 0;
    if (before !== undefined) {
      desk.become({ ...before, sequence: now.sequence });
      // It was in doubt because of attempts that are settled now: none of them runs.
      const slept = before.state === "sleeping" ? "checkpointed" : "stopped";
      const was = before.state === "in-doubt" && before.epoch === 0 ? "failed" : slept;
      const gone = before.state === "in-doubt" || before.state === "sleeping";
      const down = this.sleep !== undefined ? "sleeping" : gone ? was : before.state;
      desk.done({ state: inDoubt ? "in-doubt" : down, problem });
      return;
    }
    if (inDoubt) {
      desk.done({ state: "in-doubt", problem });
      return;
    }
    const cleared =
      begun === undefined ||
      refused ||
      (await tryAsk(now.node, () =>
        shortly(now.node, desk.tuning, "remove what is left").removeWorkload({
          schema: CONTRACT_SCHEMA,
          workload: desk.name,
        }),
      ).then(({ failure: left }) => left === undefined));
    desk.done({ state: "failed", problem });
    if (cleared) desk.end();
  }
}

const lateFrom = (problem: string): NonNullable<CheckpointInput["late"]> => ({
  startedAt: Date.now(),
  since: Date.now(),
  problem,
});

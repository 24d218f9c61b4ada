/**
 * What the entity `workload/<name>` knows and does (workload.ts has its messages and its life): one operation at a time,
 * and the state that each leaves. Checkpoints and restores: entity-checkpoints.ts.
 */
import {
  ParentClosePolicy,
  condition,
  getExternalWorkflowHandle,
  startChild,
  type ChildWorkflowHandle,
} from "@temporalio/workflow";
import { CONTRACT_SCHEMA, type OperationRef } from "../model/contract.js";
import {
  DEFAULT_TUNING,
  WORKFLOW,
  type CarriedWorkload,
  type EndedNews,
  type HandOver,
  type MigrateInput,
  type MigrateRequest,
  type OperationNews,
  type OperationStarted,
  type Recovered,
  type RecoverRequest,
  type RemoveRequest,
  type StartRequest,
  type StopRequest,
  type Tuning,
  type WorkloadInput,
} from "../model/messages.js";
import { operationId, operationWorkflowId } from "../model/names.js";
import { newsProblems } from "../model/request-check.js";
import type { MigrationReport } from "../model/report.js";
import type { WorkloadState, WorkloadStatus } from "../model/workload.js";
import { failure, isSilence, readFailure, shortly, tryAsk } from "./calls.js";
import { attributes, ofHandOver, showWorkload } from "./console.js";
import { Checkpoints, type Desk } from "./entity-checkpoints.js";
import { startMigration } from "./forgotten.js";
import * as may from "./may.js";
import type { migrate } from "./migrate.js";
import type { settle } from "./orphan.js";
import { recoverOn } from "./recover.js";
import { startOn } from "./start.js";

/** Epochs that operations which went wrong may have used up since the last that is known. */
const LONGEST_LEAP = 100_000;

export class Entity implements Desk {
  status: WorkloadStatus | undefined;
  lastMigration: OperationStarted | undefined;
  /** The workload is no more (or never came to be): the workflow may complete. */
  ended = false;
  /** Attempts to recover it whose answer was lost: each may run it. */
  attempted: OperationRef[];
  readonly name: string;
  readonly tuning: Tuning;
  readonly checkpoints: Checkpoints;
  highest: number;
  arrivedAt: number;
  private readonly show = attributes();
  private visited: string[];
  /** Where the migration under way goes. */
  private heading: string | undefined;
  private unsettled: CarriedWorkload["unsettled"];
  private ending: EndedNews | undefined;
  /** Workflow id of a migration from before this entity was reset. */
  private waitsFor: string | undefined;

  constructor(input: WorkloadInput) {
    this.name = input.name;
    this.tuning = { ...DEFAULT_TUNING, ...input.tuning };
    this.status = input.carried?.status;
    this.visited = input.carried?.visited ?? [];
    this.lastMigration = input.carried?.lastMigration;
    this.unsettled = input.carried?.unsettled;
    this.ending = input.carried?.ending;
    this.highest = input.carried?.highestEpoch ?? 0;
    this.arrivedAt = input.carried?.arrivedAt ?? 0;
    this.attempted = input.carried?.attempted ?? [];
    this.checkpoints = new Checkpoints(this, input.carried);
    if (this.status !== undefined) this.tell({});
  }

  get idle(): boolean {
    return this.status !== undefined && this.status.operation === undefined;
  }

  carried(): CarriedWorkload | undefined {
    if (this.status === undefined) return undefined;
    return {
      status: this.status,
      visited: this.visited,
      ...(this.lastMigration && { lastMigration: this.lastMigration }),
      ...(this.unsettled && { unsettled: this.unsettled }),
      ...(this.ending && { ending: this.ending }),
      highestEpoch: this.highest,
      arrivedAt: this.arrivedAt,
      attempted: this.attempted,
      ...this.checkpoints.carried(),
    };
  }

  async start({ spec, node, off }: StartRequest): Promise<WorkloadStatus> {
    if (this.status?.state === "running") return this.status;
    const before = this.status;
    const sequence = (before?.sequence ?? 0) + 1;
    this.status = {
      name: this.name,
      runtime: spec.runtime,
      state: "starting",
      node,
      epoch: before?.epoch ?? 0,
      spec,
      sequence,
      operation: operationId(this.name, "start", sequence),
      ...(before?.lastCheckpoint && { lastCheckpoint: before.lastCheckpoint }),
    };
    this.tell({});
    const result = await startOn({
      spec,
      node,
      sequence,
      epoch: this.status.epoch,
      tuning: this.tuning,
      // One that ran under this entity ended where the entity says.
      askOthers: before === undefined || before.state === "failed",
      off: off ?? [],
    });
    if (result.started) {
      if (!this.visited.includes(node)) this.visited.push(node);
      return this.done({ state: "running", epoch: result.epoch, sequence: result.sequence });
    }
    const { failure: why } = result;
    if (before !== undefined)
      this.done({ state: before.state, epoch: result.epoch ?? before.epoch, problem: why.message });
    else {
      // Nothing is left: the entity goes. Something may be left: it stays, so that `remove` can clear it up.
      this.visited.push(node);
      this.done({ state: "failed", epoch: result.epoch ?? 0, problem: why.message });
      this.ended = result.nothingLeft;
    }
    throw failure(why);
  }

  async migrate({ to, options }: MigrateRequest): Promise<OperationStarted> {
    const status = may.known(this.name, this.status);
    const sequence = status.sequence + 1;
    const operation = operationId(this.name, "migrate", sequence);
    const workflowId = operationWorkflowId(this.name, "migrate", sequence);
    const input: MigrateInput = {
      workload: this.name,
      sequence,
      source: status.node,
      destination: to,
      epoch: status.epoch,
      spec: status.spec,
      options,
      tuning: this.tuning,
      ...(this.unsettled && { unsettled: this.unsettled }),
    };
    this.heading = to;
    this.tell({ state: options.dryRun ? status.state : "migrating", operation, sequence }, options.mode);
    let child: ChildWorkflowHandle<typeof migrate>;
    try {
      child = await startMigration(workflowId, input, () => {
        this.waitsFor = workflowId;
        this.tell({ problem: `${operation} is under way already: this entity was reset, and waits for its end` });
      });
      this.waitsFor = undefined;
    } catch (error) {
      this.waitsFor = undefined;
      const why = readFailure(error);
      this.done({ state: "running", problem: why.message });
      throw failure(why);
    }
    const started = { operation, workflowId, runId: child.firstExecutionRunId };
    this.lastMigration = started;
    void this.follow(child, to);
    return started;
  }

  /** Waits for the migration in the background and takes over what it reports. */
  private async follow(child: ChildWorkflowHandle<typeof migrate>, to: string): Promise<void> {
    try {
      const report = await child.result();
      this.unsettled = undefined;
      this.apply(report);
      if (report.outcome === "moved") this.visit(to);
      this.visit(report.node);
    } catch (error) {
      const why = readFailure(error);
      if (this.unsettled === undefined) this.done({ state: "running", problem: why.message });
      else await this.settleOrphan(why.message);
    }
  }

  private apply(report: MigrationReport): void {
    const { outcome, node, epoch, failure: why, sequence = 0 } = report;
    const state: WorkloadState = outcome === "in-doubt" || outcome === "stuck" ? outcome : "running";
    if (this.status !== undefined) this.status.sequence = Math.max(this.status.sequence, sequence);
    // The mode that `auto` came to.
    this.done({ state, node, epoch, ...(why && { problem: `${report.operation}: ${why.message}` }) }, report.mode);
  }

  /** Its workflow was terminated in the middle: both journals are asked before anything else may begin. */
  private async settleOrphan(problem: string): Promise<void> {
    const { unsettled, status } = this;
    if (unsettled === undefined || status === undefined) return;
    const sequence = status.sequence + 1;
    this.tell({ state: "in-doubt", problem, sequence, operation: operationId(this.name, "settle", sequence) });
    if (!this.visited.includes(unsettled.ref.destination)) this.visited.push(unsettled.ref.destination);
    try {
      const child = await startChild<typeof settle>(WORKFLOW.settle, {
        workflowId: operationWorkflowId(this.name, "settle", sequence),
        args: [{ handOver: unsettled, tuning: this.tuning }],
        parentClosePolicy: ParentClosePolicy.ABANDON,
        staticSummary: `settle ${unsettled.ref.operation}: ask ${unsettled.ref.source} and ${unsettled.ref.destination}`,
        typedSearchAttributes: ofHandOver(unsettled, { node: unsettled.ref.source, state: "in-doubt" }),
      });
      const { node, epoch, verdict, why } = await child.result();
      this.unsettled = undefined;
      this.done({ state: "running", node, epoch, problem: `${problem}; settled: ${verdict}, ${why}` });
    } catch (error) {
      // Stays in doubt. The next migration settles it first.
      this.done({ state: "in-doubt", problem: `${problem}; settling it: ${readFailure(error).message}` });
    }
  }

  heard(said: unknown): void {
    // Anybody may send it who may write to the namespace: who can't be understood must not end this workflow's tasks.
    if (newsProblems(said).length > 0) return;
    const news = said as OperationNews;
    if (this.checkpoints.heard(news)) return;
    if (this.status === undefined || this.status.operation !== news.operation) return;
    if (news.handOver !== undefined) {
      if (!this.isOwn(news.handOver)) return;
      this.unsettled = news.handOver;
      this.highest = Math.max(this.highest, news.handOver.ref.to);
    }
    if (news.state === "in-doubt" || news.state === "stuck") {
      this.tell({ state: news.state, ...(news.problem !== undefined && { problem: news.problem }) });
    } else if (this.status.state === "in-doubt" || this.status.state === "stuck") {
      this.tell({ state: "migrating" });
    }
  }

  /** Of the migration under way, and of no epoch that nobody can have come to: what it says is settled some day. */
  private isOwn({ ref }: HandOver): boolean {
    const { status, heading, highest } = this;
    return (
      ref.workload === this.name &&
      ref.operation === status?.operation &&
      ref.source === status.node &&
      ref.destination === heading &&
      ref.to > ref.epoch &&
      ref.to - Math.max(status.epoch, highest) <= LONGEST_LEAP
    );
  }

  /** It may come before the operation that it belongs to has ended here: kept until then. */
  hasEnded(news: EndedNews): void {
    const { node, epoch, exitCode } = { ...news };
    if (typeof node !== "string" || !Number.isInteger(epoch)) return;
    this.ending = { node, epoch, ...(Number.isInteger(exitCode) && { exitCode }) };
    this.noteEnd();
  }
  private noteEnd(): void {
    const { status, ending } = this;
    if (status === undefined || ending === undefined || status.operation !== undefined) return;
    if (status.state !== "running" || status.node !== ending.node || status.epoch !== ending.epoch) return;
    this.tell({ state: "exited", ...(ending.exitCode !== undefined && { exitCode: ending.exitCode }) });
  }

  /** Of the migration under way, which may be accepted and not started yet; or of a restore. */
  async cancel(): Promise<void> {
    const operation = this.status?.operation;
    if (operation?.startsWith(`${this.name}.restore.`) === true) return this.checkpoints.callOff(operation);
    const known = (): boolean => this.waitsFor !== undefined || this.lastMigration?.operation === operation;
    await condition(() => known() || this.status?.operation !== operation);
    if (this.waitsFor !== undefined) return getExternalWorkflowHandle(this.waitsFor).cancel();
    if (this.lastMigration === undefined || this.lastMigration.operation !== operation) return;
    await getExternalWorkflowHandle(this.lastMigration.workflowId).cancel();
  }

  /** Its node is lost: see recover.ts. What was started there is told to go when that node comes back. */
  async recover({ node, acceptRollback }: RecoverRequest): Promise<Recovered> {
    const before = may.known(this.name, this.status);
    const sequence = before.sequence + 1;
    this.tell({ state: "recovering", operation: operationId(this.name, "recover", sequence), sequence });
    let begun: OperationRef | undefined;
    const { answer, failure: why } = await tryAsk(node, () =>
      recoverOn({
        spec: before.spec,
        lost: before.node,
        node,
        epoch: before.epoch,
        highest: this.highest,
        arrivedAt: this.arrivedAt,
        sequence,
        attempted: this.attempted,
        acceptRollback,
        ...(this.checkpoints.unanswered && { kept: this.checkpoints.unanswered.ref.to }),
        tuning: this.tuning,
        begins: (ref) => {
          begun = ref;
          this.highest = Math.max(this.highest, ref.to);
        },
      }),
    );
    if (answer === undefined) {
      // Nobody knows whether it runs there: asked again, that node says so; without its word it must be fenced, too.
      if (begun !== undefined && isSilence(why)) this.attempted.push(begun);
      const open = this.attempted.length > 0 || this.checkpoints.unanswered !== undefined;
      this.done({ state: open ? "in-doubt" : "running", problem: `recover: ${why.message}` });
      throw failure(why);
    }
    this.attempted = [];
    await this.checkpoints.forget();
    if (!this.visited.includes(answer.node)) this.visited.push(answer.node);
    this.done({ state: "running", node: answer.node, epoch: answer.epoch, problem: answer.message });
    return answer;
  }

  async stop({ graceMs }: StopRequest): Promise<WorkloadStatus> {
    const status = may.known(this.name, this.status);
    if (status.state === "stopped" || status.state === "checkpointed") return status;
    const sequence = status.sequence + 1;
    this.tell({ state: "stopping", operation: operationId(this.name, "stop", sequence), sequence });
    const stopped = await this.stopOnNode(status.node, status.epoch, graceMs);
    if (stopped === undefined) {
      await this.checkpoints.forget();
      return this.done({ state: "stopped" });
    }
    this.done({ state: status.state, problem: `stop: ${stopped.message}` });
    throw failure(stopped);
  }

  async remove({ force, graceMs }: RemoveRequest): Promise<void> {
    const status = may.known(this.name, this.status);
    const sequence = status.sequence + 1;
    this.tell({ operation: operationId(this.name, "remove", sequence), sequence });
    const down = status.state === "stopped" || status.state === "checkpointed" || status.state === "sleeping";
    if (force && !down && status.epoch > 0) {
      this.tell({ state: "stopping" });
      const why = await this.stopOnNode(status.node, status.epoch, graceMs);
      if (why !== undefined) {
        this.done({ state: status.state, problem: `remove: ${why.message}` });
        throw failure(why);
      }
    }
    // The node that has it must forget it; others that once had it only keep a note that it went, and may be away.
    const forget = (node: string) =>
      tryAsk(node, () =>
        shortly(node, this.tuning, "remove").removeWorkload({ schema: CONTRACT_SCHEMA, workload: this.name }),
      );
    const [main] = await Promise.all([status.node, ...this.visited.filter((n) => n !== status.node)].map(forget));
    if (main?.failure) {
      this.done({ state: force ? "stopped" : status.state, problem: `remove: ${main.failure.message}` });
      throw failure(main.failure);
    }
    await this.checkpoints.forget();
    this.done({ state: "removed" });
    this.ended = true;
  }

  private async stopOnNode(node: string, epoch: number, graceMs: number) {
    const patience = { ...this.tuning, startToCloseMs: this.tuning.startToCloseMs + graceMs };
    const stopped = await tryAsk(node, () =>
      shortly(node, patience, "stop").stopWorkload({ schema: CONTRACT_SCHEMA, workload: this.name, epoch, graceMs }),
    );
    return stopped.failure;
  }

  given(epoch: number): void {
    this.highest = Math.max(this.highest, epoch);
  }
  visit(node: string): void {
    if (!this.visited.includes(node)) this.visited.push(node);
  }
  become(status: WorkloadStatus): void {
    this.status = status;
    this.tell({});
  }
  end(): void {
    this.ended = true;
  }

  /** The operation has ended: this is what is left of it. */
  done(change: Partial<WorkloadStatus> & { state: WorkloadState }, mode?: string): WorkloadStatus {
    const { operation: _, problem: __, ...rest } = may.known(this.name, this.status);
    this.status = rest;
    this.tell(change, mode);
    this.noteEnd();
    this.checkpoints.settleLate();
    return this.status;
  }

  tell(change: Partial<WorkloadStatus>, mode?: string): WorkloadStatus {
    const before = may.known(this.name, this.status);
    const status = { ...before, ...change };
    if (status.state === "running" && (before.state === "starting" || status.epoch !== before.epoch)) {
      this.arrivedAt = Date.now();
    }
    this.highest = Math.max(this.highest, status.epoch);
    this.status = status;
    this.show({
      FerryWorkload: status.name,
      FerryNode: status.node,
      FerryRuntime: status.runtime,
      FerryState: status.state,
      ...(mode !== undefined && { FerryMode: mode }),
    });
    showWorkload(status);
    return status;
  }
}

/**
 * Messages between the SDK, the workflows and the workers: the names of updates, queries and signals, and what they
 * carry. Workflows define their handlers by these names, clients call them by these names.
 */
import type { Fence, OperationRef, Receipt, Reservation, SideOutcome } from "./contract.js";
import type { CheckpointReport } from "./checkpoint-report.js";
import type { SaveOptions } from "./checkpoints.js";
import type { FailureData, Side } from "./failure.js";
import type { NodeFacts } from "./node.js";
import type { Phase } from "./phase.js";
import type { AskedOptions, Finding, MigrateOptions, MigratePlan } from "./plan.js";
import type { Presence, Watch } from "./presence.js";
import type { SidesSeen } from "./progress.js";
import type { MigrationReport, PhaseTime, PrecopyProgress } from "./report.js";
import type { SteerCommand } from "./steering.js";
import type { RuntimeName, WorkloadSpec, WorkloadState, WorkloadStatus } from "./workload.js";

/** Types of workflow that Ferry runs on queue `ferry`. */
export const WORKFLOW = {
  workload: "workload",
  migrate: "migrate",
  settle: "settle",
  sweep: "sweep",
  supersede: "supersede",
  checkpoint: "checkpoint",
  /** One tick of a schedule. */
  protect: "protect",
  scale: "scale",
  idle: "idle",
  node: "node",
} as const;

export const UPDATE = {
  start: "start",
  migrate: "migrate",
  cancel: "cancel",
  stop: "stop",
  remove: "remove",
  recover: "recover",
  checkpoint: "checkpoint",
  restore: "restore",
  ask: "ask",
  /** To a migration, not to the entity. */
  steer: "steer",
  /** To a migration (or a settle) in doubt. */
  resolve: "resolve",
  /** To a node. */
  fence: "fence",
  forget: "forget",
} as const;

export const QUERY = {
  status: "status",
  lastMigration: "lastMigration",
  lastCheckpoint: "lastCheckpoint",
  view: "view",
  report: "report",
} as const;

export const SIGNAL = {
  /** A node's worker has come up or goes down (to `node/<name>`). */
  online: "online",
  offline: "offline",
  /** Answers "is there such a node?": only its delivery matters. */
  knock: "knock",
  /** A migration tells its entity where it stands. */
  operation: "operation",
  /** A node's worker tells the entity that the workload has ended by itself. */
  ended: "ended",
} as const;

/** How long the workflows wait for nodes. Carried in the input so that tests can be quick and slow networks patient. */
export interface Tuning {
  /** A worker of the node must take a task within this long, else the node counts as out of reach. */
  scheduleToStartMs: number;
  /** The same for takeOver, handOver, saveCheckpoint and restoreWorkload: a killed worker may come back within this long. */
  longScheduleToStartMs: number;
  /** Longest a short step may take. */
  startToCloseMs: number;
  /** A worker that was silent for this long is taken for dead, and the step is given to the next one. */
  heartbeatMs: number;
  /** First and longest pause between two rounds of asking in doubt. */
  backoffMs: number;
  maxBackoffMs: number;
  /** How long a roll back or a clean-up waits for a node that is not needed for the answer before it is left to `sweep`. */
  patienceMs: number;
  /** First and longest pause between two looks at the source: how far it is, and whether a released token got through. */
  watchMs: number;
  maxWatchMs: number;
  /** Events after which a workflow goes on in a new run. Missing: the workflows' own limit. */
  longEvents?: number;
}
export const DEFAULT_TUNING: Tuning = {
  scheduleToStartMs: 5_000,
  longScheduleToStartMs: 20_000,
  startToCloseMs: 90_000,
  heartbeatMs: 5_000,
  backoffMs: 500,
  maxBackoffMs: 15_000,
  patienceMs: 15_000,
  watchMs: 2_000,
  maxWatchMs: 60_000,
};

/** Input of the entity `workload/<name>`; `carried` is set by continue-as-new only. */
export interface WorkloadInput {
  name: string;
  tuning?: Partial<Tuning>;
  carried?: CarriedWorkload;
}
export interface CarriedWorkload {
  status: WorkloadStatus;
  /** Nodes that have held the workload: `remove` makes all of them forget it. */
  visited: string[];
  lastMigration?: OperationStarted;
  /** A hand-over whose workflow ended without an answer. */
  unsettled?: HandOver;
  /** The workload has ended by itself, under an epoch that is not known to run yet. */
  ending?: EndedNews;
  /** Highest epoch that was given out, also to a hand-over that was taken back. */
  highestEpoch?: number;
  /** When it came to its node, Unix milliseconds. */
  arrivedAt?: number;
  /** Attempts to recover or restore it whose answer was lost: each may run it. */
  attempted?: OperationRef[];
  lastCheckpoint?: OperationStarted;
  unanswered?: Unanswered;
  /** Id of the checkpoint that it was let go with; nothing was begun since. */
  letGo?: string;
  /** Where it slept when an attempt to restore it was begun. */
  sleep?: Sleep;
}
/** A checkpoint whose node did not say how it ended: its workflow waits for that node, nothing else begins meanwhile. */
export interface Unanswered {
  ref: OperationRef;
  workflowId: string;
}

export interface StartRequest {
  spec: WorkloadSpec;
  node: string;
  /** Nodes that a person knows to be switched off: they need not say that they have no copy of it. */
  off?: string[];
}
export interface MigrateRequest {
  to: string;
  options: AskedOptions;
}
export interface StopRequest {
  graceMs: number;
}
export interface RemoveRequest {
  /** Stop it first if it runs. */
  force: boolean;
  graceMs: number;
}
/** Its node is lost and was fenced: run it from its newest checkpoint. */
export interface RecoverRequest {
  node: string;
  /** What it did after the checkpoint is lost. */
  acceptRollback: boolean;
}
/** What came of it. */
export interface Recovered {
  operation: string;
  node: string;
  epoch: number;
  /** From which checkpoint, and what is lost. */
  message: string;
}
/** Input of the workflow that tells a lost node that another one has its workload now. */
export interface SupersedeInput {
  ref: OperationRef;
  tuning: Tuning;
  /** The owner's word, once it was heard, and how often was asked; set by continue-as-new only. */
  receipt?: Receipt;
  round?: number;
}
export interface CheckpointRequest {
  options: SaveOptions;
}
/** Nothing of it runs: run it from a checkpoint. */
export interface RestoreRequest {
  /** Missing: where it was. */
  node?: string;
  /** Id or the only one that begins with it; missing: the newest. */
  checkpoint?: string;
  /** The newest that was taken until then, Unix milliseconds. */
  at?: number;
  /** A clone: a new workload of this spec, from a checkpoint of that one. */
  clone?: { spec: WorkloadSpec; of: string };
  /** Nodes that a person knows to be switched off: they need not say that they have no copy of it. */
  off?: string[];
  /** It runs at once, and its pages follow. */
  lazy?: boolean;
  /** Say what would be done, change nothing. */
  dryRun?: boolean;
  /** Something came for it: only if it still sleeps there, under this epoch. */
  wake?: Sleep;
}
/** Where a workload sleeps, and the epoch that it had. */
export interface Sleep {
  node: string;
  epoch: number;
}
/** What came of it, or would. */
export interface Restored {
  operation: string;
  node: string;
  epoch: number;
  /** Its id. */
  checkpoint: string;
  /** When it was taken, Unix milliseconds. */
  takenAt: number;
  planned: boolean;
  /** From which checkpoint, and what is lost. */
  message: string;
}
/** Input of the workflow `checkpoint`. */
export interface CheckpointInput {
  ref: OperationRef;
  runtime: RuntimeName;
  options: SaveOptions;
  tuning: Tuning;
  /** Set by continue-as-new only: the node did not answer, its journal is asked when it is back. Times: Unix milliseconds. */
  late?: { startedAt: number; since: number; problem: string };
  /** What the node knows it by, if an earlier workflow of it was terminated; missing: this workflow's own first run. */
  request?: string;
}
/** An operation that was accepted and runs as a workflow of its own. */
export interface OperationStarted {
  operation: string;
  workflowId: string;
  runId: string;
}

/** Everything that is needed to settle a hand-over: also what is left of one whose workflow was terminated. */
export interface HandOver {
  ref: OperationRef;
  options: MigrateOptions;
  spec: WorkloadSpec;
  /** Missing: the source was never asked to hand over. */
  reservation?: Reservation;
}

export interface MigrateInput {
  workload: string;
  sequence: number;
  source: string;
  destination: string;
  epoch: number;
  spec: WorkloadSpec;
  options: AskedOptions;
  tuning: Tuning;
  /** An older hand-over that nobody settled: settled before anything else. */
  unsettled?: HandOver;
  /** Set by continue-as-new only. */
  carried?: CarriedMigration;
}
/** What a migration takes along when it goes on in a new run. */
export interface CarriedMigration {
  /** What it was at: nothing was asked of the nodes yet that would have to be undone, the hand-over, or going back. */
  at: CarriedAt;
  handOver: HandOver;
  view: MigrationView;
  findings: Finding[];
  failures: FailureData[];
  reasons: string[];
  plan?: MigratePlan;
  sourceOutcome?: SideOutcome;
  destinationOutcome?: SideOutcome;
}
export const CARRIED_AT = ["begin", "hand over", "undo"] as const;
export type CarriedAt = (typeof CARRIED_AT)[number];

export interface SettleInput {
  handOver: HandOver;
  tuning: Tuning;
  /** Unix milliseconds, of the first run; set by continue-as-new only. */
  startedAt?: number;
}
export interface SweepInput {
  handOver: HandOver;
  /** How the operation ended, and the nodes where something of it may be left. */
  moved: boolean;
  nodes: string[];
  tuning: Tuning;
  /** Of the side that a person has decided for: supersedes what the other one comes back with. */
  receipt?: Receipt;
  /** Unix milliseconds, of the first run; set by continue-as-new only. */
  startedAt?: number;
}

/** Where a migration stands. One variable. */
export const MIGRATION_STATES = ["working", "undoing", "in-doubt", "stuck", "done"] as const;
export type MigrationState = (typeof MIGRATION_STATES)[number];

/** What a migration shows while it runs (query `view`). Times are Unix milliseconds of the workflow's clock. */
export interface MigrationView {
  workload: string;
  operation: string;
  source: string;
  destination: string;
  mode: string;
  state: MigrationState;
  phase: Phase;
  startedAt: number;
  /** Since when it is in `state`. */
  since: number;
  phases: PhaseTime[];
  /** What a person said to it, and what came of it. */
  steering: { at: number; command: SteerCommand; answer: string }[];
  /** What each side said last while it was handed over. The workflow looks now and then, heartbeats know more. */
  progress?: SidesSeen;
  /** The last that the source said of its rounds. */
  precopy?: PrecopyProgress;
  problem?: string;
  remedy?: string;
}

/** What a checkpoint shows while it is made (query `view`). Times are Unix milliseconds of the workflow's clock. */
export interface CheckpointView {
  workload: string;
  operation: string;
  node: string;
  stop: boolean;
  state: MigrationState;
  phase: Phase;
  startedAt: number;
  since: number;
  phases: PhaseTime[];
  problem?: string;
  remedy?: string;
}

/** Signal `operation`: from a migration or a checkpoint to its entity. */
export interface OperationNews {
  operation: string;
  state: MigrationState;
  handOver?: HandOver;
  problem?: string;
  /** A checkpoint that nobody waited for any more has ended after all. */
  checkpoint?: CheckpointReport;
}

/** Signal `ended`: from a node's worker to the entity; sent again whenever the worker starts. */
export interface EndedNews {
  node: string;
  epoch: number;
  exitCode?: number;
}

/** How a settled hand-over ended. */
export interface SettledReport {
  report: MigrationReport;
}

/** What the entity of a node knows of it. Times are Unix milliseconds. */
export interface NodeState {
  online: boolean;
  facts?: NodeFacts;
  since: number;
  /** A person has said that it is off, and it has not come back since. */
  fence?: Fence;
  /** Whether it is there, by what its own worker says all the time. Missing: an entity of before that. */
  presence?: Presence;
}
/** Update `fence` of a node's entity. */
export interface FenceRequest {
  evidence: string;
}
/** Update `resolve` of a migration in doubt. */
export interface ResolveRequest {
  keep: Side;
  acceptRollback: boolean;
}
/** What came of it. */
export interface Resolved {
  operation: string;
  message: string;
}
/** Input of the entity `node/<name>`. */
export interface NodeInput {
  node: string;
  /** When it is taken for silent or lost; its worker says it again whenever it starts. */
  watch?: Partial<Watch>;
  carried?: NodeState;
}
/** Reads on a node. They go through the node's entity, so that no workload's history grows with them. */
export type AskRequest =
  | { ask: "describe"; timeoutMs?: number }
  | { ask: "observe"; workload: string }
  | { ask: "log"; workload: string; offset: number; maxBytes: number }
  | StoreRequest;
/** Of the checkpoints in the node's store. All but the first change, or read, one of them. */
export type StoreRequest =
  | { ask: "checkpoints"; workload?: string }
  | { ask: "pin"; workload: string; checkpoint: string; pinned: boolean }
  | { ask: "removeCheckpoint"; workload: string; checkpoint: string }
  | { ask: "verify"; workload: string; checkpoint: string }
  | { ask: "diff"; workload: string; checkpoint: string; with: string };

/** States in which nothing of the workload runs. */
export const isDown = (state: WorkloadState): boolean =>
  state === "stopped" ||
  state === "checkpointed" ||
  state === "sleeping" ||
  state === "exited" ||
  state === "failed" ||
  state === "removed";

/** The failure as it crosses Temporal: the type of an ApplicationFailure is the code, its first detail is the data. */
export const isFailureData = (value: unknown): value is FailureData =>
  typeof value === "object" &&
  value !== null &&
  typeof (value as { code?: unknown }).code === "string" &&
  typeof (value as { message?: unknown }).message === "string";

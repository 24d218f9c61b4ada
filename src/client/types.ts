/**
 * The shape of the SDK: what `connect()` gives. Kept apart from its implementation so that the CLI and users read one
 * page.
 */
import type { PayloadKey } from "../keys/payload-keys.js";
import type { TlsMaterial } from "../keys/temporal-access.js";
import type { CheckpointReport } from "../model/checkpoint-report.js";
import type { CheckpointDiff, ListedCheckpoint, OnNodeLoss } from "../model/checkpoints.js";
import type { Fence, LogChunk, Observation } from "../model/contract.js";
import type { MigrationState, Recovered, Resolved, Restored } from "../model/messages.js";
import type { NodeFacts } from "../model/node.js";
import type { AskedOptions } from "../model/plan.js";
import type { MigrationReport, PrecopyProgress, Progress } from "../model/report.js";
import type { Pruned, Retention } from "../model/retention.js";
import type { ScheduleKind } from "../model/schedules.js";
import type { SteerCommand, Steered } from "../model/steering.js";
import type { Away, Presence } from "../model/presence.js";
import type { Phase } from "../model/phase.js";
import type { VolumeKind } from "../model/volumes.js";
import type { SpecSignature } from "../model/spec-signature.js";
import type { WorkloadSpec, WorkloadState, WorkloadStatus } from "../model/workload.js";

export interface ConnectOptions {
  /** Temporal frontend, host:port. */
  address: string;
  namespace?: string;
  /** Missing: no TLS, unless there is an API key, which is never sent in the clear. */
  tls?: TlsMaterial;
  apiKey?: string;
  /** Encrypts what Temporal stores, newest key first: the same as the workers have. */
  payloadKeys?: readonly PayloadKey[];
}

/** `ferry run`: name, node and command are needed, the rest has defaults. */
export interface RunRequest {
  name: string;
  node: string;
  command: string[];
  runtime?: WorkloadSpec["runtime"];
  env?: Record<string, string>;
  dir?: string;
  user?: string;
  limits?: WorkloadSpec["limits"];
  /** Besides /data. `copy` (the default) moves with the workload, `shared` is the same storage on every node. */
  volumes?: { name: string; path: string; kind?: VolumeKind }[];
  /** Recovering it after the loss of its node: `ask` for consent (the default), or `restore` its last checkpoint. */
  onNodeLoss?: OnNodeLoss;
  /** Address, with prefix length or without (that of the node's bridge); default: chosen from the name in the bridge's network. */
  ip?: string;
  mac?: string;
  gateway?: string;
  /** Of exactly the spec that this request comes to, see `signSpec`; give `ip` with its prefix length, and `mac`. */
  signature?: SpecSignature;
  /**
   * Nodes that are switched off and stay so. Before a name is started, every node that is known must say that it has no
   * copy of it; one that does not answer is a reason to refuse, unless it is named here.
   */
  off?: string[];
}

export interface WorkloadListing {
  name: string;
  node: string;
  runtime: string;
  state: WorkloadState;
  mode?: string;
  startedAt: Date;
}

export interface NodeListing {
  name: string;
  reachable: boolean;
  facts?: NodeFacts;
  problem?: string;
  /** A person has said that it is off. */
  fence?: Fence;
  /** Not reachable: since when, and when it was heard of last. */
  presence?: Presence;
}

/** One observation of a running migration: what the terminal view, `--json` lines and users' loops show. */
export interface MigrationProgress {
  workload: string;
  operation: string;
  phase: Phase;
  /** The mode; `auto` until preflight has chosen. */
  mode?: string;
  source?: Progress;
  destination?: Progress;
  bytesSent: number;
  bytesTotal: number;
  rateBytesPerSec: number;
  etaMs?: number;
  elapsedMs: number;
  /** The rounds of pre-copy, as far as they are. */
  precopy?: PrecopyProgress;
}

export interface MigrationHandle {
  readonly workflowId: string;
  readonly operation: string;
  /** Observations until the migration ends; ends by itself. */
  progress(options?: { everyMs?: number }): AsyncIterable<MigrationProgress>;
  /** The report, whatever the outcome; throws FerryError only when the report can't be had. */
  result(): Promise<MigrationReport>;
  /**
   * Steer it while it is under way: pause, switch now, change limits. Throws FerryError E_STATE when it is too early or
   * too late for the command.
   */
  steer(command: SteerCommand): Promise<Steered>;
  /** Ask for a roll back. Before the commit point the workload goes on at the source; after it this has no effect. */
  cancel(): Promise<void>;
}

/** All of it may be left out. */
export interface CheckpointOptions {
  /** It does not run on: it stays frozen until the checkpoint is there, and is let go then. */
  stop?: boolean;
  reason?: string;
  /** Who asks; default: "sdk". */
  requestedBy?: string;
  labels?: Record<string, string>;
  /** If it is to run on: longest it may be frozen. */
  maxBlackoutMs?: number;
  /** With `stop`: it sleeps then. Its node holds its address, and restores it when something comes for it. */
  wakeOnTraffic?: boolean;
}

/** One observation of a checkpoint that is being made. */
export interface CheckpointProgress {
  workload: string;
  operation: string;
  node: string;
  state: MigrationState;
  phase: Phase;
  bytesSent: number;
  bytesTotal: number;
  rateBytesPerSec: number;
  elapsedMs: number;
}

export interface CheckpointHandle {
  readonly workflowId: string;
  readonly operation: string;
  /** Observations until it has ended; ends by itself. */
  progress(options?: { everyMs?: number }): AsyncIterable<CheckpointProgress>;
  /** How it ended; `unknown` when its node does not answer: then its journal is asked when it is back. */
  result(): Promise<CheckpointReport>;
}

export interface RestoreOptions {
  /** Id, or the only one that begins so; default: the newest. */
  checkpoint?: string;
  /** The newest that was taken until then. */
  at?: Date;
  /** Default: where it was. */
  node?: string;
  /** Nodes that are switched off, were fenced, and stay off: their silence is no reason to refuse. */
  off?: string[];
  /** It runs, and answers, before its memory is here: what it touches comes first. Resolves when all of it is in place. */
  lazy?: boolean;
  /** Say what would be done, change nothing. */
  dryRun?: boolean;
}

/** New workloads from a checkpoint of `of`, each with an address of its own. */
export interface CloneRequest {
  of: string;
  /** Name of the clone; with `count`, they are called NAME-1, NAME-2, ... */
  as: string;
  count?: number;
  /** Addresses, in order; the rest is chosen as for `run`. */
  ips?: string[];
  /** Default: where `of` is. */
  node?: string;
  checkpoint?: string;
  at?: Date;
  off?: string[];
  /** As for `restore`. */
  lazy?: boolean;
}

export interface PruneOptions extends Retention {
  /** Say what would go, remove nothing. */
  dryRun?: boolean;
}

/** `node` names the node that is asked; default: the workload's, else the first one that has a store. */
export interface StoreOptions {
  node?: string;
}

/** What is in the store. Ids may be cut to what only one of them begins with. @throws FerryError E_NO_CHECKPOINT: no store */
export interface CheckpointsClient {
  /** Of one workload, or of all, oldest first. Those that can't be read say why. */
  list(options?: { workload?: string } & StoreOptions): Promise<ListedCheckpoint[]>;
  show(workload: string, id: string, options?: StoreOptions): Promise<ListedCheckpoint>;
  /** What changed between two, stream by stream. */
  diff(workload: string, before: string, after: string, options?: StoreOptions): Promise<CheckpointDiff>;
  /** Reads all of it. @throws FerryError E_STORE_CORRUPT, E_STORE_SIGNATURE */
  verify(workload: string, id: string, options?: StoreOptions): Promise<void>;
  /** One that is pinned is not removed, nor pruned. */
  pin(workload: string, id: string, options?: StoreOptions): Promise<void>;
  unpin(workload: string, id: string, options?: StoreOptions): Promise<void>;
  /** @throws FerryError E_STATE when it is pinned */
  remove(workload: string, id: string, options?: StoreOptions): Promise<void>;
  /** Removes what is not worth keeping; what is pinned, and the newest, always stay. Returns what went, oldest first. */
  prune(workload: string, options: PruneOptions & StoreOptions): Promise<Pruned[]>;
}

/** `ferry protect`. At least one of keep, olderThanMs and maxBytes is needed: each tick makes one more checkpoint. */
export interface ProtectRequest extends Retention {
  /** At least 10 s. */
  everyMs: number;
  /** Longest it may be frozen for one. */
  maxBlackoutMs?: number;
}
/** `ferry schedule scale-down`. At least one of `cron` and `idleMs` is needed. */
export interface ScaleDownRequest {
  /** When it is saved and let go, like "0 20 * * 1-5". */
  cron?: string;
  /** It is let go when no packet came or went, and it used little of the processor, for so long. At least 10 s. */
  idleMs?: number;
  /** Up to this much of one core is little; default: 1. */
  cpuPercent?: number;
  /** Once let go it sleeps: its node holds its address, and restores it when something comes for it. */
  wakeOnTraffic?: boolean;
  /** When it runs again, if it was let go. Missing: when somebody restores it, or something comes for it. */
  wake?: string;
  /** Of the times, like "Europe/Berlin"; default: UTC. */
  timezone?: string;
}
export interface ScheduleListing {
  /** "protect/web" */
  id: string;
  kind: ScheduleKind;
  workload: string;
  /** Of one that protects. */
  everyMs?: number;
  retention?: Retention;
  maxBlackoutMs?: number;
  /** Of those that let go and wake at certain times. */
  cron?: string;
  timezone?: string;
  /** Of one that lets go what is idle. */
  idleMs?: number;
  cpuPercent?: number;
  wakeOnTraffic?: boolean;
  paused: boolean;
  note?: string;
  /** The last tick. `outcome` is missing while it goes on. */
  last?: { at: Date; workflowId: string; outcome?: string; message?: string };
  next?: Date;
  /** It is not as Ferry makes them. */
  problem?: string;
}
export interface ScheduleChange {
  schedule: ScheduleListing;
  outcome: "created" | "changed" | "unchanged";
  /** "every: 5m, was 10m" */
  changes: string[];
}
/**
 * What is done to workloads by the clock, as Temporal Schedules. A tick asks like a person: a workload that is busy or does not run
 * is left alone. `id`: "protect/web", "scale-down/web", "idle/web", "wake/web". @throws FerryError E_STATE: there is no such schedule
 */
export interface SchedulesClient {
  /** A checkpoint now and then, and older ones removed. Asked again it is changed. @throws FerryError E_WORKLOAD_UNKNOWN */
  protect(workload: string, request: ProtectRequest): Promise<ScheduleChange>;
  /** Saved and let go, and woken again. Asked again it is changed: of what is left out, none is left of an earlier one. */
  scaleDown(workload: string, request: ScaleDownRequest): Promise<ScheduleChange[]>;
  list(options?: { workload?: string }): Promise<ScheduleListing[]>;
  get(id: string): Promise<ScheduleListing>;
  pause(id: string, note?: string): Promise<void>;
  resume(id: string): Promise<void>;
  /** One tick now, besides the others. */
  trigger(id: string): Promise<void>;
  remove(id: string): Promise<void>;
}

export interface WorkloadInspection {
  status: WorkloadStatus;
  /** What is done to it by the clock; missing where that could not be read. */
  schedules?: ScheduleListing[];
  observation?: Observation;
  /** Why the node could not be asked. */
  problem?: string;
}

export interface WorkloadHandle {
  readonly name: string;
  status(): Promise<WorkloadStatus>;
  /** Status, and what the node's journal and cgroup say. */
  inspect(): Promise<WorkloadInspection>;
  migrate(options: { to: string } & Partial<AskedOptions>): Promise<MigrationHandle>;
  /** The migration under way, or the last one. */
  migration(): Promise<MigrationHandle | undefined>;
  logs(options?: { offset?: number; maxBytes?: number }): Promise<LogChunk>;
  /**
   * Decides a migration in doubt: which side's copy stays. Refused when it could make two copies: a node that answers
   * speaks for itself, and one that is silent must have been fenced. `acceptRollback`: the other side may have run it for
   * a while, and what it did then is lost. @throws FerryError E_STATE, E_PAST_COMMIT
   */
  resolve(options: { keep: "source" | "destination"; acceptRollback?: boolean }): Promise<Resolved>;
  /**
   * Its node is lost and was fenced: it runs on `node` from its newest checkpoint, under a new epoch. `acceptRollback`: what
   * it did since that checkpoint is lost; needed unless its spec says `onNodeLoss: restore`.
   * @throws FerryError E_STATE when the node answers or was not fenced, E_NO_CHECKPOINT
   */
  recover(options: { node: string; acceptRollback?: boolean }): Promise<Recovered>;
  /** Save it, and let it run on, or let it go. */
  checkpoint(options?: CheckpointOptions): Promise<CheckpointHandle>;
  /** The checkpoint that is being made, or the last one that was. */
  lastCheckpoint(): Promise<CheckpointHandle | undefined>;
  /**
   * Nothing of it runs: it is run from a checkpoint. Asked again after an answer that was lost: it says whether it runs.
   * @throws FerryError E_STATE, E_NO_CHECKPOINT, E_CHECKPOINT_UNKNOWN, or why the node could not
   */
  restore(options?: RestoreOptions): Promise<Restored>;
  /** The restore under way ends, also of one that runs already: what it did since is lost. @throws FerryError E_STATE */
  cancelRestore(): Promise<void>;
  stop(options?: { graceMs?: number }): Promise<WorkloadStatus>;
  /** Stop it if asked, delete its files and forget it, and its schedules. */
  remove(options?: { force?: boolean }): Promise<void>;
}

export interface FerryClient {
  readonly workloads: {
    run(request: RunRequest): Promise<WorkloadHandle>;
    /** In the order of their names. What fails does not undo the others: the failure says which run. */
    clone(request: CloneRequest): Promise<WorkloadHandle[]>;
    list(options?: { all?: boolean }): Promise<WorkloadListing[]>;
    get(name: string): WorkloadHandle;
  };
  readonly checkpoints: CheckpointsClient;
  readonly schedules: SchedulesClient;
  readonly nodes: {
    list(): Promise<NodeListing[]>;
    get(name: string): Promise<NodeListing>;
    /** Nodes that are not there, by what is known of them: no node is asked. A silent node may well run its workloads. */
    away(): Promise<{ name: string; state: Away }[]>;
    /**
     * A person's word that a node is off, with how that is known. It holds until the node's worker comes back.
     * @throws FerryError E_STATE when the node answers, E_NODE_UNKNOWN
     */
    fence(name: string, evidence: string): Promise<Fence>;
    /**
     * A node that was given up is no longer listed, nor asked before a workload is started. It registers again when it
     * comes back. @throws FerryError E_STATE when it answers, E_NODE_UNKNOWN
     */
    forget(name: string): Promise<void>;
  };
  close(): Promise<void>;
}

/**
 * The shape of the SDK: what `connect()` gives. Kept apart from its implementation so that the CLI and users read one
 * page.
 */
import type { Fence, LogChunk, Observation } from "../model/contract.js";
import type { Resolved } from "../model/messages.js";
import type { NodeFacts } from "../model/node.js";
import type { AskedOptions } from "../model/plan.js";
import type { MigrationReport, PrecopyProgress, Progress } from "../model/report.js";
import type { SteerCommand, Steered } from "../model/steering.js";
import type { Phase } from "../model/phase.js";
import type { VolumeKind } from "../model/volumes.js";
import type { WorkloadSpec, WorkloadState, WorkloadStatus } from "../model/workload.js";

export interface ConnectOptions {
  /** Temporal frontend, host:port. */
  address: string;
  namespace?: string;
  tls?: { ca?: Buffer; cert?: Buffer; key?: Buffer };
  apiKey?: string;
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
  /** Address, with prefix length or without (that of the node's bridge); default: chosen from the name in the bridge's network. */
  ip?: string;
  mac?: string;
  gateway?: string;
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

export interface WorkloadInspection {
  status: WorkloadStatus;
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
   * speaks for itself, and one that is silent must have been fenced. `acceptRollback`: the destination may have run it for
   * a while, and what it did then is lost. @throws FerryError E_STATE, E_PAST_COMMIT
   */
  resolve(options: { keep: "source" | "destination"; acceptRollback?: boolean }): Promise<Resolved>;
  stop(options?: { graceMs?: number }): Promise<WorkloadStatus>;
  /** Stop it if asked, delete its files and forget it. */
  remove(options?: { force?: boolean }): Promise<void>;
}

export interface FerryClient {
  readonly workloads: {
    run(request: RunRequest): Promise<WorkloadHandle>;
    list(options?: { all?: boolean }): Promise<WorkloadListing[]>;
    get(name: string): WorkloadHandle;
  };
  readonly nodes: {
    list(): Promise<NodeListing[]>;
    get(name: string): Promise<NodeListing>;
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

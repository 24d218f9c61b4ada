/**
 * A workload: what the user asked to run (spec), and what Ferry knows of it (status).
 */
import type { SpecSignature } from "./spec-signature.js";
import type { OnNodeLoss } from "./checkpoints.js";
import type { VolumeSpec } from "./volumes.js";

export const RUNTIMES = ["process", "simulated"] as const;
export type RuntimeName = (typeof RUNTIMES)[number];

export interface WorkloadLimits {
  memoryBytes?: number;
  /** Cores: 1.5 is one and a half. */
  cpus?: number;
}

/** What a person asks for with `ferry run`. The node's own copy is the authority for mounts, user and network. */
export interface WorkloadSpec {
  name: string;
  runtime: RuntimeName;
  command: string[];
  env: Record<string, string>;
  /** Working directory inside the workload. */
  dir: string;
  /** User name or uid[:gid] as known on the node. */
  user: string;
  limits: WorkloadLimits;
  /** Besides /data, which every workload has. */
  volumes?: VolumeSpec[];
  /** Its node is lost, and a person recovers it: ask whether it may go back to its last checkpoint (the default), or not. */
  onNodeLoss?: OnNodeLoss;
  network: {
    /** Address with prefix length on the nodes' bridge, e.g. 10.77.0.100/24. */
    ip: string;
    mac: string;
    gateway?: string;
  };
  /** Who has allowed exactly this; a node may require it. */
  signature?: SpecSignature;
}

/**
 * States of the entity `workload/<name>`; one variable, no booleans beside it.
 *
 *   running -> checkpointing -> running          a checkpoint was made, or was not: it runs on
 *                            -> checkpointed     --stop: it is in the store, nothing runs, its files stay
 *                            -> sleeping         --stop --wake-on-traffic: the same, and what comes for its address restores it
 *   checkpointed | sleeping | stopped | exited | failed | (nothing) -> restoring -> running
 *                                                         -> as before   refused, or it failed: nothing runs
 *   checkpointing | restoring -> in-doubt        the node did not say how it ended
 */
export const WORKLOAD_STATES = [
  "starting",
  "running",
  "migrating",
  "recovering",
  "checkpointing",
  "restoring",
  "stopping",
  "stopped",
  "checkpointed",
  "sleeping",
  "exited",
  "failed",
  "in-doubt",
  "stuck",
  "removed",
] as const;
export type WorkloadState = (typeof WORKLOAD_STATES)[number];

export interface WorkloadStatus {
  name: string;
  runtime: RuntimeName;
  state: WorkloadState;
  node: string;
  epoch: number;
  spec: WorkloadSpec;
  /** Sequence number of the last operation; operation ids derive from it. */
  sequence: number;
  /** Workflow id of the operation under way. */
  operation?: string;
  /** `exited`: how it ended, where the node saw it; 128 and the signal's number where it was killed. */
  exitCode?: number;
  /** The last thing that went wrong, in words. */
  problem?: string;
  /** The newest checkpoint that was made of it, as far as this entity knows; `takenAt` in Unix milliseconds. */
  lastCheckpoint?: { id: string; takenAt: number };
}

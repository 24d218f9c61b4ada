/**
 * Checkpoints of a workload, and where they come from: what is needed to run it elsewhere after its node was lost. Who
 * makes and keeps them is a store's matter; this is all that recovering needs of one.
 */
import { ferryError, type FailureData } from "./failure.js";
import type { WorkloadSpec } from "./workload.js";

export interface Checkpoint {
  /** Safe as a file name, and unique among the workload's. */
  id: string;
  workload: string;
  /** Under which it ran when this was taken. */
  epoch: number;
  /** When it was frozen for it, Unix milliseconds: everything that it did later is not in there. */
  takenAt: number;
  /** Where it lies, in words. */
  where: string;
  /** Nodes that can read it; missing: every node. */
  nodes?: string[];
}

/** A checkpoint as the store lists it. */
export interface StoredCheckpoint extends Checkpoint {
  /** Node that took it, and what it ran on. */
  node: string;
  runtime: string;
  criuVersion: string;
  kernel: string;
  arch: string;
  cpu: string;
  reason: string;
  requestedBy: string;
  labels: Record<string, string>;
  /** The one whose blocks it shares; none of them is needed to restore it. */
  parent?: string;
  /** Must not be removed. */
  pinned: boolean;
  /** All of it, without zeros; and what it has added to the store (compressed). */
  dataBytes: number;
  newBytes: number;
}
/** One that can't be read or believed. */
export interface BrokenCheckpoint {
  id: string;
  workload: string;
  failure: FailureData;
}
export type ListedCheckpoint = StoredCheckpoint | BrokenCheckpoint;

/**
 * What changed between two checkpoints, stream by stream: images, memory of a task, files; and what that means. Bytes. Lists
 * are cut: `more` says how many are left out.
 */
export interface CheckpointDiff {
  streams: { name: string; kind: string; before: number; after: number; changed: number }[];
  /** All that follows is missing where a node is of an older version. */
  processes?: { list: ProcessDiff[]; more: number };
  files?: FilesDiff;
  sockets?: { list: SocketDiff[]; more: number; same: number };
  /** What could not be looked at, in words. */
  notes?: string[];
}
export type Change = "added" | "removed" | "changed" | "same";
/** A process and its own memory: private, anonymous areas. */
export interface ProcessDiff {
  /** Inside the workload. */
  pid: number;
  name: string;
  change: Change;
  before: number;
  after: number;
  changed: number;
  /** Of its memory those where most has changed; addresses are hexadecimal. */
  areas: { start: string; end: string; kind: "heap" | "stack" | "anonymous"; changed: number }[];
  moreAreas: number;
}
/** Files of the workload, by their names in its directory: `data` is its /data. */
export interface FilesDiff {
  added: number;
  removed: number;
  changed: number;
  /** Owner, mode, times or attributes alone. */
  metadata: number;
  same: number;
  list: FileDiff[];
  more: number;
}
export interface FileDiff {
  name: string;
  change: "added" | "removed" | "changed" | "metadata";
  type: string;
  before: number;
  after: number;
  /** Of its content, in whole blocks of 4096. */
  changed: number;
}
export interface SocketDiff {
  change: "added" | "removed";
  protocol: string;
  state: string;
  local: string;
  remote?: string;
}

/** How a checkpoint is asked for. */
export interface SaveOptions {
  /** It does not run on: it stays frozen until the checkpoint is there, and is let go then. */
  stop: boolean;
  reason: string;
  requestedBy: string;
  labels: Record<string, string>;
  /** If it is to run on: longest it may be frozen, in milliseconds. */
  maxBlackoutMs: number;
  /** With `stop`: it sleeps then. Its node holds its address, and what comes for it has it restored. */
  wakeOnTraffic?: boolean;
  /** With `stop`: only if nothing comes for it, or from it, until all of it is gathered. Else it runs on. */
  ifQuiet?: boolean;
}

const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
export const isCheckpointId = (id: unknown): id is string => typeof id === "string" && ID.test(id);

/** A node's view of where checkpoints are kept. */
export interface CheckpointSource {
  /**
   * The newest one that is whole and may be trusted; undefined: there is none. Changes nothing.
   * Throws FerryError E_NO_CHECKPOINT where none are kept at all.
   */
  newest(workload: string): Promise<Checkpoint | undefined>;
  /**
   * Make the workload run from it under this epoch, which the journal already owns.
   * success: it runs, its link is up, it is announced; `done` clears up, once it is journaled that it was started. Asked
   * again before that: it goes on. failure: nothing of it is left but files.
   */
  restore(
    checkpoint: Checkpoint,
    incarnation: { spec: WorkloadSpec; epoch: number },
  ): Promise<{ pid: number; done?: () => Promise<void> }>;
}

const none = (node: string, workload: string): Promise<never> =>
  Promise.reject(
    ferryError("E_NO_CHECKPOINT", `no checkpoints of ${workload} are kept: node ${node} has no store of them`, {
      workload,
      node,
      remedy:
        "bring the lost node back: what it runs is only there; if it is off for good, remove the workload there and run it anew",
    }),
  );
/** Of a node that keeps none. */
export const noCheckpoints = (node: string): CheckpointSource => ({
  newest: (workload) => none(node, workload),
  restore: ({ workload }) => none(node, workload),
});

/** What becomes of a workload whose node is lost, when a person recovers it. */
export const ON_NODE_LOSS = ["ask", "restore"] as const;
export type OnNodeLoss = (typeof ON_NODE_LOSS)[number];

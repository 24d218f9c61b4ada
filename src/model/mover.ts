/**
 * The control protocol between an agent and the mover children of one operation.
 *
 * A mover is a process of its own (own session), one on each side, that carries the heavy traffic: image files,
 * pages, volume. The agent only talks to it over a unix socket in the operation's directory: JSON lines, one
 * request -> one answer, plus unasked `status` lines whenever something changed. A restarted agent connects again and
 * gets the whole status: everything here is a level, not an edge.
 */
import type { FailureData } from "./failure.js";
import type { WorkloadSpec } from "./workload.js";

/** How changes of memory are found while the workload runs; `auto` takes the first that works, in this order. */
export const TRACKERS = ["pagemap-scan", "soft-dirty", "compare"] as const;
export type TrackerKind = (typeof TRACKERS)[number];

/** Written by the agent as `mover.json` (0600) in the operation's directory before the mover is started. */
export interface MoverConfig {
  operation: string;
  workload: string;
  /** Name of this node and of the only peer that is accepted. */
  node: string;
  peer: string;
  side: "source" | "destination";
  /** Epoch that is handed over to: part of the link's hello, both sides must name the same. Default 1. */
  to?: number;
  /** Unix socket of the control protocol. */
  controlSocket: string;
  /** Directory of criu's images (tmpfs, 0700). */
  imagesDir: string;
  /** Directory (tmpfs) for the page store, the event log and the guard's files. */
  storeDir: string;
  /** Volume of the workload (data and log), synced from source to destination. */
  volumeDir: string;
  /** PEM files. */
  tls: { caFile: string; certFile: string; keyFile: string; crlFile?: string };
  /** Destination: where to listen (port 0: any). */
  listenHost?: string;
  bandwidthBytesPerSec?: number;
  /** Where the mover appends its JSON log lines. */
  logFile: string;
  /** A sink or a feed: the configuration of the store (checkpoints/store-config.ts). */
  storeFile?: string;
  /** A feed: what it brings back. */
  checkpoint?: { workload: string; id: string };
}

/** Requests that the source's agent makes of its mover. */
export type SourceMoverRequest =
  | { verb: "status" }
  /** Connect to the destination's mover; idempotent; reconnects by itself, bounded, until told to exit. */
  | { verb: "connect"; host: string; port: number }
  /**
   * Sync the volume while the workload runs: the first time all of it, then what has changed. Answers when one whole pass is
   * done, or `cut` came in between. `pids`: host pids of the tree; without them every file is compared by content.
   */
  | { verb: "presync"; pids?: number[] }
  /**
   * Sync the volume for the last time: the tree is frozen. `pids` as above: files that a task has mapped shared are
   * compared by content, since a store to them leaves no trace in the times of the file.
   */
  | { verb: "finalSync"; pids?: number[] }
  /**
   * criu is held in post-dump: send every file of imagesDir, then the areas, then (cold) all pages, or (postcopy)
   * serve faults first and push the rest. `pids` maps the pid inside the namespace (as in pagemap-<pid>.img) to the
   * host's. Answers when the images and areas are acknowledged by the destination; pages go on in the background.
   */
  | { verb: "sendImages"; pids: Record<string, number> }
  /**
   * Pre-copy: look what has changed in the tree since the last look (the first: everything), running or frozen. Answers
   * with `precopy` in the status. What was found counts as unsent until `sendUnsent` has sent it, or the next scan.
   */
  | { verb: "scan"; pids: Record<string, number>; tracker?: TrackerKind | "auto" }
  /** Sends what is unsent; answers when the destination has all of it, or `cut` or `pause` came in between. */
  | { verb: "sendUnsent" }
  /** The `sendUnsent` or `presync` under way answers soon, with the rest unsent. */
  | { verb: "cut" }
  /** Ends the tracking: the tasks are as they were. */
  | { verb: "untrack" }
  | { verb: "limit"; bandwidthBytesPerSec: number | null }
  | { verb: "exit" };

/** Pre-copy at the source, as far as it is. Durations in milliseconds by the monotonic clock. */
export interface PrecopyStatus {
  tracker: TrackerKind;
  /** Why this one and none before it. */
  why: string;
  /** Scans so far. */
  scans: number;
  /** The last scan: pages found, present pages looked at, how long it took, how long after the scan before it. */
  lastScan: { dirtyPages: number; presentPages: number; durationMs: number; sincePreviousMs: number };
  /** Pages that the destination lacks or has in an older version, as far as the last scan knows. */
  unsentPages: number;
  /** Over all rounds: pages sent (zero pages count), bytes of payload. */
  sentPages: number;
  sentBytes: number;
  /** Since the last scan: the same, and the time spent with sending. */
  round: { sentPages: number; sentBytes: number; durationMs: number };
}

/** Requests that the destination's agent makes of its mover. */
export type DestinationMoverRequest =
  | { verb: "status" }
  /** Start filling (after RUNNING): faults first, then everything that is still missing. */
  | { verb: "fill" }
  /** The restored tree was lost before it ran: forget its userfaultfds, keep the store, accept a new restore. */
  | { verb: "reset" }
  | { verb: "exit" };

/**
 * Requests to a sink: it stands where a destination's mover does, restores nothing, and puts what came into the checkpoint
 * store.
 */
export type SinkRequest =
  | { verb: "status" }
  /** Everything has come: store it. Answers when the checkpoint is there. Again while it is at it, or afterwards: the same. */
  | { verb: "store"; session: string; facts: CheckpointSaid; spec: WorkloadSpec }
  | { verb: "exit" };

/** What is said of a checkpoint, besides what the store finds out itself. */
export interface CheckpointSaid {
  workload: string;
  epoch: number;
  runtime: string;
  node: string;
  criuVersion: string;
  kernel: string;
  cpu: string;
  arch: string;
  reason: string;
  requestedBy: string;
  labels: Record<string, string>;
  /** When it was frozen: everything that it did later is not in there. Unix milliseconds. */
  takenAt?: number;
  /** It does not run on. */
  stopped?: boolean;
}

export interface SinkStatus extends DestinationMoverStatus {
  /** Every image, page and file is here: the workload may run on. */
  complete: boolean;
  /** Bytes of images and memory that were gone through, of how many. `done`: the checkpoint is there. */
  stored?: { bytes: number; total: number; done: boolean };
}

export interface SourceMoverStatus {
  side: "source";
  pid: number;
  connected: boolean;
  /**
   * Volume bytes moved and whole passes so far, and whether the final pass is done. `last`: of the last pass but the
   * first (then all zero), the bytes of the files that it had to compare, since they may have changed, how long it took, and
   * how long after the one before it began.
   */
  volume: {
    bytesSent: number;
    passes: number;
    finalDone: boolean;
    last: { comparedBytes: number; durationMs: number; sinceMs: number };
  };
  images: { sent: boolean; digest?: string; bytes: number };
  pages: { total: number; sent: number; bytesSent: number; allSent: boolean; allAcked: boolean };
  precopy?: PrecopyStatus;
  failure?: FailureData;
}

export interface DestinationMoverStatus {
  side: "destination";
  pid: number;
  port: number;
  connected: boolean;
  /**
   * `received`: all image files are here, digests checked, and lazy-pages.socket listens: criu may begin. `digest` is the
   * digest of the manifest. `claimed`: the page store is there, and every task that has pages has handed its userfaultfd to
   * the page daemon: without that it must not run.
   */
  images: { received: boolean; claimed: boolean; digest?: string; bytes: number };
  volume: {
    bytesReceived: number;
    finalDone: boolean;
    /** The volume has been flushed to the disk after the final pass (syncfs): wait for it before OWNER, not before RUNNING. */
    durable?: boolean;
  };
  pages: {
    /** Pages of all lazy areas. */
    total: number;
    /** In the store (or void: removed before they came). */
    received: number;
    /** In the workload's memory, or given up by it. */
    filled: number;
    faults: number;
    /** Every lazy page of every area is in the store: nothing depends on the source any more. */
    allReceived: boolean;
    /** Every page is in place, the userfaultfds are closed. */
    allFilled: boolean;
  };
  /** Tasks whose userfaultfd has been handed over by criu. */
  tasks: number;
  /** Pid of the guard that shares the userfaultfds (design section 5). */
  guardPid?: number;
  failure?: FailureData;
}

export type MoverReply<Status> =
  { id: number; ok: true; status: Status } | { id: number; ok: false; failure: FailureData };

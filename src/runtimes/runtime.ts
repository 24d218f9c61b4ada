/**
 * The interface of a runtime: how the agent starts, freezes, holds, restores and kills one kind of workload.
 * Each method states the workload's state after success AND after failure.
 *
 * A runtime knows nothing of epochs' rights, journals or peers: the agent calls it only when its journal allows.
 * One incarnation = one (workload, epoch) with its own cgroup, network namespace and directories.
 */
import type { WorkloadSpec } from "../model/workload.js";

export interface Incarnation {
  spec: WorkloadSpec;
  epoch: number;
  /** Of a restore: its connections are closed. Their other ends are elsewhere by now, or belong to another workload. */
  closeConnections?: boolean;
}

/** What a hook or the engine has reported so far for a dump or a restore: a level, readable again after a restart. */
export interface EngineStatus {
  /** criu's process is there. */
  alive: boolean;
  /** Set when it has ended. */
  exitCode?: number;
  /** Hook points that were reached, with Unix milliseconds (fractions) from the node's clock. */
  reached: Partial<Record<"network-lock" | "post-dump" | "post-restore" | "post-resume", number>>;
}

/** The restored tree was let run: whatever becomes of it, or of its engine, it has run. */
export const hasResumed = ({ exitCode, reached }: EngineStatus): boolean =>
  reached["post-resume"] !== undefined || exitCode === 0;

/** A dump or restore under way. Survives the agent: `adopt*` gives a new handle from the operation's directory. */
export interface EngineHandle {
  status(): EngineStatus;
  /** Resolves at the first status that satisfies `until` or when the engine ends; rejects with E_DEADLINE after `timeoutMs`. */
  wait(until: (status: EngineStatus) => boolean, timeoutMs: number): Promise<EngineStatus>;
  /** Lines of the engine's log that say why it failed. */
  evidence(): Promise<{ command: string[]; exitCode?: number; lines: string[] }>;
}

/** Sockets of this process: they end with it, and leave nothing behind. */
export interface FrameKeeper {
  /** Frames that did not get through since the last time, in order; none before the link is down (`cut`). */
  take(cut: boolean): Buffer[];
  /** How many were lost for want of room. */
  readonly overflowed: number;
  close(): void;
}
export interface FrameDoor {
  /** false: the kernel refused it. */
  put(frame: Buffer): boolean;
  close(): void;
}

export interface Runtime {
  /**
   * Start the workload under a new incarnation.
   * success: it runs, its link is up, it is announced; or (`exitCode`) it has ended well already.
   * failure: nothing of it is left but its log.
   */
  start(incarnation: Incarnation): Promise<{ pid: number; exitCode?: number }>;

  /** Number of processes in the incarnation's cgroup, and the host pid of the root process. */
  observe(incarnation: {
    name: string;
    epoch: number;
  }): Promise<{ processes: number; pid?: number; frozen: boolean; memoryBytes: number }>;

  /**
   * What it has done so far: unicast packets in and out, but for those to itself, and processor time. undefined: nothing of it
   * is there. Both go up, and begin anew with an incarnation.
   */
  activity(incarnation: { name: string; epoch: number }): Promise<{ packets: number; cpuMs: number } | undefined>;

  /** Host pid by pid inside the namespace, for every process of the tree. */
  pids(incarnation: { name: string; epoch: number }): Promise<Record<string, number>>;

  /**
   * Deny the running tree this percentage of the CPU time that it may use; 0: only its spec's limit holds again.
   * Idempotent. failure: the limit is as it was.
   */
  throttle(incarnation: Incarnation, percent: number): Promise<void>;

  /**
   * Freeze the tree and dump everything but lazily movable pages into imagesDir, then hold in `post-dump`.
   * Resolves once the engine has been started. From `network-lock` on the tree is frozen and its link is down.
   * failure (engine ends by itself): the tree runs again; call `thaw` to be sure.
   */
  freeze(incarnation: Incarnation, dirs: OperationDirs): Promise<EngineHandle>;
  adoptFreeze(dirs: OperationDirs): EngineHandle | undefined;

  /**
   * Veto: the source goes on. success: the tree runs, same connections, link up, nothing of the dump is left.
   * failure E_DUMP with `criuLost`: the engine died in the hold, the tree stays frozen (thawing would break its
   * connections): restore locally.
   */
  takeBack(incarnation: Incarnation, dirs: OperationDirs): Promise<void>;

  /**
   * Kill the incarnation for good, frozen or not: cgroup.kill, wait until it is empty, end a held engine, remove its
   * network namespace and cgroup. Idempotent. success: no process of it is left. failure: says which are.
   */
  destroy(incarnation: { name: string; epoch: number }, dirs?: OperationDirs): Promise<void>;

  /** SIGTERM to the root process, SIGKILL to the cgroup after graceMs; waits until empty. Leaves files. */
  stop(incarnation: { name: string; epoch: number }, graceMs: number): Promise<void>;

  /**
   * Prepare everything a restore needs that can be made beforehand: cgroup, network namespace with the workload's IP
   * and MAC and its link DOWN, directories. Idempotent.
   */
  prepare(incarnation: Incarnation, dirs: OperationDirs): Promise<void>;

  /**
   * Restore from imagesDir, hold in `post-restore` (nothing runs, link down).
   * failure (engine ends): nothing runs; `destroy` sweeps.
   */
  restore(incarnation: Incarnation, dirs: OperationDirs): Promise<EngineHandle>;
  adoptRestore(dirs: OperationDirs): EngineHandle | undefined;

  /**
   * Let the held restore run. Resolves when the engine has resumed the tree (exit 0), which may have ended since.
   * failure E_RESTORE: it does not run.
   */
  release(incarnation: Incarnation, dirs: OperationDirs): Promise<{ resumedAt: number }>;

  /**
   * Keep the frames to the workload that reach this node while its link is down. Called before `freeze`, so it takes no
   * time of the blackout. failure E_TOOL: nothing is kept, the workload is as it was.
   */
  keepFrames(incarnation: Incarnation): FrameKeeper;
  /** A way to put kept frames on the workload's link, which is up. failure E_TOOL: nothing was put. */
  frameDoor(incarnation: Incarnation): FrameDoor;

  /** Link up, then announce (gratuitous ARP and unsolicited NA, repeated over a window, in the background). */
  openNetwork(incarnation: Incarnation): Promise<void>;

  /** Incarnations that have processes on this node, frozen or not, whatever the journal says. Changes nothing. */
  populated(): { name: string; epoch: number; cgroup: string }[];

  /** Remove every cgroup, namespace, link and engine of incarnations for which `keep` says no. Returns what was swept. */
  sweep(keep: (name: string, epoch: number) => boolean): Promise<string[]>;
}

/** Directories of one operation on one node. */
export interface OperationDirs {
  /** Scratch on tmpfs: hooks' events and gates, engine's pid, rc, logs. */
  run: string;
  /** criu images, tmpfs, 0700. */
  images: string;
}

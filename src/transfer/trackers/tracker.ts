/**
 * What has changed in the memory of a running tree since the last look, without freezing it: the interface of the
 * trackers (design section 5). Only memory that criu restores lazily counts here: private anonymous pages.
 */
import type { TrackerKind } from "../../model/mover.js";

/** Consecutive pages of one task. `start` is an address of the task (a multiple of 4096, below 2^47). */
export interface PageRun {
  /** Pid inside the workload's namespace. */
  vpid: number;
  start: number;
  pages: number;
}

export interface Scan {
  /**
   * Present or swapped pages (never the shared zero page) that may have changed since the scan before; by task, then by
   * address, without overlap. All of them, when nothing is known about an area: the first scan, a new task or area, one
   * that moved, an exec. A page that is given here counts as clean from now on: the caller sends it or remembers it.
   * What is read after the scan is at least as new as the scan.
   */
  dirty: PageRun[];
  /** Sum of `dirty`. */
  pages: number;
  /** Present pages that were looked at, roughly: `dirty` is exact, this is for showing. */
  looked: number;
  durationMs: number;
}

export interface Tracker {
  /** May change when `auto` was asked for: one that can't follow the workload gives way to the next. */
  readonly kind: TrackerKind;
  /** Why it is this one now; there when `kind` may change. */
  readonly why?: string;
  /**
   * One look at the tree, running or frozen. `pids`: host pid by pid inside, of every task. A task that has ended is left
   * out. Rejects with a FerryError when the tracker can't go on; the tree is as it was then, and what was found dirty
   * before is not lost by that: the next scan of a new tracker gives every page.
   */
  scan(pids: Readonly<Record<string, number>>): Promise<Scan>;
  /**
   * The caller has read these whole pages after the last scan, and sends them as they are here. A tracker that compares
   * contents must compare with this the next time, not with what its scan saw: a page that was A in the scan, B when it
   * was read and A again is wrong at the destination. What is not
   * told here stays dirty for it. Others need not have this.
   */
  sent?(vpid: number, start: number, data: Buffer): void;
  /** Leaves every task as it was before the first scan. Idempotent, also after a failure. Never rejects. */
  end(): Promise<void>;
}

/** Why a tracker can't be used on this node, in words, or undefined. */
export type TrackerProbe = () => Promise<string | undefined>;

/**
 * Keeps the destination's copy of the volume close behind the original, beside rounds of memory or while a person holds
 * it, so that little is left for the blackout. Passes are gentle, rest longer than they work, and end at `pause` and
 * `switch-now`; what a pass that was cut has brought stays there.
 */
import type { SourceMoverStatus } from "../../model/mover.js";
import type { Level } from "../level.js";
import { orAbort } from "../level.js";
import type { Course } from "./steering.js";

/** In milliseconds. */
const TIMES = {
  /** A pass that began longer ago than this leaves more to the blackout than need be. */
  freshMs: 3000,
  leastRestMs: 2000,
};
const MOST_REST_MS = 30_000;
/** Rests are so many times the last pass. */
const REST = 4;
/** Passes right before the freeze: as long as each takes less than this share of the one before. */
const SHRINKS = 0.7;
const MOST_LAST_PASSES = 5;
/** After passes that took longer than this, memory is due again. */
const LONG_MS = 100;

export interface VolumeFollowerOptions {
  course: Level<Course>;
  /** One pass; its status says whether it came to its end. */
  pass: () => Promise<SourceMoverStatus>;
  cut: () => Promise<unknown>;
  /** Now would be a bad time: memory is about to be done. */
  busy: () => boolean;
  failed: (error: unknown) => void;
}

export class VolumeFollower {
  private readonly o: VolumeFollowerOptions;
  private readonly times: typeof TIMES;
  private readonly stopping = new AbortController();
  private following: Promise<void> = Promise.resolve();
  private passes = 0;
  private beganAt = Number.NEGATIVE_INFINITY;
  private tookMs = 0;

  constructor(options: VolumeFollowerOptions, times = TIMES) {
    this.o = options;
    this.times = times;
  }

  /** One pass, to its end. */
  async first(signal: AbortSignal): Promise<void> {
    await this.pass(signal);
  }

  /** Pass after pass, in the background, until `finish`, `stop` or the signal. */
  follow(signal: AbortSignal): void {
    const over = AbortSignal.any([signal, this.stopping.signal]);
    this.following = this.loop(over, signal).catch((error: unknown) => {
      if (!signal.aborted) this.o.failed(error);
    });
  }

  private async loop(over: AbortSignal, signal: AbortSignal): Promise<void> {
    const { course } = this.o;
    for (;;) {
      const rest = Math.min(MOST_REST_MS, Math.max(this.times.leastRestMs, this.tookMs * REST));
      await course.wait(() => false, { signal: over, timeoutMs: rest }).catch(() => undefined);
      await course.wait((c) => !c.paused, { signal: over }).catch(() => undefined);
      if (over.aborted) return;
      if (!this.o.busy()) await this.cuttable(signal);
    }
  }

  /** It is about to freeze: the last passes. Says whether they took so long that memory is due again. */
  async finish(signal: AbortSignal): Promise<boolean> {
    const start = performance.now();
    this.stop();
    await orAbort(this.following, signal);
    for (let n = 0; n < MOST_LAST_PASSES; n += 1) {
      if (this.o.course.value.now || performance.now() - this.beganAt <= this.times.freshMs) break;
      const before = this.tookMs;
      await this.cuttable(signal);
      if (this.tookMs > before * SHRINKS) break;
    }
    return performance.now() - start > LONG_MS;
  }

  stop(): void {
    this.stopping.abort(new Error("the rounds are over"));
  }

  private async cuttable(signal: AbortSignal): Promise<void> {
    const over = new AbortController();
    void this.o.course
      .wait((c) => c.paused || c.now, { signal: over.signal })
      .then(() => this.o.cut())
      .catch(() => undefined);
    try {
      await this.pass(signal);
    } finally {
      over.abort(new Error("passed"));
    }
  }

  private async pass(signal: AbortSignal): Promise<void> {
    const began = performance.now();
    const { passes } = (await orAbort(this.o.pass(), signal)).volume;
    // Another mover counts anew.
    if (passes === this.passes) return;
    this.passes = passes;
    this.beganAt = began;
    this.tookMs = performance.now() - began;
  }
}

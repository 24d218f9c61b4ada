/**
 * Pre-copy at the source: scan, decide, send, again; until the policy (model/convergence.ts) or a person says that it
 * is time to freeze. The workload runs all the while; nothing here can lose it. The mover does the work.
 */
import { decide, QUOTA_PERIOD_MS, type Decision, type RoundSeen } from "../../model/convergence.js";
import { ferryError, toFailure } from "../../model/failure.js";
import type { PrecopyStatus, SourceMoverRequest, SourceMoverStatus } from "../../model/mover.js";
import type { MigrateOptions } from "../../model/plan.js";
import type { PrecopyProgress, PrecopyReport, RoundReport } from "../../model/report.js";
import { PAGE_SIZE } from "../../transfer/pages/api.js";
import { orAbort } from "../level.js";
import { wallMs } from "./phases.js";
import type { Course, Steering } from "./steering.js";

/**
 * While a person holds it, rounds go on at this pace, so that little is left when the word comes. Each makes every page that is
 * written once more fault once more (1.5 us): a busy redis loses about 4 % at this pace, 8 % at twice of it.
 */
export const HELD_PAUSE_MS = 2000;
/** Between two rounds of next to nothing: a scan is cheap, but not free. */
const SHORT_ROUND_MS = 10;
/** A throttle that could not be lifted is tried again so often before the freeze, with pauses that grow by this much. */
const LIFT_TRIES = 6;
const LIFT_PAUSE_MS = 50;

export interface RoundsOptions {
  options: MigrateOptions;
  steering: Steering;
  request: (request: SourceMoverRequest) => Promise<SourceMoverStatus>;
  pids: () => Promise<Record<string, number>>;
  /** Denies the workload this share of its CPU time; 0 lifts it. */
  throttle: (percent: number) => Promise<void>;
  /** What a blackout costs here besides pages, in milliseconds. */
  fixedMs: () => number;
  /** Bytes that only move while it is frozen. */
  frozenBytes?: number;
  log: (message: string, fields: Record<string, unknown>) => void;
}

export class Rounds {
  private readonly o: RoundsOptions;
  private readonly seen: RoundSeen[] = [];
  private readonly reports: RoundReport[] = [];
  private status: PrecopyStatus | undefined;
  private decision: Decision | undefined;
  private throttled = 0;
  /** Set before a throttle is asked for, until one was lifted: half of it may hold whatever became of the asking. */
  private maybeThrottled = false;
  private mostThrottled = 0;
  private throttling: Promise<void> = Promise.resolve();
  /** Time in which nobody held or paused it: only this counts against the limits. */
  private time = { counted: 0, at: 0 };
  private held = false;
  private lastSent = { bytes: 0, pages: 0 };
  private ended = "";

  constructor(options: RoundsOptions) {
    this.o = options;
  }

  /** Until it is time to freeze. Rejects with E_CONVERGENCE when the policy gives up, with the signal's reason, or a mover's failure. */
  async run(signal: AbortSignal): Promise<void> {
    try {
      await this.untilTime(signal);
    } catch (error) {
      await this.lift().catch((failed: unknown) => this.o.log("the throttle holds", { failure: toFailure(failed) }));
      throw error;
    }
    // Lifted before the freeze: criu works in the tree's own processes, and nobody may stay throttled after a roll back.
    await this.lift();
  }

  private async untilTime(signal: AbortSignal): Promise<void> {
    const { steering } = this.o;
    const { course } = steering;
    for (;;) {
      // A person who holds or pauses it does not want it slow for as long as that lasts.
      if (steering.held || course.value.paused) await this.lift();
      this.tick(this.seen.length > 0 && !this.held);
      await steering.clear(signal, false);
      this.tick(false);
      const decision = await this.look(signal);
      if (course.value.now) {
        this.end("a person said that it should switch now");
        return;
      }
      switch (decision.action) {
        case "switch":
        case "resume-first":
          if (decision.action === "resume-first") course.update({ resumeFirst: true });
          this.end(decision.reason);
          return;
        case "give-up":
          throw ferryError("E_CONVERGENCE", `gave up before anything was frozen: ${decision.reason}`, {
            side: "source",
            phase: "precopy",
            remedy:
              "allow a longer downtime (--max-downtime), more bandwidth, or another way out: --on-stall hybrid, stop-and-copy or throttle",
          });
        case "throttle":
          await this.throttle(decision.throttlePercent ?? 0);
          break;
        case "continue":
          break;
      }
      const before = performance.now();
      await this.send(signal, (c) => c.paused || c.now);
      const rest = this.shortest() - (performance.now() - before);
      if (rest > 0) await this.pause(rest, signal);
    }
  }

  /** Milliseconds from one scan to the next, at least. */
  private shortest(): number {
    if (this.held && this.seen.length > 1) return HELD_PAUSE_MS;
    // Within one period of the quota it runs, or it does not: a look at a part of it tells nothing.
    return this.throttled > 0 ? QUOTA_PERIOD_MS : SHORT_ROUND_MS;
  }

  private tick(counts: boolean): void {
    const now = performance.now();
    if (counts) this.time.counted += now - this.time.at;
    this.time.at = now;
  }

  /** One more round, when it is decided: something else took its time since. */
  async again(signal: AbortSignal): Promise<void> {
    await this.look(signal);
    await this.send(signal, (c) => c.now);
  }

  /** The tree stands still, criu dumps it: what has changed since the last round goes at the same time. */
  async last(pids: Promise<Record<string, number>>, signal: AbortSignal): Promise<void> {
    await this.look(signal, await pids);
    // Not cut by a person's `switch-now`, which still holds: what is not sent now is sent later in the blackout.
    await this.send(signal, () => false);
  }

  private end(why: string): void {
    this.ended = why;
    this.o.log(`rounds end: ${why}`, { rounds: this.seen.length, remainingBytes: this.decision?.remainingBytes });
  }

  /** `frozen`: the processes of a tree that stands still; then there is nothing left to decide. */
  private async look(signal: AbortSignal, frozen?: Record<string, number>): Promise<Decision> {
    const { options, steering } = this.o;
    const pids = frozen ?? (await this.o.pids());
    const startedAt = wallMs();
    const status = await orAbort(this.o.request({ verb: "scan", pids, tracker: options.tracker ?? "auto" }), signal);
    const seen = status.precopy;
    if (seen === undefined) throw ferryError("E_INTERNAL", "the mover scanned and said nothing of it");
    this.tick(!this.held);
    this.held = frozen === undefined && steering.held;
    const sent = { bytes: seen.sentBytes - this.lastSent.bytes, pages: seen.sentPages - this.lastSent.pages };
    this.lastSent = { bytes: seen.sentBytes, pages: seen.sentPages };
    const previous = this.reports.at(-1);
    if (previous !== undefined) Object.assign(previous, { sentBytes: sent.bytes, sentPages: sent.pages });
    this.seen.push({
      atMs: this.time.counted,
      dirtyBytes: seen.lastScan.dirtyPages * PAGE_SIZE,
      sinceMs: seen.lastScan.sincePreviousMs,
      remainingBytes: seen.unsentPages * PAGE_SIZE,
      sentBytes: sent.bytes,
      sendMs: previous?.sendMs ?? 0,
      ...(this.held ? { held: true } : {}),
      ...(this.throttled > 0 ? { throttlePercent: this.throttled } : {}),
    });
    this.status = seen;
    const { limits, bandwidthBytesPerSec } = steering.course.value;
    const made = decide({
      limits,
      rounds: this.seen,
      fixedMs: this.o.fixedMs(),
      throttlePercent: this.throttled,
      held: this.held,
      ...(this.o.frozenBytes === undefined ? {} : { frozenBytes: this.o.frozenBytes }),
      ...(bandwidthBytesPerSec === undefined ? {} : { bandwidthBytesPerSec }),
    });
    const decision: Decision =
      frozen === undefined ? made : { ...made, action: "switch", reason: "frozen: the last round" };
    // What was expected when it froze is held beside what it took.
    if (frozen === undefined) this.decision = made;
    const { dirtyRateBytesPerSec, expectedDowntimeMs } = made;
    const round: RoundReport = {
      round: this.seen.length,
      startedAt,
      scanMs: seen.lastScan.durationMs,
      dirtyPages: seen.lastScan.dirtyPages,
      ...(dirtyRateBytesPerSec === undefined ? {} : { dirtyRateBytesPerSec }),
      remainingBytes: seen.unsentPages * PAGE_SIZE,
      sentPages: 0,
      sentBytes: 0,
      sendMs: 0,
      ...(expectedDowntimeMs === undefined ? {} : { expectedDowntimeMs }),
      action: decision.action,
      reason: decision.reason,
    };
    this.reports.push(round);
    this.o.log(`round ${round.round}: ${decision.reason}`, { round });
    return decision;
  }

  /** Sends what is unsent, until the course says that it is to be cut. A hold lifts the throttle at once. */
  private async send(signal: AbortSignal, cut: (course: Course) => boolean): Promise<void> {
    const { course } = this.o.steering;
    const round = this.reports.at(-1);
    const over = new AbortController();
    const before = performance.now();
    void course
      .wait(cut, { signal: over.signal })
      .then(() => this.o.request({ verb: "cut" }))
      .catch(() => undefined);
    if (this.maybeThrottled) {
      void course
        .wait(() => this.o.steering.held, { signal: over.signal })
        .then(() => this.lift())
        .catch(() => undefined);
    }
    try {
      const status = await orAbort(this.o.request({ verb: "sendUnsent" }), signal);
      this.status = status.precopy ?? this.status;
    } finally {
      over.abort(new Error("sent"));
      if (round !== undefined) {
        round.sendMs = performance.now() - before;
        round.sentBytes = (this.status?.sentBytes ?? 0) - this.lastSent.bytes;
        round.sentPages = (this.status?.sentPages ?? 0) - this.lastSent.pages;
      }
    }
  }

  /** One change at a time: a lift must not be overtaken by what was asked before it. */
  private setThrottle(percent: number): Promise<void> {
    if (percent > 0) this.maybeThrottled = true;
    const next = this.throttling
      .catch(() => undefined)
      .then(async () => {
        await this.o.throttle(percent);
        this.throttled = percent;
        this.mostThrottled = Math.max(this.mostThrottled, percent);
        if (percent === 0) this.maybeThrottled = false;
      });
    this.throttling = next;
    return next;
  }

  private async throttle(percent: number): Promise<void> {
    if (!this.o.steering.held) await this.setThrottle(percent);
  }

  /** The tree has all of its CPU time again. Rejects when that can't be had, after having tried for a while. Idempotent. */
  async lift(): Promise<void> {
    for (let attempt = 1; this.maybeThrottled; attempt += 1) {
      try {
        await this.setThrottle(0);
      } catch (error) {
        if (attempt >= LIFT_TRIES) throw error;
        this.o.log("the throttle could not be lifted, trying again", { failure: toFailure(error) });
        await new Promise((resolve) => setTimeout(resolve, LIFT_PAUSE_MS * attempt));
      }
    }
  }

  /** Ends early on `switch-now`, and when a person lets it go. */
  private pause(ms: number, signal: AbortSignal): Promise<void> {
    const { held } = this;
    return this.o.steering.course
      .wait((c) => c.now || (held && !this.o.steering.held), { signal, timeoutMs: ms })
      .then(
        () => undefined,
        (error: unknown) => {
          if (signal.aborted) throw error;
        },
      );
  }

  /** What the mover says while a round is under way. */
  heard(status: SourceMoverStatus): void {
    this.status = status.precopy ?? this.status;
  }

  progress(): PrecopyProgress | undefined {
    const { status, decision, seen } = this;
    if (status === undefined) return undefined;
    const { course } = this.o.steering;
    const last = seen.at(-1);
    const { dirtyRateBytesPerSec, bandwidthBytesPerSec, expectedDowntimeMs, etaMs } = decision ?? {};
    return {
      round: seen.length,
      remainingBytes: status.unsentPages * PAGE_SIZE,
      roundBytes: last?.remainingBytes ?? 0,
      roundSentBytes: Math.max(0, (last?.remainingBytes ?? 0) - status.unsentPages * PAGE_SIZE),
      roundPages: Math.round((last?.remainingBytes ?? 0) / PAGE_SIZE),
      roundSentPages: Math.max(0, Math.round((last?.remainingBytes ?? 0) / PAGE_SIZE) - status.unsentPages),
      ...(dirtyRateBytesPerSec === undefined ? {} : { dirtyRateBytesPerSec }),
      ...(bandwidthBytesPerSec === undefined ? {} : { bandwidthBytesPerSec }),
      ...(expectedDowntimeMs === undefined ? {} : { expectedDowntimeMs }),
      ...(etaMs === undefined ? {} : { etaMs }),
      throttlePercent: this.throttled,
      paused: course.value.paused,
      held: this.o.steering.held,
      reason: this.ended === "" ? (decision?.reason ?? "") : this.ended,
    };
  }

  report(): PrecopyReport | undefined {
    if (this.status === undefined) return undefined;
    const expected = this.decision?.expectedDowntimeMs;
    return {
      tracker: this.status.tracker,
      trackerReason: this.status.why,
      rounds: this.reports,
      decision: this.ended,
      ...(expected === undefined ? {} : { expectedDowntimeMs: expected }),
      throttledPercent: this.mostThrottled,
    };
  }
}

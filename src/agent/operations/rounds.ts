/**
 * Pre-copy at the source: scan, decide, send, again; until the policy (model/convergence.ts) or a person says that it
 * is time to freeze. The workload runs all the while; nothing here can lose it. The mover does the work.
 */
import { decide, type Decision, type RoundSeen } from "../../model/convergence.js";
import { ferryError } from "../../model/failure.js";
import type { PrecopyStatus, SourceMoverRequest, SourceMoverStatus } from "../../model/mover.js";
import type { MigrateOptions } from "../../model/plan.js";
import type { PrecopyProgress, PrecopyReport, RoundReport } from "../../model/report.js";
import { PAGE_SIZE } from "../../transfer/pages/api.js";
import { orAbort } from "../level.js";
import { wallMs } from "./phases.js";
import type { Steering } from "./steering.js";

/** While a person holds it, rounds go on at this pace, so that little is left when the word comes. */
const HELD_PAUSE_MS = 500;
/** Between two rounds of next to nothing: a scan is cheap, but not free. */
const SHORT_ROUND_MS = 10;

export interface RoundsOptions {
  options: MigrateOptions;
  steering: Steering;
  request: (request: SourceMoverRequest) => Promise<SourceMoverStatus>;
  pids: () => Promise<Record<string, number>>;
  /** Denies the workload this share of its CPU time; 0 lifts it. */
  throttle: (percent: number) => Promise<void>;
  /** What a blackout costs here besides pages, in milliseconds. */
  fixedMs: () => number;
  log: (message: string, fields: Record<string, unknown>) => void;
}

export class Rounds {
  private readonly o: RoundsOptions;
  private readonly seen: RoundSeen[] = [];
  private readonly reports: RoundReport[] = [];
  private status: PrecopyStatus | undefined;
  private decision: Decision | undefined;
  private throttled = 0;
  private mostThrottled = 0;
  private firstScanAt = 0;
  private lastSent = { bytes: 0, pages: 0 };
  private ended = "";

  constructor(options: RoundsOptions) {
    this.o = options;
  }

  /** Until it is time to freeze. Rejects with E_CONVERGENCE when the policy gives up, with the signal's reason, or a mover's failure. */
  async run(signal: AbortSignal): Promise<void> {
    const { steering } = this.o;
    try {
      for (;;) {
        await steering.clear(signal, false);
        const decision = await this.look(signal);
        const { course } = steering;
        if (course.value.now) {
          this.end("a person said that it should switch now");
          return;
        }
        switch (decision.action) {
          case "switch":
          case "resume-first":
            if (steering.held) {
              await this.send(signal);
              await this.pause(HELD_PAUSE_MS, signal);
              continue;
            }
            if (decision.action === "resume-first") course.update({ resumeFirst: true });
            this.end(decision.reason);
            return;
          case "give-up":
            if (steering.held) {
              await this.send(signal);
              await this.pause(HELD_PAUSE_MS, signal);
              continue;
            }
            throw ferryError("E_CONVERGENCE", `gave up before anything was frozen: ${decision.reason}`, {
              side: "source",
              phase: "precopy",
              remedy:
                "allow a longer downtime (--max-downtime), more bandwidth, or another way out: --on-stall hybrid, stop-and-copy or throttle",
            });
          case "throttle":
            await this.setThrottle(decision.throttlePercent ?? 0);
            break;
          case "continue":
            break;
        }
        const before = performance.now();
        await this.send(signal);
        const took = performance.now() - before;
        if (took < SHORT_ROUND_MS) await this.pause(SHORT_ROUND_MS - took, signal);
      }
    } finally {
      // Lifted before the freeze as well: criu works in the tree's own processes.
      await this.setThrottle(0);
    }
  }

  /** The tree stands still, criu dumps it: what has changed since the last round goes at the same time. */
  async last(pids: Promise<Record<string, number>>, signal: AbortSignal): Promise<void> {
    await this.look(signal, await pids);
    await this.send(signal);
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
    if (this.seen.length === 0) this.firstScanAt = performance.now() - seen.lastScan.durationMs;
    const sent = { bytes: seen.sentBytes - this.lastSent.bytes, pages: seen.sentPages - this.lastSent.pages };
    this.lastSent = { bytes: seen.sentBytes, pages: seen.sentPages };
    const previous = this.reports.at(-1);
    if (previous !== undefined) Object.assign(previous, { sentBytes: sent.bytes, sentPages: sent.pages });
    this.seen.push({
      atMs: performance.now() - this.firstScanAt,
      dirtyBytes: seen.lastScan.dirtyPages * PAGE_SIZE,
      sinceMs: seen.lastScan.sincePreviousMs,
      remainingBytes: seen.unsentPages * PAGE_SIZE,
      sentBytes: sent.bytes,
      sendMs: previous?.sendMs ?? 0,
    });
    this.status = seen;
    const { limits, bandwidthBytesPerSec } = steering.course.value;
    const made = decide({
      limits,
      rounds: this.seen,
      fixedMs: this.o.fixedMs(),
      throttlePercent: this.throttled,
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

  /** Sends what is unsent; a pause or `switch-now` cuts it. */
  private async send(signal: AbortSignal): Promise<void> {
    const { course } = this.o.steering;
    const round = this.reports.at(-1);
    const over = new AbortController();
    const before = performance.now();
    void course
      .wait((c) => c.paused || c.now, { signal: over.signal })
      .then(() => this.o.request({ verb: "cut" }))
      .catch(() => undefined);
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

  private async setThrottle(percent: number): Promise<void> {
    if (percent === this.throttled) return;
    await this.o.throttle(percent);
    this.throttled = percent;
    this.mostThrottled = Math.max(this.mostThrottled, percent);
  }

  private pause(ms: number, signal: AbortSignal): Promise<void> {
    return this.o.steering.course
      .wait((c) => c.now, { signal, timeoutMs: ms })
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

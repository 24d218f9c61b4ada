/** Phase times and progress of one side of a hand-over. Durations come from the monotonic clock. */
import { realtimeMs } from "../../host/clock.js";
import type { Side } from "../../model/failure.js";
import type { Phase } from "../../model/phase.js";
import type { PhaseTime, Progress } from "../../model/report.js";

/** Wall clock in Unix milliseconds, in microseconds' steps and finer. */
export const wallMs = realtimeMs;

/** A wall clock that is corrected slowly takes the monotonic one along; this much between them is a step. */
const A_STEP_MS = 20;
const aheadMs = (): number => wallMs() - performance.now();

export class PhaseTimer {
  private readonly times: PhaseTime[] = [];
  private running: { name: Phase; startedAt: number; from: number } | undefined;
  private readonly side: Side;
  private bytes = { sent: 0, total: 0 };
  private pages = { sent: 0, total: 0 };
  private last = { at: performance.now(), bytes: 0, rate: 0 };
  private readonly listener: (phase: Phase) => void;
  private readonly aheadAtFirst = aheadMs();
  private stepMs = 0;

  constructor(side: Side, listener: (phase: Phase) => void = () => undefined) {
    this.side = side;
    this.listener = listener;
  }

  begin(name: Phase): void {
    if (this.running?.name === name) return;
    this.end();
    this.lookAtClock();
    this.running = { name, startedAt: wallMs(), from: performance.now() };
    this.listener(name);
  }
  end(): void {
    if (this.running === undefined) return;
    const { name, startedAt, from } = this.running;
    this.times.push({ name, side: this.side, startedAt, durationMs: performance.now() - from });
    this.running = undefined;
  }
  /** A phase whose limits are known from elsewhere (hook events), in Unix milliseconds. */
  note(name: Phase, startedAt: number, endedAt: number): void {
    this.times.push({ name, side: this.side, startedAt, durationMs: Math.max(0, endedAt - startedAt) });
  }
  /** The wall clock was set since this began: by how much, at the most. undefined: it was not. */
  clockStep(): number | undefined {
    this.lookAtClock();
    return Math.abs(this.stepMs) < A_STEP_MS ? undefined : Math.round(this.stepMs);
  }
  private lookAtClock(): void {
    const stepMs = aheadMs() - this.aheadAtFirst;
    if (Math.abs(stepMs) > Math.abs(this.stepMs)) this.stepMs = stepMs;
  }
  get phase(): Phase {
    return this.running?.name ?? this.times.at(-1)?.name ?? "reserve";
  }
  counts(bytes: { sent: number; total: number }, pages: { sent: number; total: number }): void {
    const now = performance.now();
    const seconds = (now - this.last.at) / 1000;
    if (seconds >= 0.2) {
      const rate = Math.max(0, bytes.sent - this.last.bytes) / seconds;
      this.last = { at: now, bytes: bytes.sent, rate: this.last.rate === 0 ? rate : this.last.rate * 0.5 + rate * 0.5 };
    }
    this.bytes = bytes;
    this.pages = pages;
  }
  progress(): Progress {
    return {
      phase: this.phase,
      side: this.side,
      bytesSent: this.bytes.sent,
      bytesTotal: this.bytes.total,
      pagesSent: this.pages.sent,
      pagesTotal: this.pages.total,
      rateBytesPerSec: Math.round(this.last.rate),
      at: wallMs(),
    };
  }
  all(): PhaseTime[] {
    const open =
      this.running === undefined
        ? []
        : [
            {
              name: this.running.name,
              side: this.side,
              startedAt: this.running.startedAt,
              durationMs: performance.now() - this.running.from,
            },
          ];
    return [...this.times, ...open];
  }
}

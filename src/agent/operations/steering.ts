/** What a person has said to a hand-over under way, as a level that the rounds look at between their steps. */
import type { ConvergenceLimits } from "../../model/convergence.js";
import { ferryError } from "../../model/failure.js";
import { canUndo, type Phase } from "../../model/phase.js";
import { hasRounds, limitsOf, type MigrateOptions } from "../../model/plan.js";
import type { SteerCommand, Steered } from "../../model/steering.js";
import { Level } from "../level.js";

export interface Course {
  limits: ConvergenceLimits;
  bandwidthBytesPerSec: number | undefined;
  paused: boolean;
  /** No freeze before this instant of the monotonic clock; Infinity: until `go`. */
  heldUntil: number;
  /** Freeze at the next occasion. */
  now: boolean;
  /** The destination may resume before every page is there. */
  resumeFirst: boolean;
}

const seconds = (ms: number): string => `${Math.round(ms / 100) / 10} s`;

export class Steering {
  readonly course: Level<Course>;
  private readonly options: MigrateOptions;

  constructor(options: MigrateOptions) {
    this.options = options;
    this.course = new Level<Course>({
      limits: limitsOf(options),
      bandwidthBytesPerSec: options.bandwidthBytesPerSec,
      paused: false,
      heldUntil: options.hold === true ? Number.POSITIVE_INFINITY : 0,
      now: false,
      resumeFirst: options.mode === "postcopy",
    });
  }

  get held(): boolean {
    return this.course.value.heldUntil > performance.now();
  }

  /** Throws E_STATE when it is too late for the command, or when it means nothing in this mode. */
  take(command: SteerCommand, phase: Phase, frozen: boolean): Steered {
    const { mode } = this.options;
    const late = (why: string): Error =>
      ferryError("E_STATE", `${command.do} comes too late: ${why} (phase ${phase})`, {
        side: "source",
        remedy: "bandwidth can still be changed; the report will say how it went",
      });
    if (command.do !== "bandwidth") {
      if (!canUndo(phase)) throw late("the workload has been handed over");
      if (frozen && command.do !== "post-copy-now") throw late("the workload is frozen already");
      if (!frozen && !hasRounds(mode) && command.do !== "hold" && command.do !== "go") {
        throw ferryError("E_STATE", `${command.do} means nothing in mode ${mode}: it makes no rounds`, {
          side: "source",
          remedy: "use --mode precopy or --mode hybrid; hold, go and bandwidth work in every mode",
        });
      }
    }
    return this.answer(this.apply(command));
  }

  private apply(command: SteerCommand): string {
    const { course } = this;
    switch (command.do) {
      case "pause":
        course.update({ paused: true });
        return "paused: no page is sent and nothing is frozen until resume";
      case "resume":
        course.update({ paused: false });
        return "it goes on";
      case "switch-now":
        course.update({ now: true, paused: false, heldUntil: 0 });
        return "it freezes as soon as the page under way is sent";
      case "post-copy-now":
        course.update({ now: true, paused: false, heldUntil: 0, resumeFirst: true });
        return "it resumes on the destination first, what remains follows";
      case "bandwidth":
        course.update({ bandwidthBytesPerSec: command.bytesPerSec ?? undefined });
        return command.bytesPerSec === null
          ? "no limit on the page traffic any more"
          : `at most ${command.bytesPerSec} bytes a second`;
      case "max-downtime":
        course.update({ limits: { ...course.value.limits, maxDowntimeMs: command.ms } });
        return `it freezes when it expects at most ${command.ms} ms`;
      case "hold": {
        const heldUntil = command.forMs === undefined ? Number.POSITIVE_INFINITY : performance.now() + command.forMs;
        course.update({ heldUntil, now: false });
        return command.forMs === undefined
          ? "rounds go on, nothing is frozen until go"
          : `rounds go on, nothing is frozen for ${seconds(command.forMs)}, or until go`;
      }
      case "go":
        break;
    }
    course.update({ heldUntil: 0 });
    return "it may freeze when the time has come";
  }

  private answer(message: string): Steered {
    const { paused, limits, bandwidthBytesPerSec } = this.course.value;
    return {
      message,
      paused,
      held: this.held,
      maxDowntimeMs: limits.maxDowntimeMs,
      ...(bandwidthBytesPerSec === undefined ? {} : { bandwidthBytesPerSec }),
    };
  }

  /** Tells every new limit of the page traffic as soon as it is asked for. Ends with the signal; never rejects. */
  async followBandwidth(
    tell: (bytesPerSec: number | null) => Promise<unknown>,
    failed: (error: unknown) => void,
    signal: AbortSignal,
  ): Promise<void> {
    let told = this.options.bandwidthBytesPerSec;
    const changed = (c: Course): boolean => c.bandwidthBytesPerSec !== told;
    const next = (): Promise<Course | undefined> => this.course.wait(changed, { signal }).catch(() => undefined);
    for (let course = await next(); course !== undefined; course = await next()) {
      told = course.bandwidthBytesPerSec;
      await tell(told ?? null).catch(failed);
    }
  }

  /** Until it is neither paused nor (with `hold`) held. */
  async clear(signal: AbortSignal, hold: boolean): Promise<void> {
    for (;;) {
      await this.course.wait((c) => !c.paused, { signal });
      const left = hold ? this.course.value.heldUntil - performance.now() : 0;
      if (left <= 0) return;
      await this.course
        .wait((c) => c.paused || c.heldUntil <= performance.now(), {
          signal,
          ...(Number.isFinite(left) ? { timeoutMs: left } : {}),
        })
        .catch((error: unknown) => {
          if (signal.aborted) throw error;
        });
    }
  }
}

/** What a person has said to a hand-over under way, as a level that the rounds look at between their steps. */
import type { ConvergenceLimits } from "../../model/convergence.js";
import { ferryError } from "../../model/failure.js";
import { canUndo, type Phase } from "../../model/phase.js";
import { hasRounds, limitsOf, type MigrateOptions } from "../../model/plan.js";
import type { KeptCourse, SteerCommand, Steered } from "../../model/steering.js";
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

/** This process's clock and the machine's monotonic one, which goes on when the agent is started again. */
const machineMs = (at: number): number => at - performance.now() + Number(process.hrtime.bigint()) / 1e6;
const processMs = (at: number): number => at + performance.now() - Number(process.hrtime.bigint()) / 1e6;

const seconds = (ms: number): string => `${Math.round(ms / 100) / 10} s`;

const courseOf = (options: MigrateOptions): Course => ({
  limits: limitsOf(options),
  bandwidthBytesPerSec: options.bandwidthBytesPerSec,
  paused: false,
  heldUntil: options.hold === true ? Number.POSITIVE_INFINITY : 0,
  now: false,
  resumeFirst: options.mode === "postcopy",
});

const keptOf = ({ limits, bandwidthBytesPerSec, paused, heldUntil, now, resumeFirst }: Course): KeptCourse => ({
  maxDowntimeMs: limits.maxDowntimeMs,
  ...(bandwidthBytesPerSec === undefined ? {} : { bandwidthBytesPerSec }),
  paused,
  ...(heldUntil > performance.now() ? { heldUntil: Number.isFinite(heldUntil) ? machineMs(heldUntil) : null } : {}),
  now,
  resumeFirst,
});

function restored(options: MigrateOptions, kept: KeptCourse): Course {
  const { maxDowntimeMs, bandwidthBytesPerSec, paused, heldUntil, now, resumeFirst } = kept;
  const limits = { ...limitsOf(options), maxDowntimeMs };
  return {
    // `switch-now`: memory has to be sent anew, and all of it in the blackout is not what was meant. After one round, then.
    limits: now
      ? { ...limits, maxRounds: 1, onStall: "stop-and-copy", resumeFirst: limits.resumeFirst || resumeFirst }
      : limits,
    bandwidthBytesPerSec,
    paused,
    heldUntil: heldUntil === undefined ? 0 : heldUntil === null ? Number.POSITIVE_INFINITY : processMs(heldUntil),
    now: false,
    resumeFirst,
  };
}

export class Steering {
  readonly course: Level<Course>;
  private readonly options: MigrateOptions;
  private readonly keep: (course: KeptCourse) => void;

  /** `kept`: what an earlier life of this agent was told of the same operation. `keep` must have kept it when it returns. */
  constructor(options: MigrateOptions, kept?: KeptCourse, keep: (course: KeptCourse) => void = () => undefined) {
    this.options = options;
    this.keep = keep;
    this.course = new Level<Course>(kept === undefined ? courseOf(options) : restored(options, kept));
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
    const { course, message } = this.changed(command);
    // On disk before it has an effect: an agent that is killed now goes on by it, or nobody was told that it was taken.
    this.keep(keptOf(course));
    this.course.set(course);
    return this.answer(message);
  }

  private changed(command: SteerCommand): { course: Course; message: string } {
    const course = new Level(this.course.value);
    return { message: this.apply(course, command), course: course.value };
  }

  private apply(course: Level<Course>, command: SteerCommand): string {
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
    let told = this.course.value.bandwidthBytesPerSec;
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

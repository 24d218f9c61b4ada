/**
 * What is done to a workload by the clock: protect it (a checkpoint now and then), let it go at night or when it is idle, wake it in
 * the morning. Temporal's Schedules start the workflows `protect`, `scale` and `idle`, one run a tick; this is what they carry, and whether it is a
 * message of ours. Pure.
 */
import type { SaveOptions } from "./checkpoints.js";
import { flag, object, oneOf, whole, within } from "./fields.js";
import { nameProblem } from "./names.js";
import type { Retention } from "./retention.js";
import { shown } from "./words.js";

export const SCHEDULE_KINDS = ["protect", "scale-down", "idle", "wake"] as const;
export type ScheduleKind = (typeof SCHEDULE_KINDS)[number];

export const scheduleId = (kind: ScheduleKind, workload: string): string => `${kind}/${workload}`;
/** What an id is of; undefined: no schedule of Ferry's is called so. */
export function ofScheduleId(id: string): { kind: ScheduleKind; workload: string } | undefined {
  const at = id.indexOf("/");
  const kind = SCHEDULE_KINDS.find((one) => one === id.slice(0, Math.max(0, at)));
  const workload = id.slice(at + 1);
  return kind === undefined || nameProblem("workload", workload) !== undefined ? undefined : { kind, workload };
}
/** Of one tick; Temporal adds the time. */
export const tickWorkflowId = (kind: ScheduleKind, workload: string): string => `${workload}/${kind}`;

const UNITS: readonly [ms: number, unit: string][] = [
  [86_400_000, "d"],
  [3_600_000, "h"],
  [60_000, "m"],
  [1_000, "s"],
];
/** As a person types it: 5m, 90s, 7d. */
export function everyText(ms: number): string {
  const [unitMs, unit] = UNITS.find(([size]) => ms >= size && ms % size === 0) ?? [1, "ms"];
  return `${ms / unitMs}${unit}`;
}

export const MIN_EVERY_MS = 10_000;
export const MAX_EVERY_MS = 31 * 86_400_000;
export const MIN_IDLE_MS = 10_000;
export const MAX_IDLE_MS = 31 * 86_400_000;
export const DEFAULT_IDLE_CPU_PERCENT = 1;
/** One core is 100. */
export const MAX_IDLE_CPU_PERCENT = 10_000;
/** How often it is looked whether a workload is idle: late by a quarter at the most, and by a minute. */
export const idleEveryMs = (idleMs: number): number =>
  Math.min(60_000, Math.max(5_000, Math.floor(idleMs / 4_000) * 1_000));
/** Whether it means anything is for Temporal to say. */
const CRON = /^[0-9A-Za-z*,/?#@ -]{1,100}$/;
const TIMEZONE = /^[A-Za-z0-9_+/-]{1,64}$/;

/** Input of the workflow `protect`. */
export interface ProtectInput {
  workload: string;
  everyMs: number;
  /** By which older ones are removed after each that was made. */
  retention: Retention;
  /** Longest it may be frozen. */
  maxBlackoutMs: number;
}
/** Input of the workflow `scale`. */
export interface ScaleInput {
  workload: string;
  to: "down" | "up";
  /** When, as it was asked for: what the server makes of it can't be read back. */
  cron: string;
  timezone: string;
  /** Down: what comes for it wakes it. */
  wakeOnTraffic?: boolean;
}
/** Input of the workflow `idle`. */
export interface IdleScaleInput {
  workload: string;
  /** Let go when nothing came or went, and it used less of a core, for so long. */
  idleMs: number;
  cpuPercent: number;
  wakeOnTraffic: boolean;
}

export const TICK_OUTCOMES = [
  "saved",
  "checkpointed",
  "restored",
  "active",
  "skipped",
  "failed",
  "unknown",
  "gone",
] as const;
/**
 * `active`: it is not idle, or not yet for long enough. `skipped`: there was nothing to do, or it was busy. `failed`: it runs on as before. `unknown`: its node does not answer.
 * `gone`: there is no such workload any more, and so no schedule of it.
 */
export type TickOutcome = (typeof TICK_OUTCOMES)[number];
/** How a tick ended: result of the workflows `protect`, `scale` and `idle`. */
export interface TickReport {
  workload: string;
  outcome: TickOutcome;
  message: string;
  /** Id of the one that was made, or that it runs from. */
  checkpoint?: string;
  /** Ids of those that went, oldest first. */
  pruned?: string[];
}

/** What one step came to. */
export interface Stepped {
  outcome: TickOutcome;
  message: string;
  checkpoint?: string;
  node?: string;
}
/**
 * Activities of the ticks. They are on the queue of the workflows, which every node's worker serves: a tick needs no certain node
 * to say that another one is away.
 */
export interface ScheduleSteps {
  /** `request`: the same for each try, so that the entity is asked once. */
  saveNow(step: { workload: string; request: string; options: SaveOptions }): Promise<Stepped>;
  wakeNow(step: { workload: string; request: string }): Promise<Stepped>;
  /** Where it runs, or why the tick has nothing to do. */
  lookNow(step: { workload: string }): Promise<{ running: { node: string; epoch: number } } | { ended: Stepped }>;
  pruneNow(step: {
    workload: string;
    node: string;
    retention: Retention;
  }): Promise<{ removed: string[]; problem?: string }>;
  /** Of a workload that is no more. Returns the ids of those that were there. */
  dropSchedules(step: { workload: string }): Promise<string[]>;
}

export const everyProblem = (everyMs: unknown): string | undefined =>
  whole("everyMs", everyMs, MIN_EVERY_MS, MAX_EVERY_MS);

export function retentionProblems(retention: unknown): string[] {
  return object("retention", retention, ({ keep, olderThanMs, maxBytes }) => [
    keep === undefined ? undefined : whole("keep", keep, 1, 1_000_000),
    within("olderThanMs", olderThanMs, 0, Number.MAX_SAFE_INTEGER),
    within("maxBytes", maxBytes, 0, Number.MAX_SAFE_INTEGER),
    keep === undefined && olderThanMs === undefined && maxBytes === undefined
      ? "one of keep, olderThanMs and maxBytes is needed"
      : undefined,
  ]);
}

export const cronProblem = (cron: unknown): string | undefined =>
  typeof cron === "string" && CRON.test(cron) && (cron.startsWith("@") || /^\S+( +\S+){4,6}$/.test(cron.trim()))
    ? undefined
    : `${shown(cron)} is not a cron expression, like 0 20 * * 1-5 (minute, hour, day, month, weekday)`;

export const timezoneProblem = (timezone: unknown): string | undefined =>
  typeof timezone === "string" && TIMEZONE.test(timezone)
    ? undefined
    : `${shown(timezone)} is not a time zone, like Europe/Berlin`;

export const protectInputProblems = (input: unknown): string[] =>
  object("the input", input, ({ workload, everyMs, retention, maxBlackoutMs }) => [
    nameProblem("workload", workload),
    everyProblem(everyMs),
    ...retentionProblems(retention),
    whole("maxBlackoutMs", maxBlackoutMs, 100, 3_600_000),
  ]);

export const scaleInputProblems = (input: unknown): string[] =>
  object("the input", input, ({ workload, to, cron, timezone, wakeOnTraffic }) => [
    nameProblem("workload", workload),
    wakeOnTraffic === undefined ? undefined : flag("wakeOnTraffic", wakeOnTraffic),
    to === undefined ? "to is missing: down or up" : oneOf("to", to, ["down", "up"]),
    cronProblem(cron),
    timezoneProblem(timezone),
  ]);

export const idleProblem = (idleMs: unknown): string | undefined => whole("idleMs", idleMs, MIN_IDLE_MS, MAX_IDLE_MS);

export const idleScaleInputProblems = (input: unknown): string[] =>
  object("the input", input, ({ workload, idleMs, cpuPercent, wakeOnTraffic }) => [
    nameProblem("workload", workload),
    idleProblem(idleMs),
    within("cpuPercent", cpuPercent, 0, MAX_IDLE_CPU_PERCENT),
    cpuPercent === undefined ? "cpuPercent is missing" : undefined,
    flag("wakeOnTraffic", wakeOnTraffic),
  ]);

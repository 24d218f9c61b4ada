/** Strict parsers of what people type about schedules. See parse.ts. */
import { InvalidArgumentError } from "commander";
import {
  cronProblem,
  everyText,
  MAX_EVERY_MS,
  MAX_IDLE_CPU_PERCENT,
  MAX_IDLE_MS,
  MIN_EVERY_MS,
  MIN_IDLE_MS,
  ofScheduleId,
  timezoneProblem,
} from "../model/schedules.js";
import { cut, shown as shownValue } from "../model/words.js";
import { parseAge } from "./parse-checkpoints.js";

const shown = (text: string): string => shownValue(cut(text, 60));

/** "5m", "90s", "1h", "1d": milliseconds. */
export function parseEvery(text: string): number {
  const ms = parseAge(text);
  if (ms >= MIN_EVERY_MS && ms <= MAX_EVERY_MS) return ms;
  throw new InvalidArgumentError(
    `${shown(text)} can't be kept to: from ${everyText(MIN_EVERY_MS)} to ${everyText(MAX_EVERY_MS)}.`,
  );
}

/** "15m": milliseconds. */
export function parseIdle(text: string): number {
  const ms = parseAge(text);
  if (ms >= MIN_IDLE_MS && ms <= MAX_IDLE_MS) return ms;
  throw new InvalidArgumentError(
    `${shown(text)} is too short or too long: from ${everyText(MIN_IDLE_MS)} to ${everyText(MAX_IDLE_MS)}.`,
  );
}

/** "1%" of one core. */
export function parsePercent(text: string): number {
  const value = /^(\d{1,5}(?:\.\d{1,3})?)%?$/.exec(text)?.[1];
  const percent = Number(value);
  if (value !== undefined && percent <= MAX_IDLE_CPU_PERCENT) return percent;
  throw new InvalidArgumentError(`${shown(text)} is not a share of one core, like 1% or 0.5%.`);
}

export function parseCron(text: string): string {
  const problem = cronProblem(text.trim());
  if (problem === undefined) return text.trim();
  throw new InvalidArgumentError(`${problem}.`);
}

export function parseTimezone(text: string): string {
  const problem = timezoneProblem(text);
  if (problem === undefined) return text;
  throw new InvalidArgumentError(`${problem}.`);
}

export function parseScheduleId(text: string): string {
  if (ofScheduleId(text) !== undefined) return text;
  throw new InvalidArgumentError(
    `${shown(text)} is not the id of a schedule: write protect/NAME, scale-down/NAME, idle/NAME or wake/NAME.`,
  );
}

/** Strict parsers of what people type about schedules. See parse.ts. */
import { InvalidArgumentError } from "commander";
import {
  cronProblem,
  everyText,
  MAX_EVERY_MS,
  MIN_EVERY_MS,
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
    `${shown(text)} is not the id of a schedule: write protect/NAME, scale-down/NAME or wake/NAME.`,
  );
}

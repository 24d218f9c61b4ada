/** Strict parsers of what people type about checkpoints: labels, points in time, ages, ids. See parse.ts. */
import { InvalidArgumentError } from "commander";
import { labelProblem, MAX_LABELS, MAX_REASON } from "../model/checkpoint-check.js";
import { isCheckpointId } from "../model/checkpoints.js";
import { ipProblems } from "../model/spec-check.js";
import { cut, shown as shownValue } from "../model/words.js";

const shown = (text: string): string => shownValue(cut(text, 60));

/** "release=7"; merges with what earlier --label options said. */
export function parseLabel(text: string, before: Record<string, string> = {}): Record<string, string> {
  const at = text.indexOf("=");
  if (at < 0) throw new InvalidArgumentError(`${shown(text)} is not NAME=VALUE.`);
  const name = text.slice(0, at);
  const value = text.slice(at + 1);
  const problem = labelProblem(name, value);
  if (problem !== undefined) throw new InvalidArgumentError(`${problem}.`);
  const labels = { ...before, [name]: value };
  if (Object.keys(labels).length > MAX_LABELS)
    throw new InvalidArgumentError(`at most ${MAX_LABELS} labels are allowed.`);
  return labels;
}

export function parseReason(text: string): string {
  if (text.length <= MAX_REASON && !text.includes("\0")) return text;
  throw new InvalidArgumentError(`a reason has at most ${MAX_REASON} characters, and no NUL.`);
}

/** An id, or its beginning. */
export function parseCheckpointId(text: string): string {
  if (isCheckpointId(text)) return text;
  throw new InvalidArgumentError(`${shown(text)} is not a checkpoint's id, nor the beginning of one.`);
}

const AGE_UNITS: Readonly<Record<string, number>> = {
  s: 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};
const LONGEST_AGE_MS = 3650 * 86_400_000;

const ageOf = (text: string): number | undefined => {
  const match = /^(\d{1,9}(?:\.\d{1,6})?)(s|m|min|h|d|w)$/.exec(text.trim());
  const unit = AGE_UNITS[match?.[2] ?? "?"];
  if (match === null || unit === undefined) return undefined;
  const ms = Math.round(Number(match[1]) * unit);
  if (ms > LONGEST_AGE_MS) throw new InvalidArgumentError(`${shown(text)} is too long: at most ten years.`);
  return ms;
};

/** "90m", "12h", "7d", "2w": milliseconds. */
export function parseAge(text: string): number {
  const ms = ageOf(text);
  if (ms !== undefined) return ms;
  throw new InvalidArgumentError(`${shown(text)} is not an age. Write a number with a unit, like 90m, 12h, 7d or 2w.`);
}

const MOMENT = /^\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?(?:Z|[+-]\d\d:\d\d)?)?$/;

/** "2026-03-01T10:00:00Z", "2026-03-01 10:00" (this machine's time zone), "2026-03-01" (its end), or an age: "2h" is two hours ago. */
export const parseMoment =
  (now: () => number = Date.now) =>
  (text: string): Date => {
    const ms = ageOf(text);
    if (ms !== undefined) return new Date(now() - ms);
    const word = text.trim();
    const at = MOMENT.test(word)
      ? new Date(word.length === 10 ? `${word}T23:59:59.999` : word.replace(" ", "T"))
      : new Date(Number.NaN);
    // 30 February is the second of March to it.
    const [year = 0, month = 0, day = 0] = word.slice(0, 10).split("-").map(Number);
    const sameDay = new Date(Date.UTC(year, month - 1, day)).getUTCDate() === day;
    if (Number.isNaN(at.getTime()) || at.getTime() < 0 || !sameDay) {
      throw new InvalidArgumentError(
        `${shown(text)} is not a time. Write it like 2026-03-01T10:00:00Z, or how long ago, like 2h or 3d.`,
      );
    }
    return at;
  };

/** Again and again: addresses in order. */
export function parseIps(text: string, before: string[] = []): string[] {
  const [problem] = ipProblems("it", text.includes("/") ? text : `${text}/32`);
  if (problem !== undefined) {
    throw new InvalidArgumentError(`${shown(text)} is not an IPv4 address, like 10.77.0.120 or 10.77.0.120/24.`);
  }
  return [...before, text];
}

/** Fields of a message from outside, checked one by one: each problem is one sentence. Pure. */
import { whyRefused } from "./refused-payload.js";
import { firstProblems, shown } from "./words.js";

export type Fields = Record<string, unknown>;

/** The problems of an object's fields; one problem when it is no object at all. */
export function object(what: string, value: unknown, problemsOf: (fields: Fields) => (string | undefined)[]): string[] {
  const refused = whyRefused(value);
  if (refused !== undefined) return [refused];
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return [`${what} must be an object, got ${shown(value)}`];
  }
  return firstProblems(problemsOf(value as Fields).filter((problem) => problem !== undefined));
}

export const whole = (what: string, value: unknown, min: number, max: number): string | undefined =>
  typeof value === "number" && Number.isInteger(value) && value >= min && value <= max
    ? undefined
    : `${what} must be a whole number from ${min} to ${max}, got ${shown(value)}`;

export const flag = (what: string, value: unknown): string | undefined =>
  typeof value === "boolean" ? undefined : `${what} must be true or false, got ${shown(value)}`;

export const oneOf = (what: string, value: unknown, all: readonly string[]): string | undefined =>
  value === undefined || (all as readonly unknown[]).includes(value)
    ? undefined
    : `${what} ${shown(value)} is not known: use one of ${all.join(", ")}`;
export const within = (what: string, value: unknown, min: number, max: number): string | undefined =>
  value === undefined || (typeof value === "number" && value >= min && value <= max)
    ? undefined
    : `${what} must be a number from ${min} to ${max}, got ${shown(value)}`;

export const list = (what: string, value: unknown): string | undefined =>
  Array.isArray(value) ? undefined : `${what} must be a list, got ${shown(value)}`;

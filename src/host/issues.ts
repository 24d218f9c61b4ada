/** What zod has against a value, as one bounded line for a message. */
import type { z } from "zod";
import { cut, firstProblems } from "../model/words.js";

const MAX_PATH = 120;
/** One issue may list many problems of its own. */
const MAX_MESSAGE = 3000;
const MAX_ALL = 3500;

const issueLines = (error: z.ZodError, whole: string): string[] =>
  firstProblems(
    error.issues.map(
      ({ path, message }) => `${cut(path.map(String).join("."), MAX_PATH) || whole}: ${cut(message, MAX_MESSAGE)}`,
    ),
  );

/** JSON text as what it ought to be, or in words why it is not. */
export function parseJson<T>(text: string, schema: z.ZodType<T>): { data: T } | { why: string } {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { why: "it is not JSON" };
  }
  const parsed = schema.safeParse(value);
  return parsed.success ? { data: parsed.data } : { why: issuesOf(parsed.error) };
}

/** "field.name: what is wrong" of every issue. `whole`: what the value itself is called. */
export const issuesOf = (error: z.ZodError, whole = "value"): string =>
  cut(issueLines(error, whole).join("; "), MAX_ALL);

/** Values and problems as they stand in a message: one line, bounded, whatever the value is. Pure; never throws. */

const MAX_SHOWN = 80;
/** More problems than this are counted, not listed: an answer must fit where the request did. */
const MAX_PROBLEMS = 20;

/** `text` on one line, cut to `max` characters. */
export const cut = (text: string, max: number = MAX_SHOWN): string =>
  text.length > max ? `${text.slice(0, max - 3)}...` : text;

/** JSON leaves DEL and the controls behind it as they are; a terminal may obey them. */
// oxlint-disable-next-line no-control-regex -- control characters are what it is about
export const harmless = (json: string): string =>
  json.replace(/[\u007f-\u009f\u2028\u2029]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** A value from outside. JSON that is nested deeper than the stack can't be written out: its kind is said then. */
export function shown(value: unknown): string {
  let text: string | undefined;
  try {
    text = JSON.stringify(typeof value === "string" ? cut(value, 2 * MAX_SHOWN) : value);
  } catch {
    text = Array.isArray(value) ? "a deeply nested list" : "a deeply nested object";
  }
  return cut(harmless(text ?? typeof value));
}

/** The first problems, and how many more there are. */
export function firstProblems(problems: readonly string[]): string[] {
  if (problems.length <= MAX_PROBLEMS) return [...problems];
  return [...problems.slice(0, MAX_PROBLEMS), `and ${problems.length - MAX_PROBLEMS} more problems`];
}

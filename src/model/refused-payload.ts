/**
 * What stands in a workflow for a message that was not encrypted though it had to be: the workflow's own checks then refuse
 * it in words. An error instead would fail the workflow's task again and again, for ever.
 */
const KEY = "ferry: refused payload";

export const refusedPayload = (why: string): Record<string, string> => ({ [KEY]: why });

/** Why it was refused; undefined: it was not. */
export const whyRefused = (value: unknown): string | undefined => {
  const why = typeof value === "object" && value !== null ? (value as Record<string, unknown>)[KEY] : undefined;
  return typeof why === "string" ? why : undefined;
};

/** A failure that another process or node tells of: kept as text, bounded, whatever it claims to be. Pure. */
import { isFailureCode, type Evidence, type FailureCode, type FailureData } from "./failure.js";
import { cut } from "./words.js";

const MAX_TEXT = 4000;
const MAX_LINES = 100;
const MAX_CAUSES = 8;

type Fields = Readonly<Record<string, unknown>>;
const isObject = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const texts = (value: unknown): string[] | undefined =>
  Array.isArray(value)
    ? value
        .slice(0, MAX_LINES)
        .filter((line) => typeof line === "string")
        .map((line) => cut(line, MAX_TEXT))
    : undefined;

function evidenceOf(value: unknown): Evidence | undefined {
  if (!isObject(value)) return undefined;
  const [command, lines] = [texts(value["command"]), texts(value["lines"])];
  const { exitCode, signal } = value;
  return {
    ...(command !== undefined && { command }),
    ...(Number.isInteger(exitCode) && { exitCode: exitCode as number }),
    ...(typeof signal === "string" && { signal: cut(signal) }),
    ...(lines !== undefined && { lines }),
  };
}

/** What may be kept of `value`; undefined when it is no failure. A code that is not known here becomes `otherwise`. */
export function keptFailure(value: unknown, otherwise: FailureCode, depth = 0): FailureData | undefined {
  if (!isObject(value)) return undefined;
  const { code, message, side } = value;
  if (typeof code !== "string" || typeof message !== "string") return undefined;
  const kept: FailureData = { code: isFailureCode(code) ? code : otherwise, message: cut(message, MAX_TEXT) };
  if (side === "source" || side === "destination") kept.side = side;
  for (const field of ["node", "phase", "workload", "remedy"] as const) {
    const text = value[field];
    if (typeof text === "string") kept[field] = cut(text, MAX_TEXT);
  }
  const evidence = evidenceOf(value["evidence"]);
  if (evidence !== undefined) kept.evidence = evidence;
  const cause = depth < MAX_CAUSES ? keptFailure(value["cause"], otherwise, depth + 1) : undefined;
  if (cause !== undefined) kept.cause = cause;
  return kept;
}

/**
 * `ferry doctor`: what this machine has of what Ferry needs. Every check tries the thing itself where it can, never
 * throws, and says in words what is missing and what to do.
 */
import { fail, type Check, type CheckOptions, type CheckStatus, type Probe } from "./check.js";
import { SYSTEM_CHECKS } from "./checks-system.js";
import { ENGINE_CHECKS } from "./checks-engine.js";

export type { Check, CheckOptions, CheckStatus } from "./check.js";

const CHECKS = { ...SYSTEM_CHECKS, ...ENGINE_CHECKS } satisfies Record<string, Probe>;
export type CheckName = keyof typeof CHECKS;

/** Runs the checks side by side and gives them in their fixed order. */
export async function runChecks(options: CheckOptions = {}): Promise<Check[]> {
  const all = Object.entries<Probe>({ ...CHECKS, ...options.more });
  return Promise.all(
    all.map(async ([name, probe]): Promise<Check | undefined> => {
      if (options.only !== undefined && !options.only.includes(name)) return undefined;
      try {
        return { name, ...(await probe(options)) };
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error);
        return { name, ...fail("could not be checked", message, "see the detail") };
      }
    }),
  ).then((checks) => checks.filter((check) => check !== undefined));
}

/** Whether anything fails. */
export const healthy = (checks: readonly Check[]): boolean => checks.every((check) => check.status !== "fail");

/** The checks as lines of a table; what to do follows the check it belongs to. */
export function renderChecks(checks: readonly Check[]): string[] {
  const width = Math.max(...checks.map((check) => check.name.length), 5);
  const lines = checks.flatMap(({ name, status, value, detail, remedy }) => {
    const indent = " ".repeat(width + 8);
    return [
      `${status.padEnd(4)}  ${name.padEnd(width)}  ${value}`,
      ...(status === "ok" || detail === "" ? [] : [`${indent}${detail}`]),
      ...(remedy === "" ? [] : [`${indent}what to do: ${remedy}`]),
    ];
  });
  const count = (status: CheckStatus): number => checks.filter((check) => check.status === status).length;
  return [
    ...lines,
    "",
    `${count("ok")} ok, ${count("warn")} to know, ${count("fail")} missing, ${count("skip")} skipped`,
  ];
}

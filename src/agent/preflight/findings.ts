/** Small helpers that every check uses: a finding in one line, sizes in words. */
import type { Side } from "../../model/failure.js";
import type { Finding } from "../../model/plan.js";

/** Makes findings of one side: `block` refuses the migration, `warn` is shown, `info` explains. */
export interface Finder {
  readonly block: (check: string, message: string, remedy: string) => Finding;
  readonly warn: (check: string, message: string, remedy: string) => Finding;
  readonly info: (check: string, message: string) => Finding;
}

export const finder = (side: Side): Finder => ({
  block: (check, message, remedy) => ({ level: "block", check, side, message, remedy }),
  warn: (check, message, remedy) => ({ level: "warn", check, side, message, remedy }),
  info: (check, message) => ({ level: "info", check, side, message }),
});

/** A size for people: 1536 is "1.5 KiB". */
export function sizeText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? "B"}`;
}

/** The first few of a list, and how many more there are. */
export function listText(items: readonly string[], most = 6): string {
  const first = items.slice(0, most).join(", ");
  return items.length > most ? `${first} and ${items.length - most} more` : first;
}

export const MIB = 1024 * 1024;

/** Numbers for people. Pure; the time is passed in. Sizes, rates and times are those of model/format.ts. */
export { formatBytes, formatMs, formatRate } from "../../model/format.js";

/** How long ago, in one word: "4s", "12m", "3h", "5d". */
export function formatAge(since: number, now: number): string {
  const seconds = Math.max(0, Math.floor((now - since) / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** 65113 -> "65,113" */
export const formatCount = (count: number): string => Math.round(count).toLocaleString("en-US");

export const plural = (count: number, one: string, many = `${one}s`): string =>
  `${formatCount(count)} ${count === 1 ? one : many}`;

/** Arguments as a person would type them: quoted only where a shell needs it. */
export const formatCommand = (argv: readonly string[]): string =>
  argv.map((arg) => (/^[A-Za-z0-9_@%+=:,./-]+$/.test(arg) ? arg : `'${arg.replaceAll("'", "'\\''")}'`)).join(" ");

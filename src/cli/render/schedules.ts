/** Schedules in words. Pure: data in, lines out. */
import type { ScheduleChange, ScheduleListing } from "../../client/types.js";
import { everyText } from "../../model/schedules.js";
import { formatAge, formatBytes } from "./format.js";
import { mark, paint, printable, type Paint, type Style } from "./style.js";
import { renderTable, type Cell } from "./table.js";

const OUTCOME_PAINT: Readonly<Record<string, Paint>> = {
  saved: "green",
  checkpointed: "green",
  restored: "green",
  active: "green",
  skipped: "yellow",
  failed: "red",
  unknown: "red",
};

export const scheduleWhen = ({ everyMs, cron, timezone, idleMs, wakeOnTraffic, problem }: ScheduleListing): string => {
  const until = wakeOnTraffic === true ? ", until traffic" : "";
  if (everyMs !== undefined) return `every ${everyText(everyMs)}`;
  if (idleMs !== undefined) return `idle for ${everyText(idleMs)}${until}`;
  return cron === undefined ? (problem ?? "?") : `${cron} ${timezone ?? "UTC"}${until}`;
};

const keeps = ({ retention }: ScheduleListing): string => {
  if (retention === undefined) return "-";
  const { keep, olderThanMs, maxBytes } = retention;
  return [
    ...(keep === undefined ? [] : [`${keep}`]),
    ...(olderThanMs === undefined ? [] : [everyText(olderThanMs)]),
    ...(maxBytes === undefined ? [] : [formatBytes(maxBytes)]),
  ].join(", ");
};

const lastCell = ({ last }: ScheduleListing, now: number): Cell => {
  if (last === undefined) return { text: "-" };
  const { at, outcome = "under way" } = last;
  const color = OUTCOME_PAINT[outcome];
  const text = `${outcome} ${formatAge(at.getTime(), now)} ago`;
  return color === undefined ? { text } : { text, paint: color };
};

/** "in 4m" */
const nextText = ({ paused, next }: ScheduleListing, now: number): string =>
  paused ? "paused" : next === undefined ? "-" : `in ${formatAge(now, next.getTime())}`;

/** What did not go well says why, below the table. */
export function renderSchedules(schedules: readonly ScheduleListing[], now: number, style: Style): string[] {
  if (schedules.length === 0) return ["no schedules; protect a workload: ferry protect NAME --every 5m --keep 12"];
  const table = renderTable(
    [
      { title: "SCHEDULE" },
      { title: "WHEN" },
      { title: "KEEPS" },
      { title: "LAST" },
      { title: "NEXT", align: "right" },
    ],
    schedules.map((each) => [each.id, scheduleWhen(each), keeps(each), lastCell(each, now), nextText(each, now)]),
    style,
  );
  const notes = schedules.flatMap(({ id, last, paused, note }) => {
    const bad = last?.outcome !== undefined && OUTCOME_PAINT[last.outcome] !== "green";
    return [
      ...(bad && last.message !== undefined ? [`${paint(style, "yellow", id)}: ${printable(last.message)}`] : []),
      ...(paused && note !== undefined ? [`${paint(style, "yellow", id)}: ${printable(note)}`] : []),
    ];
  });
  return [...table, ...notes];
}

export function renderScheduleChange(
  { schedule, outcome, changes }: ScheduleChange,
  now: number,
  style: Style,
): string[] {
  const next = schedule.next === undefined ? "" : `; next in ${formatAge(now, schedule.next.getTime())}`;
  const paused = schedule.paused ? "; it is paused" : "";
  const words = outcome === "unchanged" ? "is so already" : outcome;
  return [
    `${mark(style, "done")} ${schedule.id} ${words}: ${printable(scheduleWhen(schedule))}${next}${paused}`,
    ...changes.map((change) => `  ${printable(change)}`),
  ];
}

/** One line of `ferry inspect`. */
export const scheduleLine = (schedule: ScheduleListing, now: number): string => {
  const kept = schedule.retention === undefined ? "" : `, keeps ${keeps(schedule)}`;
  return `${scheduleWhen(schedule)}${kept}; last: ${lastCell(schedule, now).text}; next: ${nextText(schedule, now)}`;
};

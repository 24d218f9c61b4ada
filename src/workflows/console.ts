/** What the Temporal UI shows: search attributes and Markdown details. Shown only, never read back for a decision. */
import { defineSearchAttributeKey } from "@temporalio/common";
import { setCurrentDetails, upsertSearchAttributes } from "@temporalio/workflow";
import { formatBytes, formatMs, formatRate } from "../model/format.js";
import type { HandOver, MigrationView } from "../model/messages.js";
import { PHASE_WORDS } from "../model/phase.js";
import type { AskedOptions } from "../model/plan.js";
import { amountsOf, type SidesSeen } from "../model/progress.js";
import type { PrecopyProgress, PrecopyReport } from "../model/report.js";
import type { SteerCommand } from "../model/steering.js";
import type { SearchAttributeName } from "../model/names.js";
import type { MigrationReport, PhaseTime } from "../model/report.js";
import type { WorkloadStatus } from "../model/workload.js";

export const KEYS = {
  FerryWorkload: defineSearchAttributeKey("FerryWorkload", "KEYWORD"),
  FerryNode: defineSearchAttributeKey("FerryNode", "KEYWORD"),
  FerryRuntime: defineSearchAttributeKey("FerryRuntime", "KEYWORD"),
  FerryState: defineSearchAttributeKey("FerryState", "KEYWORD"),
  FerryMode: defineSearchAttributeKey("FerryMode", "KEYWORD"),
} as const satisfies Record<SearchAttributeName, unknown>;

export type Shown = Partial<Record<SearchAttributeName, string>>;

/** Search attributes that only reach the server when they changed. */
export function attributes(): (next: Shown) => void {
  const sent: Shown = {};
  return (next) => {
    const changed = (Object.keys(next) as SearchAttributeName[]).filter((name) => sent[name] !== next[name]);
    if (changed.length === 0) return;
    Object.assign(sent, next);
    upsertSearchAttributes(changed.map((name) => ({ key: KEYS[name], value: next[name] ?? null })));
  };
}

/** Of a workflow that looks after a hand-over whose own has ended. */
export const ofHandOver = (
  { ref, spec, options }: HandOver,
  now: { node: string; state: string },
): { key: (typeof KEYS)[SearchAttributeName]; value: string }[] => [
  { key: KEYS.FerryWorkload, value: ref.workload },
  { key: KEYS.FerryNode, value: now.node },
  { key: KEYS.FerryRuntime, value: spec.runtime },
  { key: KEYS.FerryMode, value: options.mode },
  { key: KEYS.FerryState, value: now.state },
];

export const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");
/** The UI takes the height of the page before it breaks the lines, and cuts what is then below: an empty end is there for that. */
export const show = (lines: readonly string[]): void =>
  setCurrentDetails([...lines, "", "\u00a0", "", "\u00a0"].join("\n"));

/** As it is: the UI makes a fraction of 100/24 and a dash of --, and does not break a long piece of code. */
export const code = (text: string): string => `\`${cell(text === "" ? "''" : text.replaceAll("`", "'"))}\``;
export const time = (ms: number): string => new Date(ms).toISOString().replace("T", " ").replace("Z", " UTC");

const STATES: Record<MigrationView["state"], string> = {
  working: "under way",
  undoing: "going back to the source",
  "in-doubt": "**in doubt**: a node does not answer; at most one copy runs meanwhile",
  stuck: "**stuck**: a step that must succeed fails, a person should look",
  done: "done",
};

export function showMigration(view: MigrationView): void {
  const lines = [
    `### ${view.workload}: ${view.source} → ${view.destination}, ${view.mode}`,
    "",
    `${STATES[view.state]} since ${time(view.since)}, phase **${view.phase}**: ${PHASE_WORDS[view.phase]}`,
  ];
  if (view.problem !== undefined) lines.push("", `**Problem:** ${view.problem}`);
  if (view.remedy !== undefined) lines.push("", `**What to do:** ${view.remedy}`);
  if (view.phases.length > 0) lines.push(...phaseTable(view.phases));
  else if (view.progress !== undefined) lines.push(...progressTable(view.progress));
  lines.push(...steeringTable(view.steering));
  show(lines);
}

/** Both sides as the workflow heard of them last, and what they expect. */
function progressTable(seen: SidesSeen): string[] {
  const { bytesSent, bytesTotal, etaMs } = amountsOf(seen);
  const precopy = seen.source?.phase === "precopy" ? seen.source.precopy : undefined;
  const share = bytesTotal > 0 ? `, ${Math.floor((Math.min(bytesSent, bytesTotal) / bytesTotal) * 100)} %` : "";
  const sides = [seen.source, seen.destination].flatMap((side) => (side === undefined ? [] : [side]));
  const at = Math.max(...sides.map((side) => side.at));
  return [
    "",
    `**${formatBytes(bytesSent)}** of ${formatBytes(bytesTotal)}${share}` +
      (etaMs === undefined ? "" : `, ETA **${formatMs(etaMs)}**`),
    "",
    "| side | phase | sent | of | rate |",
    "|:---|:---|---:|---:|---:|",
    ...sides.map(
      (side) =>
        `| ${side.side} | ${side.phase} | ${formatBytes(side.bytesSent)} | ${formatBytes(side.bytesTotal)} | ${formatRate(side.rateBytesPerSec)} |`,
    ),
    ...(precopy === undefined ? [] : roundTable(precopy)),
    "",
    `As of ${time(at)}; heartbeats are newer.`,
  ];
}

function roundTable(precopy: PrecopyProgress): string[] {
  const { dirtyRateBytesPerSec: dirty, bandwidthBytesPerSec: bandwidth, expectedDowntimeMs, etaMs } = precopy;
  const rows: [string, string | undefined][] = [
    ["round", `**${precopy.round}**: ${formatBytes(precopy.roundSentBytes)} of ${formatBytes(precopy.roundBytes)}`],
    ["remaining", formatBytes(precopy.remainingBytes)],
    ["dirty rate", dirty === undefined ? undefined : formatRate(dirty)],
    ["bandwidth", bandwidth === undefined ? undefined : formatRate(bandwidth)],
    ["expected downtime", expectedDowntimeMs === undefined ? undefined : `**${formatMs(expectedDowntimeMs)}**`],
    ["ETA", etaMs === undefined ? undefined : formatMs(etaMs)],
    ["throttled by", precopy.throttlePercent > 0 ? `${precopy.throttlePercent} %` : undefined],
    ["rounds", precopy.paused ? "**paused**" : undefined],
    ["freeze", precopy.held ? "**held until go**" : undefined],
    ["policy", precopy.reason === "" ? undefined : cell(precopy.reason)],
  ];
  return [
    "",
    "| pre-copy | |",
    "|:---|:---|",
    ...rows.flatMap(([name, value]) => (value === undefined ? [] : [`| ${name} | ${value} |`])),
  ];
}

function steeringTable(steering: MigrationView["steering"]): string[] {
  if (steering.length === 0) return [];
  const value = ({ do: word, ...more }: SteerCommand): string =>
    [word, ...Object.values(more).map((part) => String(part ?? "none"))].join(" ");
  return [
    "",
    "| asked | at | answer |",
    "|:---|:---|:---|",
    ...steering.map(({ at, command, answer }) => `| ${cell(value(command))} | ${time(at)} | ${cell(answer)} |`),
  ];
}

export interface SweepView {
  operation: string;
  workload: string;
  startedAt: number;
  /** Nodes that have not cleared up yet, each with the reason of the last attempt. */
  left: Record<string, string>;
  cleared: readonly string[];
}

export function showSweep(view: SweepView): void {
  const left = Object.entries(view.left);
  setCurrentDetails(
    [
      `### ${view.workload}: clear up after \`${view.operation}\``,
      "",
      left.length === 0
        ? `Done: nothing is left of it on ${view.cleared.join(" and ")}.`
        : `Under way since ${time(view.startedAt)}. The workload does not wait for this.`,
      ...(left.length === 0 ? [] : ["", "| node | last answer |", "|:---|:---|"]),
      ...left.map(([node, why]) => `| ${node} | ${cell(why)} |`),
      ...(left.length === 0 ? [] : ["", "**What to do:** bring these nodes back; each is asked again and again."]),
    ].join("\n"),
  );
}

/** Starts are told from the first phase on: a column of equal dates hides the only digits that differ. */
export function phaseTable(phases: readonly PhaseTime[]): string[] {
  const first = Math.min(...phases.map((phase) => phase.startedAt));
  return [
    "",
    "**Phases**",
    "",
    "| phase | side | start | took |",
    "|:---|:---|---:|---:|",
    ...phases.map(
      ({ name, side, startedAt, durationMs }) =>
        `| ${name} | ${side} | +${(startedAt - first).toFixed(0)} ms | ${durationMs < 1000 ? `${durationMs.toFixed(1)} ms` : formatMs(durationMs)} |`,
    ),
  ];
}

const MOST_ROUNDS = 30;

function roundsTable({ rounds }: PrecopyReport): string[] {
  return [
    "",
    "**Rounds**",
    "",
    "| round | changed | remained | sent | took | expected downtime |",
    "|---:|---:|---:|---:|---:|---:|",
    ...rounds
      .slice(-MOST_ROUNDS)
      .map(
        (round) =>
          `| ${round.round} | ${formatBytes(round.dirtyPages * 4096)} | ${formatBytes(round.remainingBytes)} | ${formatBytes(round.sentBytes)} | ${formatMs(round.scanMs + round.sendMs)} | ${round.expectedDowntimeMs === undefined ? "" : formatMs(round.expectedDowntimeMs)} |`,
      ),
  ];
}

const OUTCOMES: Record<MigrationReport["outcome"], string> = {
  moved: "moved",
  "rolled-back": "rolled back",
  refused: "refused",
  planned: "planned, nothing was touched",
  "in-doubt": "in doubt",
  stuck: "stuck",
};

const known = (ms: number | null): string => (ms === null ? "not known" : formatMs(ms));

const figures = (report: MigrationReport): string[] => [
  "",
  "| figure | |",
  "|:---|:---|",
  `| blackout | **${known(report.blackoutMs)}** |`,
  ...(report.predictedDowntimeMs === undefined ? [] : [`| expected | ${formatMs(report.predictedDowntimeMs)} |`]),
  ...(report.residualMs === 0 ? [] : [`| residual | ${known(report.residualMs)} |`]),
  `| total | ${formatMs(report.totalMs)} |`,
  `| memory sent | ${formatBytes(report.bytesSent)}, ${report.pagesSent} pages, ${formatRate(report.bandwidthBytesPerSec)} |`,
  `| files sent | ${formatBytes(report.volumeBytes)} |`,
];

const optionValue = (name: string, value: unknown): string =>
  typeof value !== "number"
    ? String(value)
    : name.endsWith("PerSec")
      ? formatRate(value)
      : name.endsWith("Ms")
        ? formatMs(value)
        : String(value);

/** What was asked for: stands beside the details from the start on. */
export const asked = (options: AskedOptions): string =>
  [
    "| asked for | |",
    "|:---|:---|",
    ...Object.entries(options)
      .filter(([, value]) => value !== false)
      .map(([name, value]) => `| ${name} | ${cell(optionValue(name, value))} |`),
  ].join("\n");

/** How it ended: what a person who opens the page afterwards wants to know first. */
export function showReport(report: MigrationReport): void {
  const lines = [
    `### ${report.workload}: ${report.source} → ${report.destination}, ${report.mode}: ${OUTCOMES[report.outcome]}`,
    "",
    `It runs on **${report.node}**, epoch ${report.epoch}.`,
  ];
  if (report.outcome === "moved") lines.push(...figures(report));
  if (report.failure !== undefined) {
    lines.push("", `**Why:** ${cell(report.failure.message)} [${report.failure.code}]`);
    if (report.failure.remedy !== undefined) lines.push("", `**What to do:** ${cell(report.failure.remedy)}`);
  }
  if (report.precopy !== undefined) lines.push(...roundsTable(report.precopy));
  if (report.phases.length > 0) lines.push(...phaseTable(report.phases));
  if (report.reasons.length > 0) lines.push("", ...report.reasons.map((reason) => `- ${cell(reason)}`));
  show(lines);
}

export function showWorkload(status: WorkloadStatus): void {
  const { spec } = status;
  const lines = [
    `### ${status.name}: ${status.state} on ${status.node}`,
    "",
    "| | |",
    "|---|---|",
    `| node | ${status.node} |`,
    `| epoch | ${status.epoch} |`,
    `| runtime | ${status.runtime} |`,
    `| address | ${code(spec.network.ip)} ${code(spec.network.mac)} |`,
    `| command | ${spec.command.map(code).join(" ")} |`,
  ];
  if (status.lastCheckpoint !== undefined) {
    lines.push(`| last checkpoint | ${code(status.lastCheckpoint.id)}, ${time(status.lastCheckpoint.takenAt)} |`);
  }
  if (status.exitCode !== undefined) lines.push(`| exit code | ${status.exitCode} |`);
  if (status.operation !== undefined) lines.push(`| under way | \`${status.operation}\` |`);
  if (status.problem !== undefined) lines.push("", `**Last problem:** ${status.problem}`);
  show(lines);
}

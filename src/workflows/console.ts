/** What the Temporal UI shows: search attributes and Markdown details. Shown only, never read back for a decision. */
import { defineSearchAttributeKey } from "@temporalio/common";
import { setCurrentDetails, upsertSearchAttributes } from "@temporalio/workflow";
import type { MigrationView } from "../model/messages.js";
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

const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");
const time = (ms: number): string => new Date(ms).toISOString().replace("T", " ").replace("Z", " UTC");

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
    `${STATES[view.state]} since ${time(view.since)}, phase **${view.phase}**`,
  ];
  if (view.precopy !== undefined && view.phases.length === 0) lines.push("", roundLine(view.precopy));
  if (view.problem !== undefined) lines.push("", `**Problem:** ${view.problem}`);
  if (view.remedy !== undefined) lines.push("", `**What to do:** ${view.remedy}`);
  if (view.phases.length > 0) lines.push(...phaseTable(view.phases));
  lines.push(...steeringTable(view.steering));
  if (view.phases.length === 0)
    lines.push("", "Bytes and rate of the moment are in the heartbeats of the pending activities.");
  setCurrentDetails(lines.join("\n"));
}

const MIB = 2 ** 20;

/** The rounds as the workflow heard of them last: it looks now and then, heartbeats know more. */
function roundLine(precopy: PrecopyProgress): string {
  const { round, remainingBytes, dirtyRateBytesPerSec, bandwidthBytesPerSec, expectedDowntimeMs } = precopy;
  const rate = (bytes: number): string => `${(bytes / MIB).toFixed(0)} MiB/s`;
  return [
    `Round **${round}**: ${(remainingBytes / MIB).toFixed(1)} MiB remain`,
    ...(dirtyRateBytesPerSec === undefined ? [] : [`${rate(dirtyRateBytesPerSec)} change`]),
    ...(bandwidthBytesPerSec === undefined ? [] : [`${rate(bandwidthBytesPerSec)} are sent`]),
    ...(expectedDowntimeMs === undefined ? [] : [`expected downtime **${expectedDowntimeMs.toFixed(0)} ms**`]),
    ...(precopy.throttlePercent > 0 ? [`throttled by ${precopy.throttlePercent} %`] : []),
    ...(precopy.paused ? ["**paused**"] : []),
    ...(precopy.held ? ["**held until go**"] : []),
  ].join(", ");
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

/** Starts are told from the first phase on: a column of equal dates hides the only digits that differ. */
function phaseTable(phases: readonly PhaseTime[]): string[] {
  const first = Math.min(...phases.map((phase) => phase.startedAt));
  return [
    "",
    "| phase | side | start | took |",
    "|:---|:---|---:|---:|",
    ...phases.map(
      ({ name, side, startedAt, durationMs }) =>
        `| ${name} | ${side} | +${(startedAt - first).toFixed(0)} ms | ${durationMs.toFixed(1)} ms |`,
    ),
  ];
}

const MOST_ROUNDS = 30;

function roundTable({ rounds }: PrecopyReport): string[] {
  const mib = (bytes: number): string => `${(bytes / MIB).toFixed(1)} MiB`;
  return [
    "",
    "| round | changed | remained | sent | took | expected downtime |",
    "|---:|---:|---:|---:|---:|---:|",
    ...rounds
      .slice(-MOST_ROUNDS)
      .map(
        (round) =>
          `| ${round.round} | ${mib(round.dirtyPages * 4096)} | ${mib(round.remainingBytes)} | ${mib(round.sentBytes)} | ${(round.scanMs + round.sendMs).toFixed(1)} ms | ${round.expectedDowntimeMs === undefined ? "" : `${round.expectedDowntimeMs.toFixed(0)} ms`} |`,
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

/** How it ended: what a person who opens the page afterwards wants to know first. */
export function showReport(report: MigrationReport): void {
  const lines = [
    `### ${report.workload}: ${report.source} → ${report.destination}, ${report.mode}: ${OUTCOMES[report.outcome]}`,
    "",
    `It runs on **${report.node}**, epoch ${report.epoch}.`,
  ];
  if (report.outcome === "moved") {
    const mebibytes = (report.bytesSent / 2 ** 20).toFixed(1);
    lines.push(
      "",
      `Blackout **${report.blackoutMs.toFixed(0)} ms**, residual ${report.residualMs.toFixed(0)} ms, total ${report.totalMs.toFixed(0)} ms; sent ${mebibytes} MiB, ${report.pagesSent} pages.`,
    );
  }
  if (report.failure !== undefined) {
    lines.push("", `**Why:** ${cell(report.failure.message)} [${report.failure.code}]`);
    if (report.failure.remedy !== undefined) lines.push("", `**What to do:** ${cell(report.failure.remedy)}`);
  }
  if (report.precopy !== undefined) lines.push(...roundTable(report.precopy));
  if (report.phases.length > 0) lines.push(...phaseTable(report.phases));
  if (report.reasons.length > 0) lines.push("", ...report.reasons.map((reason) => `- ${cell(reason)}`));
  setCurrentDetails(lines.join("\n"));
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
    `| address | ${spec.network.ip} (${spec.network.mac}) |`,
    `| command | \`${cell(spec.command.join(" "))}\` |`,
  ];
  if (status.exitCode !== undefined) lines.push(`| exit code | ${status.exitCode} |`);
  if (status.operation !== undefined) lines.push(`| under way | \`${status.operation}\` |`);
  if (status.problem !== undefined) lines.push("", `**Last problem:** ${status.problem}`);
  setCurrentDetails(lines.join("\n"));
}

/** What the Temporal UI shows of a checkpoint. Shown only, never read back for a decision. See console.ts. */
import type { CheckpointReport } from "../model/checkpoint-report.js";
import type { SaveOptions } from "../model/checkpoints.js";
import { formatBytes, formatMs } from "../model/format.js";
import type { CheckpointView } from "../model/messages.js";
import { cell, code, phaseTable, show, time } from "./console.js";

const STATES: Partial<Record<CheckpointView["state"], string>> = {
  working: "under way",
  "in-doubt": "**no answer**: the node's journal is asked when it is back",
  done: "done",
};

export const askedForCheckpoint = ({ stop, wakeOnTraffic, ...asked }: SaveOptions): string =>
  [
    "| asked for | |",
    "|:---|:---|",
    `| by | ${cell(asked.requestedBy)} |`,
    ...(asked.reason === "" ? [] : [`| reason | ${cell(asked.reason)} |`]),
    `| afterwards | ${stop ? `it ${wakeOnTraffic === true ? "sleeps" : "is let go"}` : `it runs on, frozen for ${formatMs(asked.maxBlackoutMs)} at the most`} |`,
    ...Object.entries(asked.labels).map(([name, value]) => `| ${code(name)} | ${code(value)} |`),
  ].join("\n");

export function showCheckpoint(view: CheckpointView, options: SaveOptions): void {
  const lines = [
    `### ${view.workload}: checkpoint on ${view.node}${view.stop ? ", then it is let go" : ""}`,
    "",
    `${STATES[view.state] ?? view.state} since ${time(view.since)}; heartbeats know how far it is`,
  ];
  if (view.problem !== undefined) lines.push("", `**Problem:** ${cell(view.problem)}`);
  if (view.remedy !== undefined) lines.push("", `**What to do:** ${cell(view.remedy)}`);
  lines.push("", askedForCheckpoint(options));
  show(lines);
}

const AFTER: Record<CheckpointReport["state"], string> = {
  running: "It runs on",
  checkpointed: "Nothing of it runs; its files stay",
  sleeping: "It sleeps: what comes for its address wakes it",
  stopped: "It was stopped meanwhile",
  unknown: "Nobody said what became of it",
};

export function showCheckpointReport(report: CheckpointReport): void {
  const { checkpoint, failure } = report;
  const lines = [
    `### ${report.workload}: checkpoint ${report.outcome === "saved" ? "saved" : `not saved (${report.outcome})`}`,
    "",
    `${AFTER[report.state]}: **${report.node}**, epoch ${report.epoch}.`,
  ];
  if (checkpoint !== undefined) {
    lines.push(
      "",
      "| figure | |",
      "|:---|:---|",
      `| id | ${code(checkpoint.id)} |`,
      `| taken at | ${time(checkpoint.takenAt)} |`,
      ...(report.frozenMs === undefined ? [] : [`| frozen for | **${formatMs(report.frozenMs)}** |`]),
      `| size without zeros | ${formatBytes(checkpoint.dataBytes)} |`,
      `| added to the store | ${formatBytes(checkpoint.newBytes)} |`,
      `| total | ${formatMs(report.totalMs)} |`,
    );
  }
  if (failure !== undefined) {
    lines.push("", `**Why:** ${cell(failure.message)} [${failure.code}]`);
    if (failure.remedy !== undefined) lines.push("", `**What to do:** ${cell(failure.remedy)}`);
  }
  if (report.phases.length > 0) lines.push(...phaseTable(report.phases));
  if (report.reasons.length > 0) lines.push("", ...report.reasons.map((reason) => `- ${cell(reason)}`));
  show(lines);
}

/** Checkpoints in words: how one was made, what is in the store, what changed. Pure: data in, lines out. */
import type { CheckpointProgress } from "../../client/types.js";
import type { CheckpointReport } from "../../model/checkpoint-report.js";
import { isBroken } from "../../model/checkpoint-choice.js";
import type { ListedCheckpoint, StoredCheckpoint } from "../../model/checkpoints.js";
import { describeFailure } from "../../model/failure.js";
import { PHASE_WORDS, type Phase } from "../../model/phase.js";
import type { Pruned } from "../../model/retention.js";
import { formatAge, formatBytes, formatMs, formatRate, plural } from "./format.js";
import { cut, mark, paint, padEnd, padStart, printable, type Style } from "./style.js";
import { renderTable, type Cell, type Column } from "./table.js";

/** On one node: nothing is sent anywhere. */
const WORDS: Partial<Record<Phase, string>> = {
  arm: "start what takes it in",
  freeze: "freeze it",
  transfer: "gather what changed last",
  resume: "taken back: it runs on",
  release: "let it go",
  done: "done",
};
const words = (phase: Phase): string => WORDS[phase] ?? PHASE_WORDS[phase];

const when = (at: number): string =>
  new Date(at)
    .toISOString()
    .replace("T", " ")
    .replace(/\.\d+Z$/, "Z");

const amounts = ({ bytesSent, bytesTotal, rateBytesPerSec }: CheckpointProgress): string =>
  bytesTotal === 0 ? "" : `, ${formatBytes(bytesSent)} of ${formatBytes(bytesTotal)}, ${formatRate(rateBytesPerSec)}`;

export const renderCheckpointProgress = (progress: CheckpointProgress): string =>
  `[${padStart(formatMs(progress.elapsedMs), 7)}] ${progress.phase}: ${words(progress.phase)}${amounts(progress)}`;

export function renderCheckpointLive(progress: CheckpointProgress, style: Style): string[] {
  const title = `checkpoint ${progress.workload} on ${progress.node}`;
  const elapsed = formatMs(progress.elapsedMs);
  const width = style.width - 1;
  return [
    `${paint(style, "bold", cut(title, width - elapsed.length - 2, style))}  ${elapsed}`,
    `  ${mark(style, "active")} ${cut(`${progress.phase}: ${words(progress.phase)}${amounts(progress)}`, width - 4, style)}`,
  ];
}

const AFTER: Record<CheckpointReport["state"], string> = {
  running: "it runs on",
  checkpointed: "nothing of it runs; its files stay",
  sleeping: "it sleeps until something comes for its address",
  stopped: "it was stopped meanwhile",
  unknown: "nobody can say yet whether it runs",
};

const pair = (style: Style, key: string, value: string): string =>
  `  ${paint(style, "dim", padEnd(key, 9))} ${printable(value)}`;

export function renderCheckpointReport(report: CheckpointReport, style: Style): string[] {
  const { checkpoint, failure, workload, node, state } = report;
  const head =
    report.outcome === "saved" && checkpoint !== undefined
      ? `${mark(style, "done")} checkpoint ${checkpoint.id} of ${workload}: ${AFTER[state]}`
      : report.outcome === "unknown"
        ? `${mark(style, "warn")} no answer from ${node}: ${AFTER[state]}`
        : `${mark(style, "fail")} no checkpoint of ${workload} was made: ${AFTER[state]}`;
  const lines = [head];
  if (checkpoint !== undefined) {
    const frozen = report.frozenMs === undefined ? "not known" : formatMs(report.frozenMs);
    lines.push(
      pair(style, "where", `${node}, epoch ${report.epoch}; it lies in ${checkpoint.where}`),
      pair(style, "frozen", `${frozen}, after ${plural(report.rounds, "round")} while it ran`),
      pair(
        style,
        "size",
        `${formatBytes(checkpoint.dataBytes)} without zeros, ${formatBytes(checkpoint.newBytes)} of it new`,
      ),
      pair(style, "total", formatMs(report.totalMs)),
    );
  }
  for (const reason of report.reasons) lines.push(`  - ${printable(reason)}`);
  if (failure !== undefined) lines.push(...describeFailure(failure).map((line) => `  ${printable(line)}`));
  if (report.outcome === "unknown") {
    lines.push(
      `  what to do: bring ${node} back, it is asked as soon as it is there; if it is lost: ferry fence ${node}, then ferry recover ${workload}`,
    );
  }
  return lines;
}

/** `of`: all are of this workload, so that it need not be said. */
export function renderCheckpoints(
  listed: readonly ListedCheckpoint[],
  now: number,
  style: Style,
  of?: string,
): string[] {
  if (listed.length === 0) {
    return [
      of === undefined
        ? "no checkpoints; make one: ferry checkpoint NAME"
        : `no checkpoints of ${of}; make one: ferry checkpoint ${of}`,
    ];
  }
  const own = (workload: string): string[] => (of === undefined ? [workload] : []);
  const head: Column[] = [
    { title: "ID" },
    ...(of === undefined ? [{ title: "WORKLOAD" }] : []),
    { title: "TAKEN" },
    { title: "AGE", align: "right" },
    { title: "NODE" },
    { title: "EPOCH", align: "right" },
    { title: "SIZE", align: "right" },
    { title: "NEW", align: "right" },
    { title: "PINNED" },
    { title: "REASON" },
  ];
  const row = (each: ListedCheckpoint): (Cell | string)[] =>
    isBroken(each)
      ? [
          each.id,
          ...own(each.workload),
          "-",
          "-",
          "-",
          "-",
          "-",
          "-",
          "-",
          { text: `${each.failure.code}: ${each.failure.message}`, paint: "red" },
        ]
      : [
          each.id,
          ...own(each.workload),
          when(each.takenAt),
          formatAge(each.takenAt, now),
          each.node,
          String(each.epoch),
          formatBytes(each.dataBytes),
          formatBytes(each.newBytes),
          each.pinned ? "yes" : "",
          each.reason,
        ];
  return renderTable(head, listed.map(row), style);
}

export function renderCheckpoint(each: ListedCheckpoint, now: number, style: Style): string[] {
  const title = paint(style, "bold", `${each.workload} ${each.id}`);
  if (isBroken(each)) {
    return [title, ...describeFailure(each.failure).map((line) => `  ${printable(line)}`)];
  }
  const labels = Object.entries(each.labels).map(([name, value]) => `${name}=${value}`);
  return [
    title,
    pair(style, "taken", `${when(each.takenAt)}, ${formatAge(each.takenAt, now)} ago`),
    pair(style, "by", each.requestedBy),
    ...(each.reason === "" ? [] : [pair(style, "reason", each.reason)]),
    ...(labels.length === 0 ? [] : [pair(style, "labels", labels.join(" "))]),
    pair(style, "node", `${each.node}, epoch ${each.epoch}`),
    pair(style, "runtime", `${each.runtime}, criu ${each.criuVersion}`),
    pair(style, "kernel", `${each.kernel}, ${each.arch}, ${each.cpu}`),
    pair(style, "where", each.nodes === undefined ? each.where : `${each.where}, for ${each.nodes.join(", ")}`),
    pair(style, "size", `${formatBytes(each.dataBytes)} without zeros`),
    pair(
      style,
      "new",
      `${formatBytes(each.newBytes)}${each.parent === undefined ? "" : `; shares blocks with ${each.parent}, and does not need it`}`,
    ),
    pair(style, "pinned", each.pinned ? "yes: it is not removed, nor pruned" : "no"),
  ];
}

const freed = (pruned: readonly { checkpoint: StoredCheckpoint }[]): number =>
  pruned.reduce((sum, { checkpoint }) => sum + checkpoint.newBytes, 0);

export function renderPruned(pruned: readonly Pruned[], dryRun: boolean, now: number, style: Style): string[] {
  if (pruned.length === 0) return [dryRun ? "nothing would go" : "nothing went"];
  return [
    ...renderTable(
      [
        { title: "ID" },
        { title: "TAKEN" },
        { title: "AGE", align: "right" },
        { title: "NEW", align: "right" },
        { title: "WHY" },
      ],
      pruned.map(({ checkpoint, why }) => [
        checkpoint.id,
        when(checkpoint.takenAt),
        formatAge(checkpoint.takenAt, now),
        formatBytes(checkpoint.newBytes),
        why,
      ]),
      style,
    ),
    `${plural(pruned.length, "checkpoint")} ${dryRun ? "would go" : "went"}; what only they need, up to ${formatBytes(freed(pruned))} as they were made, is freed when the store is collected`,
  ];
}

/** The plan, the live view and the report of a migration in words. Pure: data in, lines out. */
import type { MigrationProgress } from "../../client/types.js";
import { BLACKOUT, PHASES, PHASE_WORDS, type Phase } from "../../model/phase.js";
import { hasRounds, type AskedMode, type Finding, type MigratePlan } from "../../model/plan.js";
import type {
  Forecast,
  FrameCounts,
  MigrationReport,
  PhaseTime,
  PrecopyProgress,
  PrecopyReport,
} from "../../model/report.js";
import { describeFailure } from "../../model/failure.js";
import { formatBytes, formatCount, formatMs, formatRate } from "./format.js";
import { columns, cut, mark, paint, padEnd, padStart, printable, wrap, type Style } from "./style.js";
import { renderTable } from "./table.js";

const LEVELS = [
  ["block", "fail", "refused because"],
  ["warn", "warn", "look out"],
  ["info", "done", "good to know"],
] as const;

/** Findings grouped by level, then by side, each with its remedy. */
export function renderFindings(
  findings: readonly Finding[],
  style: Style,
  levels = ["block", "warn", "info"],
): string[] {
  const lines: string[] = [];
  for (const [level, sign, title] of LEVELS) {
    const of = findings.filter((finding) => finding.level === level);
    if (of.length === 0 || !levels.includes(level)) continue;
    lines.push(`  ${paint(style, "bold", title)}`);
    for (const side of ["source", "destination"] as const) {
      for (const finding of of.filter((one) => one.side === side)) {
        const text = `${finding.side}, ${finding.check}: ${finding.message}`;
        const [first = "", ...rest] = wrap(printable(text), style.width - 6);
        lines.push(`    ${mark(style, sign)} ${first}`, ...rest.map((line) => `      ${line}`));
        if (finding.remedy !== undefined) {
          lines.push(
            ...wrap(`what to do: ${printable(finding.remedy)}`, style.width - 6).map((line) => `      ${line}`),
          );
        }
      }
    }
  }
  return lines;
}

const reasons = (all: readonly string[], style: Style): string[] =>
  all.length === 0
    ? []
    : [
        `  ${paint(style, "bold", "why")}`,
        ...all.flatMap((reason) =>
          wrap(printable(reason), style.width - 6).map((line, i) => `    ${i === 0 ? "- " : "  "}${line}`),
        ),
      ];

export function renderPlan(plan: MigratePlan, style: Style): string[] {
  const { workload, source, destination, epoch, mode, findings, prediction } = plan;
  const blocked = findings.some((finding) => finding.level === "block");
  return [
    paint(style, "bold", `plan: move ${workload} from ${source} to ${destination}, ${mode}, to epoch ${epoch}`),
    `  memory     ${formatBytes(plan.memoryBytes)}`,
    `  files      ${formatBytes(plan.volumeBytes)}`,
    ...(prediction === undefined
      ? []
      : [
          `  changes    ${formatRate(prediction.dirtyRateBytesPerSec)} (a short look), ${formatRate(prediction.bandwidthBytesPerSec)} can be sent`,
          `  downtime   about ${formatMs(prediction.downtimeMs)}${prediction.converges ? "" : ", above the limit"}`,
          `  total      about ${formatMs(prediction.totalMs)}, ${formatBytes(prediction.bytes)} in ${formatCount(prediction.rounds)} rounds`,
        ]),
    ...reasons(plan.reasons, style),
    ...renderFindings(findings, style),
    blocked
      ? `${mark(style, "fail")} it would be refused; nothing was changed`
      : `${mark(style, "done")} nothing speaks against it; nothing was changed`,
  ];
}

const HEADLINES: Record<MigrationReport["outcome"], (report: MigrationReport) => string> = {
  moved: (r) => `moved ${r.workload} from ${r.source} to ${r.destination}, ${r.mode}, epoch ${r.epoch}`,
  "rolled-back": (r) => `${r.workload} was not moved: it runs on ${r.node} as before, epoch ${r.epoch}`,
  refused: (r) => `refused: ${r.workload} was not touched and runs on ${r.node}`,
  "in-doubt": (r) => `in doubt: ${r.workload} may not run anywhere until ${r.destination} answers`,
  stuck: (r) => `stuck: ${r.workload} needs a person; last known on ${r.node}`,
  planned: (r) => `planned: ${r.workload} was not touched and runs on ${r.node}`,
};

function renderPhases(phases: readonly PhaseTime[], style: Style): string[] {
  if (phases.length === 0) return [];
  const first = Math.min(...phases.map((phase) => phase.startedAt));
  const table = renderTable(
    [
      { title: "PHASE" },
      { title: "SIDE" },
      { title: "START", align: "right" },
      { title: "TOOK", align: "right" },
      { title: "" },
    ],
    phases.map((phase) => [
      phase.name,
      phase.side,
      `+${formatMs(phase.startedAt - first)}`,
      formatMs(phase.durationMs),
      BLACKOUT.includes(phase.name) ? `${PHASE_WORDS[phase.name]} (blackout)` : PHASE_WORDS[phase.name],
    ]),
    { ...style, width: style.width - 2 },
  );
  return table.map((line) => `  ${line}`);
}

/** Rounds that are shown at the beginning and at the end, where there are many. */
const FIRST_ROUNDS = 4;
const LAST_ROUNDS = 4;

export function renderRounds({ rounds }: PrecopyReport, style: Style): string[] {
  if (rounds.length === 0) return [];
  const many = rounds.length > FIRST_ROUNDS + LAST_ROUNDS + 1;
  const shown = many ? [...rounds.slice(0, FIRST_ROUNDS), undefined, ...rounds.slice(-LAST_ROUNDS)] : rounds;
  const table = renderTable(
    [
      { title: "ROUND", align: "right" },
      { title: "CHANGED", align: "right" },
      { title: "AT", align: "right" },
      { title: "SENT", align: "right" },
      { title: "TOOK", align: "right" },
      { title: "EXPECTED", align: "right" },
      { title: "" },
    ],
    shown.map((round) =>
      round === undefined
        ? ["...", "", "", "", "", "", ""]
        : [
            String(round.round),
            formatBytes(round.dirtyPages * 4096),
            round.dirtyRateBytesPerSec === undefined ? "" : formatRate(round.dirtyRateBytesPerSec),
            formatBytes(round.sentBytes),
            formatMs(round.scanMs + round.sendMs),
            round.expectedDowntimeMs === undefined ? "" : formatMs(round.expectedDowntimeMs),
            round.action === "continue" ? "" : round.reason,
          ],
    ),
    { ...style, width: style.width - 2 },
  );
  return table.map((line) => `  ${line}`);
}

/** Not every ending knows it: a side that was replaced in the middle can't say when it froze or resumed. */
const blackout = ({ blackoutMs, source, destination }: MigrationReport): string =>
  blackoutMs === null ? "not known" : `${formatMs(blackoutMs)} (frozen on ${source} until resumed on ${destination})`;

const frameWords = ({ kept, delivered, dropped }: FrameCounts): string =>
  `${formatCount(kept)} frames came during the blackout and were kept, ${formatCount(delivered)} delivered after it` +
  (dropped > 0 ? `, ${formatCount(dropped)} dropped` : "");

const forecastWords = ({ downtimeMs, totalMs, bytes }: Forecast): string =>
  `downtime ${formatMs(downtimeMs.predicted)}, total ${formatMs(totalMs.predicted)} (became ${formatMs(totalMs.measured)}), ` +
  `${formatBytes(bytes.predicted)} (by a short look before)`;

export function renderReport(report: MigrationReport, style: Style): string[] {
  const { outcome } = report;
  if (outcome === "planned" && report.plan !== undefined) return renderPlan(report.plan, style);
  const sign = outcome === "moved" || outcome === "planned" ? "done" : outcome === "in-doubt" ? "warn" : "fail";
  const lines = [`${mark(style, sign)} ${paint(style, "bold", HEADLINES[outcome](report))}`];
  if (outcome === "moved") {
    lines.push(`  blackout   ${blackout(report)}`);
    if (report.predictedDowntimeMs !== undefined) {
      lines.push(`  expected   ${formatMs(report.predictedDowntimeMs)} (when it froze)`);
    }
    if (report.forecast !== undefined) lines.push(`  planned    ${forecastWords(report.forecast)}`);
    if (report.mode === "postcopy" || report.resumedFirst === true) {
      const { residualMs } = report;
      lines.push(
        `  residual   ${residualMs === null ? "not known" : `${formatMs(residualMs)} (from resume to the last page)`}`,
      );
    }
    if (report.frames !== undefined) lines.push(`  peers      ${frameWords(report.frames)}`);
    lines.push(
      `  total      ${formatMs(report.totalMs)}`,
      `  sent       ${formatBytes(report.bytesSent)}, ${formatCount(report.pagesSent)} pages, ${formatRate(report.bandwidthBytesPerSec)}`,
      `  files      ${formatBytes(report.volumeBytes)}`,
    );
  }
  if (report.precopy !== undefined) lines.push(...renderRounds(report.precopy, style));
  lines.push(...renderPhases(report.phases, style));
  // Of a refusal the findings below say the same, one by one.
  const told = outcome === "refused" && report.findings.some((finding) => finding.level === "block");
  if (report.failure !== undefined && !told)
    lines.push(...describeFailure(report.failure).map((line) => `  ${printable(line)}`));
  lines.push(...renderFindings(report.findings, style, outcome === "refused" ? ["block", "warn"] : ["warn"]));
  if (outcome === "moved") lines.push(...reasons(report.reasons, style));
  lines.push(...NEXT[outcome](report).map((line) => `  what to do: ${line}`));
  return lines;
}

/** What a person does after this outcome. */
const NEXT: Record<MigrationReport["outcome"], (report: MigrationReport) => string[]> = {
  moved: () => [],
  planned: () => [],
  "rolled-back": (r) =>
    r.failure?.code === "E_CANCELLED" ? [] : ["remove the cause above, then run the same command again"],
  refused: () => ["remove the reasons above, then run the same command again; --dry-run shows the plan alone"],
  "in-doubt": (r) => [`bring ${r.destination} back; Ferry settles it by itself. Watch: ferry inspect ${r.workload}`],
  stuck: (r) => [`read the reason above and: ferry inspect ${r.workload}`],
};

/** Phases that a mode goes through, in order, as the live view lists them. */
export const phasesOf = (mode: AskedMode): Phase[] =>
  PHASES.filter((phase) => phase !== "done" && phase !== "store" && (phase !== "precopy" || hasRounds(mode)));

export function bar(share: number, width: number, style: Style): string {
  const [full, empty] = style.unicode ? ["█", "░"] : ["#", "-"];
  const filled = Math.round(Math.min(1, Math.max(0, share)) * width);
  return `[${paint(style, "cyan", full.repeat(filled))}${empty.repeat(width - filled)}]`;
}

/** "62%  158 MiB of 256 MiB  410 MiB/s  ETA 0.2 s" */
export function amounts(progress: MigrationProgress): string {
  const { phase, bytesSent, bytesTotal, rateBytesPerSec, etaMs } = progress;
  // What was sent of the files beforehand says nothing about these.
  if (phase === "arm" || phase === "freeze" || phase === "dump") return "";
  if (bytesTotal <= 0) return bytesSent > 0 ? formatBytes(bytesSent) : "";
  const parts = [
    `${padStart(String(Math.floor((Math.min(bytesSent, bytesTotal) / bytesTotal) * 100)), 3)}%`,
    `${formatBytes(bytesSent)} of ${formatBytes(bytesTotal)}`,
  ];
  if (rateBytesPerSec > 0) parts.push(formatRate(rateBytesPerSec));
  if (etaMs !== undefined && bytesSent < bytesTotal) parts.push(`ETA ${formatMs(etaMs)}`);
  return parts.join("  ");
}

export interface LiveHead {
  workload: string;
  source: string;
  destination: string;
  /** As it was asked for. */
  mode: AskedMode;
}

/** One frame of the live view: never wider than the terminal, so that redrawing knows its height. */
export function renderLive(head: LiveHead, progress: MigrationProgress, style: Style): string[] {
  const width = style.width - 1;
  const arrow = style.unicode ? "→" : "->";
  const title = `migrate ${head.workload}: ${head.source} ${arrow} ${head.destination}, ${progress.mode ?? head.mode}`;
  const elapsed = formatMs(progress.elapsedMs);
  const lines = [
    `${paint(style, "bold", cut(padEnd(title, Math.max(0, width - elapsed.length - 2)), width - elapsed.length - 2, style))}  ${elapsed}`,
  ];
  const at = PHASES.indexOf(progress.phase);
  for (const phase of phasesOf(head.mode)) {
    const index = PHASES.indexOf(phase);
    const kind = index < at ? "done" : index === at ? "active" : "todo";
    const label = cut(`${padEnd(phase, 10)} ${PHASE_WORDS[phase]}`, width - 4, style);
    lines.push(`  ${mark(style, kind)} ${kind === "todo" ? paint(style, "dim", label) : label}`);
    if (kind === "active" && phase === "precopy" && progress.precopy !== undefined) {
      lines.push(...renderRoundLive(progress.precopy, style, width));
      continue;
    }
    const text = kind === "active" && progress.bytesTotal > 0 ? amounts(progress) : "";
    if (text !== "") {
      const room = width - 4 - columns(text) - 4;
      const drawn = room >= 10 ? `${bar(progress.bytesSent / progress.bytesTotal, Math.min(30, room), style)} ` : "";
      lines.push(`    ${drawn}${cut(text, width - 4 - columns(drawn), style)}`);
    }
  }
  return lines;
}

/** "round 3  4.1 MiB of 12 MiB" and what is expected, in one or two lines. */
function renderRoundLive(precopy: PrecopyProgress, style: Style, width: number): string[] {
  const share = precopy.roundBytes > 0 ? precopy.roundSentBytes / precopy.roundBytes : 1;
  const text = cut(roundWords(precopy), width - 4, style);
  const drawn = width >= 50 ? [`    ${bar(share, 30, style)} ${cut(roundAmount(precopy), width - 40, style)}`] : [];
  return [...drawn, `    ${text}`];
}

const roundAmount = (precopy: PrecopyProgress): string =>
  `round ${precopy.round}, ${formatBytes(precopy.roundSentBytes)} of ${formatBytes(precopy.roundBytes)}, ` +
  `${formatCount(precopy.roundSentPages)} of ${formatCount(precopy.roundPages)} pages`;

function roundWords(precopy: PrecopyProgress): string {
  const { dirtyRateBytesPerSec, bandwidthBytesPerSec, expectedDowntimeMs, etaMs } = precopy;
  return [
    ...(precopy.paused ? ["paused"] : []),
    ...(precopy.held ? ["held until go"] : []),
    ...(dirtyRateBytesPerSec === undefined ? [] : [`changes ${formatRate(dirtyRateBytesPerSec)}`]),
    ...(bandwidthBytesPerSec === undefined ? [] : [`sends ${formatRate(bandwidthBytesPerSec)}`]),
    `${formatBytes(precopy.remainingBytes)} remain`,
    ...(expectedDowntimeMs === undefined ? [] : [`downtime expected ${formatMs(expectedDowntimeMs)}`]),
    ...(etaMs === undefined ? [] : [`ETA ${formatMs(etaMs)}`]),
    ...(precopy.throttlePercent > 0 ? [`throttled by ${precopy.throttlePercent} %`] : []),
  ].join(", ");
}

/** One line when standard output is no terminal. */
export function renderPlainProgress(progress: MigrationProgress): string {
  const { precopy } = progress;
  const text =
    progress.phase === "precopy" && precopy !== undefined
      ? `${roundAmount(precopy)}, ${roundWords(precopy)}`
      : amounts(progress);
  return `[${padStart(formatMs(progress.elapsedMs), 7)}] ${progress.phase}: ${PHASE_WORDS[progress.phase]}${text === "" ? "" : `, ${text.trim()}`}`;
}

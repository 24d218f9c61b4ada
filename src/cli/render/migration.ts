/** The plan, the live view and the report of a migration in words. Pure: data in, lines out. */
import type { MigrationProgress } from "../../client/types.js";
import { BLACKOUT, PHASES, type Phase } from "../../model/phase.js";
import type { Finding, MigratePlan } from "../../model/plan.js";
import type { MigrationReport, PhaseTime } from "../../model/report.js";
import { describeFailure } from "../../model/failure.js";
import { formatBytes, formatCount, formatMs, formatRate } from "./format.js";
import { columns, cut, mark, paint, padEnd, padStart, printable, wrap, type Style } from "./style.js";
import { renderTable } from "./table.js";

/** What each phase does, in a few words. */
export const PHASE_WORDS: Record<Phase, string> = {
  preflight: "check both nodes",
  reserve: "reserve room on the destination",
  presync: "copy files while it runs",
  arm: "destination ready to take over",
  freeze: "freeze on the source",
  dump: "save processes and sockets",
  transfer: "send memory and files",
  restore: "restore on the destination, held",
  switch: "hand over the right to run",
  resume: "resume on the destination",
  drain: "send the remaining pages",
  release: "let go of the source's copy",
  cleanup: "sweep both nodes",
  done: "done",
};

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
  const { workload, source, destination, epoch, mode, findings } = plan;
  const blocked = findings.some((finding) => finding.level === "block");
  return [
    paint(style, "bold", `plan: move ${workload} from ${source} to ${destination}, ${mode}, to epoch ${epoch}`),
    `  memory     ${formatBytes(plan.memoryBytes)}`,
    `  files      ${formatBytes(plan.volumeBytes)}`,
    ...reasons(plan.reasons, style),
    ...renderFindings(findings, style),
    blocked
      ? `${mark(style, "fail")} it would be refused; nothing was touched`
      : `${mark(style, "done")} nothing speaks against it; nothing was touched`,
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

/** Not every ending knows it: a side that was replaced in the middle can't say when it froze or resumed. */
const blackout = ({ blackoutMs, source, destination }: MigrationReport): string =>
  blackoutMs > 0 ? `${formatMs(blackoutMs)} (frozen on ${source} until resumed on ${destination})` : "not known";

export function renderReport(report: MigrationReport, style: Style): string[] {
  const { outcome } = report;
  if (outcome === "planned" && report.plan !== undefined) return renderPlan(report.plan, style);
  const sign = outcome === "moved" || outcome === "planned" ? "done" : outcome === "in-doubt" ? "warn" : "fail";
  const lines = [`${mark(style, sign)} ${paint(style, "bold", HEADLINES[outcome](report))}`];
  if (outcome === "moved") {
    lines.push(`  blackout   ${blackout(report)}`);
    if (report.mode === "postcopy") {
      lines.push(`  residual   ${formatMs(report.residualMs)} (from resume to the last page)`);
    }
    lines.push(
      `  total      ${formatMs(report.totalMs)}`,
      `  sent       ${formatBytes(report.bytesSent)}, ${formatCount(report.pagesSent)} pages, ${formatRate(report.bandwidthBytesPerSec)}`,
    );
  }
  lines.push(...renderPhases(report.phases, style));
  if (report.failure !== undefined)
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
export const phasesOf = (mode: string): Phase[] =>
  PHASES.filter((phase) => phase !== "done" && (phase !== "drain" || mode === "postcopy"));

export function bar(share: number, width: number, style: Style): string {
  const [full, empty] = style.unicode ? ["█", "░"] : ["#", "-"];
  const filled = Math.round(Math.min(1, Math.max(0, share)) * width);
  return `[${paint(style, "cyan", full.repeat(filled))}${empty.repeat(width - filled)}]`;
}

/** "62%  158 MiB of 256 MiB  410 MiB/s  ETA 0.2 s" */
export function amounts(progress: MigrationProgress): string {
  const { bytesSent, bytesTotal, rateBytesPerSec, etaMs } = progress;
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
  mode: string;
}

/** One frame of the live view: never wider than the terminal, so that redrawing knows its height. */
export function renderLive(head: LiveHead, progress: MigrationProgress, style: Style): string[] {
  const width = style.width - 1;
  const arrow = style.unicode ? "→" : "->";
  const title = `migrate ${head.workload}: ${head.source} ${arrow} ${head.destination}, ${head.mode}`;
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
    if (kind === "active" && progress.bytesTotal > 0) {
      const text = amounts(progress);
      const room = width - 4 - columns(text) - 4;
      const drawn = room >= 10 ? `${bar(progress.bytesSent / progress.bytesTotal, Math.min(30, room), style)} ` : "";
      lines.push(`    ${drawn}${cut(text, width - 4 - columns(drawn), style)}`);
    }
  }
  return lines;
}

/** One line when standard output is no terminal. */
export function renderPlainProgress(progress: MigrationProgress): string {
  const text = amounts(progress);
  return `[${padStart(formatMs(progress.elapsedMs), 7)}] ${progress.phase}: ${PHASE_WORDS[progress.phase]}${text === "" ? "" : `, ${text.trim()}`}`;
}

/** The report of a migration, put together from what both sides say. Pure. */
import type { SideOutcome, SourceFacts } from "../model/contract.js";
import { failureClass, type FailureData, type Side } from "../model/failure.js";
import type { HandOver } from "../model/messages.js";
import { PHASES, type Outcome } from "../model/phase.js";
import type { Finding, MigratePlan } from "../model/plan.js";
import type { MigrationReport, PhaseTime } from "../model/report.js";

export interface ReportParts {
  handOver: HandOver;
  outcome: Outcome;
  node: string;
  epoch: number;
  startedAt: number;
  endedAt: number;
  sourceOutcome?: SideOutcome;
  destinationOutcome?: SideOutcome;
  findings: Finding[];
  plan?: MigratePlan;
  /** Everything that went wrong, in the order in which it was learned. */
  failures: FailureData[];
  reasons: string[];
}

export function assembleReport(parts: ReportParts): MigrationReport {
  const { handOver, sourceOutcome: source, destinationOutcome: destination } = parts;
  const { ref, options } = handOver;
  const moved = parts.outcome === "moved";
  const blackoutMs = moved ? gap(source?.frozenAt, destination?.resumedAt) : 0;
  const residualMs = moved && options.mode === "postcopy" ? gap(destination?.resumedAt, destination?.drainedAt) : 0;
  const reasons = [...parts.reasons];
  if (moved && blackoutMs !== undefined) {
    reasons.push(
      "blackout: from the source's clock at the freeze to the destination's clock at the resume; a difference between the two clocks is part of it",
    );
  }
  if (moved && blackoutMs === undefined) {
    reasons.push("blackout: not known, one side could not say any more when it froze or resumed");
  }
  const main = mainFailure(parts.failures);
  for (const other of parts.failures) {
    if (other !== main && other.message !== main?.message) reasons.push(`also: ${other.message} [${other.code}]`);
  }
  const counts = source?.transfer ?? destination?.transfer;
  return {
    outcome: parts.outcome,
    workload: ref.workload,
    operation: ref.operation,
    mode: options.mode,
    source: ref.source,
    destination: ref.destination,
    epoch: parts.epoch,
    node: parts.node,
    phases: phases(source, destination),
    blackoutMs: blackoutMs ?? 0,
    residualMs: residualMs ?? 0,
    totalMs: parts.endedAt - parts.startedAt,
    bytesSent: counts?.bytesSent ?? 0,
    pagesSent: counts?.pagesSent ?? 0,
    rounds: 0,
    bandwidthBytesPerSec: counts?.bandwidthBytesPerSec ?? 0,
    reasons,
    findings: parts.findings,
    ...(parts.plan === undefined ? {} : { plan: parts.plan }),
    ...(main === undefined ? {} : { failure: main }),
  };
}

/** Both sides' phases by when they began; the order of phases breaks ties between clocks. */
export function phases(...outcomes: (SideOutcome | undefined)[]): PhaseTime[] {
  return outcomes
    .flatMap((outcome) => outcome?.phases ?? [])
    .sort((a, b) => a.startedAt - b.startedAt || PHASES.indexOf(a.name) - PHASES.indexOf(b.name));
}

const gap = (from: number | undefined, to: number | undefined): number | undefined =>
  from === undefined || to === undefined ? undefined : Math.max(0, to - from);

/** The failure that explains the others: a cancel or an engine's word before "the link was lost" and "refused". */
export function mainFailure(failures: readonly FailureData[]): FailureData | undefined {
  const weight = (failure: FailureData): number => {
    if (failure.code === "E_CANCELLED") return 0;
    const kind = failureClass(failure.code);
    return kind === "engine" || kind === "bug"
      ? 1
      : kind === "user"
        ? 2
        : kind === "node"
          ? 3
          : kind === "link"
            ? 4
            : 5;
  };
  return [...failures].sort((a, b) => weight(a) - weight(b))[0];
}

export function planOf(handOver: HandOver, facts: SourceFacts, findings: Finding[]): MigratePlan {
  const { ref, options } = handOver;
  const reasons = [
    options.mode === "cold"
      ? "cold: nothing depends on the source once the workload runs on the destination"
      : "postcopy: the workload resumes first and its memory follows; until then it needs both nodes",
    `epoch ${ref.to}: the next that neither node has seen`,
    options.bandwidthBytesPerSec === undefined
      ? "no bandwidth limit was asked for"
      : `at most ${options.bandwidthBytesPerSec} bytes a second, as asked`,
    `a blackout longer than ${options.maxBlackoutMs / 1000} s is taken back by the source`,
  ];
  return {
    workload: ref.workload,
    source: ref.source,
    destination: ref.destination,
    epoch: ref.to,
    mode: options.mode,
    findings,
    memoryBytes: facts.memoryBytes,
    volumeBytes: facts.volumeBytes,
    reasons,
  };
}

/** How a side that did not do its part says so. */
export const sideFailure = (side: Side, node: string, outcome: SideOutcome): FailureData =>
  outcome.failure ?? {
    code: "E_INTERNAL",
    message: `the ${side} ended as ${outcome.state} without saying why`,
    side,
    node,
  };

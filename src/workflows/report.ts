/** The report of a migration, put together from what both sides say. Pure. */
import type { SideOutcome, SourceFacts } from "../model/contract.js";
import { failureClass, type FailureData, type Side } from "../model/failure.js";
import type { HandOver } from "../model/messages.js";
import { PHASES, type Outcome } from "../model/phase.js";
import type { ConvergenceLimits, OnStall } from "../model/convergence.js";
import type { ModeChoice } from "../model/mode-choice.js";
import { hasRounds, limitsOf, type Finding, type MigratePlan, type Mode } from "../model/plan.js";
import type { ClockOffset, Forecast, FrameCounts, MigrationReport, PhaseTime } from "../model/report.js";

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
  const clock = source?.clock;
  const steps = [steppedWords(ref.source, source), steppedWords(ref.destination, destination)].filter(Boolean);
  const known = moved && steps.length === 0;
  const frozenAt = known ? source?.frozenAt : undefined;
  const resumedAt = known ? onSourceClock(destination?.resumedAt, clock) : undefined;
  const blackoutMs = !moved && source?.frozenAt === undefined ? 0 : gap(frozenAt, resumedAt);
  const residualMs =
    moved && (options.mode === "postcopy" || source?.resumedFirst === true)
      ? destination?.clockStepMs === undefined
        ? gap(destination?.resumedAt, destination?.drainedAt)
        : undefined
      : 0;
  const reasons = [...parts.reasons];
  if (moved && blackoutMs !== undefined) {
    reasons.push(clockWords(clock));
  }
  if (moved && blackoutMs === undefined) {
    reasons.push(
      steps.length > 0
        ? `blackout: not known, ${steps.join(" and ")} meanwhile`
        : "blackout: not known, one side could not say any more when it froze or resumed",
    );
  }
  if (source?.precopy !== undefined) {
    const { tracker, trackerReason, decision, throttledPercent } = source.precopy;
    reasons.push(`changes of memory were found by ${tracker}: ${trackerReason}`);
    if (decision !== "") reasons.push(`the rounds ended because ${decision}`);
    if (throttledPercent > 0) reasons.push(`it was throttled by up to ${throttledPercent} % meanwhile`);
  }
  if (source?.resumedFirst === true && options.mode !== "postcopy") {
    reasons.push("it resumed before all of its memory was there: until the last page it needed both nodes");
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
    blackoutMs: blackoutMs ?? null,
    ...(frozenAt !== undefined && resumedAt !== undefined ? { frozenAt, resumedAt } : {}),
    ...(clock === undefined ? {} : { clock }),
    ...framesOf(source, destination),
    residualMs: residualMs ?? null,
    totalMs: parts.endedAt - parts.startedAt,
    bytesSent: counts?.bytesSent ?? 0,
    volumeBytes: counts?.volumeBytes ?? 0,
    pagesSent: counts?.pagesSent ?? 0,
    rounds: source?.precopy?.rounds.length ?? 0,
    bandwidthBytesPerSec: counts?.bandwidthBytesPerSec ?? 0,
    ...(source?.precopy === undefined ? {} : { precopy: source.precopy }),
    ...(source?.resumedFirst === true ? { resumedFirst: true } : {}),
    ...(source?.precopy?.expectedDowntimeMs === undefined
      ? {}
      : { predictedDowntimeMs: source.precopy.expectedDowntimeMs }),
    reasons,
    findings: parts.findings,
    ...(parts.plan === undefined ? {} : { plan: parts.plan }),
    ...forecastOf(parts, blackoutMs, counts?.bytesSent),
    ...(main === undefined ? {} : { failure: main }),
  };
}

/** What the plan had expected beside what it became; both known, and only where it moved. */
function forecastOf(
  { plan, outcome, sourceOutcome, destinationOutcome }: ReportParts,
  blackoutMs: number | undefined,
  bytesSent: number | undefined,
): { forecast?: Forecast } {
  const prediction = plan?.prediction;
  if (outcome !== "moved" || prediction === undefined || blackoutMs === undefined || bytesSent === undefined) return {};
  const times = phases(sourceOutcome, destinationOutcome);
  const ends = times.map(({ startedAt, durationMs }) => startedAt + durationMs);
  const from = times.find(({ name, side }) => name === "presync" && side === "source") ?? times[0];
  if (from === undefined) return {};
  return {
    forecast: {
      downtimeMs: { predicted: prediction.downtimeMs, measured: blackoutMs },
      totalMs: { predicted: prediction.totalMs, measured: Math.max(...ends) - from.startedAt },
      bytes: { predicted: prediction.bytes, measured: bytesSent },
    },
  };
}

const onSourceClock = (at: number | undefined, clock: ClockOffset | undefined): number | undefined =>
  at === undefined ? undefined : at - (clock?.offsetMs ?? 0);

const steppedWords = (node: string, side: SideOutcome | undefined): string | undefined =>
  side?.clockStepMs === undefined
    ? undefined
    : `the clock of ${node} was set ${side.clockStepMs < 0 ? "back" : "ahead"} by ${ms(Math.abs(side.clockStepMs))}`;

const ms = (value: number): string => `${Number(value.toFixed(3))} ms`;

const clockWords = (clock: ClockOffset | undefined): string =>
  clock === undefined
    ? "blackout: from the source's clock at the freeze to the destination's clock at the resume; a difference between the two clocks is part of it"
    : `blackout and phases are by the source's clock: the destination's was ${ms(Math.abs(clock.offsetMs))} ` +
      `${clock.offsetMs < 0 ? "behind" : "ahead"}, to within ${ms(clock.uncertaintyMs)}, as measured over the link just before the freeze`;

/** None of it when neither side kept any. */
function framesOf(source: SideOutcome | undefined, destination: SideOutcome | undefined): { frames?: FrameCounts } {
  const [kept, delivered] = [source?.frames, destination?.frames];
  if (kept === undefined && delivered === undefined) return {};
  return {
    frames: {
      kept: kept?.kept ?? 0,
      delivered: delivered?.delivered ?? 0,
      dropped: (kept?.dropped ?? 0) + (delivered?.dropped ?? 0),
    },
  };
}

/**
 * Both sides' phases by when they began, by the source's clock where the other's was measured; the order of phases breaks
 * ties between clocks.
 */
export function phases(source?: SideOutcome, destination?: SideOutcome): PhaseTime[] {
  const offsetMs = source?.clock?.offsetMs ?? 0;
  const shifted = (destination?.phases ?? []).map((phase) => ({ ...phase, startedAt: phase.startedAt - offsetMs }));
  return [...(source?.phases ?? []), ...shifted].sort(
    (a, b) => a.startedAt - b.startedAt || PHASES.indexOf(a.name) - PHASES.indexOf(b.name),
  );
}

const gap = (from: number | undefined, to: number | undefined): number | undefined =>
  from === undefined || to === undefined ? undefined : Math.max(0, to - from);

/** The failure that explains the others: a cancel or an engine's word before "the link was lost" and "refused". */
export function mainFailure(failures: readonly FailureData[]): FailureData | undefined {
  const weight = (failure: FailureData): number => {
    // First: a person cancelled. Later: a side says that it was called off because of what failed before.
    if (failure.code === "E_CANCELLED") return failure === failures[0] ? 0 : 6;
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

export function planOf(
  handOver: HandOver,
  facts: SourceFacts,
  findings: Finding[],
  { reason, prediction }: ModeChoice,
): MigratePlan {
  const { ref, options } = handOver;
  const reasons = [
    `mode ${reason}`,
    MODE_WORDS[options.mode],
    ...(hasRounds(options.mode) ? [`rounds end ${roundsEnd(limitsOf(options))}`] : []),
    ...(prediction === undefined ? [] : [`dirty rate, from a short look: ${prediction.reason}`]),
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
    ...(prediction === undefined ? {} : { prediction }),
  };
}

const MODE_WORDS: Record<Mode, string> = {
  cold: "cold: nothing depends on the source once the workload runs on the destination",
  precopy:
    "precopy: memory is copied in rounds while it runs, what changed last moves while it is frozen; nothing depends on the source after the resume",
  hybrid:
    "hybrid: memory is copied in rounds while it runs, then it resumes and only what had changed follows; until then it needs both nodes",
  postcopy: "postcopy: the workload resumes first and its memory follows; until then it needs both nodes",
};

const STALL_WORDS: Record<OnStall, string> = {
  "stop-and-copy": "freezes it all the same",
  hybrid: "resumes it first",
  throttle: "throttles it, in steps",
  "give-up": "gives up",
};

function roundsEnd(limits: ConvergenceLimits): string {
  return (
    `when the expected downtime is at most ${limits.maxDowntimeMs} ms and no round makes it shorter; ` +
    `after ${limits.maxRounds} rounds, ${limits.timeoutMs / 1000} s or a stall it ${limits.resumeFirst ? "resumes first" : STALL_WORDS[limits.onStall]}`
  );
}

/** How a side that did not do its part says so. */
export const sideFailure = (side: Side, node: string, outcome: SideOutcome): FailureData =>
  outcome.failure ?? {
    code: "E_INTERNAL",
    message: `the ${side} ended as ${outcome.state} without saying why`,
    side,
    node,
  };

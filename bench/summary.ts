/** From single runs to the lines of the tables and the points of the figures, and to the ratios. Pure. */
import {
  SYSTEM_NAMES,
  type BenchResult,
  type Cell,
  type Run,
  type Summary,
  type System,
  type Tracking,
} from "./model.js";
import { median, spread, type Spread } from "./stats.js";

const keyOf = (run: Cell & { system: System }): string =>
  [run.system, run.workload, run.mib, run.dirtyMBPerSec, run.link, run.idle ?? 0].join(" ");

export function summarize(runs: readonly Run[]): Summary[] {
  const groups = new Map<string, Run[]>();
  for (const run of runs) groups.set(keyOf(run), [...(groups.get(keyOf(run)) ?? []), run]);
  return [...groups.values()].flatMap((group) => {
    const [first] = group;
    if (first === undefined) return [];
    const good = group.filter((run) => run.ok);
    const of = (pick: (run: Run) => number | undefined): Spread | undefined =>
      spread(good.flatMap((run) => pick(run) ?? []));
    const all = {
      gapMs: of((run) => run.client?.gapMs),
      idleGapMs: of((run) => run.idleGapMs),
      blackoutMs: of((run) => run.move?.blackoutMs),
      totalMs: of((run) => run.move?.totalMs),
      residualMs: of((run) => run.move?.residualMs),
      wireBytes: of((run) => run.wireBytes),
      criuMs: of(criuMs),
      ferryShare: of(ferryShare),
      idleP50Ms: of((run) => run.client?.idle.p50Ms),
      idleP99Ms: of((run) => run.client?.idle.p99Ms),
      duringP50Ms: of((run) => run.client?.during.p50Ms),
      duringP99Ms: of((run) => run.client?.during.p99Ms),
      duringMaxMs: of((run) => run.client?.during.maxMs),
      afterP50Ms: of((run) => run.client?.after.p50Ms),
      afterP99Ms: of((run) => run.client?.after.p99Ms),
      afterMaxMs: of((run) => run.client?.after.maxMs),
      slowAfter: of((run) => run.client?.slowAfter),
      sourceCpuMs: of((run) => run.move?.cost?.source.cpuMs),
      destinationCpuMs: of((run) => run.move?.cost?.destination.cpuMs),
      sourcePeakBytes: of((run) => run.move?.cost?.source.peakBytes),
      destinationPeakBytes: of((run) => run.move?.cost?.destination.peakBytes),
      agentLoopP99Ms: of((run) => run.move?.loops?.agent?.p99Ms),
      workerLoopP99Ms: of((run) => run.move?.loops?.worker?.p99Ms),
    };
    const { system, workload, mib, dirtyMBPerSec, link, idle } = first;
    const known = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
    return [
      {
        system,
        workload,
        mib,
        dirtyMBPerSec,
        link,
        ...(idle === undefined ? {} : { idle }),
        ...(known as Partial<Summary>),
        failed: group.length - good.length,
        reasons: [...new Set(group.flatMap((run) => run.reason ?? []))],
      },
    ];
  });
}

/** criu's own part: seize to post-dump, and restore. */
export const criuMs = (run: Run): number | undefined =>
  run.move?.criu === undefined ? undefined : run.move.criu.dumpMs + run.move.criu.restoreMs;

/** Share of the blackout that is not criu's (0 to 1). */
export function ferryShare(run: Run): number | undefined {
  const criu = criuMs(run);
  const blackout = run.move?.blackoutMs;
  if (criu === undefined || blackout === undefined || blackout <= 0 || !run.system.startsWith("ferry-"))
    return undefined;
  return Math.max(0, 1 - criu / blackout);
}

/** The size and dirty rate that the ratios are about. */
export const REFERENCE = { workload: "toucher", dirtyMBPerSec: 80, link: "unlimited" } as const;
/** A tail shorter than this is not told from none. */
const SHORTEST_MS = 1;

export function ratiosOf(
  runs: readonly Run[],
  tracking: Tracking | undefined,
): Pick<BenchResult, "ratios" | "missing"> {
  const ratios: Record<string, number> = {};
  const missing: Record<string, string> = {};
  const values = (system: System, mib: number, pick: (run: Run) => number | undefined): number[] =>
    runs.flatMap((run) =>
      run.ok &&
      run.idle === undefined &&
      run.system === system &&
      run.mib === mib &&
      run.workload === REFERENCE.workload &&
      run.dirtyMBPerSec === REFERENCE.dirtyMBPerSec &&
      run.link === REFERENCE.link
        ? (pick(run) ?? [])
        : [],
    );
  const gap = (run: Run): number | undefined => run.client?.gapMs;
  const blackout = (run: Run): number | undefined => run.move?.blackoutMs;
  const residual = (run: Run): number | undefined => Math.max(run.move?.residualMs ?? 0, SHORTEST_MS);
  type Side = [System, number, (run: Run) => number | undefined];
  const ratio = (name: string, over: Side, under: Side): void => {
    const [a, b] = [values(...over), values(...under)];
    const lacking = [over, under].filter((_, index) => [a, b][index]?.length === 0);
    if (lacking.length > 0) {
      missing[name] =
        `not measured: ${lacking.map(([system, mib]) => `${SYSTEM_NAMES[system]} at ${mib} MiB`).join(", ")}`;
    } else ratios[name] = median(a) / median(b);
  };
  for (const mode of ["precopy", "hybrid"] as const) {
    const system = `ferry-${mode}` as const;
    ratio(`${mode}BlackoutOverCriuFloor1GiB`, [system, 1024, blackout], [system, 1024, criuMs]);
    ratio(`${mode}BlackoutOverBareCriuFloor1GiB`, [system, 1024, blackout], ["criu-lazy", 1024, criuMs]);
    ratio(`${mode}Blackout4GiBOver256MiB`, [system, 4096, blackout], [system, 256, blackout]);
  }
  const precopy: Side = ["ferry-precopy", 1024, gap];
  ratio("podmanOverPrecopyDowntime1GiB", ["podman", 1024, gap], precopy);
  ratio("coldScriptOverPrecopyDowntime1GiB", ["criu-cold", 1024, gap], precopy);
  ratio("runcOverPrecopyDowntime1GiB", ["runc", 1024, gap], precopy);
  ratio("criuLazyOverPrecopyDowntime1GiB", ["criu-lazy", 1024, gap], precopy);
  ratio("criuLazyTailOverFerryTail", ["criu-lazy", 1024, residual], ["ferry-hybrid", 1024, residual]);
  ratio("criuLazyTailOverFerryPostcopyTail", ["criu-lazy", 1024, residual], ["ferry-postcopy", 1024, residual]);
  ratio("gapOverBlackout", precopy, ["ferry-precopy", 1024, blackout]);
  // Of single moves: the blackout of each is its own.
  const waits = runs.flatMap(({ ok, idle, idleGapMs, move }) =>
    ok && idle !== undefined && idleGapMs !== undefined && move?.blackoutMs ? [idleGapMs / move.blackoutMs] : [],
  );
  if (waits.length === 0) missing["idleGapOverBlackout"] = "not measured";
  else ratios["idleGapOverBlackout"] = median(waits);
  if (tracking === undefined) missing["throughputWhileTracking"] = "not measured";
  else {
    ratios["throughputWhileTracking"] = median(tracking.whilePerSec) / median(tracking.withoutPerSec);
    ratios["throughputWhileSending20MBs"] = median(tracking.limitedPerSec) / median(tracking.withoutPerSec);
    ratios["throughputWhileSending"] = median(tracking.sendingPerSec) / median(tracking.withoutPerSec);
  }
  return { ratios, missing };
}

const n = (value: Spread | undefined, digits = 0): string => (value === undefined ? "-" : value.median.toFixed(digits));

/** For people, on standard output. */
export function table(result: BenchResult): string {
  const head = [
    "workload",
    "MiB",
    "dirty",
    "link",
    "system",
    "gap",
    "(min-max)",
    "blackout",
    "criu",
    "residual",
    "total",
    "MiB sent",
  ];
  const lines = result.summary.map((row) => [
    row.workload,
    String(row.mib),
    `${row.workload === "toucher" ? `${row.dirtyMBPerSec} MB/s` : "load"}${row.idle === undefined ? "" : `, ${row.idle} idle`}`,
    row.link,
    SYSTEM_NAMES[row.system],
    row.gapMs === undefined ? "none" : n(row.gapMs),
    row.gapMs === undefined ? "" : `(${row.gapMs.min.toFixed(0)}-${row.gapMs.max.toFixed(0)})`,
    n(row.blackoutMs),
    n(row.criuMs),
    n(row.residualMs),
    n(row.totalMs),
    row.wireBytes === undefined ? "-" : (row.wireBytes.median / (1 << 20)).toFixed(0),
  ]);
  const all = [head, ...lines];
  const widths = head.map((_, column) => Math.max(...all.map((line) => line[column]?.length ?? 0)));
  const text = all.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  const failures = result.summary.flatMap((row) =>
    row.reasons.map((reason) => `  ${SYSTEM_NAMES[row.system]}, ${row.workload} ${row.mib} MiB: ${reason}`),
  );
  return [
    "times in ms, medians; gap: the longest that one request of the client took",
    ...text,
    "",
    "ratios:",
    ...Object.entries(result.ratios).map(([name, value]) => `  ${name.padEnd(40)} ${value.toFixed(2)}`),
    ...(Object.keys(result.missing).length === 0
      ? []
      : ["", "not in this run:", ...Object.entries(result.missing).map(([name, why]) => `  ${name}: ${why}`)]),
    ...(failures.length === 0 ? [] : ["", "did not go well:", ...failures]),
    "",
  ].join("\n");
}

/** The figures of a run; bench/README.md explains each. What was not measured has no figure. Pure. */
import type { Picture } from "../deploy/demo/picture.js";
import { barChart, lineChart, type Series } from "./chart.js";
import { SYSTEM_NAMES, SYSTEMS, type BenchResult, type Summary, type System } from "./model.js";
import { DIRTY_MB_PER_SEC } from "./settings.js";
import type { Spread } from "./stats.js";
import { REFERENCE } from "./summary.js";

export interface Figure {
  name: string;
  picture: Picture;
}

const COLORS: Record<System, string> = {
  "ferry-precopy": "#1d5fa8",
  "ferry-precopy-bare": "#7ba6d6",
  "ferry-hybrid": "#0e9488",
  "ferry-postcopy": "#7c4dbd",
  "ferry-cold": "#64748b",
  "criu-cold": "#c2410c",
  "criu-lazy": "#d99a0b",
  podman: "#b91c4b",
  "podman-pre": "#e0709a",
  runc: "#8a5a2b",
};
const CRIU = "#d7b56d";
const OURS = "#1d5fa8";
const MARK = "#b91c4b";
const MIB = 1 << 20;

const ms = (value: number): string =>
  value >= 1000 ? `${(value / 1000).toFixed(value < 9950 && value % 1000 !== 0 ? 1 : 0)} s` : `${round(value)} ms`;
const round = (value: number): string => (value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1));
const mib = (value: number): string =>
  value >= 1024 ? `${value % 1024 === 0 ? value / 1024 : round(value / 1024)} GiB` : `${round(value)} MiB`;

const isFerry = (system: System): boolean => system.startsWith("ferry-");
const atReference = (row: Summary): boolean =>
  row.workload === REFERENCE.workload && row.dirtyMBPerSec === REFERENCE.dirtyMBPerSec && row.link === REFERENCE.link;

/** One line per system: `pick` over `x`. */
function curves(
  rows: readonly Summary[],
  x: (row: Summary) => number,
  pick: (row: Summary) => Spread | undefined,
  which: readonly System[] = SYSTEMS,
): Series[] {
  return which.flatMap((system) => {
    const points = rows.flatMap((row) => {
      const value = row.system === system ? pick(row) : undefined;
      return value === undefined ? [] : [{ x: x(row), y: value.median, min: value.min, max: value.max }];
    });
    return points.length === 0
      ? []
      : [{ name: SYSTEM_NAMES[system], color: COLORS[system], points, faint: !isFerry(system) }];
  });
}

const several = (rows: readonly Summary[], x: (row: Summary) => number): boolean => new Set(rows.map(x)).size > 1;

export function figures(result: BenchResult): Figure[] {
  const rows = result.summary.filter((row) => row.gapMs !== undefined && row.idle === undefined);
  const repeats = Math.max(0, ...rows.map((row) => row.gapMs?.n ?? 0));
  const how = repeats > 1 ? `medians of ${repeats}, whiskers: least and most` : "one move each";
  return [
    ...overMemory(rows.filter(atReference), how),
    ...overDirtyRate(rows, how),
    ...overLink(rows, how),
    ...perWorkload(rows, how),
    ...insideBlackout(rows.filter(atReference), how),
    ...latency(rows.filter(atReference), how),
    ...cost(rows.filter(atReference), how),
  ];
}

function overMemory(rows: readonly Summary[], how: string): Figure[] {
  if (rows.length === 0) return [];
  const base = {
    xLabel: "memory of the workload",
    logX: true,
    xText: mib,
    subtitle: `a process that dirties ${DIRTY_MB_PER_SEC} MB/s under a counting client; ${how}`,
  };
  const size = (row: Summary): number => row.mib;
  const found: [string, string, string, (row: Summary) => Spread | undefined][] = [
    ["downtime-memory", "Downtime that the client sees, by memory", "longest answer", (row) => row.gapMs],
    ["total-memory", "Total time of a move, by memory", "total time", (row) => row.totalMs],
  ];
  const figuresOf = found.map(([name, title, yLabel, pick]) => ({
    name,
    picture: lineChart({ ...base, title, yLabel, logY: true, yText: ms, series: curves(rows, size, pick) }),
  }));
  const overs = (row: Summary): Spread | undefined => scaled(row.wireBytes, 1 / (row.mib * MIB));
  const tails = rows.filter((row) => (row.residualMs?.median ?? 0) > 0);
  return [
    ...figuresOf,
    {
      name: "bytes-memory",
      picture: lineChart({
        ...base,
        title: "Bytes on the wire, as a multiple of the memory",
        yLabel: "times the memory",
        yText: (value) => `${value.toFixed(1)} x`,
        series: curves(rows, size, overs),
      }),
    },
    ...(tails.length === 0
      ? []
      : [
          {
            name: "residual-memory",
            picture: lineChart({
              ...base,
              title: "From the resume to the last page",
              yLabel: "residual time",
              logY: true,
              yText: ms,
              series: curves(tails, size, (row) => row.residualMs),
            }),
          },
        ]),
  ];
}

const scaled = (value: Spread | undefined, by: number): Spread | undefined =>
  value && { median: value.median * by, min: value.min * by, max: value.max * by, n: value.n };

function overDirtyRate(rows: readonly Summary[], how: string): Figure[] {
  const toucher = rows.filter((row) => row.workload === "toucher" && row.link === "unlimited");
  const rate = (row: Summary): number => row.dirtyMBPerSec;
  const swept = toucher.filter((row) => row.dirtyMBPerSec !== DIRTY_MB_PER_SEC).map((row) => row.mib);
  const size = swept[0];
  const mine = toucher.filter((row) => row.mib === size);
  if (size === undefined || !several(mine, rate)) return [];
  const of = (name: string, title: string, yLabel: string, pick: (row: Summary) => Spread | undefined): Figure => ({
    name,
    picture: lineChart({
      title,
      yLabel,
      subtitle: `${mib(size)} of memory, pages dirtied one after the other, round and round; ${how}`,
      xLabel: "dirty rate",
      xText: (value) => `${value} MB/s`,
      yText: ms,
      logY: true,
      series: curves(mine, rate, pick),
    }),
  });
  return [
    of("downtime-dirty", "Downtime that the client sees, by dirty rate", "longest answer", (row) => row.gapMs),
    of("total-dirty", "Total time of a move, by dirty rate", "total time", (row) => row.totalMs),
  ];
}

/** One group per label, one bar per system: the client's gap. */
function gapBars(groups: { label: string; rows: Summary[] }[]): Parameters<typeof barChart>[0]["groups"] {
  return groups.map(({ label, rows }) => ({
    label,
    bars: rows.flatMap((row) =>
      row.gapMs === undefined
        ? []
        : [
            {
              label: SYSTEM_NAMES[row.system],
              parts: [{ value: row.gapMs.median, color: COLORS[row.system] }],
              note: `${ms(row.gapMs.median)}${row.totalMs === undefined ? "" : `, in all ${ms(row.totalMs.median)}`}`,
            },
          ],
    ),
  }));
}

function overLink(rows: readonly Summary[], how: string): Figure[] {
  const size = rows.find((row) => row.link === "1gbit")?.mib;
  if (size === undefined) return [];
  const of = (link: Summary["link"]): Summary[] =>
    rows.filter((row) => row.link === link && row.mib === size && row.dirtyMBPerSec === DIRTY_MB_PER_SEC);
  const groups = [
    { label: "unlimited", rows: of("unlimited") },
    { label: "1 Gbit/s", rows: of("1gbit") },
  ].filter((group) => group.rows.length > 0);
  return [
    {
      name: "downtime-bandwidth",
      picture: barChart({
        title: "Downtime that the client sees, by bandwidth",
        subtitle: `${mib(size)} of memory, ${DIRTY_MB_PER_SEC} MB/s dirtied; ${how}`,
        groups: gapBars(groups),
        legend: [],
        valueText: ms,
      }),
    },
  ];
}

function perWorkload(rows: readonly Summary[], how: string): Figure[] {
  const words = { redis: "redis under redis-benchmark", postgres: "PostgreSQL under pgbench" } as const;
  const groups = (["redis", "postgres"] as const).flatMap((workload) => {
    const mine = rows.filter((row) => row.workload === workload);
    return mine.length === 0 ? [] : [{ label: `${words[workload]}, ${mib(mine[0]?.mib ?? 0)}`, rows: mine }];
  });
  if (groups.length === 0) return [];
  return [
    {
      name: "downtime-workloads",
      picture: barChart({
        title: "Downtime that the client of a busy server sees",
        subtitle: `eight clients at full load beside the one that counts; ${how}`,
        groups: gapBars(groups),
        legend: [],
        valueText: ms,
      }),
    },
  ];
}

/** Ferry's blackout taken apart: criu's own time, what Ferry adds, and the client's gap. */
function insideBlackout(rows: readonly Summary[], how: string): Figure[] {
  const sizes = [...new Set(rows.map((row) => row.mib))].sort((a, b) => a - b);
  const groups = sizes.flatMap((size) => {
    const bars = rows.flatMap((row) => {
      const { blackoutMs, criuMs, gapMs } = row;
      if (row.mib !== size || blackoutMs === undefined || criuMs === undefined || gapMs === undefined) return [];
      const criu = Math.min(criuMs.median, blackoutMs.median);
      return [
        {
          label: SYSTEM_NAMES[row.system],
          parts: [
            { value: criu, color: CRIU },
            { value: blackoutMs.median - criu, color: isFerry(row.system) ? OURS : COLORS["criu-lazy"] },
          ],
          mark: { value: gapMs.median, color: MARK },
          note: `criu ${ms(criu)}, blackout ${ms(blackoutMs.median)}, gap ${ms(gapMs.median)}`,
        },
      ];
    });
    return bars.length === 0 ? [] : [{ label: mib(size), bars }];
  });
  if (groups.length === 0) return [];
  return [
    {
      name: "blackout-share",
      picture: barChart({
        title: "What the blackout is made of",
        subtitle: `criu's own time is by its logs: seize to post-dump, and restore; ${how}`,
        groups,
        legend: [
          { name: "criu itself", color: CRIU },
          { name: "the rest of the blackout", color: OURS },
          { name: "client gap", color: MARK },
        ],
        valueText: ms,
      }),
    },
  ];
}

/** Besides the one gap: the slowest answers while it moved and after. */
function latency(rows: readonly Summary[], how: string): Figure[] {
  const size = [1024, 256, 64].find((one) => rows.some((row) => row.mib === one)) ?? rows[0]?.mib;
  const mine = rows.filter((row) => row.mib === size);
  if (size === undefined || mine.length === 0) return [];
  const group = (
    label: string,
    p99: (row: Summary) => Spread | undefined,
    max: (row: Summary) => Spread | undefined,
  ) => ({
    label,
    bars: mine.flatMap((row) => {
      const [nine, most] = [p99(row), max(row)];
      return nine === undefined || most === undefined
        ? []
        : [
            {
              label: SYSTEM_NAMES[row.system],
              parts: [{ value: nine.median, color: COLORS[row.system] }],
              mark: { value: most.median, color: MARK },
              note: `p99 ${ms(nine.median)}, longest ${ms(most.median)}`,
            },
          ];
    }),
  });
  return [
    {
      name: "latency",
      picture: barChart({
        title: "The client's other answers: p99 and the longest",
        subtitle: `${mib(size)}, ${DIRTY_MB_PER_SEC} MB/s dirtied, without the one gap; ${how}`,
        groups: [
          group(
            "while it moves",
            (row) => row.duringP99Ms,
            (row) => row.duringMaxMs,
          ),
          group(
            "after the gap",
            (row) => row.afterP99Ms,
            (row) => row.afterMaxMs,
          ),
        ],
        legend: [{ name: "longest", color: MARK }],
        valueText: ms,
      }),
    },
  ];
}

function cost(rows: readonly Summary[], how: string): Figure[] {
  const mine = rows.filter((row) => row.sourcePeakBytes !== undefined && row.destinationPeakBytes !== undefined);
  const sizes = [...new Set(mine.map((row) => row.mib))].sort((a, b) => a - b);
  if (sizes.length === 0) return [];
  const chart = (
    name: string,
    title: string,
    text: (value: number) => string,
    source: (row: Summary) => number,
    destination: (row: Summary) => number,
  ): Figure => ({
    name,
    picture: barChart({
      title,
      subtitle: `agent, worker, movers, page daemon and guard of each node; ${how}`,
      groups: sizes.map((size) => ({
        label: mib(size),
        bars: mine
          .filter((row) => row.mib === size)
          .map((row) => ({
            label: SYSTEM_NAMES[row.system],
            parts: [
              { value: source(row), color: OURS },
              { value: destination(row), color: COLORS["ferry-hybrid"] },
            ],
            note: `${text(source(row))} + ${text(destination(row))}`,
          })),
      })),
      legend: [
        { name: "source", color: OURS },
        { name: "destination", color: COLORS["ferry-hybrid"] },
      ],
      valueText: text,
    }),
  });
  return [
    chart(
      "memory-cost",
      "Peak memory of Ferry's processes",
      mib,
      (row) => (row.sourcePeakBytes?.median ?? 0) / MIB,
      (row) => (row.destinationPeakBytes?.median ?? 0) / MIB,
    ),
    chart(
      "cpu-cost",
      "CPU time of Ferry's processes for one move",
      ms,
      (row) => row.sourceCpuMs?.median ?? 0,
      (row) => row.destinationCpuMs?.median ?? 0,
    ),
  ];
}

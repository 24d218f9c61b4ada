/** The benchmark's own arithmetic: what it reads from logs, how it counts, what it draws. Never about times. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { toPng } from "../../deploy/demo/png.js";
import { toSvg } from "../../deploy/demo/svg.js";
import { linearTicks, lineChart, logTicks } from "../../bench/chart.js";
import { dumpMsOf, parseEvents, restoreMsOf } from "../../bench/criu-log.js";
import { figures } from "../../bench/figures.js";
import { perSecond } from "../../bench/load.js";
import { SYSTEMS, type BenchResult, type Run, type System } from "../../bench/model.js";
import { FULL, planOf, QUICK } from "../../bench/settings.js";
import { cpuPlan } from "../../bench/stage.js";
import { median, percentile, seenByClient, spread } from "../../bench/stats.js";
import { ratiosOf, summarize, table } from "../../bench/summary.js";

test("statistics: median, nearest-rank percentiles, spread", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.equal(percentile([], 0.99), 0);
  assert.equal(
    percentile(
      Array.from({ length: 100 }, (_, i) => i + 1),
      0.99,
    ),
    99,
  );
  assert.equal(percentile([5], 0.5), 5);
  assert.deepEqual(spread([2, 9, 4]), { median: 4, min: 2, max: 9, n: 3 });
  assert.equal(spread([]), undefined);
});

test("the gap is the one longest answer of the move; the others are counted apart from it", () => {
  const samples = [
    { value: 1, sentAt: 100, latencyMs: 1 },
    { value: 2, sentAt: 200, latencyMs: 2 },
    { value: 3, sentAt: 1000, latencyMs: 5 },
    { value: 4, sentAt: 1010, latencyMs: 400 },
    { value: 5, sentAt: 1411, latencyMs: 30 },
    { value: 6, sentAt: 1500, latencyMs: 1 },
    // a slow answer long after the move is not its gap
    { value: 7, sentAt: 9000, latencyMs: 900 },
  ];
  const seen = seenByClient(samples, 950, 1450);
  assert.equal(seen.gapMs, 400);
  assert.deepEqual([seen.idle.answers, seen.idle.maxMs], [2, 2]);
  assert.deepEqual([seen.during.answers, seen.during.maxMs], [2, 30]);
  assert.deepEqual([seen.after.answers, seen.after.maxMs], [3, 900]);
  assert.equal(seen.slowAfter, 2);
});

const DUMP = `(00.000000) CRIU run id = 740579f3
(00.001002) Running pre-dump scripts
words of a hook
(00.004581) Seized task 765, state 1
(00.004701) Seized task 766, state 1
(00.102269) Running post-dump scripts
(00.752772) Lazy pages transfer finished successfully
`;
const RESTORE = `(00.000000) CRIU run id = de7f5682
(02.617252) Reading image tree
(02.662126) pie: 1: 1: Restored
(02.662153) Running post-restore scripts
(02.803820) Restore finished successfully. Tasks resumed.
`;

test("criu's own time is read from its logs, and not from half of one", () => {
  assert.ok(Math.abs((dumpMsOf(DUMP) ?? 0) - 97.688) < 0.001);
  assert.ok(Math.abs((restoreMsOf(RESTORE) ?? 0) - 44.901) < 0.001);
  assert.equal(dumpMsOf(DUMP.split("\n").slice(0, 5).join("\n")), undefined);
  assert.equal(dumpMsOf(""), undefined);
  assert.equal(restoreMsOf("no log at all"), undefined);
});

test("events of the peers' scripts", () => {
  const text = "listening\nEVENT received 1795377529.373484\nEVENT post-resume 1795377529.5\nEVENT odd\nEVENT x 12\n";
  assert.deepEqual(parseEvents(text), { received: 1795377529373.484, "post-resume": 1795377529500 });
});

test("the rate that the load prints", () => {
  assert.equal(
    perSecond("SET: rps=1.0 (overall: 512.5) avg_msec=0.1\rGET: rps=4 (overall: 73000.2) avg_msec"),
    73000.2,
  );
  assert.equal(perSecond("progress: 1.0 s, 512.0 tps, lat 1 ms\nprogress: 2.0 s, 640.5 tps, lat 1 ms"), 640.5);
  assert.equal(perSecond("nothing"), undefined);
});

test("hosts have processors of their own where there are two", () => {
  assert.equal(cpuPlan(1), undefined);
  assert.deepEqual(cpuPlan(2), { "node-a": "0", "node-b": "1", client: "1" });
  assert.deepEqual(cpuPlan(8), { "node-a": "0-3", "node-b": "4-7", client: "7" });
});

test("the full plan holds all that the ratios need, the quick one all but 4 GiB", () => {
  const sizes = (plan: ReturnType<typeof planOf>): Set<number> =>
    new Set(plan.flatMap(({ cell, counts }) => (counts && cell.workload === "toucher" ? [cell.mib] : [])));
  const full = planOf(FULL, SYSTEMS);
  for (const mib of [64, 256, 1024, 4096]) assert.ok(sizes(full).has(mib), `${mib} MiB`);
  assert.ok(full.some(({ cell }) => cell.link === "1gbit"));
  assert.deepEqual(
    new Set(
      full.flatMap(({ cell, system }) => (cell.idle === undefined ? [] : [`${system} ${cell.mib} ${cell.idle}`])),
    ),
    new Set(["ferry-precopy 1024 50"]),
  );
  assert.ok(full.some(({ cell }) => cell.dirtyMBPerSec === 0) && full.some(({ cell }) => cell.dirtyMBPerSec === 500));
  assert.deepEqual(
    [...sizes(planOf(QUICK, SYSTEMS))].sort((a, b) => a - b),
    [64, 256, 1024],
  );
  // who can't run here is not in it
  assert.ok(planOf(FULL, ["podman"]).every(({ system }) => system === "podman"));
});

const latency = { p50Ms: 1, p99Ms: 2, maxMs: 3, answers: 100 };
function runOf(system: System, mib: number, gapMs: number, more: Partial<Run> = {}): Run {
  const isFerry = system.startsWith("ferry-");
  return {
    system,
    workload: "toucher",
    mib,
    dirtyMBPerSec: 80,
    link: "unlimited",
    repeat: 1,
    ok: true,
    at: "2026-01-01T00:00:00.000Z",
    loadAverage: 0,
    wireBytes: mib << 20,
    memoryIntact: true,
    client: { gapMs, idle: latency, during: latency, after: latency, slowAfter: 0 },
    move: {
      totalMs: gapMs * 3,
      ...(isFerry || system === "criu-lazy"
        ? { blackoutMs: gapMs / 2, criu: { dumpMs: gapMs / 4, restoreMs: gapMs / 8 }, residualMs: isFerry ? 0 : 500 }
        : {}),
      ...(isFerry
        ? {
            cost: { source: { cpuMs: 10, peakBytes: 1 << 28 }, destination: { cpuMs: 20, peakBytes: 1 << 29 } },
            loops: { agent: { p99Ms: 2, maxMs: 9 } },
          }
        : {}),
    },
    ...more,
  };
}
const result = (runs: Run[]): BenchResult => ({
  schema: 1,
  startedAt: "2026-01-01T00:00:00.000Z",
  endedAt: "2026-01-01T00:01:00.000Z",
  quick: true,
  machine: { cpus: 2, memoryBytes: 1e10, kernel: "6.18", loadAverage: [0, 0, 0], pinning: "none" },
  versions: {},
  settings: {},
  ...ratiosOf(runs, undefined),
  summary: summarize(runs),
  runs,
});

test("ratios are of medians at their size; what was not measured is named with what is lacking", () => {
  const runs = [
    runOf("ferry-precopy", 1024, 200),
    runOf("ferry-precopy", 1024, 400),
    runOf("ferry-precopy", 1024, 300),
    // Moves with idle connections beside it have a ratio of their own.
    runOf("ferry-precopy", 1024, 9000, { idle: 50, idleGapMs: 4950 }),
    runOf("podman", 1024, 6000),
    runOf("criu-cold", 256, 9000),
    runOf("criu-cold", 1024, 100, { ok: false, reason: "it broke" }),
  ];
  const { ratios, missing } = ratiosOf(runs, {
    withoutPerSec: [100, 110, 90],
    whilePerSec: [97, 98, 99],
    limitedPerSec: [80],
    sendingPerSec: [50],
    looks: 4,
    rounds: 9,
    tracker: "compare",
  });
  assert.equal(ratios["podmanOverPrecopyDowntime1GiB"], 20);
  assert.equal(ratios["gapOverBlackout"], 2);
  assert.equal(ratios["idleGapOverBlackout"], 1.1);
  assert.ok(Math.abs((ratios["precopyBlackoutOverCriuFloor1GiB"] ?? 0) - 4 / 3) < 1e-9);
  assert.deepEqual(
    [ratios["throughputWhileTracking"], ratios["throughputWhileSending20MBs"], ratios["throughputWhileSending"]],
    [0.98, 0.8, 0.5],
  );
  assert.match(missing["coldScriptOverPrecopyDowntime1GiB"] ?? "", /criu script, cold at 1024 MiB/);
  assert.match(missing["precopyBlackout4GiBOver256MiB"] ?? "", /4096 MiB.*256 MiB/);
});

test("the table names failures, and every figure can be drawn as SVG and PNG", () => {
  const runs = SYSTEMS.flatMap((system, index) =>
    [64, 1024].flatMap((mib) => [
      runOf(system, mib, 100 + index * mib),
      runOf(system, mib, 120 + index * mib, { workload: "redis", dirtyMBPerSec: 0 }),
      runOf(system, mib, 150, { link: "1gbit" }),
      runOf(system, mib, 150, { dirtyMBPerSec: 500 }),
    ]),
  );
  runs.push(runOf("runc", 64, 0, { ok: false, reason: "no <runc> here" }));
  const all = result(runs);
  assert.match(table(all), /runc by hand, toucher 64 MiB: no <runc> here/);
  const drawn = figures(all);
  assert.ok(drawn.length >= 10, `${drawn.length} figures`);
  assert.equal(new Set(drawn.map(({ name }) => name)).size, drawn.length);
  for (const { name, picture } of drawn) {
    for (const shape of picture.shapes) {
      const numbers = Object.values(shape).filter((value) => typeof value === "number");
      assert.ok(
        numbers.every((value) => Number.isFinite(value)),
        `${name}: ${JSON.stringify(shape)}`,
      );
    }
    assert.match(toSvg(picture), /^<svg [^]*<\/svg>\n$/);
    assert.deepEqual([...toPng(picture).subarray(1, 4)], [...Buffer.from("PNG")]);
  }
  // nothing measured: nothing drawn, nothing thrown
  assert.deepEqual(figures(result([])), []);
});

test("axes: ticks cover the values, and one point makes a chart too", () => {
  assert.deepEqual(linearTicks(10), [0, 2, 4, 6, 8, 10]);
  assert.ok((linearTicks(0.37).at(-1) ?? 0) >= 0.37);
  assert.deepEqual(logTicks(80, 1100), [100, 200, 500, 1000]);
  const picture = lineChart({
    title: "t",
    subtitle: "s",
    xLabel: "x",
    yLabel: "y",
    logX: true,
    logY: true,
    xText: String,
    yText: String,
    series: [{ name: "one", color: "#000000", points: [{ x: 64, y: 5 }] }],
  });
  assert.ok(picture.shapes.length > 5);
});

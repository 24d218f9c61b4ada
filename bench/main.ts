/**
 * npm run bench: Ferry beside what people use today, in one run, on one machine, with the same workload and client. See
 * bench/README.md. Times are measurements, never verdicts.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, loadavg, release, totalmem } from "node:os";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { toPng } from "../deploy/demo/png.js";
import { toSvg } from "../deploy/demo/svg.js";
import { figures } from "./figures.js";
import { measureStore, storeRatios, storeTable, type StoreRun } from "./restores.js";
import { measure } from "./measure.js";
import { SYSTEM_NAMES, SYSTEMS, type BenchResult, type Cell, type Run, type System, type Tracking } from "./model.js";
import { FULL, planOf, QUICK, type Settings } from "./settings.js";
import { openStage, type Stage } from "./stage.js";
import { ratiosOf, summarize, table } from "./summary.js";
import { MOVERS, reasonOf } from "./systems.js";
import { measureTracking } from "./tracking.js";

const { values } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    json: { type: "string" },
    plots: { type: "string" },
    systems: { type: "string" },
    sizes: { type: "string" },
    rates: { type: "string" },
    links: { type: "string" },
    workloads: { type: "string" },
    repeat: { type: "string" },
    only: { type: "string" },
    "no-pin": { type: "boolean", default: false },
    "no-warm": { type: "boolean", default: false },
    "no-tracking": { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

const say = (line: string): void => void process.stderr.write(`${line}\n`);

async function versions(stage: Stage): Promise<Record<string, string>> {
  const found: Record<string, string> = { node: process.version };
  const ask = async (name: string, ...argv: string[]): Promise<void> => {
    const { stdout } = await stage.on("node-a", argv, { allow: [1, 127] });
    found[name] = /\d+(?:\.\d+)+/.exec(stdout)?.[0] ?? "unknown";
  };
  await ask("criu", "criu", "--version");
  await ask("podman", "podman", "--version");
  await ask("runc", "runc", "--version");
  await ask("redis", "redis-server", "--version");
  return found;
}

/** Makes each peer ready; one that can't run is named with its reason and left out. */
async function prepare(stage: Stage, systems: readonly System[], missing: Record<string, string>): Promise<System[]> {
  const ready: System[] = [];
  for (const system of systems) {
    try {
      await MOVERS[system].prepare?.(stage);
      ready.push(system);
    } catch (error) {
      missing[system] = reasonOf(error);
      say(`${SYSTEM_NAMES[system]}: can't run here: ${missing[system]}`);
    }
  }
  return ready;
}

function line(run: Run): string {
  const { system, workload, mib, dirtyMBPerSec, link, client, move } = run;
  const what = `${SYSTEM_NAMES[system].padEnd(22)} ${workload} ${mib} MiB, ${dirtyMBPerSec} MB/s, ${link}`;
  if (!run.ok || client === undefined) return `${what}: FAILED: ${run.reason ?? "no reason"}`;
  const ms = (name: string, value: number | undefined): string =>
    value === undefined ? "" : `, ${name} ${value.toFixed(0)} ms`;
  return `${what}: client gap ${client.gapMs.toFixed(0)} ms${ms("idle connections", run.idleGapMs)}${ms("blackout", move?.blackoutMs)}${ms("criu", move?.criu && move.criu.dumpMs + move.criu.restoreMs)}${ms("residual", move?.residualMs)}${ms("total", move?.totalMs)}`;
}

/** Systems in turn, repeat after repeat: a busy minute of the machine falls on all of them. */
async function measureAll(
  stage: Stage,
  settings: Settings,
  systems: readonly System[],
  finish: (runs: Run[]) => void,
): Promise<Run[]> {
  const runs: Run[] = [];
  const plan = planOf(settings, systems);
  let link: Cell["link"] | undefined;
  for (const [index, { system, cell, repeat, counts }] of plan.entries()) {
    if (link !== cell.link) await stage.shape(cell.link);
    link = cell.link;
    const run = await measure(stage, system, cell, repeat, !values["no-warm"]);
    say(`${index + 1}/${plan.length} ${line(run)}${counts ? "" : " (not counted)"}`);
    if (counts) runs.push(run);
    finish(runs);
  }
  await stage.shape("unlimited");
  return runs;
}

function writeJson(path: string, result: object): void {
  mkdirSync(dirname(resolve(path)), { recursive: true });
  writeFileSync(resolve(path), `${JSON.stringify(result)}\n`);
}

function write(result: BenchResult): void {
  const { json, plots } = values;
  if (json !== undefined) writeJson(json, result);
  const folder = plots ?? (json === undefined ? undefined : join(dirname(resolve(json)), "plots"));
  if (folder === undefined) return;
  mkdirSync(resolve(folder), { recursive: true });
  for (const { name, picture } of figures(result)) {
    writeFileSync(join(resolve(folder), `${name}.svg`), toSvg(picture));
    writeFileSync(join(resolve(folder), `${name}.png`), toPng(picture));
  }
}

const machineOf = (stage: Stage): BenchResult["machine"] => ({
  // Not availableParallelism(): by now this process is on the client's processor only.
  cpus: cpus().length,
  memoryBytes: totalmem(),
  kernel: release(),
  loadAverage: loadavg(),
  pinning: stage.pinning,
});

/** Checkpoints and restores, without everything else. */
async function mainStore(): Promise<void> {
  const { sizes, repeats } = withOptions({
    ...(values.quick ? QUICK : FULL),
    sizes: values.quick ? [256] : [1024, 2048],
  });
  const startedAt = new Date().toISOString();
  const stage = await openStage({ pin: !values["no-pin"], peers: false, log: say });
  try {
    const known = await versions(stage);
    const store: StoreRun[] = [];
    for (const mib of sizes) {
      store.push(await measureStore(stage, mib, repeats, (line) => say(`${mib} MiB, ${line}`)));
      const result = {
        schema: 1,
        startedAt,
        endedAt: new Date().toISOString(),
        quick: values.quick,
        machine: machineOf(stage),
        versions: known,
        settings: { repeats },
        ...storeRatios(store),
        store,
      };
      if (values.json !== undefined) writeJson(values.json, result);
    }
    process.stdout.write(`${storeTable(store)}\n${JSON.stringify(storeRatios(store), null, 2)}\n`);
  } finally {
    await stage.down();
  }
}

async function main(): Promise<void> {
  if (values.help) {
    process.stdout.write(readFileSync(new URL("../../bench/README.md", import.meta.url), "utf8"));
    return;
  }
  if (values.only === "store") return mainStore();
  if (values.only !== undefined) throw new Error(`--only: there is no ${values.only}; use store`);
  const settings = withOptions(values.quick ? QUICK : FULL);
  if (values.systems !== undefined) delete settings.few;
  const startedAt = new Date().toISOString();
  const stage = await openStage({ pin: !values["no-pin"], peers: true, log: say });
  const interrupted = new AbortController();
  const stop = (): void => interrupted.abort();
  // Not once: who sends it to the process and to its group sends it twice.
  process.on("SIGINT", stop).on("SIGTERM", stop);
  const notHere: Record<string, string> = {};
  let tracking: Tracking | undefined;
  try {
    const known = await versions(stage);
    const ready = await prepare(stage, settings.systems, notHere);
    const resultOf = (runs: Run[]): BenchResult => {
      const { ratios, missing } = ratiosOf(runs, tracking);
      return {
        schema: 1,
        startedAt,
        endedAt: new Date().toISOString(),
        quick: values.quick,
        machine: machineOf(stage),
        versions: known,
        settings: { repeats: settings.repeats, warmMemory: !values["no-warm"] },
        ratios,
        missing: { ...notHere, ...missing },
        ...(tracking === undefined ? {} : { tracking }),
        summary: summarize(runs),
        runs,
      };
    };
    if (!values["no-tracking"]) {
      try {
        tracking = await measureTracking(stage, settings.trackingRepeats, settings.trackingSeconds);
      } catch (error) {
        notHere["tracking"] = reasonOf(error);
        say(`throughput while tracking: ${notHere["tracking"]}`);
      }
    }
    const runs = await measureAll(stage, settings, ready, (sofar) => {
      if (interrupted.signal.aborted) throw new Error("interrupted: what was measured so far is written down");
      // A long run that ends early has its numbers all the same.
      write(resultOf(sofar));
    });
    const result = resultOf(runs);
    write(result);
    process.stdout.write(table(result));
  } finally {
    for (const system of settings.systems) {
      await MOVERS[system].finish?.(stage).catch((error: unknown) => say(reasonOf(error)));
    }
    await stage.down();
  }
}

function withOptions(base: Settings): Settings {
  const list = (text: string | undefined, what: string, known: readonly string[]): string[] | undefined => {
    const words = text?.split(",");
    const odd = words?.find((word) => !known.includes(word));
    if (odd !== undefined) throw new Error(`--${what}: there is no ${odd}; use some of ${known.join(",")}`);
    return words;
  };
  const numbers = (text: string | undefined, what: string, min: number, max: number): number[] | undefined => {
    const found = text?.split(",").map(Number);
    if (found?.some((value) => !Number.isInteger(value) || value < min || value > max)) {
      throw new Error(`--${what}: whole numbers from ${min} to ${max}, separated by commas`);
    }
    return found;
  };
  return {
    ...base,
    systems: (list(values.systems, "systems", SYSTEMS) as System[] | undefined) ?? base.systems,
    sizes: numbers(values.sizes, "sizes", 16, 65_536) ?? base.sizes,
    rates: numbers(values.rates, "rates", 0, 10_000) ?? base.rates,
    links: (list(values.links, "links", ["1gbit", "none"]) as ("1gbit" | "none")[] | undefined) ?? base.links,
    workloads:
      (list(values.workloads, "workloads", ["redis", "postgres", "none"]) as Settings["workloads"] | undefined) ??
      base.workloads,
    repeats: numbers(values.repeat, "repeat", 1, 100)?.[0] ?? base.repeats,
  };
}

try {
  await main();
} catch (error) {
  say(`bench: ${reasonOf(error)}`);
  process.exitCode = 1;
}

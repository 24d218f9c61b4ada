/**
 * Checkpoints of a redis and ways to have it back, measured: `npm run bench -- --only store`. What each figure means is said
 * in bench/README.md.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { redis, untilRedisAnswers, type Place } from "../deploy/demo/clients.js";
import { run } from "../src/host/exec.js";
import type { WorkloadHandle } from "../src/client/types.js";
import { describeFailure } from "../src/model/failure.js";
import { median } from "./stats.js";
import { warmMemory, type NodeName, type Stage } from "./stage.js";
import { watchFerry } from "./watch.js";

/** A checkpoint that runs on. */
export interface Taken {
  /** From asking until it is in the store. */
  ms: number;
  newBytes: number;
  dataBytes: number;
  frozenMs?: number;
  /** criu's own part of that, by its log. */
  criuMs?: number;
  /** How long each phase took. */
  phases: Record<string, number>;
}
/** From asking until a client has its first answer, and until the command is done. */
export interface Back {
  firstAnswerMs: number;
  doneMs: number;
}
export const WAYS = ["cold", "full", "lazyUnknown", "lazy"] as const;
export type Way = (typeof WAYS)[number];
export interface StoreRun {
  mib: number;
  first: Taken;
  /** After 1 % of its memory was written over, in a row. */
  second: Taken;
  /** After one value in a hundred was, all over it. */
  scattered: Taken;
  back: Record<Way, Back[]>;
}

const KEYS_PER_MIB = 890;
const COMMAND = [
  ..."redis-server --appendonly no --protected-mode no --bind 0.0.0.0 --dir /data --enable-debug-command yes".split(
    " ",
  ),
  "--save",
  "",
];
const PORT = 6379;
const START_MS = 60_000;
const ANSWER_WITHIN_MS = 180_000;
const HOME: NodeName = "node-a";
const THERE: NodeName = "node-b";

/** Values of 1 KiB, cut out of 8 MiB of digests at odd places: half of each can be compressed away, as of text. */
const FILL = `local parts, sum = {}, "ferry"
for i = 1, 209715 do sum = redis.sha1hex(sum); parts[i] = sum end
local text = table.concat(parts)
for i = 0, ARGV[1] - 1 do
  local at = (i * 104729) % (#text - 1024)
  redis.call("SET", "key:" .. i, string.sub(text, at + 1, at + 1014) .. string.format("%010d", i))
end
return ARGV[1]`;
const OVERWRITE = `for i = ARGV[1], ARGV[2], ARGV[3] do
  redis.call("SETRANGE", "key:" .. string.format("%d", i), 7, ARGV[4])
end
return 0`;
const SUM = `local sum = ""
for i = 0, ARGV[1] - 1 do sum = redis.sha1hex(sum .. (redis.call("GET", "key:" .. i) or "gone")) end
return sum`;

const keysOf = (mib: number): number => mib * KEYS_PER_MIB;

interface Subject {
  stage: Stage;
  workload: WorkloadHandle;
  place: Place;
  mib: number;
}

async function taken({ stage, workload }: Subject): Promise<Taken & { id: string }> {
  const watch = await watchFerry(stage, HOME, HOME);
  const started = performance.now();
  const report = await (await workload.checkpoint({ reason: "bench", maxBlackoutMs: 30_000 })).result();
  const ms = performance.now() - started;
  const { dumpMs } = await watch.stop();
  if (report.checkpoint === undefined) {
    throw new Error(report.failure === undefined ? report.outcome : describeFailure(report.failure).join("; "));
  }
  const { id, newBytes, dataBytes } = report.checkpoint;
  return {
    id,
    ms,
    newBytes,
    dataBytes,
    phases: Object.fromEntries(report.phases.map(({ name, durationMs }) => [name, durationMs])),
    ...(report.frozenMs === undefined ? {} : { frozenMs: report.frozenMs }),
    ...(dumpMs === undefined ? {} : { criuMs: dumpMs }),
  };
}

const digest = async ({ place, mib }: Subject): Promise<string> =>
  String((await redis(place, [["EVAL", SUM, "0", String(keysOf(mib))]]))[0]);

/** What is asked for is another key each time: what the one before has touched must not help. */
async function firstAnswer({ stage, place, mib }: Subject, work: () => Promise<unknown>): Promise<Back> {
  const key = `key:${Math.floor(Math.random() * keysOf(mib))}`;
  const program = fileURLToPath(new URL("first-answer.js", import.meta.url));
  const args = [
    `--net=/proc/${stage.clientPid}/ns/net`,
    "--",
    process.execPath,
    program,
    place.host,
    String(place.port),
  ];
  const startedAt = performance.timeOrigin + performance.now();
  const asking = run("nsenter", [...args, key, String(ANSWER_WITHIN_MS)], { timeoutMs: ANSWER_WITHIN_MS + 10_000 });
  asking.catch(() => undefined);
  await work();
  const doneMs = performance.timeOrigin + performance.now() - startedAt;
  return { firstAnswerMs: Number((await asking).stdout.trim()) - startedAt, doneMs };
}

export async function measureStore(
  stage: Stage,
  mib: number,
  repeats: number,
  say: (line: string) => void,
): Promise<StoreRun> {
  const name = `store-${mib}`;
  const command = [...COMMAND];
  await warmMemory(mib * 3);
  const workload = await stage.client.workloads.run({ name, node: HOME, command });
  try {
    const { spec } = await workload.status();
    const place = { pid: stage.clientPid, host: spec.network.ip.replace(/\/.*$/, ""), port: PORT };
    const subject: Subject = { stage, workload, place, mib };
    await untilRedisAnswers(place, START_MS);
    const keys = keysOf(mib);
    await redis(place, [["EVAL", FILL, "0", String(keys)]]);
    const first = await taken(subject);
    say(`first checkpoint: ${wordsOf(first)}`);
    const write = (from: number, to: number, step: number, what: string): Promise<unknown> =>
      redis(place, [["EVAL", OVERWRITE, "0", String(from), String(to), String(step), what]]);
    await write(0, Math.floor(keys / 100), 1, "in a row");
    const second = await taken(subject);
    say(`second, 1 % of the memory changed: ${wordsOf(second)}`);
    await write(50, keys - 1, 100, "here and there");
    const { id, ...scattered } = await taken(subject);
    say(`third, 1 % of the values changed: ${wordsOf(scattered)}`);
    const before = await digest(subject);
    await workload.stop({ graceMs: 0 });

    const back: Record<Way, Back[]> = { cold: [], full: [], lazyUnknown: [], lazy: [] };
    for (let repeat = 0; repeat < repeats; repeat += 1) {
      for (const way of ["lazyUnknown", "lazy", "full", "cold"] as const) {
        if (way === "lazyUnknown") forget(stage, name);
        const work = (): Promise<unknown> =>
          way === "cold"
            ? stage.client.workloads.run({ name, node: THERE, command })
            : workload.restore({ node: THERE, checkpoint: id, ...(way === "full" ? {} : { lazy: true }) });
        const one = await firstAnswer(subject, work);
        back[way].push(one);
        say(`${way}: first answer ${one.firstAnswerMs.toFixed(0)} ms, done ${one.doneMs.toFixed(0)} ms`);
        if ((await digest(subject)) !== before) throw new Error(`${way}: it came back with other values`);
        // Its file, for the cold start.
        if (way === "full") await redis(place, [["SAVE"]]);
        await workload.stop({ graceMs: 0 });
      }
    }
    const { id: _, ...firstTaken } = first;
    const { id: __, ...secondTaken } = second;
    return { mib, first: firstTaken, second: secondTaken, scattered, back };
  } finally {
    await workload.remove({ force: true });
  }
}

/** Nothing is known of what it needs first. */
const forget = (stage: Stage, name: string): void =>
  rmSync(join(stage.state, "checkpoints", "store", "workingsets", name), { recursive: true, force: true });

const wordsOf = ({ ms, newBytes, frozenMs, criuMs }: Taken): string =>
  `${ms.toFixed(0)} ms, ${(newBytes / 1e6).toFixed(1)} MB, frozen ${frozenMs?.toFixed(0) ?? "?"} ms, criu ${criuMs?.toFixed(0) ?? "?"} ms`;

/** The size that the ratios of checkpoints are about, in MiB, and that of restores. */
const SAVED_MIB = 1024;
const RESTORED_MIB = 2048;

export function storeRatios(runs: readonly StoreRun[]): {
  ratios: Record<string, number>;
  missing: Record<string, string>;
} {
  const ratios: Record<string, number> = {};
  const missing: Record<string, string> = {};
  const ratio = (name: string, mib: number, of: (one: StoreRun) => number | undefined): void => {
    const one = runs.find((each) => each.mib === mib);
    const value = one === undefined ? undefined : of(one);
    if (value === undefined || !Number.isFinite(value)) missing[name] = `not measured: a redis of ${mib} MiB`;
    else ratios[name] = value;
  };
  const answer = (one: StoreRun, way: Way): number => median(one.back[way].map((each) => each.firstAnswerMs));
  ratio("secondCheckpointBytes", SAVED_MIB, ({ first, second }) => second.newBytes / first.newBytes);
  ratio("secondCheckpointTime", SAVED_MIB, ({ first, second }) => second.ms / first.ms);
  ratio("checkpointFreezeOverCriuMetadata", SAVED_MIB, ({ first, second, scattered }) => {
    const all = [first, second, scattered].flatMap(({ frozenMs, criuMs }) =>
      frozenMs === undefined || criuMs === undefined ? [] : [frozenMs / criuMs],
    );
    return all.length === 0 ? undefined : median(all);
  });
  for (const [mib, size] of [
    [RESTORED_MIB, "2GiB"],
    [SAVED_MIB, "1GiB"],
  ] as const) {
    ratio(`fullOverLazyFirstAnswer${size}`, mib, (one) => answer(one, "full") / answer(one, "lazy"));
    ratio(`coldOverLazyFirstAnswer${size}`, mib, (one) => answer(one, "cold") / answer(one, "lazy"));
    ratio(`unknownOverKnownWorkingSet${size}`, mib, (one) => answer(one, "lazyUnknown") / answer(one, "lazy"));
  }
  missing["wakeOverLazyRestore"] = "not measured: no workload is woken by its traffic in this benchmark yet";
  return { ratios, missing };
}

export function storeTable(runs: readonly StoreRun[]): string {
  const lines = ["| MiB | what | ms | MB | frozen ms | criu ms |", "| --- | --- | --- | --- | --- | --- |"];
  const cell = (value: number | undefined): string => value?.toFixed(0) ?? "-";
  for (const { mib, ...run_ } of runs) {
    for (const what of ["first", "second", "scattered"] as const) {
      const { ms, newBytes, frozenMs, criuMs } = run_[what];
      const cells = [mib, `${what} checkpoint`, cell(ms), (newBytes / 1e6).toFixed(1), cell(frozenMs), cell(criuMs)];
      lines.push(`| ${cells.join(" | ")} |`);
    }
  }
  lines.push("", "| MiB | way back | first answer ms | all in place ms |", "| --- | --- | --- | --- |");
  for (const { mib, back } of runs) {
    for (const way of WAYS) {
      const times = [back[way].map((one) => one.firstAnswerMs), back[way].map((one) => one.doneMs)];
      lines.push(`| ${mib} | ${way} | ${times.map((all) => cell(median(all))).join(" | ")} |`);
    }
  }
  return `${lines.join("\n")}\n`;
}

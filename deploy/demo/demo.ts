/**
 * The demo: a redis with 256 MB and a client that counts over one connection; moved cold to another node and post-copy
 * back. Then the verdict, with a picture. Everything is real: the lab, criu, the workflows, the SDK that users use.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { FerryClient, WorkloadHandle } from "../../src/client/types.js";
import { run } from "../../src/host/exec.js";
import { toFailure } from "../../src/model/failure.js";
import type { Mode } from "../../src/model/plan.js";
import type { MigrationReport } from "../../src/model/report.js";
import { redis, startCounter, untilRedisAnswers, type Counter, type Place } from "./clients.js";
import { latencyPicture } from "./picture.js";
import { toPng } from "./png.js";
import { toSvg } from "./svg.js";
import { judge, moveResult, parseSamples, type Verdict } from "./verdict.js";

export interface DemoHost {
  /** Host pid in the client host's network namespace. */
  clientPid: number;
  /** Argument array that runs a program on a node, with the node's processes in sight. */
  enter(node: string): string[];
  nodes: readonly string[];
}

export interface DemoOptions {
  client: FerryClient;
  host: DemoHost;
  /** Where the counter's file, the pictures and the verdict go. */
  outDir: string;
  /** Keys of about one KiB each. */
  keys?: number;
  /** One line of the story. */
  say: (line: string) => void;
  /** Shows a migration while it runs and gives its report. */
  watch(workload: WorkloadHandle, to: string, mode: Mode): Promise<MigrationReport>;
}

export interface DemoResult {
  verdict: Verdict;
  files: { samples: string; svg: string; png: string; verdict: string };
}

export const DEMO_WORKLOAD = "demo-redis";
const PORT = 6379;
const KEY = "counter";
/** Quiet time on both sides of a move, so that the picture shows what is normal. */
const SETTLE_MS = 3000;
const REDIS =
  'redis-server --save "" --appendonly no --protected-mode no --bind 0.0.0.0 --dir /data --enable-debug-command yes'
    .split(" ")
    .map((word) => (word === '""' ? "" : word));

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export async function runDemo(options: DemoOptions): Promise<DemoResult> {
  const { client, host, outDir, say } = options;
  const keys = options.keys ?? 240_000;
  const [first = "node-a", second = "node-b"] = host.nodes;
  await mkdir(outDir, { recursive: true });
  const samplesFile = join(outDir, "answers.tsv");

  await removeOld(client);
  say(`starting redis on ${first}`);
  const workload = await client.workloads.run({ name: DEMO_WORKLOAD, node: first, command: REDIS });
  const status = await workload.status();
  const place: Place = { pid: host.clientPid, host: status.spec.network.ip.replace(/\/.*$/, ""), port: PORT };
  await untilRedisAnswers(place, 15_000);
  say(`filling it: ${keys.toLocaleString("en-US")} keys of 1 KiB`);
  await redis(place, [["DEBUG", "POPULATE", String(keys), "key", "1024"]]);
  const memory = (await workload.inspect()).observation?.memoryBytes;
  if (memory !== undefined) say(`redis holds ${Math.round(memory / 1024 ** 2)} MiB of memory`);

  const counter = await startCounter(place, KEY, samplesFile);
  try {
    say("a client counts with INCR over one connection, about every millisecond");
    await pause(SETTLE_MS);
    const digests = [await digest(place, counter)];
    const copies: number[] = [];
    const timed: { report: MigrationReport; from: number; to: number }[] = [];
    const plan: [Mode, string][] = [
      ["cold", second],
      ["postcopy", first],
    ];
    for (const [mode, to] of plan) {
      await pause(1000);
      say("");
      say(`moving it to ${to}, ${mode}, while the client goes on counting`);
      const from = Date.now();
      const report = await options.watch(workload, to, mode);
      timed.push({ report, from, to: Date.now() });
      if (report.outcome !== "moved") break;
      await pause(SETTLE_MS);
      copies.push(await liveCopies(host));
      digests.push(await digest(place, counter));
    }
    await pause(1000);
    const end = await counter.stop();
    const samples = parseSamples(await readFile(samplesFile, "utf8"));
    const moves = timed.map(({ report, from, to }) => moveResult(report, samples, from, to));
    const verdict = judge({
      samples,
      digests,
      copies,
      moves,
      asked: plan.length,
      connections: end.connections,
      breaks: end.breaks,
      errors: end.errors,
    });
    const picture = latencyPicture(samples, moves);
    const files = {
      samples: samplesFile,
      svg: join(outDir, "latency.svg"),
      png: join(outDir, "latency.png"),
      verdict: join(outDir, "verdict.json"),
    };
    await writeFile(files.svg, toSvg(picture));
    await writeFile(files.png, toPng(picture));
    await writeFile(files.verdict, `${JSON.stringify(verdict, null, 2)}\n`);
    return { verdict, files };
  } finally {
    counter.kill();
  }
}

/** An earlier demo's workload goes first. */
async function removeOld(client: FerryClient): Promise<void> {
  try {
    await client.workloads.get(DEMO_WORKLOAD).remove({ force: true });
  } catch (error) {
    if (toFailure(error).code !== "E_WORKLOAD_UNKNOWN") throw error;
  }
}

/**
 * Digest of the whole keyspace with the counter's key at a fixed value: every byte of memory that holds data is read.
 * The client pauses meanwhile, its connection stays.
 */
async function digest(place: Place, counter: Counter): Promise<string> {
  await counter.pause();
  const [value] = await redis(place, [["GET", KEY]]);
  const [, sum] = await redis(place, [
    ["SET", KEY, "0"],
    ["DEBUG", "DIGEST"],
    ["SET", KEY, String(value)],
  ]);
  await counter.resume();
  return String(sum);
}

/** redis processes alive on all nodes together, as the nodes' own process lists say. */
async function liveCopies(host: DemoHost): Promise<number> {
  let copies = 0;
  for (const node of host.nodes) {
    const [file, ...args] = [...host.enter(node), "pgrep", "-x", "-c", "redis-server"];
    // pgrep -c prints 0 and exits with 1 when there is none
    const { stdout } = await run(file, args, { doing: `counting redis processes on ${node}`, allow: [1] });
    copies += Number(stdout.trim());
  }
  return copies;
}

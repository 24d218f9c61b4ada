/**
 * How long a redis stands still when it moves, and where the time goes. See bench/README.md.
 *
 * Moves alternate between modes and between the labs that are compared, so that a busy minute of the machine falls on
 * all of them. Times are measurements, never verdicts; a move that fails, or memory that differs, ends the run.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { redis, startCounter, untilRedisAnswers, type Counter, type Place } from "../deploy/demo/clients.js";
import { countSequence, longestLatency, parseSamples, type Sample } from "../deploy/demo/verdict.js";
import { labDown, labNode, labUp, readLab } from "../deploy/lab/index.js";
import { untilNodesListed } from "../src/cli/nodes-ready.js";
import { connect, type FerryClient, type MigrationReport } from "../src/client/index.js";
import type { WorkloadHandle } from "../src/client/types.js";
import { describeFailure } from "../src/model/failure.js";
import type { Mode } from "../src/model/plan.js";
import { median } from "./stats.js";
import { table, type Row } from "./table.js";

const MODES: readonly Mode[] = ["cold", "postcopy"];
const REDIS =
  "redis-server --save  --appendonly no --protected-mode no --bind 0.0.0.0 --dir /data --enable-debug-command yes";
const ANSWER_WITHIN_MS = 60_000;
const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

interface Lab {
  label: string;
  state: string;
  client: FerryClient;
  clientPid: number;
  nodes: string[];
}

interface Subject {
  lab: Lab;
  workload: WorkloadHandle;
  place: Place;
  counter: Counter;
  samples: string;
  /** Index of the node where it runs. */
  at: number;
}

interface Move {
  lab: string;
  megabytes: number;
  mode: Mode;
  blackoutMs: number;
  clientGapMs: number;
  residualMs: number;
  totalMs: number;
  phases: Record<string, number>;
}

const { values } = parseArgs({
  options: {
    moves: { type: "string", default: "6" },
    sizes: { type: "string", default: "16,256,1024" },
    lab: { type: "string", multiple: true },
    out: { type: "string" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

async function openLab(label: string, state: string): Promise<Lab> {
  const lab = await readLab(state);
  assert.ok(lab?.address, `no lab is up in ${state}: bring one up with \`ferry lab up --state ${state}\``);
  const client = await connect({ address: lab.address });
  const nodes = lab.hosts.filter((host) => host.kind === "node").map((host) => host.name);
  assert.ok(await untilNodesListed(client, nodes, 20_000), `not all nodes of ${state} are there`);
  return { label, state, client, nodes, clientPid: (await labNode(state, "client")).pid };
}

async function startSubject(lab: Lab, megabytes: number, dir: string): Promise<Subject> {
  const name = `bench-${megabytes}`;
  await lab.client.workloads
    .get(name)
    .remove({ force: true })
    .catch(() => undefined);
  const workload = await lab.client.workloads.run({ name, node: lab.nodes[0] ?? "", command: REDIS.split(" ") });
  const { spec } = await workload.status();
  const place = { pid: lab.clientPid, host: spec.network.ip.replace(/\/.*$/, ""), port: 6379 };
  await untilRedisAnswers(place, 15_000);
  await redis(place, [["DEBUG", "POPULATE", String(megabytes * 950), "key", "1024"]]);
  const samples = join(dir, `${lab.label}-${megabytes}.tsv`);
  return { lab, workload, place, samples, counter: await startCounter(place, "counter", samples), at: 0 };
}

/** Digest of all data, with the counter's key away. */
async function digest({ counter, place }: Subject): Promise<string> {
  await counter.pause();
  const [value] = await redis(place, [["GET", "counter"]]);
  const [, sum] = await redis(place, [
    ["SET", "counter", "0"],
    ["DEBUG", "DIGEST"],
    ["SET", "counter", String(value)],
  ]);
  await counter.resume();
  return String(sum);
}

/** The client's answers, once one came to a request of after `to`: then the one that ends the gap is among them. */
async function untilAnswered(file: string, to: number): Promise<Sample[]> {
  const end = performance.now() + ANSWER_WITHIN_MS;
  for (;;) {
    const samples = parseSamples(readFileSync(file, "utf8"));
    if ((samples.at(-1)?.sentAt ?? 0) > to) return samples;
    assert.ok(performance.now() < end, `the client got no answer for ${ANSWER_WITHIN_MS / 1000} s after a move`);
    await pause(100);
  }
}

async function move(subject: Subject, mode: Mode, megabytes: number): Promise<Move> {
  const { lab, workload, samples } = subject;
  subject.at = 1 - subject.at;
  const from = Date.now();
  const report: MigrationReport = await (await workload.migrate({ to: lab.nodes[subject.at] ?? "", mode })).result();
  const to = Date.now();
  assert.equal(
    report.outcome,
    "moved",
    [...(report.failure === undefined ? [] : describeFailure(report.failure)), ...report.reasons].join("\n"),
  );
  const seen = await untilAnswered(samples, to);
  const phases: Record<string, number> = {};
  for (const { name, side, durationMs } of report.phases) {
    const key = `${side}.${name}`;
    phases[key] = (phases[key] ?? 0) + durationMs;
  }
  const { blackoutMs, residualMs } = report;
  // A figure that is not known must not stand among those that are.
  assert.ok(blackoutMs !== null && residualMs !== null, "nothing died: both sides know when it froze and resumed");
  return {
    lab: lab.label,
    megabytes,
    mode,
    blackoutMs,
    clientGapMs: longestLatency(seen, from, to),
    residualMs,
    totalMs: report.totalMs,
    phases,
  };
}

async function measure(labs: readonly Lab[], megabytes: number, count: number, dir: string): Promise<Move[]> {
  const subjects: Subject[] = [];
  const moves: Move[] = [];
  try {
    for (const lab of labs) subjects.push(await startSubject(lab, megabytes, dir));
    const before = await Promise.all(subjects.map((subject) => digest(subject)));
    // One move of each kind that does not count: code and caches are cold.
    for (let round = -1; round < count; round += 1) {
      for (const mode of MODES) {
        for (const subject of subjects) {
          const moved = await move(subject, mode, megabytes);
          if (round >= 0) moves.push(moved);
          process.stderr.write(
            `${moved.lab} ${megabytes} MB ${mode}: blackout ${Math.round(moved.blackoutMs)} ms, client ${Math.round(moved.clientGapMs)} ms, total ${Math.round(moved.totalMs)} ms${round < 0 ? " (not counted)" : ""}\n`,
          );
        }
      }
    }
    for (const [index, subject] of subjects.entries()) {
      assert.equal(await digest(subject), before[index], "the digest of all keys and values");
      const end = await subject.counter.stop();
      const sequence = countSequence(parseSamples(readFileSync(subject.samples, "utf8")));
      assert.deepEqual(
        { ...sequence, connections: end.connections, breaks: end.breaks, errors: end.errors },
        { missing: 0, duplicates: 0, connections: 1, breaks: 0, errors: 0 },
      );
    }
  } finally {
    for (const { counter, workload } of subjects) {
      counter.kill();
      await workload.remove({ force: true }).catch(() => undefined);
    }
  }
  return moves;
}

function summarize(moves: readonly Move[]): Row[] {
  const groups = new Map<string, Move[]>();
  for (const one of moves) {
    const key = `${one.megabytes} ${one.mode} ${one.lab}`;
    groups.set(key, [...(groups.get(key) ?? []), one]);
  }
  return [...groups.values()].map((group) => {
    const [first] = group;
    const of = (pick: (one: Move) => number): number => median(group.map(pick));
    const names = [...new Set(group.flatMap((one) => Object.keys(one.phases)))];
    return {
      lab: first?.lab ?? "",
      megabytes: first?.megabytes ?? 0,
      mode: first?.mode ?? "",
      moves: group.length,
      blackoutMs: of((one) => one.blackoutMs),
      blackoutMinMs: Math.min(...group.map((one) => one.blackoutMs)),
      blackoutMaxMs: Math.max(...group.map((one) => one.blackoutMs)),
      clientGapMs: of((one) => one.clientGapMs),
      residualMs: of((one) => one.residualMs),
      totalMs: of((one) => one.totalMs),
      phases: Object.fromEntries(names.map((name) => [name, of((one) => one.phases[name] ?? 0)])),
    };
  });
}

async function main(): Promise<void> {
  if (values.help) {
    process.stdout.write(readFileSync(new URL("../../bench/README.md", import.meta.url), "utf8"));
    return;
  }
  const count = Number(values.moves);
  const sizes = values.sizes.split(",").map(Number);
  assert.ok(Number.isInteger(count) && count > 0 && count <= 100, "--moves: a number from 1 to 100");
  assert.ok(
    sizes.every((size) => Number.isInteger(size) && size > 0),
    "--sizes: megabytes, separated by commas",
  );
  const dir = mkdtempSync(join(tmpdir(), "ferry-bench-"));
  const labs: Lab[] = [];
  const own = values.lab === undefined ? join(dir, "lab") : undefined;
  try {
    if (own !== undefined) await labUp({ state: own, nodes: 2 });
    for (const given of values.lab ?? [`ferry=${own}`]) {
      const [label = "", state = ""] = given.split(/=(.*)/s);
      assert.ok(label !== "" && state !== "", "--lab: LABEL=DIR");
      labs.push(await openLab(label, resolve(state)));
    }
    const moves: Move[] = [];
    for (const size of sizes) moves.push(...(await measure(labs, size, count, dir)));
    const summary = summarize(moves);
    if (values.out !== undefined) {
      writeFileSync(resolve(values.out), `${JSON.stringify({ summary, moves }, null, 2)}\n`);
    }
    process.stdout.write(values.json ? `${JSON.stringify({ summary, moves })}\n` : table(summary));
  } finally {
    for (const lab of labs) await lab.client.close();
    if (own !== undefined) await labDown({ state: own });
    rmSync(dir, { recursive: true, force: true });
  }
}

await main();

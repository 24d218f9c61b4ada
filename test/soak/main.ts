/**
 * `npm run soak -- --minutes N --seed S`: several redis with counting clients move between three nodes, again and again,
 * in every mode, while random parts die at random moments. The same checks as in the fault matrix after every move. Two
 * lanes at once; each takes its decisions from the seed, so that a seed replays them (not the machine's timing).
 * Ends with one JSON line: seed, migrations, faults, lost, duplicated, inDoubtResolved.
 */
import { parseArgs } from "node:util";
import { labRun } from "../../deploy/lab/index.js";
import type { MigrationReport } from "../../src/client/index.js";
import type { Mode } from "../../src/model/plan.js";
import type { Side } from "../../src/model/failure.js";
import { startLab, startWitness, until, withClocks, type E2eLab, type Witness } from "../e2e/support.js";
import { witnessFileDigest, writeWitnessFile } from "../e2e/witness-file.js";
import { INJECTIONS, type Heal, type Injection, type Scene } from "../faults/injections.js";
import { randomOf, type Random } from "./random.js";

const NODES = ["node-a", "node-b", "node-c"];
const MODES: readonly Mode[] = ["cold", "precopy", "hybrid", "postcopy"];
const SIDES: readonly Side[] = ["source", "destination"];
const LANES = 2;
const MEGABYTES = 8;
const LATEST_MS = 1_500;
const END_MS = 180_000;
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Of the matrix; not those that take the workload along wherever it happens to be, nor those of a minute and more. */
const LEFT_OUT = /loses power|until the end|for 60 s/;
/** These strike a place, whichever of the two it is. */
const OF_EITHER = /^(cable|slow link)/;
const FAULTS: readonly Injection[] = INJECTIONS.filter(({ name, missing }) => !LEFT_OUT.test(name) && !missing?.());
const FILE_MEGABYTES = 2;
interface Subject {
  name: string;
  witness: Witness;
  /** Of its keyspace, and of a file in its /data. */
  digest: string;
  files: string;
}
const result = {
  seed: 0,
  minutes: 0,
  migrations: 0,
  moved: 0,
  rolledBack: 0,
  refused: 0,
  faults: 0,
  lost: 0,
  duplicated: 0,
  inDoubtResolved: 0,
  broken: 0,
};
const problems: string[] = [];

/** How many trees of this redis there are on all nodes. */
async function copiesOf(e2e: E2eLab, name: string): Promise<Record<string, number>> {
  const found: Record<string, number> = {};
  for (const node of NODES) {
    const { stdout } = await labRun(e2e.state, node, ["pgrep", "-x", "redis-server"], { allow: [1] });
    let here = 0;
    for (const pid of stdout.trim().split("\n").filter(Boolean)) {
      const { stdout: group } = await labRun(e2e.state, node, ["cat", `/proc/${pid}/cgroup`], { allow: [1] });
      if (group.includes(`/${name}.`)) here += 1;
    }
    found[node] = here;
  }
  return found;
}

/** A criu or page daemon to strike is not there all the time: it is waited for, as long as the migration goes on. */
async function struck(fault: Injection, scene: Scene, over: () => boolean): Promise<Heal | undefined> {
  for (;;) {
    try {
      return await fault.strike(scene);
    } catch (error) {
      if (over() || !/^no (criu|page|ferry)/.test(error instanceof Error ? error.message : "")) throw error;
      await sleep(50);
    }
  }
}

async function move(e2e: E2eLab, subject: Subject, random: Random, say: (text: string) => void): Promise<void> {
  const { workload } = subject.witness;
  const { node: source } = await workload.status();
  const destination = random.pick(NODES.filter((node) => node !== source));
  const mode = random.pick(MODES);
  const fault = random.upTo(4) === 0 ? undefined : random.pick(FAULTS);
  const side = random.pick(SIDES);
  const swapped = random.upTo(2) === 0 && OF_EITHER.test(fault?.name ?? "");
  const afterMs = random.upTo(LATEST_MS);
  const began = performance.now();
  const handle = await workload.migrate({ to: destination, mode });
  result.migrations += 1;
  let atTheEnd: Heal | undefined;
  let report: MigrationReport | undefined;
  const striking = (async () => {
    if (fault === undefined) return;
    await sleep(afterMs);
    const heal = await struck(
      fault,
      { e2e, side, ...(swapped ? { source: destination, destination: source } : { source, destination }) },
      () => report !== undefined,
    );
    result.faults += 1;
    if (fault.forEver === true) atTheEnd = heal;
    else await heal?.();
  })().catch((error: unknown) => say(`${fault?.name ?? "no fault"} missed: ${String(error)}`));
  const heals = async (): Promise<void> => {
    const heal = atTheEnd;
    atTheEnd = undefined;
    await heal?.().catch((error: unknown) => say(`${fault?.name ?? "no fault"} stays: ${String(error)}`));
  };
  let doubted = false;
  const until_ = performance.now() + END_MS;
  while (performance.now() < until_) {
    report = await handle.result();
    if (report.outcome !== "in-doubt" && report.outcome !== "stuck") break;
    doubted = true;
    // A wrong clock, say: it waits until that is right.
    await heals();
  }
  await striking;
  await heals();
  const outcome = report?.outcome ?? "no answer";
  if (doubted && (outcome === "moved" || outcome === "rolled-back")) result.inDoubtResolved += 1;
  if (outcome === "moved") result.moved += 1;
  else if (outcome === "rolled-back") result.rolledBack += 1;
  else if (outcome === "refused") result.refused += 1;
  const ms = (performance.now() - began).toFixed(0);
  say(
    `${handle.operation} ${source} -> ${destination} ${mode}, ${fault?.name ?? "no fault"} after ${afterMs} ms: ${outcome} in ${ms} ms`,
  );
  await check(e2e, subject, report);
}

async function check(e2e: E2eLab, subject: Subject, report: MigrationReport | undefined): Promise<void> {
  const { name, witness } = subject;
  try {
    await until(`${name} is at rest`, 60_000, async () => {
      const { operation, state } = await witness.workload.status();
      return operation === undefined && state === "running";
    });
    const { node } = await witness.workload.status();
    let seen: Record<string, number> = {};
    await until(`one copy of ${name}`, 30_000, async () => {
      seen = await copiesOf(e2e, name);
      return seen[node] === 1 && Object.values(seen).reduce((a, b) => a + b, 0) === 1;
    }).catch(() => {
      const all = Object.values(seen).reduce((a, b) => a + b, 0);
      if (all === 0) result.lost += 1;
      else if (all > 1) result.duplicated += 1;
      throw new Error(`copies of ${name}, which is on ${node}: ${JSON.stringify(seen)}`);
    });
    if ((await witness.digest()) !== subject.digest) throw new Error(`the keyspace of ${name} has changed`);
    if ((await witnessFileDigest(e2e, node, name)) !== subject.files)
      throw new Error(`the files of ${name} have changed`);
  } catch (error) {
    result.broken += 1;
    problems.push(
      `${name} after ${report?.operation ?? "?"}: ${error instanceof Error ? error.message : String(error)}`,
    );
    console.error(problems.at(-1));
  }
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "5" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      help: { type: "boolean", default: false },
    },
  });
  const minutes = Number(values.minutes);
  const seed = Number(values.seed);
  if (values.help || !(minutes > 0) || !Number.isSafeInteger(seed)) {
    console.log(
      "npm run soak -- [--minutes N] [--seed S]\n\nRandom faults under moving workloads, for N minutes (5). Exit code 1: something was lost, doubled or broken.",
    );
    return values.help ? 0 : 2;
  }
  Object.assign(result, { seed, minutes });
  const say = (text: string): void => console.error(`${new Date().toISOString().slice(11, 19)} ${text}`);
  say(`seed ${seed}: again with npm run soak -- --minutes ${minutes} --seed ${seed}`);
  withClocks();
  const e2e = await startLab(NODES.length);
  const subjects: Subject[] = [];
  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort());
  process.once("SIGTERM", () => stop.abort());
  try {
    for (const [i, node] of NODES.slice(0, LANES).entries()) {
      const name = `soak-${i}`;
      const witness = await startWitness(e2e, name, node, MEGABYTES);
      await writeWitnessFile(e2e, node, name, FILE_MEGABYTES);
      subjects.push({ name, witness, digest: await witness.digest(), files: await witnessFileDigest(e2e, node, name) });
    }
    const end = performance.now() + minutes * 60_000;
    await Promise.all(
      subjects.map(async (subject, lane) => {
        const random = randomOf(seed * LANES + lane);
        while (!stop.signal.aborted && performance.now() < end && problems.length === 0) {
          try {
            await move(e2e, subject, random, say);
          } catch (error) {
            // Asked while the server is away: asked again.
            say(`${subject.name}: ${error instanceof Error ? error.message : String(error)}`);
            await sleep(1_000);
          }
        }
      }),
    );
    for (const { name, witness } of subjects) {
      try {
        await witness.assertIntact();
      } catch (error) {
        result.broken += 1;
        problems.push(`the client of ${name}: ${error instanceof Error ? error.message : String(error)}`);
        console.error(problems.at(-1));
      }
    }
  } finally {
    for (const { witness } of subjects) witness.counter.kill();
    await e2e.down();
  }
  console.log(JSON.stringify(result));
  return result.lost + result.duplicated + result.broken > 0 ? 1 : 0;
}

process.exitCode = await main();

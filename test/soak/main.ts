/**
 * `npm run soak -- --minutes N --seed S`: several redis with counting clients move between three nodes, again and again,
 * in every mode, while random parts die at random moments. The same checks as in the fault matrix after every move. Two
 * lanes at once; each takes its decisions from the seed, so that a seed replays them (not the machine's timing).
 * Ends with one JSON line: seed, migrations, faults, lost, duplicated, inDoubtResolved.
 */
import { parseArgs } from "node:util";
import { labLink, labRun, labServicePid } from "../../deploy/lab/index.js";
import type { MigrationReport } from "../../src/client/index.js";
import type { Mode } from "../../src/model/plan.js";
import { killOn, startLab, startWitness, until, type E2eLab, type Witness } from "../e2e/support.js";
import { randomOf, type Random } from "./random.js";

const NODES = ["node-a", "node-b", "node-c"];
const MODES: readonly Mode[] = ["cold", "precopy", "hybrid", "postcopy"];
const LANES = 2;
const MEGABYTES = 8;
const LATEST_MS = 1_500;
const END_MS = 180_000;
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

interface Move {
  source: string;
  destination: string;
}
type Fault = { name: string; strike: (e2e: E2eLab, move: Move, random: Random) => Promise<void> };

const signal = async (e2e: E2eLab, node: string, service: "agent" | "worker" | "temporal", name: NodeJS.Signals) => {
  const pid = await labServicePid(e2e.state, node, service);
  if (pid !== undefined) process.kill(pid, name);
};
/** Stopped, and in any case let go on. */
const freeze = async (e2e: E2eLab, node: string, service: "agent" | "worker", ms: number): Promise<void> => {
  const pid = await labServicePid(e2e.state, node, service);
  if (pid === undefined) return;
  process.kill(pid, "SIGSTOP");
  try {
    await sleep(ms);
  } finally {
    try {
      process.kill(pid, "SIGCONT");
    } catch {
      // another fault has killed it
    }
  }
};
const either = ({ source, destination }: Move, random: Random): string => random.pick([source, destination]);

const FAULTS: readonly Fault[] = [
  { name: "agent killed", strike: (e2e, move, random) => signal(e2e, either(move, random), "agent", "SIGKILL") },
  { name: "worker killed", strike: (e2e, move, random) => signal(e2e, either(move, random), "worker", "SIGKILL") },
  {
    name: "agent stopped",
    strike: (e2e, move, random) => freeze(e2e, either(move, random), "agent", 500 + random.upTo(4_000)),
  },
  {
    name: "worker stopped",
    strike: (e2e, move, random) => freeze(e2e, either(move, random), "worker", 500 + random.upTo(8_000)),
  },
  { name: "Temporal killed", strike: (e2e) => signal(e2e, "switch", "temporal", "SIGKILL") },
  {
    name: "criu killed",
    strike: async (e2e, { source, destination }, random) => {
      if (random.upTo(2) === 0) await killOn(e2e, source, "criu dump");
      else await killOn(e2e, destination, "criu restore");
    },
  },
  {
    name: "mover killed",
    strike: async (e2e, { source, destination }, random) => {
      if (random.upTo(2) === 0) await killOn(e2e, source, "ferry-mover-source");
      else await killOn(e2e, destination, "ferry-mover-destination");
    },
  },
  {
    name: "page daemon killed",
    strike: async (e2e, { destination }) => void (await killOn(e2e, destination, "pages/daemon")),
  },
  {
    name: "cable out",
    strike: async (e2e, move, random) => {
      const node = either(move, random);
      await labLink(e2e.state, node, "down");
      await sleep(200 + random.upTo(3_000));
      await labLink(e2e.state, node, "up");
    },
  },
  {
    name: "cut from Temporal",
    strike: async (e2e, move, random) => {
      const node = either(move, random);
      const rules = "table inet apart { chain out { type filter hook output priority 0; tcp dport 7233 drop; }; }";
      await labRun(e2e.state, node, ["nft", rules], {});
      await sleep(500 + random.upTo(8_000));
      await labRun(e2e.state, node, ["nft", "delete", "table", "inet", "apart"], { allow: [1] });
    },
  },
];

interface Subject {
  name: string;
  witness: Witness;
  digest: string;
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

async function move(e2e: E2eLab, subject: Subject, random: Random, say: (text: string) => void): Promise<void> {
  const { workload } = subject.witness;
  const { node: source } = await workload.status();
  const destination = random.pick(NODES.filter((node) => node !== source));
  const mode = random.pick(MODES);
  const fault = random.upTo(4) === 0 ? undefined : random.pick(FAULTS);
  const afterMs = random.upTo(LATEST_MS);
  const began = performance.now();
  const handle = await workload.migrate({ to: destination, mode });
  result.migrations += 1;
  const striking = (async () => {
    if (fault === undefined) return;
    await sleep(afterMs);
    result.faults += 1;
    await fault.strike(e2e, { source, destination }, random);
  })().catch((error: unknown) => say(`${fault?.name ?? "no fault"} missed: ${String(error)}`));
  let report: MigrationReport | undefined;
  let doubted = false;
  const until_ = performance.now() + END_MS;
  while (performance.now() < until_) {
    report = await handle.result();
    if (report.outcome !== "in-doubt" && report.outcome !== "stuck") break;
    doubted = true;
  }
  await striking;
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
  const e2e = await startLab(NODES.length);
  const subjects: Subject[] = [];
  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort());
  process.once("SIGTERM", () => stop.abort());
  try {
    for (const [i, node] of NODES.slice(0, LANES).entries()) {
      const name = `soak-${i}`;
      const witness = await startWitness(e2e, name, node, MEGABYTES);
      subjects.push({ name, witness, digest: await witness.digest() });
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

/** A real lab with real services, and a redis with a counting client as the witness. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  redis,
  startCounter,
  untilRedisAnswers,
  type Counter,
  type CounterEnd,
  type Place,
} from "../../deploy/demo/clients.js";
import { countSequence, parseSamples, type Sample } from "../../deploy/demo/verdict.js";
import {
  CLOCK_FILE,
  labDown,
  labNode,
  labRun,
  labUp,
  patience,
  readLab,
  type LabState,
  labServicePid,
} from "../../deploy/lab/index.js";
import { demandFailpoint } from "../../src/agent/failpoint.js";
import { untilNodesListed } from "../../src/cli/nodes-ready.js";
import { connect, type FerryClient, type MigrationReport } from "../../src/client/index.js";
import type { MigrationHandle, WorkloadHandle } from "../../src/client/types.js";
import { describeFailure } from "../../src/model/failure.js";
import type { Mode } from "../../src/model/plan.js";

export interface E2eLab {
  state: string;
  lab: LabState;
  client: FerryClient;
  down(): Promise<void>;
}

/** Brings a lab of its own up (failpoints on) and connects the SDK to it. */
export async function startLab(nodes = 2, subnet?: string): Promise<E2eLab> {
  process.env["FERRY_LAB_FAILPOINTS"] = "1";
  const state = mkdtempSync(join(tmpdir(), "ferry-e2e-"));
  try {
    const lab = await labUp({ state, nodes, ...(subnet === undefined ? {} : { subnet }) });
    assert.ok(lab.address);
    const client = await connect({ address: lab.address });
    const names = lab.hosts.filter((host) => host.kind === "node").map((host) => host.name);
    assert.ok(await untilNodesListed(client, names, 20_000 * patience()), "the nodes register");
    return {
      state,
      lab,
      client,
      down: async () => {
        await client.close();
        await labDown({ state });
        rmSync(state, { recursive: true, force: true });
      },
    };
  } catch (error) {
    await labDown({ state });
    throw error;
  }
}

export const REDIS = [
  "redis-server",
  "--save",
  "",
  "--appendonly",
  "no",
  "--protected-mode",
  "no",
  "--bind",
  "0.0.0.0",
  "--dir",
  "/data",
  "--enable-debug-command",
  "yes",
];

export interface Witness {
  workload: WorkloadHandle;
  place: Place;
  counter: Counter;
  /** Digest of the whole keyspace (the counter's key at a fixed value). */
  digest(): Promise<string>;
  /** Ends the counter: one connection, no hole, no duplicate, no error. Answers what it saw. */
  assertIntact(): Promise<{ end: CounterEnd; samples: Sample[] }>;
}

export const clientPid = async (e2e: E2eLab): Promise<number> => (await labNode(e2e.state, "client")).pid;

/** A redis with `megabytes` of data and a client that counts over one connection. */
export async function startWitness(e2e: E2eLab, name: string, node: string, megabytes: number): Promise<Witness> {
  const workload = await e2e.client.workloads.run({ name, node, command: REDIS });
  const status = await workload.status();
  const place: Place = { pid: await clientPid(e2e), host: status.spec.network.ip.replace(/\/.*$/, ""), port: 6379 };
  await untilRedisAnswers(place, 15_000 * patience());
  if (megabytes > 0) await redis(place, [["DEBUG", "POPULATE", String(megabytes * 1000), "key", "900"]]);
  const file = join(e2e.state, `${name}.tsv`);
  // where everything is slow the client must leave the processor to the others
  const counter = await startCounter(place, "counter", file, patience() > 1 ? 25 : 1);
  return {
    workload,
    place,
    counter,
    async digest() {
      await counter.pause();
      const [value] = await redis(place, [["GET", "counter"]]);
      const [, sum] = await redis(place, [
        ["SET", "counter", "0"],
        ["DEBUG", "DIGEST"],
        ["SET", "counter", String(value)],
      ]);
      await counter.resume();
      return String(sum);
    },
    async assertIntact() {
      const end = await counter.stop();
      const samples = parseSamples(readFileSync(file, "utf8"));
      rmSync(file, { force: true });
      const sequence = countSequence(samples);
      assert.deepEqual(
        { ...sequence, connections: end.connections, breaks: end.breaks, errors: end.errors },
        { missing: 0, duplicates: 0, connections: 1, breaks: 0, errors: 0 },
      );
      assert.ok(samples.length > 0);
      return { end, samples };
    },
  };
}

/** Processes of this name on each node that is up, by the nodes' own process lists. */
export async function copies(e2e: E2eLab, program = "redis-server"): Promise<Record<string, number>> {
  const found: Record<string, number> = {};
  const lab = await readLab(e2e.state);
  for (const host of lab?.hosts ?? []) {
    if (host.kind !== "node") continue;
    const { stdout } = await labRun(e2e.state, host.name, ["pgrep", "-x", "-c", program], { allow: [1] });
    found[host.name] = Number(stdout.trim());
  }
  return found;
}

export const other = (node: string): string => (node === "node-a" ? "node-b" : "node-a");

/** Exactly one live copy, on `node`, with the keyspace as it was. */
export async function assertLives(
  e2e: E2eLab,
  witness: Witness,
  digest: string,
  node: string,
  withinMs: number,
): Promise<void> {
  await until(`one live copy, on ${node}`, withinMs, async () => {
    const alive = await copies(e2e);
    return alive[node] === 1 && alive[other(node)] === 0;
  });
  assert.equal(await witness.digest(), digest, "the keyspace is as before");
}

export async function migrate(
  workload: WorkloadHandle,
  to: string,
  mode: Mode,
  more: { bandwidthBytesPerSec?: number } = {},
): Promise<MigrationReport> {
  return (await workload.migrate({ to, mode, ...more })).result();
}

/** How it ended, in words. */
export const describeReport = (report: MigrationReport): string =>
  [report.outcome, ...(report.failure === undefined ? [] : describeFailure(report.failure)), ...report.reasons].join(
    "\n",
  );

export function assertMoved(report: MigrationReport): void {
  assert.equal(report.outcome, "moved", describeReport(report));
}

// --- failpoints ---------------------------------------------------------------------------------------------------

const failpointDir = async (e2e: E2eLab, node: string): Promise<string> => {
  const dir = `/proc/${(await labNode(e2e.state, node)).pid}/root/run/ferry-failpoints`;
  mkdirSync(dir, { recursive: true });
  return dir;
};

// --- clocks -------------------------------------------------------------------------------------------------------

/** Agents of labs that come up from now on have wall clocks of their own. */
export const withClocks = (): string => (process.env["FERRY_LAB_CLOCKS"] = "1");

/** Sets such a clock: ahead, or back, by so many seconds. */
export async function setClock(e2e: E2eLab, node: string, seconds: number): Promise<void> {
  const { pid } = await labNode(e2e.state, node);
  writeFileSync(`/proc/${pid}/root${CLOCK_FILE}`, `${seconds < 0 ? "" : "+"}${seconds}\n`);
}

/** Arms a failpoint on a node (fires once). */
export async function armFailpoint(
  e2e: E2eLab,
  node: string,
  point: string,
  action: "kill" | "pause" | "note",
): Promise<void> {
  demandFailpoint(point);
  writeFileSync(join(await failpointDir(e2e, node), point), action);
}
/**
 * Waits until a paused operation stands at the point. A migration that ends without getting there says how it ended
 * (`ending`: its result), instead of a wait that runs out.
 */
export async function reached(
  e2e: E2eLab,
  node: string,
  point: string,
  ending?: Promise<MigrationReport>,
  withinMs = 30_000,
): Promise<void> {
  let ended: string | undefined;
  ending?.then(
    (report) => (ended = describeReport(report)),
    (error: unknown) => (ended = String(error)),
  );
  await until(`${point} on ${node}`, withinMs, async () => {
    if (existsSync(join(await failpointDir(e2e, node), `${point}.hit`))) return true;
    if (ended !== undefined)
      throw new Error(`${point} on ${node} was not reached, the migration ended before: ${ended}`);
    return false;
  });
}
export async function goOn(e2e: E2eLab, node: string, point: string): Promise<void> {
  writeFileSync(join(await failpointDir(e2e, node), `${point}.go`), "");
}
export async function fired(e2e: E2eLab, node: string, point: string): Promise<boolean> {
  return existsSync(join(await failpointDir(e2e, node), `${point}.taken`));
}
/** Lets every paused operation go on, and takes all failpoints away. */
export async function clearFailpoints(e2e: E2eLab): Promise<void> {
  for (const host of e2e.lab.hosts) {
    if (host.kind !== "node") continue;
    const dir = await failpointDir(e2e, host.name);
    const hit = readdirSync(dir).filter((name) => name.endsWith(".hit"));
    for (const name of hit) writeFileSync(join(dir, name.replace(/hit$/, "go")), "");
    if (hit.length > 0) await new Promise((resolve) => setTimeout(resolve, 100));
    rmSync(dir, { recursive: true, force: true });
  }
}

export async function until(what: string, withinMs: number, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + withinMs * patience();
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`${what}: not within ${withinMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** From here on (`add`) nothing goes between node `node` and node `at`, silently; both still reach the server. */
export async function cutLink(e2e: E2eLab, how: "add" | "delete", node: string, at: string): Promise<void> {
  const ip = e2e.lab.hosts.find((host) => host.name === node)?.ip;
  assert.ok(ip);
  const rules =
    how === "add"
      ? `table inet cut { chain in { type filter hook input priority 0; tcp dport 1024-65535 ip saddr ${ip} drop; }; chain out { type filter hook output priority 0; ip daddr ${ip} tcp sport 1024-65535 drop; }; }`
      : "delete table inet cut";
  await labRun(e2e.state, at, ["nft", rules], {});
}

export type Service = "agent" | "worker" | "temporal";

export async function servicePid(e2e: E2eLab, node: string, service: Service): Promise<number> {
  const pid = await labServicePid(e2e.state, node, service);
  assert.ok(pid, `${service} of ${node} runs`);
  return pid;
}
export async function signalService(
  e2e: E2eLab,
  node: string,
  service: Service,
  signal: NodeJS.Signals,
): Promise<void> {
  process.kill(await servicePid(e2e, node, service), signal);
}

/** Does the node's journal say that this operation's epoch got this far there? */
export async function journalSays(e2e: E2eLab, node: string, operation: string, state: string): Promise<boolean> {
  const { stdout } = await labRun(e2e.state, node, ["cat", "/var/lib/ferry/journal.jsonl"], {});
  return stdout
    .split("\n")
    .some((line) => line.includes(`"operation":"${operation}"`) && line.includes(`"state":"${state}"`));
}

/** Cancels, and waits until the source's agent knows of it: whatever stands at a failpoint goes on into the cancel. */
export async function cancelHeard(e2e: E2eLab, handle: MigrationHandle, source: string): Promise<void> {
  const log = join(e2e.state, "logs", `${source}.agent.log`);
  await handle.cancel();
  await until(`${source}'s agent has heard of the cancel`, 20_000, async () => {
    const told = readFileSync(log, "utf8")
      .split("\n")
      .some((line) => line.includes(handle.operation) && line.includes("told to take it back"));
    return told || (await journalSays(e2e, source, handle.operation, "BURNED"));
  });
}

/** Kills what matches `words` on a node; answers how many there were. */
export async function killOn(e2e: E2eLab, node: string, words: string): Promise<number> {
  const { stdout } = await labRun(e2e.state, node, ["pgrep", "-f", words], { allow: [1] });
  let killed = 0;
  for (const pid of stdout.trim().split("\n").filter(Boolean)) {
    const { stdout: threads } = await labRun(e2e.state, node, ["sh", "-c", `ls /proc/${pid}/task | wc -l`], {});
    // The page daemon's guard looks like the daemon but has one thread: it must outlive it.
    if (words.startsWith("pages/") && Number(threads) < 2) continue;
    await labRun(e2e.state, node, ["kill", "-9", pid], { allow: [1] });
    killed += 1;
  }
  return killed;
}

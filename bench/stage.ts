/**
 * Where the benchmark plays: a lab whose nodes have the peers too, each host on processors of its own, with links of a set
 * width, and memory that the machine has touched before.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, freemem, tmpdir } from "node:os";
import { join } from "node:path";
import { cgroupPath, cgroupPids } from "../deploy/lab/cgroups.js";
import { labDown, labNode, labRun, labUp, type LabState } from "../deploy/lab/index.js";
import { cacheDir } from "../deploy/setup/cache.js";
import { proxies, rootfsPath } from "../deploy/setup/rootfs.js";
import { untilNodesListed } from "../src/cli/nodes-ready.js";
import { connect, type FerryClient } from "../src/client/index.js";
import { run, type RunResult } from "../src/host/exec.js";
import type { LinkKind } from "./model.js";

/** The peers and what their scripts call; in a root file system of the benchmark's own. */
export const PEER_PACKAGES = ["podman", "netavark", "crun", "socat", "iptables"];
export const NODES = ["node-a", "node-b"] as const;
export type NodeName = (typeof NODES)[number];
export const PEER_IP = "10.77.0.200";
export const PEER_MAC = "02:fe:00:00:00:c8";
const PIPE_MAX = "/proc/sys/fs/pipe-max-size";
/** criu's own page server asks for pipes of 3.2 MiB, and fails later where it doesn't get them. */
const PIPE_BYTES = 4 << 20;
const MIB = 1 << 20;

export interface Stage {
  state: string;
  lab: LabState;
  client: FerryClient;
  /** Files of this run: the clients' samples. */
  dir: string;
  clientPid: number;
  pinning: string;
  cpus: Record<NodeName | "client", string> | undefined;
  /** Runs a program on a host of the lab, on its processors. */
  on(where: NodeName | "client", argv: readonly string[], options?: OnOptions): Promise<RunResult>;
  /** Path of a file of a node, as this machine sees it. */
  path(node: NodeName, path: string): Promise<string>;
  shape(link: LinkKind): Promise<void>;
  down(): Promise<void>;
}
export interface OnOptions {
  timeoutMs?: number;
  env?: Record<string, string>;
  allow?: number[];
}

/** Two halves of the processors for the nodes, and the last one for the client as well. */
export function cpuPlan(count: number): Record<NodeName | "client", string> | undefined {
  if (count < 2) return undefined;
  const half = count >> 1;
  const range = (from: number, to: number): string => (from === to ? String(from) : `${from}-${to}`);
  return { "node-a": range(0, half - 1), "node-b": range(half, count - 1), client: String(count - 1) };
}

async function peersRootfs(log: (line: string) => void): Promise<string> {
  const cache = cacheDir();
  log("root file system with the peers (the first time: a minute or two)");
  const mirror = process.env["FERRY_DEBIAN_MIRROR"];
  const build = [process.execPath, join(import.meta.dirname, "peers-rootfs.js")];
  await run("flock", [join(cache, "setup.lock"), ...build], {
    doing: "making the root file system with the peers",
    timeoutMs: 20 * 60_000,
    env: { ...proxies(), FERRY_CACHE: cache, ...(mirror ? { FERRY_DEBIAN_MIRROR: mirror } : {}) },
  });
  return rootfsPath(cache, PEER_PACKAGES);
}

/** `peers`: what Ferry is compared with is on the nodes, too. */
export async function openStage(options: {
  pin: boolean;
  peers: boolean;
  log: (line: string) => void;
}): Promise<Stage> {
  const rootfs = options.peers ? { rootfs: await peersRootfs(options.log) } : {};
  const dir = mkdtempSync(join(tmpdir(), "ferry-bench-"));
  const state = join(dir, "lab");
  process.env["FERRY_LAB_NODE_OPTIONS"] = "--import=/opt/ferry/dist/bench/loop-probe.js";
  const pipeBefore = readFileSync(PIPE_MAX, "utf8").trim();
  let client: FerryClient | undefined;
  const down = async (): Promise<void> => {
    await client?.close();
    await labDown({ state });
    writeFileSync(PIPE_MAX, pipeBefore);
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    writeFileSync(PIPE_MAX, String(Math.max(Number(pipeBefore), PIPE_BYTES)));
    const lab = await labUp({ state, nodes: 2, ...rootfs, log: options.log });
    if (lab.address === undefined) throw new Error("the lab has no Temporal server");
    client = await connect({ address: lab.address });
    if (!(await untilNodesListed(client, [...NODES], 20_000))) throw new Error("the nodes did not register in 20 s");
    const cpus = options.pin ? cpuPlan(availableParallelism()) : undefined;
    if (cpus !== undefined) await pin(lab, cpus);
    const prefix = (where: NodeName | "client"): string[] =>
      cpus === undefined ? [] : ["taskset", "--cpu-list", cpus[where]];
    return {
      state,
      lab,
      client,
      dir,
      clientPid: (await labNode(state, "client")).pid,
      cpus,
      pinning:
        cpus === undefined
          ? "none"
          : `source on CPU ${cpus["node-a"]}, destination on CPU ${cpus["node-b"]}, client on CPU ${cpus.client}`,
      on: (where, argv, more = {}) => labRun(state, where, [...prefix(where), ...argv], { timeoutMs: 60_000, ...more }),
      path: async (node, path) => join(`/proc/${(await labNode(state, node)).pid}/root`, path),
      async shape(link) {
        for (const node of NODES) {
          const qdisc = (words: string[], allow: number[] = []): Promise<RunResult> =>
            labRun(state, node, ["tc", "qdisc", ...words], { allow });
          await qdisc(["del", "dev", "eth0", "root"], [1, 2]);
          if (link === "1gbit") {
            await qdisc(["add", "dev", "eth0", "root", "tbf", "rate", "1gbit", "burst", "256kb", "latency", "50ms"]);
          }
        }
      },
      down,
    };
  } catch (error) {
    await down();
    throw error;
  }
}

/** Everything that runs on a node, and what it starts from now on, stays on its processors; so do we and our clients. */
async function pin(lab: LabState, cpus: Record<NodeName | "client", string>): Promise<void> {
  for (const node of NODES) {
    for (const pid of await cgroupPids(cgroupPath(lab, `${node}.services`))) {
      await run("taskset", ["--all-tasks", "--cpu-list", "--pid", cpus[node], String(pid)], { allow: [1] });
    }
  }
  await run("taskset", ["--all-tasks", "--cpu-list", "--pid", cpus.client, String(process.pid)]);
}

/**
 * Touches and frees memory: where a hypervisor takes freed memory back, the first touch afterwards runs at a tenth of the
 * speed, and whoever is measured first would pay for it.
 */
export async function warmMemory(mib: number): Promise<number> {
  const bytes = Math.min(mib * MIB, freemem() * 0.7);
  const started = performance.now();
  const touch = `const left=${Math.floor(bytes / MIB)};const kept=[];for(let i=0;i<left;i+=64)kept.push(Buffer.alloc(${64 * MIB},1))`;
  await run(process.execPath, ["-e", touch], { timeoutMs: 120_000, allow: [1] });
  return performance.now() - started;
}

/** Bytes that this node has sent over its wire so far. */
export async function wireBytesOf(stage: Stage, node: NodeName): Promise<number> {
  const text = readFileSync(`/proc/${(await labNode(stage.state, node)).pid}/net/dev`, "utf8");
  const line = text.split("\n").find((one) => one.trim().startsWith("eth0:"));
  return Number(line?.replace(/^.*:/, "").trim().split(/\s+/)[8] ?? 0);
}

/** A directory for the workloads' samples. */
export function scratch(stage: Stage, name: string): string {
  const path = join(stage.dir, "samples");
  mkdirSync(path, { recursive: true });
  return join(path, name);
}

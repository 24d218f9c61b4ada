/**
 * Looks at Ferry from outside while it moves a workload: memory and CPU of its processes on both nodes, the delay of its
 * event loops, and criu's logs, which Ferry removes when it is done.
 */
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { cgroupPath, cgroupPids } from "../deploy/lab/cgroups.js";
import { dumpMsOf, restoreMsOf } from "./criu-log.js";
import type { CriuTime, LoopDelay, Move, SideCost } from "./model.js";
import type { NodeName, Stage } from "./stage.js";
import { percentile } from "./stats.js";

/** Each look reads a line or two per process: often enough to see a peak, seldom enough not to be one. */
const LOOK_MS = 50;
const SERVICES = ["agent", "worker"] as const;

interface Watched {
  node: NodeName;
  cgroups: string[];
  cpuAtStart: number;
  peakBytes: number;
  /** criu's log of this side, kept open: it is read when criu's directory is long gone. */
  log: number | undefined;
  ops: string;
  loops: string;
}

export interface Watch {
  stop(): Promise<Pick<Move, "criu" | "cost" | "loops"> & { dumpMs?: number }>;
}

export async function watchFerry(stage: Stage, source: NodeName, destination: NodeName): Promise<Watch> {
  const open = async (node: NodeName): Promise<Watched> => {
    const cgroups = SERVICES.map((name) => cgroupPath(stage.lab, `${node}.services`, name));
    return {
      node,
      cgroups,
      cpuAtStart: await cpuMs(cgroups),
      peakBytes: 0,
      log: undefined,
      ops: await stage.path(node, "run/ferry/ops"),
      loops: await stage.path(node, "tmp/ferry-loops"),
    };
  };
  const sides = { source: await open(source), destination: await open(destination) };
  const startedAt = Date.now();
  const ended = new AbortController();
  const looking = (async () => {
    while (!ended.signal.aborted) {
      for (const [letter, side] of [
        ["s/run/dump/log", sides.source] as const,
        ["d/run/restore/log", sides.destination] as const,
      ]) {
        side.log ??= openLog(side.ops, letter);
        side.peakBytes = Math.max(side.peakBytes, await residentBytes(side.cgroups));
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  })();
  return {
    async stop() {
      ended.abort();
      await looking;
      const cost = async (side: Watched): Promise<SideCost> => ({
        cpuMs: (await cpuMs(side.cgroups)) - side.cpuAtStart,
        peakBytes: side.peakBytes,
      });
      const dumpMs = dumpMsOf(readLog(sides.source.log));
      const restoreMs = restoreMsOf(readLog(sides.destination.log));
      const criu: CriuTime | undefined =
        dumpMs === undefined || restoreMs === undefined ? undefined : { dumpMs, restoreMs };
      const agent = loopDelay([sides.source, sides.destination], "agent", startedAt);
      const worker = loopDelay([sides.source, sides.destination], "worker", startedAt);
      return {
        ...(criu === undefined ? {} : { criu }),
        ...(dumpMs === undefined ? {} : { dumpMs }),
        cost: { source: await cost(sides.source), destination: await cost(sides.destination) },
        loops: { ...(agent === undefined ? {} : { agent }), ...(worker === undefined ? {} : { worker }) },
      };
    },
  };
}

/** The log of the one operation under way, if criu has begun. */
function openLog(ops: string, below: string): number | undefined {
  try {
    for (const operation of readdirSync(ops)) {
      const path = join(ops, operation, below);
      if (existsSync(path)) return openSync(path, "r");
    }
  } catch {
    // the directory went while we looked
  }
  return undefined;
}

function readLog(descriptor: number | undefined): string {
  if (descriptor === undefined) return "";
  try {
    return readFileSync(descriptor, "utf8");
  } finally {
    closeSync(descriptor);
  }
}

/** CPU time of cgroups: the v2 tree counts it also where the controllers are v1. */
async function cpuMs(cgroups: readonly string[]): Promise<number> {
  let total = 0;
  for (const cgroup of cgroups) {
    const text = await readFile(join(cgroup, "cpu.stat"), "utf8").catch(() => "");
    total += Number(/^usage_usec (\d+)$/m.exec(text)?.[1] ?? 0) / 1000;
  }
  return total;
}

/** Memory of its own and shared with other processes, without mapped program files. What two share counts twice. */
async function residentBytes(cgroups: readonly string[]): Promise<number> {
  let total = 0;
  for (const cgroup of cgroups) {
    for (const pid of await cgroupPids(cgroup)) {
      const text = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
      for (const field of ["RssAnon", "RssShmem"]) {
        total += Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? 0) * 1024;
      }
    }
  }
  return total;
}

function loopDelay(sides: readonly Watched[], role: string, from: number): LoopDelay | undefined {
  const late: number[] = [];
  for (const side of sides) {
    if (!existsSync(side.loops)) continue;
    for (const name of readdirSync(side.loops).filter((one) => one.startsWith(`${role}-`))) {
      for (const line of readFileSync(join(side.loops, name), "utf8").split("\n")) {
        if (line === "") continue;
        const { at, lateMs } = JSON.parse(line) as { at: number; lateMs: number[] };
        if (at >= from) late.push(...lateMs);
      }
    }
  }
  return late.length === 0 ? undefined : { p99Ms: percentile(late, 0.99), maxMs: Math.max(...late) };
}

/**
 * What a blackout costs on this node besides pages: criu's dump and restore, the hand-over. A model with constants from
 * measurements (facts: criu needs 0.15 s per GiB for its page pipes), corrected by what migrations from here really took:
 * of the same workload, else of any; and to the same peer, else to any.
 */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

const BASE_MS = 180;
const PER_GIB_MS = 150;
const PER_PROCESS_MS = 6;
/** Weight of the newest measurement. */
const WEIGHT = 0.4;

/** Names that are kept: the ones that were learned of last. */
const MOST_NAMES = 256;

/** Measured fixed part by the model's. */
const scale = z.number().min(0.05).max(50);
const bandwidth = z.number().positive();
const costsSchema = z.strictObject({
  /** Of all workloads, and to all peers. */
  scale,
  bandwidthBytesPerSec: bandwidth.optional(),
  workloads: z.record(z.string(), scale).default({}),
  peers: z.record(z.string(), bandwidth).default({}),
});
export type Costs = z.infer<typeof costsSchema>;

export const fixedBlackoutMs = (scale: number, memoryBytes: number, processes: number): number =>
  scale * (BASE_MS + PER_GIB_MS * (memoryBytes / 2 ** 30) + PER_PROCESS_MS * processes);

export class CostBook {
  private readonly file: string;
  private costs: Costs;

  /** A file that is missing or not ours counts as no experience. */
  constructor(stateDir: string) {
    this.file = join(stateDir, "costs.json");
    this.costs = { scale: 1, workloads: {}, peers: {} };
    try {
      const parsed = costsSchema.safeParse(JSON.parse(readFileSync(this.file, "utf8")));
      if (parsed.success) this.costs = parsed.data;
    } catch {
      // the first migration from here
    }
  }

  /** Page traffic to this peer; undefined: nothing was ever sent from here. */
  bandwidthTo(peer: string): number | undefined {
    return this.costs.peers[peer] ?? this.costs.bandwidthBytesPerSec;
  }

  /** In milliseconds. */
  fixedMs(workload: string, memoryBytes: number, processes: number): number {
    return fixedBlackoutMs(this.costs.workloads[workload] ?? this.costs.scale, memoryBytes, processes);
  }

  /** What a migration from here took: its blackout without the time for pages. Never throws: it is only experience. */
  learn(
    { workload, peer }: { workload: string; peer: string },
    measured: { fixedMs?: number; bandwidthBytesPerSec?: number },
    memoryBytes: number,
    processes: number,
  ): void {
    const { fixedMs, bandwidthBytesPerSec } = measured;
    const next: Costs = { ...this.costs };
    if (fixedMs !== undefined && fixedMs > 0) {
      const ratio = Math.min(50, Math.max(0.05, fixedMs / fixedBlackoutMs(1, memoryBytes, processes)));
      next.scale = mix(next.scale, ratio);
      next.workloads = kept(next.workloads, workload, ratio);
    }
    if (bandwidthBytesPerSec !== undefined && bandwidthBytesPerSec > 0) {
      next.bandwidthBytesPerSec = mix(next.bandwidthBytesPerSec, bandwidthBytesPerSec);
      next.peers = kept(next.peers, peer, bandwidthBytesPerSec);
    }
    this.costs = next;
    try {
      writeFileSync(`${this.file}.new`, `${JSON.stringify(next)}\n`, { mode: 0o600 });
      renameSync(`${this.file}.new`, this.file);
    } catch {
      // a full disk: the next one learns again
    }
  }
}

const mix = (old: number | undefined, now: number): number =>
  old === undefined ? now : old * (1 - WEIGHT) + now * WEIGHT;

/** With what was learned of `name` now, at the end; the oldest go. */
function kept(all: Readonly<Record<string, number>>, name: string, now: number): Record<string, number> {
  const others = Object.entries(all).filter(([other]) => other !== name);
  return Object.fromEntries([...others.slice(1 - MOST_NAMES), [name, mix(all[name], now)]]);
}

/**
 * What a blackout costs on this node besides pages: criu's dump and restore, the hand-over. A model with constants from
 * measurements (facts: criu needs 0.15 s per GiB for its page pipes), corrected by what migrations from here really took.
 */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

const BASE_MS = 180;
const PER_GIB_MS = 150;
const PER_PROCESS_MS = 6;
/** Weight of the newest measurement. */
const WEIGHT = 0.4;

const costsSchema = z.strictObject({
  /** Measured fixed part by the model's. */
  scale: z.number().min(0.05).max(50),
  bandwidthBytesPerSec: z.number().positive().optional(),
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
    this.costs = { scale: 1 };
    try {
      const parsed = costsSchema.safeParse(JSON.parse(readFileSync(this.file, "utf8")));
      if (parsed.success) this.costs = parsed.data;
    } catch {
      // the first migration from here
    }
  }

  get bandwidthBytesPerSec(): number | undefined {
    return this.costs.bandwidthBytesPerSec;
  }

  /** In milliseconds. */
  fixedMs(memoryBytes: number, processes: number): number {
    return fixedBlackoutMs(this.costs.scale, memoryBytes, processes);
  }

  /** What a migration from here took: its blackout without the time for pages. Never throws: it is only experience. */
  learn(measured: { fixedMs?: number; bandwidthBytesPerSec?: number }, memoryBytes: number, processes: number): void {
    const mix = (old: number | undefined, now: number): number =>
      old === undefined ? now : old * (1 - WEIGHT) + now * WEIGHT;
    const { fixedMs, bandwidthBytesPerSec } = measured;
    const next: Costs = { ...this.costs };
    if (fixedMs !== undefined && fixedMs > 0) {
      const ratio = fixedMs / fixedBlackoutMs(1, memoryBytes, processes);
      next.scale = Math.min(50, Math.max(0.05, mix(this.costs.scale, ratio)));
    }
    if (bandwidthBytesPerSec !== undefined && bandwidthBytesPerSec > 0) {
      next.bandwidthBytesPerSec = mix(this.costs.bandwidthBytesPerSec, bandwidthBytesPerSec);
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

/**
 * The files of a workload that is restored. What it had here before is kept aside: a person may want to look, and it comes
 * back when the restore fails before anything ran.
 */
import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { restoreVolume } from "../../checkpoints/volume.js";
import type { CheckpointReader } from "../../store/index.js";
import type { AgentConfig } from "../config.js";
import { volumeDir } from "./node-context.js";

export class RestoredFiles {
  private readonly dir: string;
  private readonly aside: string;

  /** Under which epoch it is restored: so an attempt finds what the one before it has put aside. */
  constructor(config: AgentConfig, workload: string, epoch: number) {
    this.dir = volumeDir(config, workload);
    this.aside = join(config.stateDir, "superseded", `${workload}-before-${epoch}`);
  }

  /** Failure: they are as they were. */
  async bring(reader: CheckpointReader): Promise<void> {
    await mkdir(dirname(this.aside), { recursive: true, mode: 0o700 });
    await mkdir(dirname(this.dir), { recursive: true, mode: 0o700 });
    // Kept already: what is there now is of an attempt that was cut short.
    const first = !existsSync(this.aside);
    if (first && existsSync(this.dir)) await rename(this.dir, this.aside);
    try {
      await restoreVolume(reader, this.dir);
    } catch (error) {
      await this.putBack();
      throw error;
    }
  }

  /** What was kept aside is of no use to anybody. */
  async forget(): Promise<void> {
    await rm(this.aside, { recursive: true, force: true });
  }

  /** Nothing has run on the restored ones. Again is harmless. */
  async putBack(): Promise<void> {
    await rm(this.dir, { recursive: true, force: true });
    if (existsSync(this.aside)) await rename(this.aside, this.dir);
  }
}

/**
 * What the source moves once criu has written the images, and the tables that the destination may have made of them: the
 * plain one, and the one with the regions of pre-copy. Which it has, it says by digest. The regions are on tmpfs before
 * the destination can use them, so that a mover after this one finds the same table.
 */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { ferryError, toFailure } from "../../model/failure.js";
import { areasDigest, buildTable, readImageSet, type ImageSet } from "../images/areas.js";
import { completePagemaps } from "../images/left-out.js";
import { mendTimersIn } from "../images/timers.js";
import type { AreaTable } from "../pages/api.js";
import { RegionMap, type Region } from "../pages/regions.js";
import { auditPages } from "../pages/source.js";

const REGIONS_FILE = "regions.json";
const number = z.number().int().nonnegative();
const regionsSchema = z.strictObject({ regions: z.array(z.tuple([number, number, number, number])) });

export interface DigestedTable {
  digest: string;
  table: AreaTable;
}

/** What criu's images need before anybody else sees them; again is harmless. Throws E_IMAGE_INCOMPLETE, E_PAGES. */
export function mendImages(dir: string, pids: Readonly<Record<string, number>>): { timers: number; leftOut: number } {
  // Periodic timers that had fired, and areas that criu was told are empty.
  return { timers: mendTimersIn(dir), leftOut: completePagemaps(dir, pids) };
}

export class Cargo {
  readonly set: ImageSet;
  readonly pids: Readonly<Record<string, number>>;
  /** Every page of the tasks is in the images. */
  readonly counted: Promise<void>;
  readonly #storeDir: string;
  readonly #plain: DigestedTable;
  #staged: DigestedTable | undefined;

  /** Reads the images of tasks that are frozen; they were mended. Throws E_IMAGE_INCOMPLETE, E_PAGES. */
  constructor(imagesDir: string, storeDir: string, pids: Readonly<Record<string, number>>) {
    this.set = readImageSet(imagesDir);
    this.pids = pids;
    this.#storeDir = storeDir;
    this.#plain = { digest: this.set.areasDigest, table: this.set.table };
    const left = readRegions(storeDir);
    this.#staged = left === undefined ? undefined : this.#digested(left);
    this.counted = auditPages(this.set.tasks, pids);
    this.counted.catch(() => undefined);
  }

  /** The table to be told: with these regions, or the plain one. What is told can be found again. */
  offer(regions: RegionMap | undefined): DigestedTable {
    if (regions === undefined) return this.#plain;
    writeRegions(this.#storeDir, regions.regions);
    this.#staged = this.#digested(regions);
    return this.#staged;
  }

  /** The table that the destination has. */
  find(digest: string | null): DigestedTable | undefined {
    return [this.#plain, this.#staged].find((known) => known?.digest === digest);
  }

  #digested(regions: RegionMap): DigestedTable {
    const table = buildTable(this.set.tasks, regions);
    return { digest: areasDigest(table), table };
  }
}

function writeRegions(dir: string, regions: readonly Readonly<Region>[]): void {
  const path = join(dir, REGIONS_FILE);
  const text = JSON.stringify({
    regions: regions.map(({ vpid, start, pages, slot }) => [vpid, start, pages, slot]),
  });
  writeFileSync(`${path}.new`, text, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** What an earlier mover of this operation has told, if it came to that. */
function readRegions(dir: string): RegionMap | undefined {
  const path = join(dir, REGIONS_FILE);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  try {
    const map = new RegionMap();
    for (const [vpid, start, pages, slot] of regionsSchema.parse(JSON.parse(text)).regions) {
      map.add({ vpid, start, pages, slot });
    }
    return map;
  } catch (error) {
    throw ferryError("E_PAGES", `${path} is damaged: ${toFailure(error).message}`, {
      side: "source",
      phase: "transfer",
      remedy: "migrate again",
    });
  }
}

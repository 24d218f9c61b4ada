/**
 * From an image directory to the table of lazily restored pages (AreaTable). Both sides build it from their own copy
 * of the images and compare digests: a page that is in nobody's table would become zeros in the restored workload.
 */
import { createHash } from "node:crypto";
import { lstatSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { PAGE_SIZE, type AreaTable } from "../pages/api.js";
import { RegionMap } from "../pages/regions.js";
import {
  imageProblem,
  parseInventory,
  parseMm,
  parsePagemap,
  parsePstree,
  type MemoryArea,
  type Pagemap,
  type PagemapEntry,
} from "./criu.js";
import { isImageName } from "./names.js";

/** One TiB of lazily moved memory: more is refused, since a count in an image is not to be believed. */
export const MAX_SLOTS = 2 ** 28;
/** Pagemaps and mm images are read whole. */
const MAX_PARSED_BYTES = 512 * 1024 * 1024;

/** Memory of one task as its images tell it. */
export interface TaskMemory {
  vpid: number;
  /** In address order, not overlapping. */
  entries: PagemapEntry[];
}

export interface ImageSet {
  /** Without any region. */
  table: AreaTable;
  tasks: TaskMemory[];
  /** Pages that travel inside the images (pages-*.img). */
  presentPages: number;
  /** Digest of the table: sha256 hex over the areas in order. */
  areasDigest: string;
}

/** Size of an image. Throws when it is no plain file: a FIFO would never be read to its end, a link leads elsewhere. */
function sizeOf(dir: string, name: string): number {
  const stats = lstatSync(join(dir, name));
  if (!stats.isFile()) throw imageProblem(name, "is not a plain file");
  return stats.size;
}

function load(dir: string, name: string): Buffer {
  const size = sizeOf(dir, name);
  if (size > MAX_PARSED_BYTES) throw imageProblem(name, `is ${size} bytes, more than any workload needs`);
  return readFileSync(join(dir, name));
}

/** Every lazy entry lies in areas that criu hands to userfaultfd; else it would never be filled. */
function checkCovered(file: string, entries: readonly PagemapEntry[], areas: readonly MemoryArea[]): void {
  const sorted = areas.toSorted((a, b) => a.start - b.start);
  let index = 0;
  for (const entry of entries) {
    const end = entry.start + entry.pages * PAGE_SIZE;
    let at = entry.start;
    while (at < end) {
      while (index < sorted.length && (sorted[index]?.end ?? 0) <= at) index += 1;
      const area = sorted[index];
      if (area === undefined || area.start > at) {
        throw imageProblem(file, `pages at ${at.toString(16)} lie in no memory area of the task`);
      }
      if (entry.lazy && !area.lazy) {
        throw imageProblem(file, `lazy pages at ${at.toString(16)} lie in an area that can't be filled lazily`);
      }
      at = Math.min(area.end, end);
    }
  }
}

/**
 * Reads and cross-checks the images in `dir`: format, process tree, one pagemap per task that has memory, present pages
 * equal to the size of their pages file. Throws E_IMAGE_INCOMPLETE naming the file and what is wrong with it.
 */
export function readImageSet(dir: string): ImageSet {
  const names = new Set(readdirSync(dir).filter(isImageName));
  const need = (name: string): Buffer => {
    if (!names.has(name)) throw imageProblem(name, "is missing");
    return load(dir, name);
  };
  parseInventory("inventory.img", need("inventory.img"));
  const pids = parsePstree("pstree.img", need("pstree.img")).map((task) => task.pid);

  const pagesFiles = new Map<number, string>();
  let presentPages = 0;
  const checkPagesFile = (file: string, map: Pagemap): void => {
    const present = map.entries.reduce((sum, entry) => sum + (entry.present ? entry.pages : 0), 0);
    const other = pagesFiles.get(map.pagesId);
    if (other !== undefined) throw imageProblem(file, `shares pages-${map.pagesId}.img with ${other}`);
    pagesFiles.set(map.pagesId, file);
    const name = `pages-${map.pagesId}.img`;
    const size = names.has(name) ? sizeOf(dir, name) : 0;
    if (size !== present * PAGE_SIZE) {
      throw imageProblem(name, `has ${size} bytes, ${file} lists ${present} pages (${present * PAGE_SIZE} bytes)`);
    }
    presentPages += present;
  };

  const tasks: TaskMemory[] = [];
  for (const vpid of pids.toSorted((a, b) => a - b)) {
    const [mmName, mapName] = [`mm-${vpid}.img`, `pagemap-${vpid}.img`];
    // A zombie has neither.
    if (!names.has(mmName) && !names.has(mapName)) continue;
    const areas = parseMm(mmName, need(mmName));
    const map = parsePagemap(mapName, need(mapName));
    checkCovered(mapName, map.entries, areas);
    checkPagesFile(mapName, map);
    tasks.push({ vpid, entries: map.entries });
  }
  const known = new Set(pids.map((pid) => `pagemap-${pid}.img`));
  for (const name of names) {
    if (!name.startsWith("pagemap-") || known.has(name)) continue;
    if (!/^pagemap-shmem-[0-9]+\.img$/.test(name)) throw imageProblem(name, "belongs to no task of pstree.img");
    const map = parsePagemap(name, load(dir, name), true);
    if (map.entries.some((entry) => entry.lazy)) throw imageProblem(name, "shared memory can't be filled lazily");
    checkPagesFile(name, map);
  }
  const table = buildTable(tasks);
  return { table, tasks, presentPages, areasDigest: areasDigest(table) };
}

/**
 * The table of every lazy page of the images, each exactly once. A page that lies in a region of `regions` keeps its slot;
 * others get the slots behind the regions, in order of tasks and addresses. Slots of regions that hold no lazy page are
 * void. Pure: both movers make the same table of the same images and regions.
 */
export function buildTable(tasks: readonly TaskMemory[], regions: RegionMap = new RegionMap()): AreaTable {
  const areas: { vpid: number; start: number; pages: number; slot: number }[] = [];
  let free = regions.slots;
  let total = 0;
  for (const { vpid, entries } of tasks) {
    for (const entry of entries) {
      if (!entry.lazy) continue;
      total += entry.pages;
      if (total > MAX_SLOTS) throw imageProblem(`pagemap-${vpid}.img`, `lists more than ${MAX_SLOTS} lazy pages`);
      for (const { start, pages, slot: known } of regions.pieces(vpid, entry.start, entry.pages)) {
        const slot = known ?? free;
        if (known === undefined) free += pages;
        const last = areas.at(-1);
        const follows =
          last?.vpid === vpid && last.start + last.pages * PAGE_SIZE === start && last.slot + last.pages === slot;
        if (follows) last.pages += pages;
        else areas.push({ vpid, start, pages, slot });
      }
    }
  }
  areas.sort((a, b) => a.slot - b.slot);
  return { areas: areas.map((area) => ({ ...area, start: BigInt(area.start) })), slots: free };
}

export function areasDigest(table: AreaTable): string {
  const hash = createHash("sha256");
  for (const { vpid, start, pages, slot } of table.areas) hash.update(`${vpid} ${start} ${pages} ${slot}\n`);
  return hash.update(`${table.slots}\n`).digest("hex");
}

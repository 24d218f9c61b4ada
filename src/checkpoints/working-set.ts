/** A working set, as the store keeps it (by task and address) and as pages travel (by slot). Pure. */
import type { TouchedRun } from "../store/index.js";
import { PAGE_SIZE, type Area, type AreaTable } from "../transfer/pages/api.js";
import { areaIndex } from "../transfer/pages/source.js";

export interface Slots {
  slot: number;
  pages: number;
}

/** Neighbours that come together, since the store compresses them together. */
const GRANULE_PAGES = 16;
/** Beyond this only what was touched last counts. */
const MAX_GRANULES = 4096;

const firstPage = ({ start }: Area): number => Number(start / BigInt(PAGE_SIZE));

/** What lies around these slots, each piece once, in the order in which it was touched first. */
export function touchedRuns(table: AreaTable, touched: readonly Slots[]): TouchedRun[] {
  const seen = new Set<string>();
  const runs: TouchedRun[] = [];
  for (const { slot, pages } of touched) {
    const area = table.areas[areaIndex(table.areas, slot)];
    if (area === undefined || slot < area.slot || slot >= area.slot + area.pages) continue;
    const base = firstPage(area);
    const from = base + slot - area.slot;
    const end = Math.min(from + Math.max(1, pages), base + area.pages);
    for (let at = from - (from % GRANULE_PAGES); at < end; at += GRANULE_PAGES) {
      if (runs.length >= MAX_GRANULES) return runs;
      const page = Math.max(at, base);
      const name = `${area.vpid} ${page}`;
      if (seen.has(name)) continue;
      seen.add(name);
      runs.push({ vpid: area.vpid, page, pages: Math.min(at + GRANULE_PAGES, base + area.pages) - page });
    }
  }
  return runs;
}

/**
 * What was known, then what was touched although it was not known: what came ahead of its use left no trace this time. Too
 * much of it is what nobody touches any more, too: then only the latest is kept.
 */
export function mergeRuns(before: readonly TouchedRun[], now: readonly TouchedRun[]): TouchedRun[] {
  const name = ({ vpid, page, pages }: TouchedRun): string => `${vpid} ${page} ${pages}`;
  const known = new Set(before.map(name));
  const merged = [...before, ...now.filter((run) => !known.has(name(run)))];
  return merged.length > MAX_GRANULES ? [...now] : merged;
}

/** Where these lie in the table; what is in none of its areas is left out, and nothing comes twice. */
export function slotsOf(table: AreaTable, runs: readonly TouchedRun[]): Slots[] {
  const byTask = new Map<number, Area[]>();
  for (const area of table.areas) byTask.set(area.vpid, [...(byTask.get(area.vpid) ?? []), area]);
  for (const areas of byTask.values()) areas.sort((a, b) => (a.start < b.start ? -1 : 1));
  const taken = new Uint8Array(table.slots);
  const found: Slots[] = [];
  for (const { vpid, page, pages } of runs) {
    for (const area of areasFrom(byTask.get(vpid) ?? [], page)) {
      const base = firstPage(area);
      if (base >= page + pages) break;
      const to = area.slot + Math.min(page + pages - base, area.pages);
      for (let slot = area.slot + Math.max(0, page - base); slot < to; slot += 1) {
        if (taken[slot] === 1) continue;
        taken[slot] = 1;
        const last = found.at(-1);
        if (last !== undefined && last.slot + last.pages === slot) last.pages += 1;
        else found.push({ slot, pages: 1 });
      }
    }
  }
  return found;
}

/** Those that end behind this page, in order of addresses. */
function* areasFrom(areas: readonly Area[], page: number): Generator<Area> {
  let low = 0;
  let high = areas.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const area = areas[middle];
    if (area !== undefined && firstPage(area) + area.pages <= page) low = middle + 1;
    else high = middle;
  }
  for (let at = low; at < areas.length; at += 1) {
    const area = areas[at];
    if (area !== undefined) yield area;
  }
}

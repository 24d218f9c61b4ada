/**
 * Areas that criu was told are empty (deploy/hooks/answers.pl: it would have put every page of them into pipes that nobody
 * reads) get their pages into its pagemaps here, as criu itself would have written them: lazy, and without content. From
 * then on the images are what they always were. The tree is frozen, so this can be done again at any time.
 */
import { closeSync, existsSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PAGE, scanPages } from "../../host/pagemap.js";
import { errnoName } from "../../host/syscall.js";
import { ferryError, toFailure, type FerryError } from "../../model/failure.js";
import { framed, imageProblem, messages, naming, PE_LAZY } from "./criu.js";
import { readScalars, scalarField } from "./protobuf.js";

/** Beside the images; not an image's name, so it is not carried. */
export const LEFT_OUT_FILE = "left-out";

export interface LeftOut {
  hostPid: number;
  start: number;
  end: number;
}
export interface PageRange {
  start: number;
  pages: number;
}

const uncertain = (message: string): FerryError =>
  ferryError("E_PAGES", message, {
    side: "source",
    phase: "transfer",
    remedy: "the workload stays on its source: nothing was skipped; look whether its processes still exist",
  });

/** Strict: whoever wrote it is ours. Pure. */
export function parseLeftOut(text: string): LeftOut[] {
  const lines = text.split("\n");
  if (lines.pop() !== "") throw uncertain(`${LEFT_OUT_FILE} is cut short`);
  return lines.map((line) => {
    const match = /^(\d{1,10}) ([0-9a-f]{1,12}) ([0-9a-f]{1,12})$/.exec(line);
    const [, pid = "", from = "", to = ""] = match ?? [];
    const [start, end] = [Number.parseInt(from, 16), Number.parseInt(to, 16)];
    if (match === null || end <= start || start % PAGE !== 0 || end % PAGE !== 0) {
      throw uncertain(`${LEFT_OUT_FILE}: the line ${JSON.stringify(line.slice(0, 80))} is not one`);
    }
    return { hostPid: Number(pid), start, end };
  });
}

/** `runs` without what `others` cover. Both in order, without overlaps. Pure. */
export function without(runs: readonly PageRange[], others: readonly PageRange[]): PageRange[] {
  const left: PageRange[] = [];
  let index = 0;
  for (const { start, pages } of runs) {
    let at = start;
    const end = start + pages * PAGE;
    const put = (to: number): void => {
      if (to > at) left.push({ start: at, pages: (to - at) / PAGE });
    };
    while (index > 0 && (others[index - 1]?.start ?? 0) > start) index -= 1;
    for (; index < others.length; index += 1) {
      const other = others[index];
      if (other === undefined || other.start >= end) break;
      const otherEnd = other.start + other.pages * PAGE;
      if (otherEnd <= at) continue;
      put(other.start);
      at = otherEnd;
      if (otherEnd > end) break;
    }
    if (at < end) put(end);
  }
  return left;
}

/**
 * The pagemap with `pages` as lazy entries in `areas` (of which criu has listed no lazy page): in order, what it had kept.
 * Again is harmless. Throws E_IMAGE_INCOMPLETE. Pure.
 */
export function addLazyPages(
  file: string,
  image: Buffer,
  areas: readonly PageRange[],
  pages: readonly PageRange[],
): Buffer {
  return naming(file, () => {
    const [head, ...rest] = messages(file, image, "pagemap");
    if (head === undefined) throw imageProblem(file, "has no head");
    const inAreas = ({ start }: PageRange): boolean =>
      areas.some((area) => start >= area.start && start < area.start + area.pages * PAGE);
    const kept = rest.flatMap((raw) => {
      const entry = readScalars(raw, { 1: "start", 2: "compat", 4: "flags", 5: "pages" });
      const range = { start: entry.start ?? 0, pages: entry.pages ?? entry.compat ?? 0 };
      // what an earlier call has added
      return entry.flags === PE_LAZY && inAreas(range) ? [] : [{ ...range, raw }];
    });
    const added = without(pages, kept).map((range) => ({ ...range, raw: lazyEntry(range) }));
    const all = [...kept, ...added].toSorted((a, b) => a.start - b.start);
    // the magic words stay as they are
    return Buffer.concat([image.subarray(0, 8), ...[head, ...all.map(({ raw }) => raw)].flatMap(framed)]);
  });
}

/** As criu 4.2 writes it; the older field of the count is required, and has 32 bits. */
const lazyEntry = ({ start, pages }: PageRange): Buffer =>
  Buffer.concat([
    scalarField(1, start),
    scalarField(2, pages % 2 ** 32),
    scalarField(4, PE_LAZY),
    scalarField(5, pages),
  ]);

/** What criu would have found: pages in memory or in swap, not the shared zero page, no guards. */
function pagesOf({ hostPid, start, end }: LeftOut): PageRange[] {
  const found: PageRange[] = [];
  let pagemap: number | undefined;
  try {
    pagemap = openSync(`/proc/${hostPid}/pagemap`, "r");
    const put = (from: number, pages: number): void => {
      const last = found.at(-1);
      if (last !== undefined && last.start + last.pages * PAGE === from) last.pages += pages;
      else found.push({ start: from, pages });
    };
    const failed = scanPages(pagemap, start, end, { written: false, protect: false }, put);
    if (failed < 0) throw new Error(errnoName(failed));
    return found;
  } catch (error) {
    throw uncertain(`the pages of process ${hostPid} can't be listed: ${toFailure(error).message}`);
  } finally {
    if (pagemap !== undefined) closeSync(pagemap);
  }
}

/**
 * Completes the pagemaps in `dir`, whose tasks are frozen; `pids`: host pid by pid inside. Answers how many areas those were.
 * Throws E_PAGES, E_IMAGE_INCOMPLETE.
 */
export function completePagemaps(dir: string, pids: Readonly<Record<string, number>>): number {
  const path = join(dir, LEFT_OUT_FILE);
  if (!existsSync(path)) return 0;
  const areas = parseLeftOut(readFileSync(path, "utf8"));
  const inside = new Map(Object.entries(pids).map(([vpid, hostPid]) => [hostPid, vpid]));
  for (const hostPid of new Set(areas.map((area) => area.hostPid))) {
    const mine = areas.filter((area) => area.hostPid === hostPid);
    const vpid = inside.get(hostPid);
    if (vpid === undefined) throw uncertain(`process ${hostPid} has pages to move, but is no task of the workload`);
    const file = `pagemap-${vpid}.img`;
    const ordered = mine.toSorted((a, b) => a.start - b.start);
    const pages = ordered.flatMap(pagesOf);
    const ranges = ordered.map(({ start, end }) => ({ start, pages: (end - start) / PAGE }));
    const image = addLazyPages(file, readFileSync(join(dir, file)), ranges, pages);
    // Not an image's name: a half-written one is never sent.
    writeFileSync(join(dir, `${file}.whole`), image, { mode: 0o600 });
    renameSync(join(dir, `${file}.whole`), join(dir, file));
  }
  return areas.length;
}

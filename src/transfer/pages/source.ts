/**
 * Reading the memory of a frozen tree, from outside, by slot. The tree does not change while it is frozen, so a read
 * can be repeated at any time, by any process: that is what makes a killed source mover harmless.
 */
import { close, openSync, read, readFileSync, readSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { ferryError, toFailure, type FerryError } from "../../model/failure.js";
import { parseKeyed } from "../../host/procfs.js";
import { PAGE_SIZE, type Area, type AreaTable } from "./api.js";

const unreadable = (message: string): FerryError =>
  ferryError("E_PAGES", message, {
    side: "source",
    phase: "transfer",
    remedy: "the workload stays on its source: nothing was skipped; look whether its processes still exist",
  });

interface Task {
  vpid: number;
  hostPid: number;
  fd: number;
}

export interface PageReader {
  /** What it reads: of slots outside of these there is nothing. */
  readonly areas: readonly Pick<Area, "slot" | "pages">[];
  /** Fills `into` with `pages` pages from `slot` on, across areas. Rejects (E_PAGES) when any byte can't be read. */
  read(slot: number, pages: number, into: Buffer): Promise<void>;
}

export interface TreeReader extends PageReader {
  /** The same on this thread, for a few pages that can't wait for another one. Throws. */
  readNow(slot: number, pages: number, into: Buffer): void;
  close(): void;
}

/** Index of the area that owns `slot`. */
export function areaIndex(areas: readonly Area[], slot: number): number {
  let low = 0;
  let high = areas.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((areas[middle]?.slot ?? 0) <= slot) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** The last pid in NSpid is the one that the task itself sees. Throws E_PAGES when the process is not this task. */
export function checkPid(vpid: number, hostPid: number): void {
  let text: string;
  try {
    text = readFileSync(`/proc/${hostPid}/status`, "utf8");
  } catch {
    throw unreadable(`task ${vpid}: its process ${hostPid} does not exist any more`);
  }
  const seen = parseKeyed(text).get("NSpid")?.split(/\s+/).at(-1);
  if (seen !== String(vpid))
    throw unreadable(`process ${hostPid} is task ${seen ?? "?"} of its namespace, not ${vpid}`);
}

/** Opens the memory of every task that owns an area. `pids`: host pid by pid inside. Throws E_PAGES. */
export function openTree(table: AreaTable, pids: Readonly<Record<string, number>>): TreeReader {
  const tasks = new Map<number, Task>();
  try {
    for (const { vpid } of table.areas) {
      if (tasks.has(vpid)) continue;
      const hostPid = pids[String(vpid)];
      if (hostPid === undefined) throw unreadable(`task ${vpid} has pages to move, but its process is not known`);
      checkPid(vpid, hostPid);
      tasks.set(vpid, { vpid, hostPid, fd: openSync(`/proc/${hostPid}/mem`, "r") });
    }
  } catch (error) {
    for (const task of tasks.values()) close(task.fd);
    throw error instanceof Error && "data" in error ? error : unreadable(toFailure(error).message);
  }
  const where = (task: Task, bytes: number, position: bigint): string =>
    `${bytes / PAGE_SIZE} pages at ${position.toString(16)} of task ${task.vpid} (process ${task.hostPid})`;
  const readAt = (task: Task, into: Buffer, offset: number, bytes: number, position: bigint): Promise<void> =>
    new Promise((resolve, reject) => {
      read(task.fd, into, offset, bytes, position, (error, got) => {
        if (error !== null) reject(unreadable(`${where(task, bytes, position)} can't be read: ${error.message}`));
        else if (got === bytes) resolve();
        // The kernel stops at a page that it can't give; asking for the rest gives its error.
        else if (got > 0) readAt(task, into, offset + got, bytes - got, position + BigInt(got)).then(resolve, reject);
        else reject(unreadable(`${where(task, bytes, position)}: nothing is there`));
      });
    });
  /** The parts of a run of slots, area by area. */
  function* parts(
    slot: number,
    pages: number,
  ): Generator<{ task: Task; offset: number; bytes: number; position: bigint }, undefined> {
    let index = areaIndex(table.areas, slot);
    for (let at = slot; at < slot + pages; index += 1) {
      const area = table.areas[index];
      const task = area === undefined ? undefined : tasks.get(area.vpid);
      if (area === undefined || task === undefined || at < area.slot) throw unreadable(`slot ${at} is in no area`);
      const count = Math.min(area.slot + area.pages, slot + pages) - at;
      const position = area.start + BigInt((at - area.slot) * PAGE_SIZE);
      yield { task, offset: (at - slot) * PAGE_SIZE, bytes: count * PAGE_SIZE, position };
      at += count;
    }
    return undefined;
  }
  return {
    areas: table.areas,
    async read(slot, pages, into) {
      const reads: Promise<void>[] = [];
      for (const { task, offset, bytes, position } of parts(slot, pages)) {
        reads.push(readAt(task, into, offset, bytes, position));
      }
      await Promise.all(reads);
    },
    readNow(slot, pages, into) {
      for (const { task, offset, bytes, position } of parts(slot, pages)) {
        for (let done = 0; done < bytes;) {
          let got: number;
          try {
            got = readSync(task.fd, into, offset + done, bytes - done, position + BigInt(done));
          } catch (error) {
            throw unreadable(`${where(task, bytes, position)} can't be read: ${toFailure(error).message}`);
          }
          if (got === 0) throw unreadable(`${where(task, bytes, position)}: nothing is there`);
          done += got;
        }
      }
    },
    close() {
      for (const task of tasks.values()) close(task.fd);
    },
  };
}

const ZERO_PAGE = Buffer.alloc(PAGE_SIZE);

/** Lengths of runs in the first `pages` pages: with content, zero, with content, zero, ... (the first may be 0). */
export function zeroRuns(buffer: Buffer, pages: number): number[] {
  const words = new Int32Array(buffer.buffer, buffer.byteOffset, (pages * PAGE_SIZE) / 4);
  const runs: number[] = [];
  let zero = false;
  let from = 0;
  for (let page = 0; page < pages; page += 1) {
    const word = page * (PAGE_SIZE / 4);
    // Most pages say at a few places that they are not zero; only the others are compared whole.
    const isZero =
      words[word] === 0 &&
      words[word + 511] === 0 &&
      words[word + 1023] === 0 &&
      buffer.compare(ZERO_PAGE, 0, PAGE_SIZE, page * PAGE_SIZE, (page + 1) * PAGE_SIZE) === 0;
    if (isZero === zero) continue;
    runs.push(page - from);
    from = page;
    zero = isZero;
  }
  runs.push(pages - from);
  return runs;
}

/** Entries of one task's pagemap image: what criu has listed, lazy or not. */
export interface ListedPages {
  vpid: number;
  entries: readonly { start: number; pages: number }[];
}

/**
 * Holds what criu listed against what the kernel counts: every anonymous page of every private area, in memory or in
 * swap, must be in the image, else it would come back as zeros. Reads smaps, so costs a walk of the page tables.
 * Rejects E_PAGES naming the area.
 */
export async function auditPages(tasks: readonly ListedPages[], pids: Readonly<Record<string, number>>): Promise<void> {
  await Promise.all(
    tasks.map(async ({ vpid, entries }) => {
      const hostPid = pids[String(vpid)];
      if (hostPid === undefined) throw unreadable(`task ${vpid} has memory, but its process is not known`);
      let text: string;
      try {
        text = await readFile(`/proc/${hostPid}/smaps`, "utf8");
      } catch (error) {
        throw unreadable(
          `the memory of task ${vpid} (process ${hostPid}) can't be counted: ${toFailure(error).message}`,
        );
      }
      let index = 0;
      for (const area of parseSmaps(text)) {
        if (!area.private || area.pages === 0) continue;
        let listed = 0;
        for (; index < entries.length; index += 1) {
          const entry = entries[index];
          if (entry === undefined || entry.start >= area.end) break;
          const end = entry.start + entry.pages * PAGE_SIZE;
          const overlap = Math.min(end, area.end) - Math.max(entry.start, area.start);
          if (overlap > 0) listed += overlap / PAGE_SIZE;
          // An entry may go on in the next area.
          if (end > area.end) break;
        }
        if (listed < area.pages) {
          throw unreadable(
            `task ${vpid}: area ${area.start.toString(16)}-${area.end.toString(16)} has ${area.pages} pages of its own, ` +
              `criu's image lists ${listed}: ${area.pages - listed} would be lost`,
          );
        }
      }
    }),
  );
}

interface SmapsArea {
  start: number;
  end: number;
  private: boolean;
  /** Anonymous pages in memory and in swap that must not be lost. */
  pages: number;
}

/** Areas of /proc/<pid>/smaps in address order, those of user space. */
export function parseSmaps(text: string): SmapsArea[] {
  const areas: SmapsArea[] = [];
  let current: SmapsArea | undefined;
  for (const line of text.split("\n")) {
    const head = /^([0-9a-f]{1,12})-([0-9a-f]{1,12}) ..([-x])([sp]) /.exec(line);
    if (head !== null) {
      current = {
        start: Number.parseInt(head[1] ?? "", 16),
        end: Number.parseInt(head[2] ?? "", 16),
        private: head[4] === "p",
        pages: 0,
      };
      areas.push(current);
    } else if (current !== undefined) {
      const count = /^(?:Anonymous|Swap): +([0-9]+) kB$/.exec(line);
      if (count !== null) current.pages += (Number(count[1]) * 1024) / PAGE_SIZE;
      // MAP_DROPPABLE: the kernel itself may drop these pages at any time, criu keeps the area and not what is in it. glibc
      // has the state of getrandom() there as soon as there are threads, and begins anew with it.
      else if (/^VmFlags:.* dp(?: |$)/.test(line)) current.pages = 0;
      else if (/^[0-9a-f]{13,16}-/.test(line)) current = undefined;
    }
  }
  return areas;
}

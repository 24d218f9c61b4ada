/** /proc/<pid>/pagemap: which pages of a task are there, which were written. Calls block; the caller divides long ranges. */
import { readSync } from "node:fs";
import { EINVAL, ENOTTY, ioctl, mapAnonymous, type Mapping } from "./syscall.js";

export const PAGE = 4096;
/** _IOWR('f', 16, struct pm_scan_arg) of linux/fs.h. */
const PAGEMAP_SCAN = 0xc0606610;
const WP_MATCHING = 1;
const CHECK_WPASYNC = 2;
const WPALLOWED = 1;
const WRITTEN = 2;
const PRESENT = 8;
const SWAPPED = 16;
const PFNZERO = 32;
/** Guard pages (MADV_GUARD_INSTALL) look swapped; the category is there since Linux 6.15, the guards since 6.13. */
const GUARD = 256;
/** Regions that one call returns at most: scattered single pages of 64 MiB. */
const REGIONS = 8192;
const REGION_BYTES = 24;

/** Pages from an address on. */
export type Found = (start: number, pages: number) => void;

let memory: Mapping | undefined;
const scratch = (): Mapping => (memory ??= mapAnonymous(PAGE + REGIONS * REGION_BYTES));
let guard: number | undefined;

export interface ScanWish {
  /** Only pages that were written since they were write-protected; else every page. */
  written: boolean;
  /** Write-protects what is found, in the same instant. -EPERM when the range is not (wholly) registered for that. */
  protect: boolean;
  /** -EPERM as above, without protecting anything. */
  check?: boolean;
}

/**
 * Present and swapped pages of a range, never the shared zero page, in order. `fd`: an open pagemap. 0, or a negative errno: what
 * was found before may be incomplete then, and some of what was not told may be write-protected already.
 */
export function scanPages(fd: number, start: number, end: number, wish: ScanWish, found: Found): number {
  const { address, bytes } = scratch();
  const put = (at: number, value: number): void => {
    bytes.writeUInt32LE(value % 2 ** 32, at);
    bytes.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
  };
  const get = (at: number): number => bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 2 ** 32;
  for (let at = start; at < end;) {
    const not = PFNZERO | (guard ?? GUARD);
    bytes.fill(0, 0, 96);
    put(0, 96);
    put(8, wish.protect ? WP_MATCHING | CHECK_WPASYNC : wish.check === true ? CHECK_WPASYNC : 0);
    put(16, at);
    put(24, end);
    put(40, address + PAGE);
    put(48, REGIONS);
    put(64, not);
    put(72, not | (wish.written ? WRITTEN : 0));
    put(80, PRESENT | SWAPPED);
    put(88, WPALLOWED);
    const regions = ioctl(fd, PAGEMAP_SCAN, address);
    if (regions === -EINVAL && guard === undefined) {
      guard = 0;
      continue;
    }
    if (regions < 0) return regions;
    guard ??= GUARD;
    for (let index = 0, region = PAGE; index < regions; index++, region += REGION_BYTES) {
      const from = get(region);
      found(from, (get(region + 8) - from) / PAGE);
    }
    const next = get(32);
    if (next <= at) break;
    at = next;
  }
  return 0;
}

/** _IOWR('f', 17, struct procmap_query) of linux/fs.h, since Linux 6.11. */
const PROCMAP_QUERY = 0xc0686611;
const PROCMAP_QUERY_BYTES = 104;
let queries = true;

/**
 * Is there one area from `start` to `end` exactly, now? `fd`: an open /proc/PID/maps. undefined: this kernel can't say it without
 * writing all areas out as text.
 */
export function isArea(fd: number, start: number, end: number): boolean | undefined {
  if (!queries) return undefined;
  const { address, bytes } = scratch();
  bytes.fill(0, 0, PROCMAP_QUERY_BYTES);
  bytes.writeBigUInt64LE(BigInt(PROCMAP_QUERY_BYTES), 0);
  bytes.writeBigUInt64LE(BigInt(start), 16);
  const failed = ioctl(fd, PROCMAP_QUERY, address);
  if (failed === -ENOTTY) {
    queries = false;
    return undefined;
  }
  if (failed < 0) return false;
  return bytes.readBigUInt64LE(24) === BigInt(start) && bytes.readBigUInt64LE(32) === BigInt(end);
}

const ENTRY = 8;
/** Bits 63, 62 and 55 of an entry, in its upper half. */
const ENTRY_PRESENT = 2 ** 31;
const ENTRY_SWAPPED = 2 ** 30;
const ENTRY_SOFT_DIRTY = 2 ** 23;
const PFN_HIGH = 2 ** 23 - 1;
/** No frame has this number. */
export const NO_ZERO_PAGE = -1;

let zeroPage: number | undefined;

/** Number of the shared zero page's frame; NO_ZERO_PAGE when the kernel does not tell us. */
export function zeroPageFrame(ownPagemap: number): number {
  if (zeroPage !== undefined) return zeroPage;
  const { address, bytes } = mapAnonymous(PAGE);
  const touched = bytes.readUInt8(0);
  const entry = Buffer.alloc(ENTRY);
  readSync(ownPagemap, entry, 0, ENTRY, (address / PAGE) * ENTRY);
  const frame = frameOf(entry, 0);
  return (zeroPage = touched !== 0 || frame === 0 ? NO_ZERO_PAGE : frame);
}

const frameOf = (entries: Buffer, at: number): number =>
  (entries.readUInt32LE(at + 4) & PFN_HIGH) * 2 ** 32 + entries.readUInt32LE(at);

/** Pages of the entries in `entries`, of which the first is for the page at `start`. Pure. */
export function pagesOfEntries(
  entries: Buffer,
  start: number,
  zeroFrame: number,
  softDirtyOnly: boolean,
  found: Found,
): void {
  let from = -1;
  const count = Math.floor(entries.length / ENTRY);
  for (let index = 0; index <= count; index++) {
    const at = index * ENTRY;
    const high = index < count ? entries.readUInt32LE(at + 4) : 0;
    const there =
      high >= ENTRY_SWAPPED &&
      (!softDirtyOnly || (high & ENTRY_SOFT_DIRTY) !== 0) &&
      !(high >= ENTRY_PRESENT && frameOf(entries, at) === zeroFrame);
    if (there && from < 0) from = index;
    if (!there && from >= 0) {
      found(start + from * PAGE, index - from);
      from = -1;
    }
  }
}

const ENTRIES_AT_ONCE = 64 * 1024;

/** As `scanPages`, by reading the table: on every kernel, 8 bytes a page, also where no page is. Throws what read throws. */
export function readPages(fd: number, start: number, end: number, zeroFrame: number, found: Found): void {
  const entries = Buffer.allocUnsafe(Math.min(ENTRIES_AT_ONCE, (end - start) / PAGE) * ENTRY);
  for (let at = start; at < end;) {
    const wanted = Math.min(entries.length, ((end - at) / PAGE) * ENTRY);
    const got = readSync(fd, entries, 0, wanted, (at / PAGE) * ENTRY);
    if (got < ENTRY) return;
    pagesOfEntries(entries.subarray(0, got), at, zeroFrame, false, found);
    at += Math.floor(got / ENTRY) * PAGE;
  }
}

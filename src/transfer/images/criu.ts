/**
 * Strict parsers of the criu images that Ferry must understand: inventory, pstree, pagemap-*, mm-*. Format: u32 magic
 * words, then messages as u32 length + protobuf (criu: magic.h, protobuf.c, images/*.proto). Everything else in an
 * image directory is carried, digested and not looked into.
 */
import { ferryError, type FerryError } from "../../model/failure.js";
import { collectNumbers, ProtobufError, readMessage, readScalars, varintNumber } from "./protobuf.js";

const COMMON_MAGIC = 0x54564319;
export const MAGIC = {
  inventory: 0x58313116,
  pstree: 0x50273030,
  pagemap: 0x56084025,
  mm: 0x57492820,
  files: 0x56303138,
  utsns: 0x54473203,
  core: 0x55053847,
} as const;

/** Largest single message: an mm of 65,530 areas is about 3 MB. */
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;
/** More messages in one image than any tree has tasks, areas or runs of pages: a message of nothing costs four bytes. */
export const MAX_MESSAGES = 4 * 1024 * 1024;
/** Flags of a pagemap entry. */
const PE_PARENT = 1;
export const PE_LAZY = 2;
const PE_PRESENT = 4;
/** The end of user addresses with four-level page tables. */
const USER_END = 2 ** 47;
const PAGE = 4096;

export const imageProblem = (file: string, what: string): FerryError =>
  ferryError("E_IMAGE_INCOMPLETE", `criu image ${file}: ${what}`, {
    phase: "transfer",
    remedy: "the workload stays on its source; look at criu's dump log there and migrate again",
  });

/** Runs a parser; what it finds wrong is reported with the file's name. */
export function naming<T>(file: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (error instanceof ProtobufError) throw imageProblem(file, `is not well formed: ${error.message}`);
    throw error;
  }
}

export function messages(file: string, image: Buffer, kind: keyof typeof MAGIC): Buffer[] {
  let at = 0;
  const word = (what: string): number => {
    if (at + 4 > image.length) throw imageProblem(file, `ends at byte ${image.length}, within ${what}`);
    at += 4;
    return image.readUInt32LE(at - 4);
  };
  // The inventory says which format the others have, so it alone has no common magic.
  if (kind !== "inventory" && word("the common magic") !== COMMON_MAGIC) throw imageProblem(file, "wrong common magic");
  if (word("the magic") !== MAGIC[kind]) throw imageProblem(file, `wrong magic, not a ${kind} image`);
  const found: Buffer[] = [];
  while (at < image.length) {
    const length = word("a message length");
    if (found.length >= MAX_MESSAGES) throw imageProblem(file, `holds more than ${MAX_MESSAGES} messages`);
    if (length > MAX_MESSAGE_BYTES) throw imageProblem(file, `a message of ${length} bytes is refused`);
    if (at + length > image.length) throw imageProblem(file, `is cut short: message of ${length} bytes at byte ${at}`);
    found.push(image.subarray(at, at + length));
    at += length;
  }
  return found;
}

/** A message as it stands in an image, behind its length. */
export function framed(message: Buffer): Buffer[] {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(message.length);
  return [length, message];
}

/** Checks that the set is of image format 1.1 (`img_version` 2), the only one criu has written since 2015. */
export function parseInventory(file: string, image: Buffer): { version: number } {
  return naming(file, () => {
    const [first, ...rest] = messages(file, image, "inventory");
    if (first === undefined || rest.length > 0) throw imageProblem(file, "must hold one message");
    const { version } = readScalars(first, { 1: "version" });
    if (version !== 2) throw imageProblem(file, `image format ${version ?? "unknown"} is not known (2 is)`);
    return { version };
  });
}

/** One task of the tree: pids as seen inside the namespace. */
export interface TreeTask {
  pid: number;
  ppid: number;
  threads: number[];
}

export function parsePstree(file: string, image: Buffer): TreeTask[] {
  return naming(file, () => {
    const seen = new Set<number>();
    const tasks = messages(file, image, "pstree").map((message) => {
      const { pid, ppid } = readScalars(message, { 1: "pid", 2: "ppid" });
      const threads: number[] = [];
      readMessage(message, (field) => {
        if (field.number === 5) collectNumbers(field, threads);
      });
      if (pid === undefined || ppid === undefined) throw imageProblem(file, "a task without pid or parent");
      if (pid < 1 || pid > 0x7fffffff) throw imageProblem(file, `pid ${pid}`);
      if (seen.has(pid)) throw imageProblem(file, `pid ${pid} is there twice`);
      seen.add(pid);
      return { pid, ppid, threads };
    });
    if (tasks.length === 0) throw imageProblem(file, "holds no task");
    return tasks;
  });
}

/** One run of pages of a task or shared memory segment, in address order. */
export interface PagemapEntry {
  start: number;
  pages: number;
  lazy: boolean;
  present: boolean;
}
export interface Pagemap {
  /** Number in `pages-<id>.img`, which holds the present pages. */
  pagesId: number;
  entries: PagemapEntry[];
}

/** `shared`: entries of pagemap-shmem count from the start of the segment, so address 0 is fine there. */
export function parsePagemap(file: string, image: Buffer, shared = false): Pagemap {
  return naming(file, () => {
    const [head, ...rest] = messages(file, image, "pagemap");
    if (head === undefined) throw imageProblem(file, "has no head");
    const { pagesId } = readScalars(head, { 1: "pagesId" });
    if (pagesId === undefined) throw imageProblem(file, "does not name its pages file");
    let end = shared ? 0 : PAGE;
    const entries = rest.map((message) => {
      const entry = readScalars(message, { 1: "start", 2: "compat", 3: "inParent", 4: "flags", 5: "pages" });
      const start = entry.start;
      const pages = entry.pages ?? entry.compat;
      if (start === undefined || pages === undefined) throw imageProblem(file, "an entry without address or count");
      const flags = (entry.flags ?? PE_PRESENT) | (entry.inParent ? PE_PARENT : 0);
      const where = `entry ${start.toString(16)} (${pages} pages)`;
      if (pages < 1 || start % PAGE !== 0) throw imageProblem(file, `${where} is empty or not aligned`);
      if (start < end) throw imageProblem(file, `${where} overlaps or precedes the entry before it`);
      end = start + pages * PAGE;
      if (end > USER_END) throw imageProblem(file, `${where} ends above the addresses of user space`);
      if ((flags & PE_PARENT) !== 0) throw imageProblem(file, `${where} lies in a parent image: chains are not taken`);
      if ((flags & ~(PE_LAZY | PE_PRESENT)) !== 0 || flags === 0)
        throw imageProblem(file, `${where} has flags ${flags}`);
      return { start, pages, lazy: (flags & PE_LAZY) !== 0, present: (flags & PE_PRESENT) !== 0 };
    });
    return { pagesId, entries };
  });
}

const MAP_PRIVATE = 0x02;
const MAP_ANONYMOUS = 0x20;
const MAP_LOCKED = 0x2000;
const MAP_HUGETLB = 0x40000;
/** Of the status of an area (criu: image.h). */
const AREA_GUARD = 1 << 16;

/** One memory area of a task. `lazy`: criu may restore it through userfaultfd (private, anonymous, not locked, no huge pages). */
export interface MemoryArea {
  start: number;
  end: number;
  lazy: boolean;
}

export function parseMm(file: string, image: Buffer): MemoryArea[] {
  return naming(file, () => {
    const [mm, ...rest] = messages(file, image, "mm");
    if (mm === undefined || rest.length > 0) throw imageProblem(file, "must hold one message");
    const areas: MemoryArea[] = [];
    readMessage(mm, (field) => {
      if (field.number !== 14) return;
      if (field.bytes === undefined) throw imageProblem(file, "an area that is not a message");
      const { start, end, flags, status } = readAreaScalars(file, field.bytes);
      const where = `area ${start.toString(16)}-${end.toString(16)}`;
      if (end <= start || start % PAGE !== 0 || end % PAGE !== 0) {
        throw imageProblem(file, `${where} is empty or not aligned`);
      }
      // Guards (MADV_GUARD_INSTALL) are listed behind the areas that they lie in, as if they were some.
      if ((status & AREA_GUARD) !== 0) return;
      const wanted = MAP_PRIVATE | MAP_ANONYMOUS;
      const lazy = (flags & wanted) === wanted && (flags & (MAP_LOCKED | MAP_HUGETLB)) === 0;
      areas.push({ start, end, lazy });
    });
    const ordered = areas.toSorted((a, b) => a.start - b.start);
    for (const [index, { start }] of ordered.entries()) {
      const before = ordered[index - 1];
      if (before !== undefined && start < before.end)
        throw imageProblem(file, `areas overlap at ${start.toString(16)}`);
    }
    return areas;
  });
}

interface AreaScalars {
  start: number;
  end: number;
  flags: number;
  status: number;
}

function readAreaScalars(file: string, message: Buffer): AreaScalars {
  // [vsyscall] lies at the very top of the address space, above 2^53: it is never lazy, and left out.
  let start: number | undefined;
  let end: number | undefined;
  let flags: number | undefined;
  let status = 0;
  let top = false;
  readMessage(message, (field) => {
    if (field.number !== 1 && field.number !== 2 && field.number !== 6 && field.number !== 7) return;
    if (field.varint === undefined) throw new ProtobufError(`field ${field.number} of an area is not a number`);
    if (field.varint.end - field.varint.start === 10) {
      top = true;
      return;
    }
    const value = varintNumber(field.varint);
    if (field.number === 1) start = value;
    else if (field.number === 2) end = value;
    else if (field.number === 6) flags = value;
    else status = value;
  });
  if (top) return { start: USER_END, end: USER_END + PAGE, flags: 0, status };
  if (start === undefined || end === undefined || flags === undefined) {
    throw imageProblem(file, "an area without start, end or flags");
  }
  return { start, end, flags, status };
}

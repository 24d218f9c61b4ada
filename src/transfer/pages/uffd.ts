/**
 * userfaultfd: its messages and ioctls (linux/userfaultfd.h). Sizes and places are in pages; see ranges.ts.
 */
import { EAGAIN, EINVAL, ioctl, mapAnonymous, type Mapping } from "../../host/syscall.js";
import { PAGE_SIZE } from "./api.js";

/** Bytes of one message. */
export const MESSAGE = 32;

const UFFDIO_WAKE = 0x8010aa02;
const UFFDIO_COPY = 0xc028aa03;
const UFFDIO_ZEROPAGE = 0xc020aa04;
const UFFDIO_WRITEPROTECT = 0xc018aa06;
const FLAG_WRITE_PROTECT = 2n;

/** What the kernel tells of a task's address space. Places and lengths in pages. */
export type Message =
  | { kind: "fault"; page: number; writeProtected: boolean }
  | { kind: "fork"; fd: number }
  | { kind: "remap"; from: number; to: number; pages: number }
  | { kind: "remove"; start: number; pages: number }
  | { kind: "unmap"; start: number; pages: number };

const pageAt = (data: Buffer, at: number): number => Number(data.readBigUInt64LE(at) / BigInt(PAGE_SIZE));
/** Lengths are rounded up: a part of a page is a page. */
const pagesAt = (data: Buffer, at: number): number =>
  Number((data.readBigUInt64LE(at) + BigInt(PAGE_SIZE - 1)) / BigInt(PAGE_SIZE));

/** undefined: a kind of message that is not known. */
export function parseMessage(data: Buffer, at: number): Message | undefined {
  const event = data[at] ?? 0;
  switch (event) {
    case 0x12:
      return {
        kind: "fault",
        page: pageAt(data, at + 16),
        writeProtected: (data.readBigUInt64LE(at + 8) & FLAG_WRITE_PROTECT) !== 0n,
      };
    case 0x13:
      return { kind: "fork", fd: data.readUInt32LE(at + 8) };
    case 0x14:
      return { kind: "remap", from: pageAt(data, at + 8), to: pageAt(data, at + 16), pages: pagesAt(data, at + 24) };
    case 0x15:
    case 0x16: {
      const start = pageAt(data, at + 8);
      return { kind: event === 0x15 ? "remove" : "unmap", start, pages: pagesAt(data, at + 16) - start };
    }
    default:
      return undefined;
  }
}

export interface Placed {
  /** Pages that are in place now. */
  pages: number;
  /** 0, or the errno that stopped it. */
  errno: number;
}

let memory: Mapping | undefined;
/** Argument of the ioctls, at a fixed address. */
function scratch(): Mapping {
  memory ??= mapAnonymous(4096);
  return memory;
}

function place(fd: number, request: number, answerAt: number, { address, bytes }: Mapping): Placed {
  bytes.writeBigInt64LE(0n, answerAt);
  const failed = ioctl(fd, request, address);
  const answer = Number(bytes.readBigInt64LE(answerAt));
  const pages = answer > 0 ? answer / PAGE_SIZE : 0;
  if (failed === 0) return { pages, errno: 0 };
  // a part was placed: the kernel says EAGAIN, and the next try names the real obstacle
  return { pages, errno: pages > 0 && -failed === EAGAIN ? 0 : -failed };
}

/** UFFDIO_COPY of `pages` pages at `source` (an address) to page `start`; wakes who waits there. */
export function copyPages(fd: number, start: number, source: number, pages: number): Placed {
  const arg = scratch();
  arg.bytes.writeBigUInt64LE(BigInt(start) * BigInt(PAGE_SIZE), 0);
  arg.bytes.writeBigUInt64LE(BigInt(source), 8);
  arg.bytes.writeBigUInt64LE(BigInt(pages * PAGE_SIZE), 16);
  arg.bytes.writeBigUInt64LE(0n, 24);
  return place(fd, UFFDIO_COPY, 32, arg);
}

function range(start: number, pages: number): Mapping {
  const arg = scratch();
  arg.bytes.writeBigUInt64LE(BigInt(start) * BigInt(PAGE_SIZE), 0);
  arg.bytes.writeBigUInt64LE(BigInt(pages) * BigInt(PAGE_SIZE), 8);
  arg.bytes.writeBigUInt64LE(0n, 16);
  return arg;
}

/** UFFDIO_ZEROPAGE; wakes who waits there. */
export const zeroPages = (fd: number, start: number, pages: number): Placed =>
  place(fd, UFFDIO_ZEROPAGE, 24, range(start, pages));

/** Let every thread that waits in the range try again. Needs no mapping there. 0 or a negative errno. */
export const wake = (fd: number, start: number, pages: number): number =>
  ioctl(fd, UFFDIO_WAKE, range(start, pages).address);

/** Lift a write protection. */
export const unprotect = (fd: number, start: number, pages: number): number =>
  ioctl(fd, UFFDIO_WRITEPROTECT, range(start, pages).address);

/** Let every thread that waits anywhere in the task try again (a retry needs kernel 5.7). 0 or a negative errno. */
export function wakeAll(fd: number): number {
  const first = 16; // mmap_min_addr
  let failed = 0;
  // the address space is as wide as the kernel takes it: 57, 52, 48 or 47 bits, with or without a guard page at its end
  for (const bits of [57, 56, 52, 48, 47]) {
    for (const guard of [0, 1]) {
      failed = wake(fd, first, 2 ** (bits - 12) - guard - first);
      if (failed !== -EINVAL) return failed;
    }
  }
  return failed;
}

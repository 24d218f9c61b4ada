/**
 * What the running kernel can do for Ferry, found out by trying it on this very process: never by version alone.
 * Each probe takes well under a millisecond and leaves nothing behind.
 */
import { closeSync, openSync, readSync } from "node:fs";
import { arch } from "node:os";
import koffi from "koffi";

const USERFAULTFD: Record<string, number | undefined> = { x64: 323, arm64: 282 };
const O_CLOEXEC_NONBLOCK = 0o2004000;
const UFFDIO_API = 0xc018aa3f;
/** UFFD_API with PAGEFAULT_FLAG_WP, WP_HUGETLBFS_SHMEM, WP_UNPOPULATED and WP_ASYNC (linux/userfaultfd.h). */
const WP_ASYNC_FEATURES = (1n << 0n) | (1n << 12n) | (1n << 13n) | (1n << 15n);
/** _IOWR('f', 16, struct pm_scan_arg) of linux/fs.h. */
const PAGEMAP_SCAN = 0xc0606610;
const PAGE_IS_PRESENT = 1n << 3n;
const PAGE_BYTES = 4096;
const SOFT_DIRTY = 1n << 55n;
const PRESENT = 1n << 63n;

const libc = () => koffi.load("libc.so.6");
type Ioctl = (fd: number, request: number, argument: Buffer) => number;
const ioctl = (): Ioctl => libc().func("int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)") as Ioctl;

/** Whether writes can be tracked without stopping the writer (userfaultfd WP_ASYNC, Linux 6.7). */
export function canWriteProtectAsync(): boolean {
  const number = USERFAULTFD[arch()];
  if (number === undefined) return false;
  const syscall = libc().func("long syscall(long number, int flags)") as (
    number: number,
    flags: number,
  ) => number | bigint;
  const fd = Number(syscall(number, O_CLOEXEC_NONBLOCK));
  if (fd < 0) return false;
  try {
    const argument = Buffer.alloc(24);
    argument.writeBigUInt64LE(0xaan, 0);
    argument.writeBigUInt64LE(WP_ASYNC_FEATURES, 8);
    return ioctl()(fd, UFFDIO_API, argument) === 0;
  } finally {
    closeSync(fd);
  }
}

/** A page of our own memory that is surely present: its contents and its page-aligned address. */
function ownPage(): { memory: Buffer; address: bigint } {
  const memory = Buffer.alloc(4 * PAGE_BYTES, 1);
  const start = koffi.address(memory);
  const page = BigInt(PAGE_BYTES);
  return { memory, address: ((start + page - 1n) / page) * page };
}

/** Whether the kernel lists a process's written pages by itself (ioctl PAGEMAP_SCAN, Linux 6.7). */
export function canScanPagemap(): boolean {
  const { memory, address } = ownPage();
  const fd = openSync("/proc/self/pagemap", "r");
  try {
    const vector = Buffer.alloc(24 * 4);
    const argument = Buffer.alloc(96);
    argument.writeBigUInt64LE(96n, 0); // size
    argument.writeBigUInt64LE(address, 16); // start
    argument.writeBigUInt64LE(address + BigInt(PAGE_BYTES), 24); // end
    argument.writeBigUInt64LE(koffi.address(vector), 40); // vec
    argument.writeBigUInt64LE(4n, 48); // vec_len
    argument.writeBigUInt64LE(PAGE_IS_PRESENT, 72); // category_mask
    argument.writeBigUInt64LE(PAGE_IS_PRESENT, 88); // return_mask
    const regions = ioctl()(fd, PAGEMAP_SCAN, argument);
    // memory and vector must outlive the call
    return regions === 1 && memory.length > 0 && vector.readBigUInt64LE(0) === address;
  } finally {
    closeSync(fd);
  }
}

/** Whether the kernel keeps soft-dirty bits (CONFIG_MEM_SOFT_DIRTY): a page that was just written has one. */
export function hasSoftDirty(): boolean {
  const { memory, address } = ownPage();
  const fd = openSync("/proc/self/pagemap", "r");
  try {
    const entry = Buffer.alloc(8);
    readSync(fd, entry, 0, 8, (address / BigInt(PAGE_BYTES)) * 8n);
    const bits = entry.readBigUInt64LE();
    return memory.length > 0 && (bits & PRESENT) !== 0n && (bits & SOFT_DIRTY) !== 0n;
  } finally {
    closeSync(fd);
  }
}

/**
 * Can this process use userfaultfd the way a lazy restore needs it: missing pages, and the events that tell of fork,
 * mremap, madvise and munmap in the restored task (non-cooperative use, needs CAP_SYS_PTRACE)?
 */
import { closeSync } from "node:fs";
import { arch } from "node:os";
import koffi from "koffi";

const NUMBERS: Record<string, number | undefined> = { x64: 323, arm64: 282 };
const O_CLOEXEC_NONBLOCK = 0o2004000;
const UFFD_API = 0xaan;
const UFFDIO_API = 0xc018aa3f;
/** EVENT_FORK, EVENT_REMAP, EVENT_REMOVE, EVENT_UNMAP of linux/userfaultfd.h. */
const EVENTS = (1n << 1n) | (1n << 2n) | (1n << 3n) | (1n << 6n);

/** Why it can't be used, in words; undefined when it can. */
export function userfaultfdProblem(): string | undefined {
  const number = NUMBERS[arch()];
  if (number === undefined) return `userfaultfd has not been tried on ${arch()}`;
  const libc = koffi.load("libc.so.6");
  const syscall = libc.func("long syscall(long number, int flags)");
  const ioctl = libc.func("int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)");
  const fd = Number(syscall(number, O_CLOEXEC_NONBLOCK));
  if (fd < 0) {
    return `the system call userfaultfd fails with errno ${koffi.errno()} (seccomp, missing capability or vm.unprivileged_userfaultfd)`;
  }
  try {
    const argument = Buffer.alloc(24);
    argument.writeBigUInt64LE(UFFD_API, 0);
    argument.writeBigUInt64LE(EVENTS, 8);
    if (Number(ioctl(fd, UFFDIO_API, argument)) !== 0) {
      return `the kernel refuses the events of fork, mremap, madvise and munmap (errno ${koffi.errno()})`;
    }
    return undefined;
  } finally {
    closeSync(fd);
  }
}

/**
 * Linux system calls that Node does not offer, through koffi (glibc, 64 bit, little endian).
 *
 * Addresses are plain numbers: user space ends below 2^53 on every machine we run on. Memory that the kernel keeps an
 * address of, or that it fills after we look away, must come from `mapAnonymous`/`mapFile`: a Buffer may move or be freed.
 * Every function returns what the kernel returned, negative errno instead of -1: nothing here throws on a kernel's "no".
 */
import { arch } from "node:os";
import koffi from "koffi";

export const EPERM = 1;
export const ENOENT = 2;
export const ESRCH = 3;
export const EINTR = 4;
export const EBADF = 9;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EFAULT = 14;
export const EBUSY = 16;
export const EEXIST = 17;
export const EINVAL = 22;
export const ENOTTY = 25;
export const ENOSPC = 28;
export const EOPNOTSUPP = 95;
export const EDQUOT = 122;

export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 1;
const MAP_PRIVATE_ANONYMOUS = 0x22;
export const MAP_POPULATE = 0x8000;
export const MADV_DONTFORK = 10;
/** Fills page tables for reading, so that the next copy from there does not fault (kernel 5.14). */
export const MADV_POPULATE_READ = 22;
const FALLOC_KEEP_SIZE = 1;
const FALLOC_KEEP_SIZE_PUNCH_HOLE = 3;

export const POLLIN = 1;
export const POLLERR = 8;
export const POLLHUP = 16;
export const POLLNVAL = 32;

export const CLONE_FILES = 0x400;
export const SIGCHLD = 17;

const AF_UNIX = 1;
const SOCK_STREAM = 1;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const MSG_NOSIGNAL = 0x4000;
const WNOHANG = 1;
const WALL = 0x40000000;
const SIG_BLOCK = 0;
const SIG_SETMASK = 2;

type Fn = (...args: (number | bigint | string)[]) => number;

interface Libc {
  mmap: Fn;
  munmap: Fn;
  madvise: Fn;
  mlock: Fn;
  fallocate: Fn;
  fallocateReserve: Fn;
  read: Fn;
  send: Fn;
  close: Fn;
  poll: Fn;
  ioctl: Fn;
  socket: Fn;
  bind: Fn;
  listen: Fn;
  accept4: Fn;
  recvmsg: Fn;
  clone: Fn;
  dlsym: Fn;
  setpgid: Fn;
  sigfillset: Fn;
  sigmask: Fn;
  syscall3: Fn;
  waitpid: Fn;
  ptrace: Fn;
  kcmp: Fn;
  mkfifo: Fn;
  readRemote: Fn;
}

let loaded: Libc | undefined;

function libc(): Libc {
  if (loaded !== undefined) return loaded;
  const lib = koffi.load("libc.so.6");
  const fn = (definition: string): Fn => lib.func(definition) as Fn;
  loaded = {
    mmap: fn("int64 mmap(uint64 addr, uint64 length, int prot, int flags, int fd, int64 offset)"),
    munmap: fn("int munmap(uint64 addr, uint64 length)"),
    madvise: fn("int madvise(uint64 addr, uint64 length, int advice)"),
    mlock: fn("int mlock(uint64 addr, uint64 length)"),
    fallocate: fn("int fallocate(int fd, int mode, int64 offset, int64 length)"),
    fallocateReserve: fn("int posix_fallocate(int fd, int64 offset, int64 length)"),
    read: fn("int64 read(int fd, uint64 buffer, uint64 length)"),
    send: fn("int64 send(int fd, uint64 buffer, uint64 length, int flags)"),
    close: fn("int close(int fd)"),
    poll: fn("int poll(uint64 fds, uint64 count, int timeout)"),
    ioctl: fn("int ioctl(int fd, uint64 request, uint64 argument)"),
    socket: fn("int socket(int domain, int type, int protocol)"),
    bind: fn("int bind(int fd, uint64 address, uint32 length)"),
    listen: fn("int listen(int fd, int backlog)"),
    accept4: fn("int accept4(int fd, uint64 address, uint64 length, int flags)"),
    recvmsg: fn("int64 recvmsg(int fd, uint64 message, int flags)"),
    mkfifo: fn("int mkfifo(const char *path, uint32 mode)"),
    clone: fn("int clone(uint64 fn, uint64 stack, int flags, uint64 argument)"),
    dlsym: fn("uint64 dlsym(uint64 handle, const char *symbol)"),
    setpgid: fn("int setpgid(int pid, int group)"),
    sigfillset: fn("int sigfillset(uint64 set)"),
    sigmask: fn("int pthread_sigmask(int how, uint64 set, uint64 old)"),
    syscall3: fn("int64 syscall(int64 number, int64 a, int64 b, int64 c)"),
    waitpid: fn("int waitpid(int pid, uint64 status, int options)"),
    ptrace: fn("int64 ptrace(int64 request, int64 pid, uint64 address, uint64 data)"),
    kcmp: fn("int64 syscall(int64 number, int64 pid1, int64 pid2, int64 type, uint64 index1, uint64 index2)"),
    readRemote: fn(
      "int64 process_vm_readv(int pid, uint64 local, uint64 locals, uint64 remote, uint64 remotes, uint64 flags)",
    ),
  };
  return loaded;
}

const result = (value: number): number => (value < 0 ? -koffi.errno() : value);

/** Name of a (positive) errno, for messages. */
export function errnoName(errno: number): string {
  for (const [name, value] of Object.entries(koffi.os.errno)) if (value === errno) return name;
  return `errno ${errno}`;
}

/** A piece of mapped memory that never moves: its address for the kernel and its bytes for us. */
export interface Mapping {
  address: number;
  bytes: Buffer;
}

/** Largest view of mapped memory that one Buffer may cover. */
const MAX_VIEW = 2 ** 32 - 4096;

function seen(address: number, length: number): Mapping {
  return { address, bytes: Buffer.from(koffi.view(BigInt(address), length)) };
}

/** Private zeroed memory. Throws when there is none. */
export function mapAnonymous(length: number): Mapping {
  const address = result(libc().mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0));
  if (address < 0) throw new Error(`mmap of ${length} bytes: ${errnoName(-address)}`);
  return seen(address, length);
}

/** A file's pages, shared and writable, as a Buffer (at most 4 GiB). Throws when it can't be mapped. */
export function mapFile(fd: number, length: number): Mapping {
  if (length > MAX_VIEW) throw new Error(`a view of ${length} bytes is more than one Buffer may cover`);
  return seen(mapFileAddress(fd, length, PROT_READ | PROT_WRITE, MAP_POPULATE), length);
}

/** Maps a file of any size and gives its address only: a source or destination for the kernel, not for JavaScript. */
export function mapFileAddress(fd: number, length: number, prot: number, flags = 0): number {
  const address = result(libc().mmap(0, length, prot, MAP_SHARED | flags, fd, 0));
  if (address < 0) throw new Error(`mmap of ${length} bytes of a file: ${errnoName(-address)}`);
  return address;
}

export const unmap = (address: number, length: number): number => result(libc().munmap(address, length));
export const madvise = (address: number, length: number, advice: number): number =>
  result(libc().madvise(address, length, advice));
export const mlock = (address: number, length: number): number => result(libc().mlock(address, length));

/** Gives the memory (or disk) under a range of the file back; it reads as zeros afterwards. */
export const punchHole = (fd: number, offset: number, length: number): number =>
  result(libc().fallocate(fd, FALLOC_KEEP_SIZE_PUNCH_HOLE, offset, length));

/** Makes sure that writing to the range can't fail for want of space. 0 or a negative errno. */
export const reserveSpace = (fd: number, offset: number, length: number): number =>
  -libc().fallocateReserve(fd, offset, length);

/**
 * Sets blocks aside behind a file's end without making it longer: later writes there don't fail for want of space.
 * 0 or a negative errno (-EOPNOTSUPP where the file system can't).
 */
export const setAside = (fd: number, offset: number, length: number): number =>
  result(libc().fallocate(fd, FALLOC_KEEP_SIZE, offset, length));

export const readInto = (fd: number, address: number, length: number): number =>
  result(libc().read(fd, address, length));
export const closeFd = (fd: number): number => result(libc().close(fd));
/** `fds` is the address of `count` struct pollfd (int fd, short events, short revents). */
export const poll = (fds: number, count: number, timeoutMs: number): number =>
  result(libc().poll(fds, count, timeoutMs));
export const ioctl = (fd: number, request: number, argument: number): number =>
  result(libc().ioctl(fd, request, argument));
export const sendFrom = (fd: number, address: number, length: number, flags: number): number =>
  result(libc().send(fd, address, length, flags));
/** `message` is the address of a struct msghdr. */
export const recvmsg = (fd: number, message: number, flags: number): number =>
  result(libc().recvmsg(fd, message, flags));
export const accept = (fd: number, flags: number): number => result(libc().accept4(fd, 0, 0, flags));

/** Listening unix socket; `path` is at most 107 bytes (give `/proc/self/fd/<directory>/name` for longer ones). */
export function listenUnix(path: string, backlog: number): number {
  const name = Buffer.from(path);
  if (name.length > 107 || name.includes(0)) return -EINVAL;
  const fd = result(libc().socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd < 0) return fd;
  const address = mapAnonymous(4096);
  address.bytes.writeUInt16LE(AF_UNIX, 0);
  name.copy(address.bytes, 2);
  let failed = result(libc().bind(fd, address.address, 2 + name.length + 1));
  if (failed === 0) failed = result(libc().listen(fd, backlog));
  if (failed < 0) closeFd(fd);
  return failed < 0 ? failed : fd;
}

export const pidfdOpen = (pid: number): number => result(libc().syscall3(434, pid, 0, 0));
/** A duplicate of another process's descriptor, as a descriptor of this process. */
export const pidfdGetfd = (pidfd: number, fd: number): number => result(libc().syscall3(438, pidfd, fd, 0));
/** Reaps a child that has ended: its pid, 0 when none has, or a negative errno. */
export const reap = (pid: number): number => result(libc().waitpid(pid, 0, 1));

/** `address` and `data` as the request wants them. All calls for one task must come from the same thread. */
export const ptrace = (request: number, pid: number, address = 0, data = 0): number =>
  result(libc().ptrace(request, pid, address, data));
/** A change of state of any task that we wait for (threads and tracees too), without waiting. */
export const waitState = (pid: number, status: number): number => result(libc().waitpid(pid, status, WNOHANG | WALL));

const KCMP: Record<string, number> = { x64: 312, arm64: 272 };
const KCMP_FILE = 0;
const KCMP_VM = 1;
/** How the memory of two tasks compares: 0 the same, 1 and 2 an order to sort by; negative errno. */
export const compareMemory = (pid1: number, pid2: number): number =>
  result(libc().kcmp(KCMP[arch()] ?? -1, pid1, pid2, KCMP_VM, 0, 0));
/** 0: the descriptors of both processes are the same open file. */
export const compareFiles = (pid1: number, fd1: number, pid2: number, fd2: number): number =>
  result(libc().kcmp(KCMP[arch()] ?? -1, pid1, pid2, KCMP_FILE, fd1, fd2));
/** `local` and `remote` are addresses of one struct iovec each. */
export const readRemote = (pid: number, local: number, remote: number): number =>
  result(libc().readRemote(pid, local, 1, remote, 1, 0));

const USERFAULTFD: Record<string, number> = { x64: 323, arm64: 282 };
export const userfaultfd = (flags: number): number => {
  const number = USERFAULTFD[arch()];
  return number === undefined ? -EINVAL : result(libc().syscall3(number, flags, 0, 0));
};

/**
 * A child process that shares this process's table of file descriptors and does nothing, for ever: every descriptor
 * that is ever opened here is held there in the same instant. All signals but SIGKILL and SIGSTOP are blocked in it; it is
 * a process group of its own. Its pid, or a negative errno.
 *
 * It shares the table both ways and for all descriptors: sockets of a dead process stay open as long as it lives.
 */
export function cloneFdHolder(): number {
  const c = libc();
  const entry = c.dlsym(0, "pause");
  if (entry === 0) return -EINVAL;
  const stack = mapAnonymous(64 * 1024);
  // both stay mapped: a few pages, and guards are made rarely
  const set = mapAnonymous(4096);
  c.sigfillset(set.address);
  c.sigmask(SIG_BLOCK, set.address, set.address + 1024);
  const pid = result(c.clone(entry, stack.address + stack.bytes.length - 64, CLONE_FILES | SIGCHLD, 0));
  c.sigmask(SIG_SETMASK, set.address + 1024, 0);
  if (pid > 0) c.setpgid(pid, 0);
  return pid;
}

/** A FIFO that only its owner may use. 0, or a negative errno. */
export const makeFifo = (path: string): number => result(libc().mkfifo(path, 0o600));

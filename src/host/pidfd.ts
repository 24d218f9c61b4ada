/**
 * A process that is not our child, watched for its end: a pidfd can't be taken over by a reused pid, and from kernel 6.15
 * on it also tells how the process ended, to whoever held one before it was reaped.
 */
import { closeFd, ioctl, mapAnonymous, pidfdOpen, poll, POLLIN, type Mapping } from "./syscall.js";

/** _IOWR(0xFF, 11, struct pidfd_info) with the first version's 64 bytes. */
const PIDFD_GET_INFO = 0xc040ff0b;
const PIDFD_INFO_EXIT = 8n;
const EXIT_CODE_AT = 60;

let scratch: Mapping | undefined;

export class ProcessWatch {
  private readonly fd: number;

  private constructor(fd: number) {
    this.fd = fd;
  }

  /** undefined: there is no such process (any more). */
  static open(pid: number): ProcessWatch | undefined {
    const fd = pidfdOpen(pid);
    return fd < 0 ? undefined : new ProcessWatch(fd);
  }

  get ended(): boolean {
    scratch ??= mapAnonymous(4096);
    scratch.bytes.writeInt32LE(this.fd, 0);
    scratch.bytes.writeUInt32LE(POLLIN, 4);
    return poll(scratch.address, 1, 0) > 0;
  }

  /**
   * How it ended, as a shell says it: its exit code, or 128 and the number of the signal. undefined: not reaped yet, or the
   * kernel does not tell.
   */
  exitCode(): number | undefined {
    scratch ??= mapAnonymous(4096);
    scratch.bytes.fill(0, 0, 64);
    scratch.bytes.writeBigUInt64LE(PIDFD_INFO_EXIT, 0);
    if (ioctl(this.fd, PIDFD_GET_INFO, scratch.address) < 0) return undefined;
    if ((scratch.bytes.readBigUInt64LE(0) & PIDFD_INFO_EXIT) === 0n) return undefined;
    const status = scratch.bytes.readInt32LE(EXIT_CODE_AT);
    const signal = status & 0x7f;
    return signal === 0 ? (status >> 8) & 0xff : 128 + signal;
  }

  close(): void {
    closeFd(this.fd);
  }
}

/** lazy-pages.socket: what `criu restore --lazy-pages` sends, received straight into the event log. */
import { closeSync, openSync, rmSync } from "node:fs";
import { basename, dirname } from "node:path";
import {
  accept,
  closeFd,
  EAGAIN,
  EINTR,
  errnoName,
  listenUnix,
  mapAnonymous,
  readInto,
  recvmsg,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
} from "../../host/syscall.js";
import { ferryError } from "../../model/failure.js";
import { TYPE, type EventLog } from "./event-log.js";
import { say } from "./say.js";
import { CONTROL_AT, type TaskSet } from "./tasks.js";

const MSG_CMSG_CLOEXEC = 0x40000000;

/** A listening unix socket of mode 0600 at `path`, however long its directory's name is. Replaces what is there. */
export function listenAt(path: string): number {
  rmSync(path, { force: true });
  const dir = openSync(dirname(path), "r");
  // root's only, from the first moment on
  const mask = process.umask(0o177);
  try {
    const fd = listenUnix(`/proc/self/fd/${dir}/${basename(path)}`, 16);
    if (fd < 0) throw ferryError("E_PAGES", `can't listen at ${path}: ${errnoName(-fd)}`, { side: "destination" });
    return fd;
  } finally {
    process.umask(mask);
    closeSync(dir);
  }
}

export interface Holding {
  /** Listening descriptors. */
  lazy: number;
  control: number;
  guardPid: number | undefined;
  /** Readable when the guard has ended; -1: there is none. */
  guardPidfd: number;
}

export class RestoreSocket {
  readonly #log: EventLog;
  readonly #tasks: TaskSet;
  readonly #holding: Holding;
  readonly #memory = mapAnonymous(4096);

  constructor(log: EventLog, tasks: TaskSet, holding: Holding) {
    this.#log = log;
    this.#tasks = tasks;
    this.#holding = holding;
  }

  accept(): void {
    const fd = accept(this.#holding.lazy, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    if (this.#tasks.connection >= 0 || this.#tasks.tasks.size > 0 || this.#tasks.failure !== undefined) {
      // mixing two restores would fill one with what the other has left
      say("second restore refused", { failure: this.#tasks.failure });
      closeFd(fd);
      return;
    }
    this.#log.append(TYPE.CONNECTED, 0, fd);
    this.#tasks.connection = fd;
    this.#tasks.announced = undefined;
    say("restore connected");
  }

  receive(): void {
    while (this.#tasks.connection >= 0) {
      const fd = this.#tasks.connection;
      const descriptor = this.#tasks.announced !== undefined;
      const units = descriptor ? 3 : 1;
      const type = descriptor ? TYPE.UFFD : TYPE.WORD;
      const { address, payload } = this.#log.prepare(type, 0, units);
      const length = descriptor ? this.#receiveDescriptor(fd, address) : readInto(fd, address, 4);
      if (length === -EAGAIN || length === -EINTR) {
        this.#log.discard(units);
        return;
      }
      if (length !== (descriptor ? 1 : 4)) {
        this.#log.discard(units);
        this.#log.append(TYPE.DISCONNECTED);
        this.#tasks.connection = -1;
        this.#tasks.announced = undefined;
        closeFd(fd);
        if (!this.#tasks.restored) say("restore hung up before it had finished", { length });
        return;
      }
      if (
        descriptor &&
        !(payload.readUInt32LE(CONTROL_AT) >= 20 && payload.readBigUInt64LE(CONTROL_AT + 8) === 0x100000001n)
      ) {
        this.#tasks.failure ??= `criu sent no userfaultfd for pid ${this.#tasks.announced ?? 0}`;
      }
      this.#log.commit(units);
      this.#tasks.apply({ type, task: 0, a: 0, b: 0, payload });
      if (descriptor) say("task", { vpid: [...this.#tasks.tasks.values()].at(-1)?.vpid, why: "handed over" });
      if (this.#tasks.restored)
        say("restore finished", { tasks: this.#tasks.tasks.size, failure: this.#tasks.failure });
    }
  }

  /** One byte and a descriptor, received into the log at `address`. */
  #receiveDescriptor(fd: number, address: number): number {
    const { bytes, address: scratch } = this.#memory;
    bytes.fill(0, 0, 80);
    // struct iovec at 0, struct msghdr at 16
    bytes.writeBigUInt64LE(BigInt(address), 0);
    bytes.writeBigUInt64LE(1n, 8);
    bytes.writeBigUInt64LE(BigInt(scratch), 16 + 16);
    bytes.writeBigUInt64LE(1n, 16 + 24);
    bytes.writeBigUInt64LE(BigInt(address + CONTROL_AT), 16 + 32);
    // room for one descriptor only
    bytes.writeBigUInt64LE(24n, 16 + 40);
    return recvmsg(fd, scratch + 16, MSG_CMSG_CLOEXEC);
  }
}

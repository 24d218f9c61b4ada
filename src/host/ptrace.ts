/**
 * Stopping single threads of other processes for a moment, through ptrace, without anything that the process could notice:
 * no signal, no interrupted system call, no byte of its memory changed. Everything here blocks and must run on the one
 * thread of a process of its own (ptrace-main.ts): the kernel takes ptrace calls from the thread that attached only.
 */
import { closeSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { hasPendingSignal, threadState } from "./ptrace-procfs.js";
import { EPERM, ESRCH, errnoName, mapAnonymous, ptrace, waitState, type Mapping } from "./syscall.js";

const CONT = 7;
const GETREGS = 12;
const SETREGS = 13;
const DETACH = 17;
const SYSCALL = 24;
const SEIZE = 0x4206;
const INTERRUPT = 0x4207;
const GETSIGMASK = 0x420a;
const SETSIGMASK = 0x420b;
const GET_RSEQ = 0x420f;
const GET_DISPATCH = 0x4211;
const O_TRACESYSGOOD = 1;
const O_SUSPEND_SECCOMP = 1 << 21;
const EVENT_STOP = 128;
const SIGTRAP = 5;
const SIGSTOP = 19;
const SYSCALL_STOP = SIGTRAP | 0x80;

/** Offsets in struct user_regs_struct (x86-64). */
const REGS = 216;
const [R10, R9, R8, RAX, RDX, RSI, RDI, ORIG_RAX, RIP, CS] = [56, 64, 72, 80, 96, 104, 112, 120, 128, 136];
const CS_64BIT = 0x33n;
const ERESTARTSYS = -512n;
const ERESTART_RESTARTBLOCK = -516n;
const EINTR = -4n;
/**
 * System calls that say EINTR after any stop, signal or not (signal(7)): semop, rt_sigtimedwait, io_getevents, semtimedop,
 * epoll_wait, epoll_pwait, io_pgetevents, epoll_pwait2. They are made again, with their whole timeout, as the others are by
 * the kernel.
 */
export const FRAGILE_CALLS: ReadonlySet<number> = new Set([65, 128, 208, 220, 232, 281, 333, 441]);

/** Why a thread was not stopped or used. `gone`: it has ended. `busy`: not now. `refused`: it will not work later either. */
export class PtraceProblem extends Error {
  readonly kind: "gone" | "busy" | "refused";
  constructor(kind: "gone" | "busy" | "refused", message: string) {
    super(message);
    this.kind = kind;
  }
}

/** A tracee that could not be stopped in time stays seized until this process ends: it must, then. */
export class Unstoppable extends PtraceProblem {
  constructor(message: string) {
    super("busy", message);
  }
}

let memory: Mapping | undefined;
const scratch = (): Mapping => (memory ??= mapAnonymous(4096));
const pause = new Int32Array(new SharedArrayBuffer(4));

/** How long is looked without sleeping: stops take some ten microseconds. */
const SPIN_MS = 0.3;

type Stop =
  { kind: "event"; signal: number } | { kind: "syscall" } | { kind: "signal"; signal: number } | { kind: "timeout" };

function fail(doing: string, tid: number, errno: number): PtraceProblem {
  if (errno === ESRCH) return new PtraceProblem("gone", `thread ${tid} has ended`);
  return new PtraceProblem("refused", `${doing} of thread ${tid}: ${errnoName(errno)}`);
}

/** One thread that is stopped under our control. */
export class StoppedThread {
  readonly tid: number;
  /** When it had stopped, by performance.now(). */
  #since = 0;

  private constructor(tid: number) {
    this.tid = tid;
  }

  /** Throws PtraceProblem; the thread is as it was then. */
  static stop(tid: number, budgetMs: number, suspendSeccomp = false): StoppedThread {
    if (threadState(tid) === "D") throw new PtraceProblem("busy", `thread ${tid} waits in the kernel`);
    const seized = ptrace(SEIZE, tid, 0, O_TRACESYSGOOD | (suspendSeccomp ? O_SUSPEND_SECCOMP : 0));
    if (seized === -EPERM) {
      const tracer = /^TracerPid:\t(\d+)$/m.exec(readStatus(tid))?.[1] ?? "0";
      if (tracer !== "0") throw new PtraceProblem("busy", `thread ${tid} is traced by process ${tracer} already`);
      if (threadState(tid) === "Z") throw new PtraceProblem("gone", `thread ${tid} has ended`);
    }
    if (seized < 0) throw fail("PTRACE_SEIZE", tid, -seized);
    const thread = new StoppedThread(tid);
    thread.#interrupt(budgetMs);
    thread.#since = performance.now();
    return thread;
  }

  /** PTRACE_INTERRUPT; returns in the stop that it makes. Signals that come first are delivered as they would be. */
  #interrupt(budgetMs: number, standing = false): void {
    this.#must(ptrace(INTERRUPT, this.tid), "PTRACE_INTERRUPT");
    if (standing) this.#must(ptrace(CONT, this.tid), "PTRACE_CONT");
    for (;;) {
      const stop = this.#wait(budgetMs);
      if (stop.kind === "event") return;
      if (stop.kind === "timeout") throw new Unstoppable(`thread ${this.tid} did not stop within ${budgetMs} ms`);
      this.#must(ptrace(CONT, this.tid, 0, stop.kind === "signal" ? stop.signal : 0), "PTRACE_CONT");
    }
  }

  #must(result: number, doing: string): number {
    if (result < 0) throw fail(doing, this.tid, -result);
    return result;
  }

  #wait(budgetMs: number): Stop {
    const { address, bytes } = scratch();
    const start = performance.now();
    for (;;) {
      const waited = waitState(this.tid, address);
      if (waited < 0) throw fail("waitpid", this.tid, ESRCH);
      if (waited === this.tid) {
        const status = bytes.readUInt32LE(0);
        if ((status & 0xff) !== 0x7f) throw new PtraceProblem("gone", `thread ${this.tid} has ended`);
        const signal = (status >> 8) & 0xff;
        if (status >> 16 === EVENT_STOP) return { kind: "event", signal };
        return signal === SYSCALL_STOP ? { kind: "syscall" } : { kind: "signal", signal };
      }
      const spent = performance.now() - start;
      if (spent > budgetMs) return { kind: "timeout" };
      if (spent > SPIN_MS) Atomics.wait(pause, 0, 0, 0.1);
    }
  }

  registers(): Buffer {
    const { address, bytes } = scratch();
    this.#must(ptrace(GETREGS, this.tid, 0, address + 64), "PTRACE_GETREGS");
    return Buffer.from(bytes.subarray(64, 64 + REGS));
  }

  #setRegisters(registers: Buffer): void {
    const { address, bytes } = scratch();
    registers.copy(bytes, 64);
    this.#must(ptrace(SETREGS, this.tid, 0, address + 64), "PTRACE_SETREGS");
  }

  #mask(request: number, value?: bigint): bigint {
    const { address, bytes } = scratch();
    bytes.writeBigUInt64LE(value ?? 0n, 16);
    this.#must(ptrace(request, this.tid, 8, address + 16), "the signal mask");
    return bytes.readBigUInt64LE(16);
  }

  /** Does the text at `address` hold a syscall instruction? */
  isSyscall(address: number): boolean {
    return (this.#peek(address) & 0xffffn) === 0x050fn;
  }

  /** Why system calls can't be made in this thread's name; undefined: they can. */
  #problem(registers: Buffer): string | undefined {
    if (registers.readBigUInt64LE(CS) !== CS_64BIT) return "runs 32-bit code";
    const { address, bytes } = scratch();
    bytes.fill(0, 512, 544);
    // prctl(PR_SET_SYSCALL_USER_DISPATCH): our call would end up in the program's own handler
    if (ptrace(GET_DISPATCH, this.tid, 32, address + 512) === 0 && bytes.readBigUInt64LE(512) !== 0n) {
      return "handles system calls by itself (syscall user dispatch)";
    }
    return undefined;
  }

  /**
   * Makes system calls in the thread's name: `work` gets a function that makes one and returns its result. The thread is
   * put back exactly as it was, also when `work` throws, and stays stopped. `at`: where a syscall instruction stands.
   */
  inject<T>(at: number, budgetMs: number, work: (call: (number: number, ...args: number[]) => number) => T): T {
    const saved = this.registers();
    const problem = this.#problem(saved);
    if (problem !== undefined) throw new PtraceProblem("refused", `thread ${this.tid} ${problem}`);
    if (!this.isSyscall(at)) throw new PtraceProblem("busy", `thread ${this.tid} has just changed its program`);
    this.#leaveCriticalSection(saved);
    mendInterrupted(saved, this.tid);
    const mask = this.#mask(GETSIGMASK);
    this.#mask(SETSIGMASK, ~0n & 0xffffffffffffffffn);
    let failed: unknown;
    let answer: T | undefined;
    try {
      answer = work((number, ...args) => this.#call(saved, at, budgetMs, number, args));
    } catch (error) {
      if (error instanceof PtraceProblem && (error.kind === "gone" || error instanceof Unstoppable)) throw error;
      failed = error;
    }
    this.#setRegisters(saved);
    this.#mask(SETSIGMASK, mask);
    if (failed !== undefined) throw failed;
    return answer as T;
  }

  /** One system call. Starts and ends in a stop by PTRACE_INTERRUPT, where the kernel looks at nothing but signals next. */
  #call(saved: Buffer, at: number, budgetMs: number, number: number, args: number[]): number {
    const registers = Buffer.from(saved);
    registers.writeBigInt64LE(BigInt(number), RAX);
    registers.writeBigInt64LE(-1n, ORIG_RAX);
    registers.writeBigUInt64LE(BigInt(at), RIP);
    for (const [index, offset] of [RDI, RSI, RDX, R10, R8, R9].entries()) {
      registers.writeBigInt64LE(BigInt(args[index] ?? 0), offset);
    }
    this.#setRegisters(registers);
    // SIGSTOP can't be blocked: it is delivered, the process counts as stopped, and we make this thread go on until it is let go
    for (let entered = false, late = false, signal = 0; ;) {
      this.#must(ptrace(SYSCALL, this.tid, 0, signal), "PTRACE_SYSCALL");
      signal = 0;
      let stop = this.#wait(budgetMs);
      if (stop.kind === "timeout" && !entered && !late) {
        // A freezer holds it before our instruction: it comes out for a stop like the first one.
        late = true;
        this.#must(ptrace(INTERRUPT, this.tid), "PTRACE_INTERRUPT");
        stop = this.#wait(Number.POSITIVE_INFINITY);
      } else if (stop.kind === "timeout") {
        stop = this.#wait(Number.POSITIVE_INFINITY);
      }
      if (stop.kind === "syscall" && entered) break;
      if (stop.kind === "syscall") entered = true;
      else if (stop.kind === "event" && late && !entered) {
        throw new PtraceProblem("busy", `thread ${this.tid} is frozen`);
      } else if (stop.kind === "signal") {
        if (stop.signal !== SIGSTOP) {
          throw new PtraceProblem("refused", `thread ${this.tid} got signal ${stop.signal} for a system call of ours`);
        }
        signal = stop.signal;
      }
    }
    const result = Number(this.registers().readBigInt64LE(RAX));
    // never back to user mode from here: it comes to the stop on its way
    this.#interrupt(Number.POSITIVE_INFINITY, true);
    return result;
  }

  /**
   * A restartable sequence (rseq(2)) that is left in the middle must start again at its abort address: the kernel does that
   * when it sees the instruction pointer, and it would see ours.
   */
  #leaveCriticalSection(registers: Buffer): void {
    const { address, bytes } = scratch();
    if (ptrace(GET_RSEQ, this.tid, 24, address + 512) < 24) return;
    const area = Number(bytes.readBigUInt64LE(512));
    if (area === 0) return;
    const section = this.#peek(area + 8);
    if (section === 0n) return;
    const at = Number(section);
    const start = this.#peek(at + 8);
    const length = this.#peek(at + 16);
    const ip = registers.readBigUInt64LE(RIP);
    if (ip >= start && ip < start + length) registers.writeBigUInt64LE(this.#peek(at + 24), RIP);
  }

  #peek(address: number): bigint {
    let fd: number;
    try {
      fd = openSync(`/proc/${this.tid}/mem`, "r");
    } catch {
      throw new PtraceProblem("gone", `thread ${this.tid} has ended`);
    }
    try {
      const word = Buffer.alloc(8);
      readSync(fd, word, 0, 8, address);
      return word.readBigUInt64LE();
    } catch {
      throw new PtraceProblem("busy", `thread ${this.tid}: its memory at ${address.toString(16)} can't be read`);
    } finally {
      closeSync(fd);
    }
  }

  /** A system call that it was stopped in, and that would say EINTR, is made again. For threads without `inject`. */
  mend(): void {
    const registers = this.registers();
    if (mendInterrupted(registers, this.tid)) this.#setRegisters(registers);
  }

  /** Lets it go on, as if nothing had been. Milliseconds that it was stopped. Never throws. */
  release(): number {
    ptrace(DETACH, this.tid);
    return performance.now() - this.#since;
  }
}

const readStatus = (tid: number): string => {
  try {
    return readFileSync(`/proc/${tid}/status`, "utf8");
  } catch {
    return "";
  }
};

/**
 * The kernel restarts what says ERESTART* when the registers are put back as they were. What says EINTR to every stop is
 * made again by us, unless a signal is there that it really has to tell of. True: `registers` were changed.
 */
function mendInterrupted(registers: Buffer, tid: number): boolean {
  const number = registers.readBigInt64LE(ORIG_RAX);
  const result = registers.readBigInt64LE(RAX);
  if (number < 0n || (result <= ERESTARTSYS && result >= ERESTART_RESTARTBLOCK)) return false;
  if (result !== EINTR || !FRAGILE_CALLS.has(Number(number)) || hasPendingSignal(readStatus(tid))) return false;
  registers.writeBigInt64LE(number, RAX);
  registers.writeBigInt64LE(-1n, ORIG_RAX);
  registers.writeBigUInt64LE(registers.readBigUInt64LE(RIP) - 2n, RIP);
  return true;
}

/** How long one thread may take to stop, when all are stopped. */
const STOP_ALL_MS = 200;

/** Stops every thread of a process. Throws PtraceProblem; none is stopped then. */
export function stopProcess(pid: number): StoppedThread[] {
  const stopped = new Map<number, StoppedThread>();
  try {
    // threads that the others made meanwhile: look again until there is none
    for (let found = true; found;) {
      found = false;
      for (const name of readdirSync(`/proc/${pid}/task`)) {
        const tid = Number(name);
        if (stopped.has(tid) || threadState(tid) === "Z") continue;
        found = true;
        try {
          stopped.set(tid, StoppedThread.stop(tid, STOP_ALL_MS));
        } catch (error) {
          if (!(error instanceof PtraceProblem && error.kind === "gone")) throw error;
        }
      }
    }
    for (const thread of stopped.values()) thread.mend();
    return [...stopped.values()];
  } catch (error) {
    for (const thread of stopped.values()) thread.release();
    if ((error as NodeJS.ErrnoException).code === "ENOENT") throw new PtraceProblem("gone", `process ${pid} has ended`);
    throw error;
  }
}

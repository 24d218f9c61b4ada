/**
 * A userfaultfd of somebody else's memory: made in one of its threads, taken over by us, closed there again. The process is
 * left with nothing of it: no descriptor, no changed byte, no interrupted call.
 */
import { childrenOf, descriptorLink, findSyscall, isFiltered, threadsToStop } from "./ptrace-procfs.js";
import { FRAGILE_CALLS, PtraceProblem, StoppedThread, Unstoppable } from "./ptrace.js";
import { closeFd, compareFiles, errnoName, pidfdGetfd, pidfdOpen, ESRCH } from "./syscall.js";

const USERFAULTFD = 323;
const CLOSE = 3;
/** O_CLOEXEC, O_NONBLOCK, UFFD_USER_MODE_ONLY: what a process without privileges may open; WP_ASYNC never asks anyway. */
const FLAGS = 0o2004000 | 1;
/** Longer than any stop takes on a loaded machine. */
const BUDGET_MS = 200;

export interface Armed {
  /** The userfaultfd, a descriptor of this process. */
  fd: number;
  stoppedMs: number;
  /** How long the thread had other registers than its own: what a SIGKILL of this process could harm. */
  alteredMs: number;
}

/** Runs `work` on the first thread of `pid` that can be stopped now. Throws PtraceProblem. */
function onThread<T>(pid: number, work: (thread: StoppedThread, at: number) => T): { answer: T; stoppedMs: number } {
  const at = findSyscall(pid);
  const tids = threadsToStop(pid, FRAGILE_CALLS);
  if (tids.length === 0) throw new PtraceProblem("busy", `no thread of process ${pid} can be stopped now`);
  // an exec in the middle has no text yet
  if (at === undefined) throw new PtraceProblem("busy", `process ${pid} has no syscall instruction in its text`);
  const filtered = isFiltered(pid);
  let last: unknown;
  for (const tid of tids.slice(0, 4)) {
    let thread: StoppedThread;
    try {
      thread = StoppedThread.stop(tid, BUDGET_MS, filtered);
    } catch (error) {
      if (!(error instanceof PtraceProblem) || error instanceof Unstoppable) throw error;
      if (filtered && error.kind === "refused") {
        throw new PtraceProblem(
          "refused",
          `process ${pid} is under a seccomp filter that can't be set aside (${error.message})`,
        );
      }
      last = error;
      continue;
    }
    let answer: T;
    try {
      answer = work(thread, at);
    } catch (error) {
      thread.release();
      throw error;
    }
    return { answer, stoppedMs: thread.release() };
  }
  throw last;
}

/** Throws PtraceProblem; the process is as it was then. */
export function armProcess(pid: number): Armed {
  const pidfd = pidfdOpen(pid);
  if (pidfd < 0) {
    const gone = -pidfd === ESRCH;
    throw new PtraceProblem(gone ? "gone" : "refused", `pidfd_open of process ${pid}: ${errnoName(-pidfd)}`);
  }
  try {
    const before = childrenOf(pid);
    let alteredMs = 0;
    let there = -1;
    const { answer: fd, stoppedMs } = onThread(pid, (thread, at) => {
      const start = performance.now();
      const ours = thread.inject(at, BUDGET_MS, (call) => {
        there = call(USERFAULTFD, FLAGS);
        if (there < 0) throw new PtraceProblem("refused", `userfaultfd in process ${pid}: ${errnoName(-there)}`);
        const mine = pidfdGetfd(pidfd, there);
        const closed = call(CLOSE, there);
        if (mine < 0) throw new PtraceProblem("refused", `pidfd_getfd of process ${pid}: ${errnoName(-mine)}`);
        if (closed < 0) {
          closeFd(mine);
          throw new PtraceProblem("refused", `close in process ${pid}: ${errnoName(-closed)}`);
        }
        return mine;
      });
      alteredMs = performance.now() - start;
      return ours;
    });
    // another thread may have forked while the descriptor was there
    for (const child of childrenOf(pid)) {
      if (!before.has(child)) closeInherited(child, there, fd);
    }
    return { fd, stoppedMs, alteredMs };
  } finally {
    closeFd(pidfd);
  }
}

function closeInherited(pid: number, there: number, ours: number): void {
  if (descriptorLink(pid, there) !== "anon_inode:[userfaultfd]") return;
  if (compareFiles(process.pid, ours, pid, there) !== 0) return;
  try {
    onThread(pid, (thread, at) => thread.inject(at, BUDGET_MS, (call) => call(CLOSE, there)));
  } catch (error) {
    if (error instanceof PtraceProblem && error.kind === "gone") return;
    closeFd(ours);
    throw error;
  }
}

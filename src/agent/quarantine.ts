/**
 * An agent whose journal can't be trusted: damaged, or without entries of what runs here. It answers every verb with why,
 * and touches nothing.
 */
import type { NodeAgent } from "../model/contract.js";
import { FerryError, ferryError, type FailureData } from "../model/failure.js";
import type { Runtime } from "../runtimes/runtime.js";
import type { Book } from "./book.js";

/**
 * E_JOURNAL_CORRUPT when something runs, or is held, under an epoch that the journal has never heard of. Every epoch is
 * journaled before its cgroup is made: so lines are missing (the file was moved away, or an older copy was put in its
 * place), and to sweep what the journal does not own would kill a workload.
 */
export function journalLoss(book: Book, runtime: Runtime): FailureData | undefined {
  const strangers = runtime.populated().filter(({ name, epoch }) => book.hold(name, epoch) === undefined);
  if (strangers.length === 0) return undefined;
  const names = strangers.map(({ name, epoch }) => `${name} (epoch ${epoch})`).join(", ");
  const whole = book.entries === 0 ? "is empty or was missing" : `has ${book.entries} lines and lacks later ones`;
  return ferryError("E_JOURNAL_CORRUPT", `journal ${book.path} ${whole}: it does not know ${names}, which is here`, {
    remedy: `nothing is started, and what is here was left alone; put the whole file back, to its last line, then start the agent again. If it is lost for good, these workloads can't move any more: end them by hand (${strangers
      .map(({ cgroup }) => `echo 1 >${cgroup}/cgroup.kill`)
      .join("; ")}), then start the agent again`,
  }).data;
}

export function quarantined(failure: FailureData): NodeAgent {
  const refuse = (): Promise<never> => Promise.reject(new FerryError(failure));
  return {
    describeNode: refuse,
    endings: refuse,
    sleepers: refuse,
    idleWorkload: refuse,
    startWorkload: refuse,
    stopWorkload: refuse,
    removeWorkload: refuse,
    observeWorkload: refuse,
    newestCheckpoint: refuse,
    recoverWorkload: refuse,
    saveCheckpoint: refuse,
    restoreWorkload: refuse,
    listCheckpoints: refuse,
    pinCheckpoint: refuse,
    removeCheckpoint: refuse,
    verifyCheckpoint: refuse,
    diffCheckpoints: refuse,
    readLog: refuse,
    preflightSource: refuse,
    preflightDestination: refuse,
    reserve: refuse,
    takeOver: refuse,
    handOver: refuse,
    inquire: refuse,
    burn: refuse,
    refuse,
    deliver: refuse,
    steer: refuse,
    acknowledge: refuse,
    retake: refuse,
    claim: refuse,
    supersede: refuse,
    cleanup: refuse,
  };
}

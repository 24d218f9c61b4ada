/**
 * Workloads that end by themselves. Looks at the root process of every workload that this node owns; when it has ended,
 * the end is journaled with its exit code, the epoch is STOPPED, and what was around the processes (network, cgroup) goes.
 * Files and log stay. The worker tells the workload's entity.
 */
import { ProcessWatch } from "../host/pidfd.js";
import type { Ending } from "../model/contract.js";
import { toFailure } from "../model/failure.js";
import { RECOVERY } from "../model/names.js";
import { runningHold, type Hold } from "../model/ownership.js";
import type { NodeContext } from "./operations/node-context.js";

const LOOK_EVERY_MS = 500;
/** Its parent may take a moment to reap it: only then the kernel tells the exit code. */
const REAPED_WITHIN_MS = 1000;
/** The rest of a tree dies with its root process; this long after it, whatever is left counts as alive. */
const EMPTY_WITHIN_MS = 5000;
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

interface Watched {
  epoch: number;
  process: ProcessWatch;
}

export interface EndingsOptions {
  context: NodeContext;
  /** Is a change or a hand-over of this workload under way? Then its end is theirs to notice. */
  busy: (workload: string) => boolean;
  /** One change at a time per workload. */
  locked: <T>(workload: string, work: () => Promise<T>) => Promise<T>;
}

export class Endings {
  private readonly watched = new Map<string, Watched>();
  private readonly options: EndingsOptions;
  private timer: NodeJS.Timeout | undefined;

  constructor(options: EndingsOptions) {
    this.options = options;
  }

  start(): void {
    this.timer = setTimeout(() => void this.round(), LOOK_EVERY_MS);
  }
  stop(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    for (const workload of this.watched.keys()) this.forget(workload);
  }

  /** Just started: watched at once, so that the exit code of a short program is not missed. */
  begun(workload: string, epoch: number, pid: number): void {
    this.forget(workload);
    const process = ProcessWatch.open(pid);
    if (process !== undefined) this.watched.set(workload, { epoch, process });
  }

  private forget(workload: string): void {
    this.watched.get(workload)?.process.close();
    this.watched.delete(workload);
  }

  private async round(): Promise<void> {
    const { context } = this.options;
    const names = new Set([...context.book.workloads(), ...this.watched.keys()]);
    for (const workload of names) {
      try {
        await this.look(workload);
      } catch (error) {
        context.log("warn", "looking whether it has ended failed", { workload, failure: toFailure(error) });
      }
    }
    // Stopped meanwhile: no further round.
    if (this.timer !== undefined) this.start();
  }

  private async look(workload: string): Promise<void> {
    const { context, busy } = this.options;
    const hold = runningHold(context.book.ledger, workload);
    const watched = this.watched.get(workload);
    if (hold?.state !== "OWNER" || (watched !== undefined && watched.epoch !== hold.epoch)) this.forget(workload);
    if (hold?.state !== "OWNER" || busy(workload)) return;
    // Journaled, and not started yet: the start is asked for again, or undone.
    const handedOver = hold.digest !== undefined && !RECOVERY.test(hold.operation ?? "");
    if (!context.book.wasStarted(workload, hold.epoch) && !handedOver) return;
    const now = this.watched.get(workload);
    if (now !== undefined) {
      if (now.process.ended) await this.ended(hold, now.process);
      return;
    }
    const { pid, processes } = await context.runtime.observe({ name: workload, epoch: hold.epoch });
    if (pid !== undefined) {
      this.begun(workload, hold.epoch, pid);
      // Was it that process, or another one that got its number?
      const again = await context.runtime.observe({ name: workload, epoch: hold.epoch });
      if (again.pid !== pid) this.forget(workload);
    } else if (processes === 0) await this.ended(hold);
  }

  private async ended(hold: Hold, process?: ProcessWatch): Promise<void> {
    const { context, locked, busy } = this.options;
    const { workload, epoch } = hold;
    const until = async (withinMs: number, holds: () => Promise<boolean>): Promise<boolean> => {
      const end = performance.now() + withinMs;
      while (!(await holds())) {
        if (performance.now() > end) return false;
        await pause(20);
      }
      return true;
    };
    if (process !== undefined) await until(REAPED_WITHIN_MS, () => Promise.resolve(process.exitCode() !== undefined));
    const exitCode = process?.exitCode();
    const empty = await until(EMPTY_WITHIN_MS, async () => {
      const { processes } = await context.runtime.observe({ name: workload, epoch });
      return processes === 0;
    });
    if (!empty || busy(workload)) return;
    await locked(workload, async () => {
      // Stopped, or handed over, meanwhile.
      if (context.book.hold(workload, epoch)?.state !== "OWNER") return;
      context.book.recordEnding({ workload, epoch, ...(exitCode === undefined ? {} : { exitCode }) });
      context.log("info", "it has ended by itself", {
        workload,
        epoch,
        ...(exitCode === undefined ? {} : { exitCode }),
      });
      this.forget(workload);
      await context.runtime.destroy({ name: workload, epoch });
    });
  }

  /** The last end of each workload that nobody has started again since. */
  list(): Ending[] {
    const { book } = this.options.context;
    return book.endings().filter(({ workload, epoch }) => book.highest(workload) === epoch);
  }
}

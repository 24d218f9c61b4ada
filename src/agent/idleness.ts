/**
 * Since when workloads are idle: no packet came or went, and the processor was hardly used. Only those are looked at that
 * somebody asks about, from the first question on, so it costs the others nothing; an agent that is started again begins anew.
 * A level: how it was asked, or how often, makes no difference.
 */
import type { IdleInput, Idleness } from "../model/contract.js";
import { ferryError, toFailure } from "../model/failure.js";
import type { NodeContext } from "./operations/node-context.js";

const LOOK_MS = 1_000;
/** The use of the processor is an average over this: a timer's tick is no work. */
const CPU_OVER_MS = 5_000;
/** Nobody has asked for so long: it is looked at no more. */
const FORGET_MS = 600_000;

interface Watched {
  epoch: number;
  cpuPercent: number;
  askedAt: number;
  packets: number;
  packetAt: number;
  /** Of the window that is being measured. */
  cpuMs: number;
  cpuFrom: number;
  busyAt: number;
}

export class IdleWatch {
  private readonly context: NodeContext;
  private readonly now: () => number;
  private readonly watched = new Map<string, Watched>();
  private timer: NodeJS.Timeout | undefined;

  constructor(context: NodeContext, now: () => number = () => performance.now()) {
    this.context = context;
    this.now = now;
  }

  async ask({ workload, epoch, cpuPercent }: IdleInput): Promise<Idleness> {
    const { book, config } = this.context;
    const hold = book.hold(workload, epoch);
    if (hold?.state !== "OWNER") {
      throw ferryError(
        "E_STATE",
        `${workload} does not run on ${config.node} under epoch ${epoch} (${hold?.state ?? "unknown"})`,
        { workload },
      );
    }
    const before = this.watched.get(workload);
    if (before === undefined || before.epoch !== epoch || before.cpuPercent !== cpuPercent) {
      const now = this.now();
      const seen = await this.context.runtime.activity({ name: workload, epoch });
      this.watched.set(workload, {
        epoch,
        cpuPercent,
        askedAt: now,
        packets: seen?.packets ?? 0,
        packetAt: now,
        cpuMs: seen?.cpuMs ?? 0,
        cpuFrom: now,
        busyAt: now,
      });
    }
    this.timer ??= setInterval(() => void this.round(), LOOK_MS);
    this.timer.unref();
    const watched = this.watched.get(workload);
    if (watched !== undefined) {
      watched.askedAt = this.now();
      await this.look(workload, watched);
    }
    const now = this.now();
    return { packetsMs: now - (watched?.packetAt ?? now), cpuMs: now - (watched?.busyAt ?? now) };
  }

  close(): void {
    clearInterval(this.timer);
    this.timer = undefined;
    this.watched.clear();
  }

  private async round(): Promise<void> {
    for (const [workload, watched] of this.watched) {
      const over = this.context.book.hold(workload, watched.epoch)?.state !== "OWNER";
      if (over || this.now() - watched.askedAt > FORGET_MS) this.watched.delete(workload);
      else {
        await this.look(workload, watched).catch((error: unknown) => {
          // What can't be seen is not idle.
          watched.packetAt = this.now();
          this.context.log("warn", "whether it is idle can't be seen", { workload, failure: toFailure(error) });
        });
      }
    }
    if (this.watched.size > 0) return;
    clearInterval(this.timer);
    this.timer = undefined;
  }

  private async look(workload: string, watched: Watched): Promise<void> {
    const seen = await this.context.runtime.activity({ name: workload, epoch: watched.epoch });
    const now = this.now();
    if (seen === undefined || seen.packets !== watched.packets) watched.packetAt = now;
    if (seen === undefined) return;
    watched.packets = seen.packets;
    const overMs = now - watched.cpuFrom;
    if (overMs < CPU_OVER_MS) return;
    if ((seen.cpuMs - watched.cpuMs) * 100 > watched.cpuPercent * overMs) watched.busyAt = now;
    watched.cpuMs = seen.cpuMs;
    watched.cpuFrom = now;
  }
}

/**
 * Workloads that sleep on this node: let go with a checkpoint, to be restored when something comes for them. Which ones is a
 * level of the journal; here their addresses are held (host/address-holder.ts), and what comes is kept until they run again.
 *
 * The worker asks which are wanted, and asks the workload's entity to restore those: nothing is started from here.
 */
import { AddressHolder } from "../host/address-holder.js";
import { whoHas } from "../host/address-claim.js";
import { frameAddress } from "../host/frame-socket.js";
import type { Sleeper } from "../model/contract.js";
import { toFailure } from "../model/failure.js";
import { isOpen } from "../model/ownership.js";
import type { FrameDoor } from "../runtimes/runtime.js";
import type { Book } from "./book.js";
import { Level } from "./level.js";
import type { Log } from "./operations/node-context.js";

/** What comes for a sleeper is seen within this. */
const PASS_MS = 20;
/** How often it is looked whether all that sleep are held, and no others. */
const LOOK_MS = 500;
/** An address that somebody else has, or that can't be held, is tried again. */
const AGAIN_MS = 30_000;

interface Held {
  epoch: number;
  holder: AddressHolder;
  wanted: boolean;
}

export interface SleepersOptions {
  book: Book;
  bridge: string;
  log: Log;
}

export class Sleepers {
  private readonly options: SleepersOptions;
  private readonly held = new Map<string, Held>();
  /** Its address is being asked for, or is not to be had: until then. */
  private readonly notBefore = new Map<string, number>();
  private readonly disputed = new Set<string>();
  /** How many are wanted. */
  private readonly wanted = new Level(0);
  private looking: NodeJS.Timeout | undefined;
  private passing: NodeJS.Timeout | undefined;

  constructor(options: SleepersOptions) {
    this.options = options;
  }

  /** Boot: takes up what the journal says. */
  start(): void {
    this.look();
    this.looking = setInterval(() => this.look(), LOOK_MS);
    this.looking.unref();
  }
  close(): void {
    clearInterval(this.looking);
    for (const workload of this.held.keys()) this.drop(workload);
  }

  /**
   * Just journaled as asleep: its link is down, nobody else can have its address. `kept`: what came for it since the freeze; it is
   * kept there until it is asked for.
   */
  hold(workload: string, kept: () => readonly Buffer[]): void {
    const epoch = this.epochOf(workload);
    if (epoch === undefined) return;
    try {
      this.open(workload, epoch, kept);
    } catch (error) {
      this.notYet(workload, error);
    }
  }

  /** It runs, and its link is up: what came for it is delivered, and from now on it answers for itself. */
  deliver(workload: string, door: () => FrameDoor): void {
    const held = this.held.get(workload);
    if (held === undefined) return;
    this.held.delete(workload);
    const frames = held.holder.release();
    this.settle();
    const { log } = this.options;
    try {
      const open = door();
      try {
        for (const frame of frames) open.put(frame);
      } finally {
        open.close();
      }
      log("info", "what came for it while it slept is delivered", { workload, frames: frames.length });
    } catch (error) {
      log("warn", "what came for it while it slept could not be delivered: peers send it again", {
        workload,
        failure: toFailure(error),
      });
    }
  }

  list(): Sleeper[] {
    const { book } = this.options;
    return book.sleepers().map(({ workload, epoch }) => ({
      workload,
      epoch,
      // A restore that was begun and not ended is gone on with when it is asked for again.
      wanted: this.held.get(workload)?.wanted === true || this.restoring(workload),
      disputed: this.disputed.has(workload),
    }));
  }

  /** Answers when one is wanted, or after `waitMs`. */
  async wait(waitMs: number): Promise<Sleeper[]> {
    const now = this.list();
    if (waitMs === 0 || now.some(({ wanted }) => wanted)) return now;
    const late = AbortSignal.timeout(waitMs);
    await this.wanted.wait((count) => count > 0, { signal: late }).catch(() => undefined);
    return this.list();
  }

  private epochOf(workload: string): number | undefined {
    return this.options.book.sleepers().find((each) => each.workload === workload)?.epoch;
  }
  private restoring(workload: string): boolean {
    return this.options.book.holds(workload).some(({ state }) => isOpen(state));
  }

  /** Holds the addresses of all that sleep, and no others. */
  look(): void {
    const asleep = this.options.book.sleepers();
    for (const [workload, { epoch }] of this.held) {
      if (!asleep.some((each) => each.workload === workload && each.epoch === epoch)) this.drop(workload);
    }
    for (const workload of this.disputed) {
      if (!asleep.some((each) => each.workload === workload)) this.disputed.delete(workload);
    }
    for (const { workload, epoch } of asleep) {
      if (this.held.has(workload) || (this.notBefore.get(workload) ?? 0) > performance.now()) continue;
      void this.take(workload, epoch);
    }
  }

  /** Somebody may have been given the address while this agent was away. */
  private async take(workload: string, epoch: number): Promise<void> {
    const { book, bridge } = this.options;
    const spec = book.spec(workload);
    if (spec === undefined) return;
    this.notBefore.set(workload, performance.now() + AGAIN_MS);
    const { ip } = frameAddress(spec.network);
    try {
      const taken = await whoHas(bridge, ip);
      // Woken, or restored here, meanwhile.
      if (this.held.has(workload) || this.epochOf(workload) !== epoch) return;
      if (taken !== undefined) {
        this.dispute(workload, { ip, taken });
        return;
      }
      this.open(workload, epoch, () => []);
    } catch (error) {
      this.notYet(workload, error);
    }
  }

  private open(workload: string, epoch: number, kept: () => readonly Buffer[]): void {
    const { book, bridge, log } = this.options;
    const spec = book.spec(workload);
    if (spec === undefined || this.held.has(workload)) return;
    const holder = new AddressHolder(bridge, frameAddress(spec.network));
    const frames = kept();
    holder.take(frames);
    this.notBefore.delete(workload);
    this.disputed.delete(workload);
    this.held.set(workload, { epoch, holder, wanted: frames.length > 0 });
    log("info", "it sleeps: its address is held", { workload, epoch, kept: frames.length });
    this.count();
    this.passing ??= setInterval(() => this.pass(), PASS_MS);
    this.passing.unref();
  }

  private dispute(workload: string, fields: Record<string, unknown>): void {
    this.disputed.add(workload);
    this.notBefore.set(workload, performance.now() + AGAIN_MS);
    const what = "it sleeps, and its address is in use: nothing is answered or kept for it";
    this.options.log("warn", what, { workload, ...fields });
  }

  private notYet(workload: string, error: unknown): void {
    this.notBefore.set(workload, performance.now() + AGAIN_MS);
    this.options.log("error", "it sleeps, and its address can't be held: nothing wakes it", {
      workload,
      failure: toFailure(error),
    });
  }

  private pass(): void {
    for (const [workload, held] of this.held) {
      const wanted = held.holder.pass();
      if (wanted && !held.wanted) this.options.log("info", "something came for it while it sleeps", { workload });
      held.wanted = wanted;
      if (!held.holder.claimed) continue;
      this.drop(workload);
      this.dispute(workload, {});
    }
    this.count();
  }

  private count(): void {
    const count = [...this.held.values()].filter(({ wanted }) => wanted).length;
    if (count !== this.wanted.value) this.wanted.set(count);
  }

  private drop(workload: string): void {
    this.held.get(workload)?.holder.close();
    this.held.delete(workload);
    this.settle();
  }
  private settle(): void {
    this.count();
    if (this.held.size > 0) return;
    clearInterval(this.passing);
    this.passing = undefined;
  }
}

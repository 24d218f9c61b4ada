/**
 * Pushes the pages of a frozen tree: what somebody waits for first (fault session), then everything the destination says
 * is missing (bulk session), until it says that nothing is. Nothing is remembered across a lost link: the destination
 * is asked again, so that neither end can be wrong about what the other has.
 */
import { toFailure, type FailureData } from "../../model/failure.js";
import type { LinkSession } from "../link/index.js";
import { PAGE_SIZE } from "../pages/api.js";
import { zeroRuns, type TreeReader } from "../pages/source.js";
import type { Limiter } from "./limiter.js";
import type { Sessions } from "./links.js";
import type { FrameMeta } from "./messages.js";

/** Pages of one bulk frame: 1 MiB. */
export const CHUNK_PAGES = 256;
/** Bulk frames that the destination has not acknowledged. */
const WINDOW_FRAMES = 16;
/**
 * The same while threads wait for pages: what is under way lies in front of every answer (in socket buffers, and in the
 * destination's event loop, which decrypts both). So for this long after a fault.
 */
const FAULT_WINDOW_FRAMES = 2;
const FAULT_WINDOW_MS = 250;
/** Reads that run ahead of the sending (in libuv's threads, while this thread encrypts). */
const READ_AHEAD = 3;
/**
 * The bulk stands back while faults come: a thread waits for each of them, and behind bulk frames (read, encrypted,
 * decrypted and stored on the same cores) an answer takes ten times as long. Faults closer together than this are one
 * burst; within a burst a bulk frame still goes every BULK_AT_LEAST_MS, so that the transfer ends.
 */
const FAULT_BURST_MS = 8;
const BULK_AT_LEAST_MS = 60;
/** Pages of one answer to a fault. */
const FAULT_PAGES = 64;

interface Chunk {
  slot: number;
  pages: number;
}

export interface PageSenderOptions {
  reader: TreeReader;
  slots: number;
  /** Slots that have a page: the others are never asked for. */
  pages: number;
  limiter: Limiter;
  onChange: (urgent: boolean) => void;
  /** A page can't be read: final. */
  onFailure: (failure: FailureData) => void;
}

export class PageSender {
  readonly #options: PageSenderOptions;
  /** 1: sent since the destination last said what it lacks. */
  readonly #done: Uint8Array;
  readonly #free: Buffer[] = [];
  readonly total: number;
  sent = 0;
  bytesSent = 0;
  allSent = false;
  allAcked = false;
  #failed = false;
  #credits = 0;
  #creditWaiter: (() => void) | undefined;
  #needId = 0;
  #faultAt = Number.NEGATIVE_INFINITY;
  #bulkAt = Number.NEGATIVE_INFINITY;
  #answer: ((missing: FrameMeta<"missing"> | undefined) => void) | undefined;

  constructor(options: PageSenderOptions) {
    this.#options = options;
    this.total = options.pages;
    this.#done = new Uint8Array(options.slots);
  }

  /** Starts to push over new sessions; ends by itself with them, or when everything is acknowledged. Never rejects. */
  async push({ bulk, control }: Sessions): Promise<void> {
    this.#credits = WINDOW_FRAMES;
    bulk.onClose(() => {
      this.#wake();
      this.#answer?.(undefined);
    });
    try {
      while (!bulk.closed && !this.#failed) {
        const missing = await this.#ask(bulk);
        if (missing === undefined) return;
        this.#forget(missing);
        if (missing.runs.length === 0) {
          this.allSent = true;
          this.allAcked = true;
          await control.send("complete", { slots: this.total });
          this.#options.onChange(true);
          return;
        }
        await this.#pushRuns(bulk, missing.runs);
        if (this.sent === this.total && !this.allSent) {
          this.allSent = true;
          this.#options.onChange(true);
        }
      }
    } catch (error) {
      this.#fail(error, bulk);
    }
  }

  /** The destination has taken frames. */
  credit(frames: number): void {
    this.#credits = Math.min(WINDOW_FRAMES, this.#credits + frames);
    this.#wake();
  }

  /** The destination will take no more: pushing is of no use. */
  stop(): void {
    this.#failed = true;
    this.#wake();
  }

  missing(meta: FrameMeta<"missing">): void {
    if (meta.id === this.#needId) this.#answer?.(meta);
  }

  /** Somebody waits for these pages. */
  async fault(session: LinkSession, { slot, pages }: FrameMeta<"fault">): Promise<void> {
    const end = Math.min(this.#done.length, slot + pages);
    this.#faultAt = performance.now();
    try {
      for (let at = slot; at < end; at += FAULT_PAGES) {
        const count = Math.min(FAULT_PAGES, end - at);
        const buffer = Buffer.allocUnsafeSlow(count * PAGE_SIZE);
        await this.#options.reader.read(at, count, buffer);
        this.#options.limiter.spend(await this.#send(session, { slot: at, pages: count }, buffer));
      }
      this.#faultAt = performance.now();
    } catch (error) {
      this.#fail(error, session);
    }
  }

  /** Bulk frames that were sent and not acknowledged. */
  get #underWay(): number {
    return WINDOW_FRAMES - this.#credits;
  }

  get #window(): number {
    return performance.now() - this.#faultAt < FAULT_WINDOW_MS ? FAULT_WINDOW_FRAMES : WINDOW_FRAMES;
  }

  /** Waits while faults come thick. */
  async #standBack(): Promise<void> {
    for (;;) {
      const now = performance.now();
      if (now - this.#faultAt > FAULT_BURST_MS || now - this.#bulkAt > BULK_AT_LEAST_MS) break;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    this.#bulkAt = performance.now();
  }

  /** What the destination lacks is not sent, everything else is. */
  #forget(missing: FrameMeta<"missing">): void {
    for (const [slot, pages] of missing.runs) this.#done.fill(0, slot, Math.min(this.#done.length, slot + pages));
    this.sent = missing.received;
  }

  async #pushRuns(bulk: LinkSession, runs: readonly (readonly [number, number])[]): Promise<void> {
    const chunks = this.#chunks(runs);
    const ahead: { chunk: Chunk; buffer: Buffer; read: Promise<void> }[] = [];
    const readNext = (): void => {
      const chunk = chunks.next().value;
      if (chunk === undefined) return;
      const buffer = this.#free.pop() ?? Buffer.allocUnsafeSlow(CHUNK_PAGES * PAGE_SIZE);
      const reading = this.#options.reader.read(chunk.slot, chunk.pages, buffer);
      reading.catch(() => undefined);
      ahead.push({ chunk, buffer, read: reading });
    };
    try {
      for (let i = 0; i < READ_AHEAD; i += 1) readNext();
      for (let item = ahead.shift(); item !== undefined; item = ahead.shift()) {
        await item.read;
        readNext();
        while (this.#underWay >= this.#window && !bulk.closed && !this.#failed)
          await new Promise<void>((resolve) => (this.#creditWaiter = resolve));
        if (bulk.closed || this.#failed) return;
        this.#credits -= 1;
        await this.#standBack();
        await this.#options.limiter.take(item.chunk.pages * PAGE_SIZE);
        await this.#send(bulk, item.chunk, item.buffer);
        this.#free.push(item.buffer);
      }
    } finally {
      // Reads under way still write into their buffers: they are left to the garbage collector.
      await Promise.allSettled(ahead.map((item) => item.read));
    }
  }

  /** The runs in pieces; pages that a fault has carried meanwhile are left out. */
  *#chunks(runs: readonly (readonly [number, number])[]): Generator<Chunk, undefined> {
    for (const [start, pages] of runs) {
      const end = Math.min(this.#done.length, start + pages);
      for (let slot = start; slot < end;) {
        if (this.#done[slot] === 1) {
          slot += 1;
          continue;
        }
        let to = slot + 1;
        while (to < end && to - slot < CHUNK_PAGES && this.#done[to] !== 1) to += 1;
        yield { slot, pages: to - slot };
        slot = to;
      }
    }
    return undefined;
  }

  /** Sends one chunk without its zero pages. Returns the bytes of the payload. */
  async #send(session: LinkSession, { slot, pages }: Chunk, buffer: Buffer): Promise<number> {
    const runs = zeroRuns(buffer, pages);
    const parts: Buffer[] = [];
    let bytes = 0;
    let at = 0;
    for (const [index, run] of runs.entries()) {
      if (index % 2 === 0 && run > 0) {
        parts.push(buffer.subarray(at * PAGE_SIZE, (at + run) * PAGE_SIZE));
        bytes += run * PAGE_SIZE;
      }
      at += run;
    }
    await session.send("pages", { slot, runs }, parts);
    this.bytesSent += bytes;
    for (let page = slot; page < slot + pages; page += 1) {
      if (this.#done[page] === 1) continue;
      this.#done[page] = 1;
      this.sent += 1;
    }
    this.#options.onChange(false);
    return bytes;
  }

  /** Asks what is missing; behind everything that was sent, so the answer counts it. undefined: the link is lost. */
  async #ask(bulk: LinkSession): Promise<FrameMeta<"missing"> | undefined> {
    const answer = new Promise<FrameMeta<"missing"> | undefined>((resolve) => (this.#answer = resolve));
    this.#needId += 1;
    await bulk.send("need", { id: this.#needId });
    const missing = await answer;
    this.#answer = undefined;
    return missing;
  }

  #wake(): void {
    this.#creditWaiter?.();
    this.#creditWaiter = undefined;
  }

  #fail(error: unknown, session: LinkSession): void {
    const failure = toFailure(error, "E_PAGES");
    // The link's end is not ours: a new one comes.
    if (session.closed && failure.code !== "E_PAGES") return;
    if (this.#failed) return;
    this.#failed = true;
    this.#options.onFailure(failure);
  }
}

/**
 * Pushes the pages of a frozen tree: what somebody waits for first (fault session), then everything the destination says
 * is missing (bulk session), until it says that nothing is. Nothing is remembered across a lost link: the destination
 * is asked again, so that neither end can be wrong about what the other has.
 */
import { toFailure, type FailureData } from "../../model/failure.js";
import type { LinkSession } from "../link/index.js";
import { PAGE_SIZE } from "../pages/api.js";
import { zeroRuns, type PageReader, type TreeReader } from "../pages/source.js";
import type { Limiter } from "./limiter.js";
import type { Sessions } from "./links.js";
import type { FrameMeta } from "./messages.js";

/** Pages of one bulk frame: 1 MiB. */
export const CHUNK_PAGES = 256;
/**
 * Bulk frames that the destination has not acknowledged. What is under way lies in front of every answer (in socket
 * buffers, and in the destination's event loop, which decrypts both): so no more than keeps the way full. An
 * acknowledgement that comes so much later than the quickest one says that frames queue; and while threads wait for
 * pages, it is MIN_FRAMES.
 */
const MIN_FRAMES = 2;
const FIRST_FRAMES = 4;
const MAX_FRAMES = 16;
const QUEUE_MS = 10;
const FAULT_WINDOW_MS = 250;
/** Reads that run ahead of the sending (in libuv's threads, while this thread encrypts). */
const READ_AHEAD = 3;
/**
 * The bulk stands back while faults come: a thread waits for each of them, and behind bulk frames (read, encrypted,
 * decrypted and stored on the same cores) an answer takes ten times as long. Faults closer together than this are one
 * burst; within a burst a bulk frame still goes every BULK_AT_LEAST_MS, so that the transfer ends.
 */
const FAULT_BURST_MS = 8;
const BULK_AT_LEAST_MS = 10;
/** The page that a thread waits for is one of the first so many of what is asked for. They go first, and always. */
const FAULT_FIRST_PAGES = 16;
/**
 * Goes before the rest, which is in the order of addresses: what lies in small areas, the smallest first, up to 16 MiB. Data of
 * libraries, stacks, what an interpreter keeps: a program that resumes meets all of them before it answers anybody.
 */
const SMALL_AREA_PAGES = 1024;
const SMALL_PAGES = 4096;
/** Pages of one frame of an answer. */
const FAULT_PAGES = 64;
/** Answers that wait in this process; beyond it no question is taken. */
const MAX_ANSWERS_BYTES = 8 << 20;
/** Questions whose pages are being read, where that takes a while; beyond it no question is taken. */
const MAX_QUESTIONS = 64;

/** What is known of a slot. UNKNOWN: the destination has it, or has not said that it lacks it. */
const UNKNOWN = 0;
const LACKING = 1;
/** Of a bulk frame that is being read. */
const CLAIMED = 2;
const SENT = 3;

export interface Chunk {
  slot: number;
  pages: number;
}

export interface PageSenderOptions {
  /** Without `readNow`: a page may take a while to come, from a store. */
  reader: PageReader & Partial<TreeReader>;
  slots: number;
  /** Slots that have a page: the others are never asked for. */
  pages: number;
  /** What goes before everything that nobody waits for, in this order. */
  first?: readonly Chunk[];
  limiter: Limiter;
  onChange: (urgent: boolean) => void;
  /** A page can't be read: final. */
  onFailure: (failure: FailureData) => void;
}

export class PageSender {
  readonly #options: PageSenderOptions;
  /** Since the destination last said what it lacks. */
  readonly #states: Buffer;
  /** Where the bulk goes on: behind what was last asked for. */
  #cursor = 0;
  /** Where it goes before that. */
  #small: Chunk[] = [];
  readonly #free: Buffer[] = [];
  readonly total: number;
  sent = 0;
  bytesSent = 0;
  allSent = false;
  allAcked = false;
  #begun = false;
  #failed = false;
  /** When the frames were sent that are not acknowledged, in that order. */
  #underWay: number[] = [];
  #window = FIRST_FRAMES;
  #quickestMs = Number.POSITIVE_INFINITY;
  #creditWaiter: (() => void) | undefined;
  #needId = 0;
  #questions = 0;
  #faultAt = Number.NEGATIVE_INFINITY;
  #bulkAt = Number.NEGATIVE_INFINITY;
  #answer: ((missing: FrameMeta<"missing"> | undefined) => void) | undefined;

  constructor(options: PageSenderOptions) {
    this.#options = options;
    this.total = options.pages;
    this.#states = Buffer.alloc(options.slots, UNKNOWN);
  }

  /** Starts to push over new sessions; ends by itself with them, or when everything is acknowledged. Never rejects. */
  async push({ bulk, control }: Sessions): Promise<void> {
    this.#underWay = [];
    this.#window = FIRST_FRAMES;
    this.#quickestMs = Number.POSITIVE_INFINITY;
    bulk.onClose(() => {
      // what was under way may be lost
      this.#states.fill(UNKNOWN);
      this.#wake();
      this.#answer?.(undefined);
    });
    try {
      while (!bulk.closed && !this.#failed) {
        const missing = await this.#ask(bulk);
        if (missing === undefined) return;
        this.#lacks(missing);
        if (missing.runs.length === 0) {
          this.allSent = true;
          this.allAcked = true;
          await control.send("complete", { slots: this.total });
          this.#options.onChange(true);
          return;
        }
        await this.#pushLacking(bulk);
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
    const full = this.#underWay.length >= this.#window;
    const last = this.#underWay.splice(0, frames).at(-1);
    if (last !== undefined) {
      const ms = performance.now() - last;
      this.#quickestMs = Math.min(this.#quickestMs, ms);
      if (ms > this.#quickestMs + QUEUE_MS) this.#window = Math.max(MIN_FRAMES, this.#window - 1);
      else if (full) this.#window = Math.min(MAX_FRAMES, this.#window + 1);
    }
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

  /**
   * Somebody waits for one of the first FAULT_FIRST_PAGES of these pages, and is likely to want the others next: those
   * are sent if they are not on their way. Read and given to the session before this returns, unless reading takes a
   * while; what it returns is only to be waited for before more is taken.
   */
  fault(session: LinkSession, { slot, pages }: FrameMeta<"fault">): Promise<void> | undefined {
    const end = Math.min(this.#states.length, slot + pages);
    this.#faultAt = performance.now();
    this.#cursor = end;
    const { reader } = this.#options;
    let sending: Promise<void> | undefined;
    if (reader.readNow === undefined) sending = this.#answerAside(session, slot, end);
    else {
      try {
        for (const run of this.#wanted(slot, end)) {
          const buffer = Buffer.allocUnsafeSlow(run.pages * PAGE_SIZE);
          reader.readNow(run.slot, run.pages, buffer);
          sending = this.#reply(session, run, buffer);
        }
        this.#faultAt = performance.now();
      } catch (error) {
        this.#fail(error, session);
      }
    }
    const enough = session.bufferedBytes > MAX_ANSWERS_BYTES || this.#questions >= MAX_QUESTIONS;
    return enough ? sending?.catch(() => undefined) : undefined;
  }

  /** The runs of an answer. Small pieces first: the thread goes on while the others come. */
  *#wanted(slot: number, end: number): Generator<Chunk> {
    let piece = FAULT_FIRST_PAGES;
    for (let at = slot; at < end;) {
      const must = at < slot + FAULT_FIRST_PAGES;
      let to = at;
      const last = Math.min(end, at + piece);
      if (must) to = last;
      else while (to < last && this.#states[to] !== SENT) to += 1;
      if (to === at) {
        at += 1;
        continue;
      }
      yield { slot: at, pages: to - at };
      at = to;
      piece = Math.min(piece * 2, FAULT_PAGES);
    }
  }

  /** Never rejects. */
  async #answerAside(session: LinkSession, slot: number, end: number): Promise<void> {
    this.#questions += 1;
    try {
      for (const run of this.#wanted(slot, end)) {
        const buffer = Buffer.allocUnsafeSlow(run.pages * PAGE_SIZE);
        await this.#options.reader.read(run.slot, run.pages, buffer);
        if (session.closed || this.#failed) return;
        await this.#reply(session, run, buffer);
        this.#faultAt = performance.now();
      }
    } catch (error) {
      this.#fail(error, session);
    } finally {
      this.#questions -= 1;
    }
  }

  #reply(session: LinkSession, run: Chunk, buffer: Buffer): Promise<void> {
    const { bytes, done } = this.#send(session, run, buffer);
    done.catch((error: unknown) => this.#fail(error, session));
    this.#options.limiter.spend(bytes);
    return done;
  }

  get #full(): boolean {
    const waiting = performance.now() - this.#faultAt < FAULT_WINDOW_MS;
    return this.#underWay.length >= (waiting ? MIN_FRAMES : this.#window);
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

  /** What the destination lacks is to be sent, and nothing else. */
  #lacks(missing: FrameMeta<"missing">): void {
    this.#states.fill(UNKNOWN);
    for (const [slot, pages] of missing.runs) this.#states.fill(LACKING, slot, slot + pages);
    this.sent = missing.received;
    if (!this.#begun) this.#small = [...(this.#options.first ?? []), ...smallAreas(this.#options.reader.areas)];
    this.#begun = true;
  }

  async #pushLacking(bulk: LinkSession): Promise<void> {
    const ahead: { chunk: Chunk; buffer: Buffer; read: Promise<void> }[] = [];
    const readNext = (): void => {
      const chunk = this.#next();
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
        for (let left = this.#left(item.chunk); left !== undefined; left = this.#left(item.chunk)) {
          while (this.#full && !bulk.closed && !this.#failed)
            await new Promise<void>((resolve) => (this.#creditWaiter = resolve));
          if (bulk.closed || this.#failed) return;
          await this.#standBack();
          await this.#options.limiter.take(left.pages * PAGE_SIZE);
          // a fault may have carried some of it meanwhile
          const still = this.#left(left);
          if (still === undefined || bulk.closed) continue;
          this.#underWay.push(performance.now());
          await this.#send(bulk, still, item.buffer.subarray((still.slot - item.chunk.slot) * PAGE_SIZE)).done;
        }
        this.#free.push(item.buffer);
      }
    } finally {
      // Reads under way still write into their buffers: they are left to the garbage collector.
      await Promise.allSettled(ahead.map((item) => item.read));
    }
  }

  /** The next run to read, behind the cursor or else from the start on: it counts as claimed. */
  #next(): Chunk | undefined {
    const states = this.#states;
    let slot = -1;
    let limit = states.length;
    for (let small = this.#small[0]; small !== undefined && slot < 0; small = this.#small[0]) {
      limit = small.slot + small.pages;
      slot = states.subarray(0, limit).indexOf(LACKING, small.slot);
      if (slot < 0) this.#small.shift();
    }
    if (slot < 0) {
      limit = states.length;
      slot = states.indexOf(LACKING, this.#cursor);
      if (slot < 0) slot = states.indexOf(LACKING);
    }
    if (slot < 0) return undefined;
    let end = slot + 1;
    while (end < limit && end - slot < CHUNK_PAGES && states[end] === LACKING) end += 1;
    states.fill(CLAIMED, slot, end);
    if (this.#small.length === 0) this.#cursor = end;
    return { slot, pages: end - slot };
  }

  /** The first run of a chunk that was not sent since it was claimed. */
  #left({ slot, pages }: Chunk): Chunk | undefined {
    const end = slot + pages;
    let from = slot;
    while (from < end && this.#states[from] !== CLAIMED) from += 1;
    let to = from;
    while (to < end && this.#states[to] === CLAIMED) to += 1;
    return from === to ? undefined : { slot: from, pages: to - from };
  }

  /** Sends one run, whose pages `buffer` begins with, without its zero pages. Returns the bytes of the payload. */
  #send(session: LinkSession, { slot, pages }: Chunk, buffer: Buffer): { bytes: number; done: Promise<void> } {
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
    const done = session.send("pages", { slot, runs }, parts);
    this.bytesSent += bytes;
    for (let page = slot; page < slot + pages; page += 1) {
      if (this.#states[page] === LACKING || this.#states[page] === CLAIMED) this.sent += 1;
      this.#states[page] = SENT;
    }
    this.#options.onChange(false);
    return { bytes, done };
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

/** Runs of slots of the smallest areas, in the order of slots. */
function smallAreas(areas: PageReader["areas"]): Chunk[] {
  const chosen: Chunk[] = [];
  let room = SMALL_PAGES;
  for (const { slot, pages } of areas
    .filter((area) => area.pages <= SMALL_AREA_PAGES)
    .sort((a, b) => a.pages - b.pages)) {
    room -= pages;
    if (room < 0) break;
    chosen.push({ slot, pages });
  }
  const runs: Chunk[] = [];
  for (const { slot, pages } of chosen.sort((a, b) => a.slot - b.slot)) {
    const last = runs.at(-1);
    if (last !== undefined && last.slot + last.pages === slot) last.pages += pages;
    else runs.push({ slot, pages });
  }
  return runs;
}

/**
 * Pre-copy at the source: what a tracker finds dirty in the running tree goes to the destination's stage, round by round.
 *
 * Every page has a slot (pages/regions.ts) and a state (precopy-memory.ts). Memory: a byte per slot, which is 256 KiB per
 * GiB of the workload and 128 MiB at most, some 100 bytes per block of 2 MiB, and a few read buffers of 1 MiB.
 *
 * Frames are credited in order; when the link is lost, what was not credited is unsent again. The stage at the
 * destination has a random id: a destination that has another one, or none, gets everything again under a new id. None of
 * this outlives this process: its successor begins anew.
 */
import { randomBytes } from "node:crypto";
import { ferryError, FerryError, toFailure, type FailureData } from "../../model/failure.js";
import type { PrecopyStatus, TrackerKind } from "../../model/mover.js";
import type { LinkSession } from "../link/index.js";
import { PAGE_SIZE } from "../pages/api.js";
import type { RegionMap } from "../pages/regions.js";
import { zeroRuns } from "../pages/source.js";
import type { Scan, Tracker } from "../trackers/tracker.js";
import type { Limiter } from "./limiter.js";
import type { Sessions } from "./links.js";
import { MAX_REGIONS, MAX_STAGE_RUNS, type FrameMeta } from "./messages.js";
import { PrecopyMemory, type Span } from "./precopy-memory.js";

/** Pages of one frame: 1 MiB. */
const CHUNK_PAGES = 256;
/** Frames that the destination has not taken yet. */
const WINDOW_FRAMES = 16;
/** Chunks that are read while others are sent. */
const READ_AHEAD = 2;
/** A slow link must not keep `cut` waiting for a whole frame's share of it. */
const PAID_AT_ONCE_BYTES = 65_536;
/**
 * The destination keeps pages that have vanished here since, until it holds this many times what is present, and this
 * many pages (256 MiB) on top: then the stage begins anew.
 */
const MOST_STAGED = 2;
const STAGED_SLACK_PAGES = 65_536;
const STALE_PIECE_BYTES = 1024 * 1024;

type Stage = FrameMeta<"state">["stage"];

export interface PrecopyOptions {
  limiter: Limiter;
  /** Sessions when there are some, with what the destination said on them that it has staged. */
  open: () => Promise<{ sessions: Sessions; stage: Stage }>;
  choose: (wanted: TrackerKind | "auto") => Promise<{ tracker: Tracker; why: string }>;
  onChange: (urgent: boolean) => void;
  log: (message: string, fields?: object) => void;
}

/** What of the stage counts when the images are there. */
export interface Staged {
  id: string;
  /** So many regions are known to the destination. */
  regions: number;
  map: RegionMap;
}

/** Sent and not credited. */
type Flight = { regions: number } | { spans: Span[] };

interface Chunk {
  spans: Span[];
  buffer: Buffer;
  read: Promise<{ span: Span; at: number }[]>;
}

export class Precopy {
  readonly #options: PrecopyOptions;
  readonly #memory = new PrecopyMemory();
  #tracking: { tracker: Tracker; why: string } | undefined;
  /** Of the tracker that is or was the last. */
  #told: { tracker: TrackerKind; why: string } | undefined;
  #id: string | undefined;
  /** The session over which the destination's stage has been brought in line with ours. */
  #bulk: LinkSession | undefined;
  #flight: Flight[] = [];
  /** Regions that were sent, and those that the destination has confirmed. */
  #announced = 0;
  #confirmed = 0;
  #sending: Promise<void> | undefined;
  #cutting = false;
  #failure: FailureData | undefined;
  #waiters: (() => void)[] = [];
  #free: Buffer[] = [];
  #scannedAt: number | undefined;
  #counts: Omit<PrecopyStatus, "tracker" | "why" | "unsentPages"> | undefined;

  constructor(options: PrecopyOptions) {
    this.#options = options;
  }

  /** As far as it is; undefined before the first scan. */
  status(): PrecopyStatus | undefined {
    const [told, counts] = [this.#told, this.#counts];
    return told && counts && { ...told, ...counts, unsentPages: this.#memory.unsentPages };
  }

  /** Ends a sending under way, then looks what has changed. Rejects when no tracker can; the tree is as it was then. */
  async scan(pids: Readonly<Record<string, number>>, wanted: TrackerKind | "auto" | undefined): Promise<void> {
    await this.stop();
    const found = await this.#scan(pids, wanted);
    // After the scan: what is read is then of the memory that was looked at, or of one that the next scan tells as new.
    this.#memory.open(pids);
    this.#memory.dirty(found.dirty);
    const now = performance.now();
    const before = this.#counts;
    this.#counts = {
      scans: (before?.scans ?? 0) + 1,
      lastScan: {
        dirtyPages: found.pages,
        presentPages: found.looked,
        durationMs: found.durationMs,
        sincePreviousMs: this.#scannedAt === undefined ? 0 : now - this.#scannedAt,
      },
      sentPages: before?.sentPages ?? 0,
      sentBytes: before?.sentBytes ?? 0,
      round: { sentPages: 0, sentBytes: 0, durationMs: 0 },
    };
    this.#scannedAt = now;
    this.#options.onChange(true);
  }

  async #scan(pids: Readonly<Record<string, number>>, wanted: TrackerKind | "auto" | undefined): Promise<Scan> {
    const other = wanted !== undefined && wanted !== "auto" && wanted !== this.#tracking?.tracker.kind;
    if (other) await this.untrack();
    this.#tracking ??= await this.#options.choose(wanted ?? "auto");
    const { tracker, why } = this.#tracking;
    try {
      const found = await tracker.scan(pids);
      this.#told = { tracker: tracker.kind, why: tracker.why ?? why };
      return found;
    } catch (error) {
      await this.untrack();
      throw error;
    }
  }

  /** Ends the tracking. What was sent can't be relied on any more: a new tracker's first scan gives every page. */
  async untrack(): Promise<void> {
    await this.stop();
    const tracking = this.#tracking;
    this.#tracking = undefined;
    await tracking?.tracker.end();
    this.#memory.close();
  }

  /** Resolves when the destination has everything that the last scan knows, or after `cut`. */
  sendUnsent(): Promise<void> {
    if (this.#counts === undefined) {
      return Promise.reject(ferryError("E_STATE", "there is nothing to send: no scan was made"));
    }
    this.#sending ??= this.#send().finally(() => {
      this.#sending = undefined;
    });
    return this.#sending;
  }

  cut(): void {
    if (this.#sending !== undefined) this.#cutting = true;
    this.#wake();
  }

  /** As `cut`, and waits for it. */
  async stop(): Promise<void> {
    this.cut();
    await this.#sending?.catch(() => undefined);
  }

  /** The destination has refused pages: there is no use in sending more. */
  refused(failure: FailureData): void {
    this.#failure = failure;
    this.#wake();
  }

  /** The destination has taken frames. */
  staged(frames: number): void {
    for (const flight of this.#flight.splice(0, frames)) if ("regions" in flight) this.#confirmed += flight.regions;
    this.#wake();
  }

  /** These sessions are lost. */
  detach(bulk: LinkSession): void {
    if (this.#bulk !== bulk) return;
    this.#bulk = undefined;
    for (const flight of this.#flight.splice(0)) if ("spans" in flight) this.#memory.unsend(flight.spans);
    this.#wake();
  }

  /**
   * The tree is frozen and dumped: a last scan. undefined: nothing that was staged can be relied on (no tracker, or it
   * failed), so everything has to be sent.
   */
  async last(pids: Readonly<Record<string, number>>): Promise<boolean> {
    if (this.#tracking === undefined || this.#id === undefined) return false;
    try {
      await this.scan(pids, this.#tracking.tracker.kind);
    } catch (error) {
      this.#options.log("the last scan failed: every page is sent", { failure: toFailure(error) });
      return false;
    } finally {
      this.#memory.close();
    }
    return true;
  }

  /** What the table can be made with, if the destination has it: it said `stage` on these sessions. */
  stagedAt(bulk: LinkSession, stage: Stage): Staged | undefined {
    const id = this.#id;
    if (id === undefined || (this.#bulk !== bulk && stage?.id !== id)) return undefined;
    // these sessions are about to be lost, and with them what is on its way
    if (this.#flight.length > 0) throw ferryError("E_LINK_LOST", "the link was lost while pages were sent ahead");
    return { id, regions: this.#confirmed, map: this.#memory.regions.prefix(this.#confirmed) };
  }

  /** Tells the destination what of its stage is old. */
  async sendStale(control: LinkSession, { id, map }: Staged): Promise<void> {
    for (const piece of this.#memory.stale(map.slots, STALE_PIECE_BYTES)) {
      await control.send("stale", { stage: id }, piece);
    }
  }

  async #send(): Promise<void> {
    this.#cutting = false;
    this.#beginAnewIfSwollen();
    const start = performance.now();
    try {
      while (!this.#cutting) {
        const up = await this.#unlessCut(this.#options.open());
        if (up === undefined) return;
        const { bulk } = up.sessions;
        try {
          await this.#begin(bulk, up.stage);
          await this.#announce(bulk);
          await this.#pass(bulk);
          await this.#until(() => this.#flight.length === 0 || bulk.closed);
          if (!bulk.closed) return;
        } catch (error) {
          if (!bulk.closed) throw error;
        }
        if (this.#failure !== undefined) throw new FerryError(this.#failure);
        this.#options.log("link lost while pages were sent ahead");
        // until `detach` has said what did not arrive
        await this.#until(() => this.#bulk !== bulk);
      }
    } finally {
      if (this.#counts !== undefined) this.#counts.round.durationMs += performance.now() - start;
      this.#options.onChange(true);
    }
  }

  #beginAnewIfSwollen(): void {
    const present = this.#counts?.lastScan.presentPages ?? 0;
    const staged = this.#memory.sentPages;
    if (staged <= MOST_STAGED * present + STAGED_SLACK_PAGES) return;
    this.#options.log("most of what was sent ahead has vanished since: the stage begins anew", { staged, present });
    this.#id = undefined;
    this.#bulk = undefined;
  }

  /** Brings both ends in line over new sessions. */
  async #begin(bulk: LinkSession, stage: Stage): Promise<void> {
    if (this.#bulk === bulk) return;
    const { regions } = this.#memory;
    if (this.#id !== undefined && stage?.id === this.#id) {
      if (stage.regions < this.#confirmed || stage.regions > regions.regions.length) {
        throw ferryError(
          "E_FRAME",
          `the destination knows ${stage.regions} regions, ${this.#confirmed} were confirmed`,
        );
      }
      this.#confirmed = stage.regions;
      this.#announced = stage.regions;
      this.#bulk = bulk;
      return;
    }
    this.#memory.lost();
    this.#confirmed = 0;
    this.#announced = 0;
    this.#id = randomBytes(16).toString("hex");
    this.#bulk = bulk;
    await bulk.send("stage-begin", { stage: this.#id });
  }

  async #announce(bulk: LinkSession): Promise<void> {
    const { regions } = this.#memory;
    regions.seal();
    while (this.#announced < regions.regions.length && !this.#cutting) {
      if (!(await this.#window(bulk))) return;
      const from = this.#announced;
      const part = regions.regions.slice(from, from + MAX_REGIONS);
      this.#announced += part.length;
      this.#flight.push({ regions: part.length });
      await bulk.send("regions", {
        from,
        regions: part.map(({ vpid, start, pages, slot }) => [vpid, start, pages, slot]),
      });
    }
  }

  /** Sends everything unsent, once. Pages of regions that were not announced can't occur: they are announced first. */
  async #pass(bulk: LinkSession): Promise<void> {
    let at = 0;
    const ahead: Chunk[] = [];
    const readNext = (): void => {
      if (this.#cutting) return;
      // a run of data or zero pages takes two numbers, and a span has as many runs as pages at most
      const { spans, next } = this.#memory.claim(at, CHUNK_PAGES, MAX_STAGE_RUNS / 4);
      at = next;
      if (spans.length === 0) return;
      const buffer = this.#free.pop() ?? Buffer.allocUnsafeSlow(CHUNK_PAGES * PAGE_SIZE);
      ahead.push({ spans, buffer, read: this.#memory.read(spans, buffer) });
    };
    try {
      for (let i = 0; i < READ_AHEAD; i += 1) readNext();
      for (let chunk = ahead[0]; chunk !== undefined; chunk = ahead[0]) {
        const found = await chunk.read;
        readNext();
        this.#tellTracker(found, chunk.buffer);
        if (this.#cutting || !(await this.#sendChunk(bulk, found, chunk.buffer))) return;
        ahead.shift();
        this.#free.push(chunk.buffer);
      }
    } finally {
      for (const chunk of ahead) {
        const found = await chunk.read;
        this.#memory.unsend(found.map(({ span }) => span));
        this.#free.push(chunk.buffer);
      }
    }
  }

  #tellTracker(found: readonly { span: Span; at: number }[], buffer: Buffer): void {
    const tracker = this.#tracking?.tracker;
    if (tracker?.sent === undefined) return;
    for (const { span, at } of found)
      tracker.sent(span.vpid, span.start, buffer.subarray(at, at + span.pages * PAGE_SIZE));
  }

  /** false: it was not sent. */
  async #sendChunk(bulk: LinkSession, found: readonly { span: Span; at: number }[], buffer: Buffer): Promise<boolean> {
    const [data, zero, parts]: [number[], number[], Buffer[]] = [[], [], []];
    let [pages, bytes] = [0, 0];
    for (const { span, at } of found) {
      let page = 0;
      for (const [index, run] of zeroRuns(buffer.subarray(at, at + span.pages * PAGE_SIZE), span.pages).entries()) {
        if (run > 0) (index % 2 === 0 ? data : zero).push(span.slot + page, run);
        if (run > 0 && index % 2 === 0) {
          const from = at + page * PAGE_SIZE;
          parts.push(buffer.subarray(from, from + run * PAGE_SIZE));
          bytes += run * PAGE_SIZE;
        }
        page += run;
      }
      pages += span.pages;
    }
    if (pages === 0) return true;
    if (!(await this.#window(bulk))) return false;
    for (let left = bytes; left > 0 && !this.#cutting; left -= PAID_AT_ONCE_BYTES) {
      await this.#options.limiter.take(Math.min(left, PAID_AT_ONCE_BYTES));
    }
    if (this.#cutting || bulk.closed || this.#bulk !== bulk) return false;
    // from here on it is `detach` that knows what has not arrived
    this.#flight.push({ spans: found.map(({ span }) => span) });
    const sent = bulk.send("stage-pages", { data, zero }, parts);
    const counts = this.#counts;
    if (counts !== undefined) {
      counts.sentPages += pages;
      counts.sentBytes += bytes;
      counts.round.sentPages += pages;
      counts.round.sentBytes += bytes;
    }
    this.#options.onChange(false);
    await sent.catch((error: unknown) => {
      // lost: whoever waits for the rest sees that the session is closed
      if (!bulk.closed) throw error;
    });
    return true;
  }

  /** Waits until a frame may be sent; false: it may not any more. */
  async #window(bulk: LinkSession): Promise<boolean> {
    await this.#until(() => this.#flight.length < WINDOW_FRAMES || this.#cutting || bulk.closed);
    return !this.#cutting && !bulk.closed && this.#bulk === bulk;
  }

  /** Waits until `done` says so; it is asked again whenever something has happened. Throws when the pages are refused. */
  async #until(done: () => boolean): Promise<void> {
    for (;;) {
      if (this.#failure !== undefined) throw new FerryError(this.#failure);
      if (done()) return;
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
  }

  async #unlessCut<T>(promise: Promise<T>): Promise<T | undefined> {
    const settled = { yet: false };
    const seen = promise.finally(() => {
      settled.yet = true;
    });
    return Promise.race([seen, this.#until(() => this.#cutting || settled.yet).then(() => undefined)]);
  }

  #wake(): void {
    for (const waiter of this.#waiters.splice(0)) waiter();
  }
}

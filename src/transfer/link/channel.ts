/**
 * Frames over one TLS socket, both ways: ordering, back-pressure, signs of life and the end. Used by the handshake and
 * then by the session. Frames are pulled (`next`), so that whoever takes them decides the pace:
 *
 *   open -> closing (we said bye) -> ended
 *   open -> ended (bye, loss, a wrong frame, cut by us)
 *
 * Frames that arrived whole before the end are still given out. Pings are answered here, also while nobody pulls.
 */
import type { TLSSocket } from "node:tls";
import { ferryError, toFailure, type FailureData, type FerryError } from "../../model/failure.js";
import { encodeHead, FrameParser, KIND, type Kind, type RawFrame } from "./frame.js";
import { readFailure, shrinkFailure } from "./hello.js";
import { socketFailure } from "./tls.js";
import {
  DEFAULT_LOST_MS,
  DEFAULT_PING_MS,
  DEFAULT_WINDOW_BYTES,
  MAX_HELLO_META_BYTES,
  MAX_META_BYTES,
  MAX_PAYLOAD_BYTES,
  type SessionTuning,
} from "./types.js";

/** The end of a channel; `failure` undefined: bye. */
export interface ChannelEnd {
  failure: FailureData | undefined;
}
export type ChannelItem = { frame: RawFrame; end?: undefined } | { end: ChannelEnd; frame?: undefined };

const FULL_LIMITS = { meta: MAX_META_BYTES, payload: MAX_PAYLOAD_BYTES };
/** What a waiting frame costs besides its bytes: a flood of tiny ones must fill the window too. */
const FRAME_COST_BYTES = 512;
/** How long a peer that was told of a failure, or bye, has to hang up before we do. */
const LINGER_MS = 250;
const CLOSE_MS = 10_000;
const UNCORKED_FROM_BYTES = 262_144;
/** A frame that has begun must be whole after this many times `lostMs` of reading: bytes that drip are no progress. */
const FRAME_FACTOR = 10;
/** Writes that make no progress for this many times `lostMs` end the link, even when the peer gives signs of life. */
const STALL_FACTOR = 10;

export class Channel {
  readonly #socket: TLSSocket;
  readonly #parser = new FrameParser({ meta: MAX_HELLO_META_BYTES, payload: 0 });
  readonly #role: "dialer" | "listener";
  readonly #link: string;
  readonly #pingMs: number;
  readonly #lostMs: number;
  readonly #windowBytes: number;
  #state: "open" | "closing" | "ended" = "open";
  #end: ChannelEnd | undefined;
  readonly #queue: RawFrame[] = [];
  #queuedBytes = 0;
  #waiting: ((item: ChannelItem) => void) | undefined;
  #paused = false;
  #sendSequence = 0;
  #submitted = 0;
  #flushed = 0;
  #received = 0;
  #ticker: NodeJS.Timeout | undefined;
  #lastTick = 0;
  #heard = false;
  #silentMs = 0;
  #sinceSentMs = 0;
  #stalledMs = 0;
  #flushedAtTick = 0;
  #frameAtTick = -1;
  #inFrameMs = 0;
  readonly #socketGone: Promise<void>;
  /** Called once, as soon as the end is known (frames may still wait). */
  onEnd: (() => void) | undefined;

  /** @param link start of every message, such as "link to node-b (10.0.0.2:7000)" */
  constructor(socket: TLSSocket, role: "dialer" | "listener", link: string, tuning: SessionTuning) {
    this.#role = role;
    this.#socket = socket;
    this.#link = link;
    this.#pingMs = tuning.pingMs ?? DEFAULT_PING_MS;
    this.#lostMs = tuning.lostMs ?? DEFAULT_LOST_MS;
    this.#windowBytes = tuning.windowBytes ?? DEFAULT_WINDOW_BYTES;
    this.#socketGone = new Promise((resolve) => {
      socket.once("close", () => {
        resolve();
      });
    });
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 5000);
    socket.on("data", (chunk: Buffer) => {
      this.#onData(chunk);
    });
    socket.on("error", (error) => {
      this.#finish(socketFailure(error, this.#link));
    });
    socket.on("end", () => {
      this.#onStreamEnd();
    });
    socket.on("close", () => {
      this.#onStreamEnd();
    });
  }

  get link(): string {
    return this.#link;
  }
  get open(): boolean {
    return this.#state === "open";
  }
  get bytesSent(): number {
    return this.#flushed;
  }
  get bytesReceived(): number {
    return this.#received;
  }
  get bufferedBytes(): number {
    return this.#submitted - this.#flushed;
  }

  /** The handshake is over: full limits, and the peer must give signs of life from now on. */
  establish(): void {
    this.#parser.limits = FULL_LIMITS;
    const everyMs = Math.max(10, Math.min(this.#pingMs, this.#lostMs / 2) / 2);
    this.#lastTick = performance.now();
    this.#ticker = setInterval(() => {
      // judged after the poll phase: what arrived while this process was stopped or busy must count as heard
      setImmediate(() => {
        this.#tick(everyMs);
      });
    }, everyMs);
    this.#ticker.unref();
  }

  /** Resolves when the frame has been handed to the kernel. */
  send(kind: Kind, type: string, meta: object, payload: readonly Buffer[] = []): Promise<void> {
    if (this.#state !== "open") return Promise.reject(this.#gone(type));
    let encoded;
    try {
      encoded = encodeHead(kind, this.#sendSequence, type, meta, payload);
    } catch (error) {
      return Promise.reject(error);
    }
    this.#sendSequence += 1;
    return this.#write(encoded.head, encoded.bytes, payload, type);
  }

  #write(head: Buffer, bytes: number, payload: readonly Buffer[], type: string): Promise<void> {
    this.#submitted += bytes;
    this.#sinceSentMs = 0;
    const socket = this.#socket;
    return new Promise((resolve, reject) => {
      const done = (error?: Error | null): void => {
        this.#flushed += bytes;
        if (error) reject(this.#gone(type));
        else resolve();
      };
      // Corked, a frame is one call and one run of TLS records; but node copies what it is given together into new memory
      // first, which costs more than a call as soon as it is much.
      const corked = bytes < UNCORKED_FROM_BYTES;
      if (corked) socket.cork();
      socket.write(head, payload.length === 0 ? done : undefined);
      for (const [i, part] of payload.entries()) socket.write(part, i === payload.length - 1 ? done : undefined);
      if (corked) socket.uncork();
    });
  }

  #gone(type: string): FerryError {
    const why = this.#end?.failure;
    return ferryError(
      "E_LINK_LOST",
      `${this.#link}: ${type === "" ? "a frame" : type} can't be sent, the link is closed`,
      why === undefined ? {} : { cause: why },
    );
  }

  /** The next frame, or the end. Only one caller at a time. */
  next(): Promise<ChannelItem> {
    const item = this.take();
    if (item !== undefined) return Promise.resolve(item);
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  /** The next frame or the end, if it is here. */
  take(): ChannelItem | undefined {
    const frame = this.#queue.shift();
    if (frame !== undefined) {
      this.#queuedBytes -= frame.bytes + FRAME_COST_BYTES;
      if (this.#paused && this.#queuedBytes < this.#windowBytes / 2) {
        this.#paused = false;
        this.#silentMs = 0;
        this.#socket.resume();
      }
      return { frame };
    }
    return this.#end === undefined ? undefined : { end: this.#end };
  }

  /** Takes back the memory of a payload that nobody looks at any more. */
  takeBack(payload: Buffer): void {
    this.#parser.takeBack(payload);
  }

  /** Says bye and ends once everything that was sent has left. Resolves when the connection is gone. */
  async close(): Promise<void> {
    if (this.#state === "open") {
      const bye = this.send(KIND.bye, "", {});
      this.#state = "closing";
      this.#discard();
      this.#socket.end();
      // the peer hangs up when it has read the bye; unread bytes must not turn our end into a reset before that
      bye.then(
        () => this.#destroyAfter(CLOSE_MS),
        () => this.#socket.destroy(),
      );
    }
    await this.#socketGone;
  }

  /** Ends the link with a failure and tells the peer, as well as that can still be done. */
  abort(failure: FailureData, kind: Kind = KIND.abort): void {
    if (this.#state === "open" && !this.#socket.destroyed) {
      this.send(kind, "", { failure: shrinkFailure(failure) }).catch(() => undefined);
      this.#finish(failure, "linger");
    } else this.#finish(failure);
  }

  /** Ends the link at once, drops what waits. Returns how it ended: like this, unless it had ended before. */
  destroy(): FailureData | undefined {
    this.#queue.length = 0;
    this.#queuedBytes = 0;
    this.#finish({ code: "E_LINK_LOST", message: `${this.#link}: cut by this side` });
    this.#socket.destroy();
    return this.#end?.failure;
  }

  #discard(): void {
    this.#queue.length = 0;
    this.#queuedBytes = 0;
    this.#paused = false;
    this.#socket.resume();
  }

  #destroyAfter(ms: number): void {
    const timer = setTimeout(() => this.#socket.destroy(), ms);
    this.#socket.once("close", () => {
      clearTimeout(timer);
    });
  }

  #finish(failure: FailureData | undefined, manner: "destroy" | "linger" = "destroy"): void {
    if (this.#state === "ended") return;
    this.#state = "ended";
    this.#end = { failure };
    clearInterval(this.#ticker);
    if (manner === "linger") {
      this.#socket.resume();
      this.#socket.end();
      this.#destroyAfter(LINGER_MS);
    } else this.#socket.destroy();
    this.onEnd?.();
    if (this.#waiting !== undefined && this.#queue.length === 0) {
      const waiting = this.#waiting;
      this.#waiting = undefined;
      waiting({ end: this.#end });
    }
  }

  #onStreamEnd(): void {
    if (this.#state === "closing") {
      this.#finish(undefined);
    } else if (this.#parser.midFrame) {
      this.#finish({
        code: "E_STREAM_SHORT",
        message: `${this.#link}: the stream ended after ${this.#parser.describe()}`,
      });
    } else {
      this.#finish({ code: "E_LINK_LOST", message: `${this.#link}: the peer hung up without saying bye` });
    }
  }

  #onData(chunk: Buffer): void {
    this.#heard = true;
    this.#received += chunk.length;
    if (this.#state !== "open") return;
    try {
      this.#parser.push(chunk, (frame) => {
        this.#onFrame(frame);
      });
    } catch (error) {
      const { message, code } = toFailure(error, "E_FRAME");
      this.abort({ code, message: `${this.#link}: ${message}` });
    }
  }

  #onFrame(frame: RawFrame): void {
    if (this.#state !== "open") return;
    switch (frame.kind) {
      case KIND.ping:
        if (this.bufferedBytes === 0) this.send(KIND.pong, "", {}).catch(() => undefined);
        return;
      case KIND.pong:
        return;
      case KIND.bye:
        this.#finish(undefined, "linger");
        return;
      case KIND.abort: {
        const cause = readFailure(frame.meta["failure"]);
        this.#finish({
          code: cause?.code ?? "E_LINK_LOST",
          message: `${this.#link}: ended by the peer`,
          ...(cause === undefined ? {} : { cause }),
        });
        return;
      }
      case KIND.welcome:
        // the listener's first frames may follow its welcome in the same piece of the stream
        if (this.#role === "dialer") this.#parser.limits = FULL_LIMITS;
        break;
      case KIND.hello:
      case KIND.refuse:
      case KIND.data:
        break;
    }
    if (this.#waiting !== undefined) {
      const waiting = this.#waiting;
      this.#waiting = undefined;
      waiting({ frame });
      return;
    }
    this.#queue.push(frame);
    this.#queuedBytes += frame.bytes + FRAME_COST_BYTES;
    if (this.#queuedBytes >= this.#windowBytes && !this.#paused) {
      this.#paused = true;
      this.#socket.pause();
    }
  }

  #tick(everyMs: number): void {
    if (this.#state === "ended") return;
    const now = performance.now();
    // a late tick says that this process was stopped, not that the peer was silent
    const elapsed = Math.min(now - this.#lastTick, 2 * everyMs);
    this.#lastTick = now;
    // while we don't read, silence means nothing
    this.#silentMs = this.#heard || this.#paused ? 0 : this.#silentMs + elapsed;
    this.#heard = false;
    this.#sinceSentMs += elapsed;
    this.#stalledMs = this.bufferedBytes > 0 && this.#flushed === this.#flushedAtTick ? this.#stalledMs + elapsed : 0;
    this.#flushedAtTick = this.#flushed;
    const within = this.#parser.midFrame && this.#parser.sequence === this.#frameAtTick && !this.#paused;
    this.#inFrameMs = within ? this.#inFrameMs + elapsed : 0;
    this.#frameAtTick = this.#parser.sequence;
    if (this.#silentMs >= this.#lostMs) {
      this.#finish({
        code: "E_LINK_LOST",
        message: `${this.#link}: no sign of life for ${Math.round(this.#silentMs)} ms`,
        remedy: "check that the other node is up and reachable",
      });
      return;
    }
    if (this.#stalledMs >= this.#lostMs * STALL_FACTOR) {
      this.#finish({
        code: "E_LINK_LOST",
        message: `${this.#link}: the peer has taken nothing for ${Math.round(this.#stalledMs)} ms`,
      });
      return;
    }
    if (this.#inFrameMs >= this.#lostMs * FRAME_FACTOR) {
      const here = this.#parser.describe();
      this.abort({
        code: "E_LINK_LOST",
        message: `${this.#link}: only ${here} came in ${Math.round(this.#inFrameMs)} ms`,
      });
      return;
    }
    const quiet = this.#sinceSentMs >= this.#pingMs || this.#silentMs >= this.#pingMs;
    // queued bytes are a sign of life themselves, as soon as the peer reads
    if (quiet && this.bufferedBytes === 0) this.send(KIND.ping, "", {}).catch(() => undefined);
  }
}

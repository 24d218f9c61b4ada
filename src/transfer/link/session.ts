/** A session: a channel after its handshake, as its users see it. */
import { toFailure, type FailureData } from "../../model/failure.js";
import type { Channel } from "./channel.js";
import { KIND } from "./frame.js";
import type { Frame, Hello, LinkSession } from "./types.js";

type FrameListener = (frame: Frame) => void | Promise<void>;
type CloseListener = (failure: FailureData | undefined) => void;

export class Session implements LinkSession {
  readonly version: number;
  readonly peer: string;
  readonly hello: Hello;
  readonly #channel: Channel;
  readonly #lend: boolean;
  #listener: FrameListener | undefined;
  #pumping = false;
  readonly #closeListeners: CloseListener[] = [];
  #closeFired: { failure: FailureData | undefined } | undefined;
  #destroyed = false;

  constructor(channel: Channel, version: number, peer: string, hello: Hello, lend: boolean) {
    this.version = version;
    this.#channel = channel;
    this.#lend = lend;
    this.peer = peer;
    this.hello = hello;
    // with a listener the pump reports the end, after the last frame; the turn lets a new owner register first
    const onEnd = (): void => {
      setImmediate(() => {
        if (this.#listener === undefined) void this.#pump();
      });
    };
    if (channel.open) channel.onEnd = onEnd;
    else onEnd();
  }

  get closed(): boolean {
    return !this.#channel.open;
  }
  get bytesSent(): number {
    return this.#channel.bytesSent;
  }
  get bytesReceived(): number {
    return this.#channel.bytesReceived;
  }
  get bufferedBytes(): number {
    return this.#channel.bufferedBytes;
  }

  send(type: string, meta: object, payload?: Buffer | readonly Buffer[]): Promise<void> {
    const parts: readonly Buffer[] = payload === undefined ? [] : Buffer.isBuffer(payload) ? [payload] : payload;
    return this.#channel.send(KIND.data, type, meta, parts);
  }

  onFrame(listener: FrameListener): void {
    this.#listener = listener;
    if (!this.#pumping) void this.#pump();
  }

  onClose(listener: CloseListener): void {
    const fired = this.#closeFired;
    if (fired === undefined) this.#closeListeners.push(listener);
    else queueMicrotask(() => listener(fired.failure));
  }

  close(): Promise<void> {
    return this.#channel.close();
  }

  destroy(): void {
    this.#destroyed = true;
    const failure = this.#channel.destroy();
    // not left to the pump: a frame listener may be waiting for what this ends
    queueMicrotask(() => this.#fireClose(failure));
  }

  /** Gives frames to the listener one after the other until the end. Never rejects. */
  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    for (;;) {
      const item = this.#channel.take() ?? (await this.#channel.next());
      if (item.end !== undefined) {
        this.#fireClose(item.end.failure);
        return;
      }
      const { frame } = item;
      if (this.#destroyed || this.#listener === undefined) continue;
      try {
        if (frame.kind !== KIND.data) throw new Error(`frame of kind ${frame.kind} inside a session`);
        const { type, meta, payload } = frame;
        let kept = false;
        const keep = (): (() => void) => {
          kept = true;
          return () => this.#channel.takeBack(payload);
        };
        const pending = this.#listener(this.#lend ? { type, meta, payload, keep } : { type, meta, payload });
        if (pending !== undefined) await pending;
        if (this.#lend && !kept) this.#channel.takeBack(payload);
      } catch (error) {
        const failure = toFailure(error);
        this.#channel.abort(failure);
        // frames behind the one that failed must not be acted on
        this.#destroyed = true;
        this.#fireClose(failure);
        return;
      }
    }
  }

  #fireClose(failure: FailureData | undefined): void {
    if (this.#closeFired !== undefined) return;
    this.#closeFired = { failure };
    for (const listener of this.#closeListeners.splice(0)) listener(failure);
  }
}

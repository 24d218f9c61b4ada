/**
 * Frames for the workload that arrive during the blackout (see host/kept-frames.ts): the source keeps them and sends them
 * along as they come, the destination puts them on the workload's link right after the resume. A peer that spoke in the
 * blackout is answered at once then, and not when its retransmission timer (200 ms, doubling) gets around to it.
 *
 * All of it is best effort: it holds nothing up, it decides nothing, and it ends with the agent or the hand-over. TCP
 * does not mind when it fails, comes late or comes twice.
 */
import { FrameList, packFrames } from "../../host/kept-frames.js";
import { toFailure } from "../../model/failure.js";
import type { FrameCounts } from "../../model/report.js";
import type { FrameDoor, FrameKeeper } from "../../runtimes/runtime.js";

const POLL_MS = 2;
/** After the resume, frames that went to the source all the same are taken this long. */
const DOOR_OPEN_MS = 2000;

type Warn = (message: string, fields: Record<string, unknown>) => void;

export class SourceFrames {
  private readonly keeper: FrameKeeper;
  private readonly list = new FrameList();
  private readonly send: (payload: Buffer) => boolean;
  private readonly warn: Warn;
  private readonly timer: NodeJS.Timeout;
  private cut = false;
  private sent = 0;
  private stopped = false;
  private overflowed = 0;

  /** `send` answers whether there was somebody to send to. */
  constructor(keeper: FrameKeeper, send: (payload: Buffer) => boolean, warn: Warn) {
    this.keeper = keeper;
    this.send = send;
    this.warn = warn;
    this.timer = setInterval(() => this.pass(), POLL_MS);
    this.timer.unref();
  }

  /** The workload's link is down: what came since then did not get through. */
  linkIsDown(): void {
    this.cut = true;
    this.pass();
  }

  /** Everything that has come by now is on its way to the destination, before whatever is sent next. */
  pass(): void {
    if (this.stopped) return;
    try {
      for (const frame of this.keeper.take(this.cut)) this.list.add(frame);
      const fresh = this.list.frames.slice(this.sent);
      // What can't be sent now (the link is away for a moment) goes with the next ones.
      if (fresh.length > 0 && this.send(packFrames(fresh))) this.sent = this.list.frames.length;
    } catch (error) {
      this.warn("frames are no longer kept", { failure: toFailure(error) });
      this.stop();
    }
  }

  /** The workload stays: its link is up, it runs, and gets them here. */
  putBack(door: FrameDoor): void {
    this.pass();
    this.stop();
    try {
      for (const frame of this.list.frames) door.put(frame);
    } finally {
      door.close();
    }
  }

  /** Everything that has come by now, for whoever keeps it from now on. */
  handOn(): readonly Buffer[] {
    this.pass();
    this.stop();
    return this.list.frames;
  }

  /** Something came while the link is down. */
  get any(): boolean {
    this.pass();
    return this.list.frames.length > 0;
  }

  stop(): void {
    if (this.stopped) return;
    this.stopped = true;
    clearInterval(this.timer);
    this.overflowed = this.keeper.overflowed;
    this.keeper.close();
  }

  counts(): Partial<FrameCounts> {
    const overflowed = this.stopped ? this.overflowed : this.keeper.overflowed;
    return { kept: this.list.frames.length, dropped: this.list.dropped + overflowed };
  }
}

export class DestinationFrames {
  private readonly list = new FrameList();
  private readonly unpack: (payload: Buffer) => { frames: Buffer[]; wrong: number };
  private door: FrameDoor | undefined;
  private closing: NodeJS.Timeout | undefined;
  private closed = false;
  private heard = false;
  private delivered = 0;
  private dropped = 0;

  constructor(unpack: (payload: Buffer) => { frames: Buffer[]; wrong: number }) {
    this.unpack = unpack;
  }

  take(payload: Buffer): void {
    this.heard = true;
    const { frames, wrong } = this.unpack(payload);
    this.dropped += wrong;
    for (const frame of frames) {
      if (this.door !== undefined) this.put(this.door, frame);
      else if (this.closed || !this.list.add(Buffer.from(frame))) this.dropped += 1;
    }
  }

  /** The workload runs and its link is up. */
  open(door: FrameDoor): void {
    if (this.closed || this.door !== undefined) {
      door.close();
      return;
    }
    this.door = door;
    for (const frame of this.list.frames.splice(0)) this.put(door, frame);
    this.closing = setTimeout(() => this.close(), DOOR_OPEN_MS);
    this.closing.unref();
  }

  private put(door: FrameDoor, frame: Buffer): void {
    if (door.put(frame)) this.delivered += 1;
    else this.dropped += 1;
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.closing);
    this.door?.close();
    this.door = undefined;
    this.dropped += this.list.frames.splice(0).length;
  }

  counts(): Partial<FrameCounts> | undefined {
    return this.heard ? { delivered: this.delivered, dropped: this.dropped } : undefined;
  }
}

/**
 * Frames that reach a node for a workload whose link is down: kept, so that its peers need not send them again.
 *
 * A bridge has nowhere to forward them to and floods them; a packet socket on it sees them. The same socket sees those
 * from before the link went down, which did get through: a second socket, on the workload's own link, sees exactly these,
 * and what both have seen is not kept. So a datagram is not delivered twice, whenever the link went down in between.
 */
import { createHash } from "node:crypto";
import { FrameSocket, frameMatch, isFrameTo, VNET_BYTES, type FrameAddress, type FrameMatch } from "./frame-socket.js";

/** Most that is kept for one hand-over; a peer that sends more sends the rest again, as it would have sent all. */
export const KEEP_LIMIT = { frames: 4096, bytes: 4 * 1024 * 1024 } as const;
/** The kernel counts its own overhead here: small frames take a tenth of it. */
const QUEUE_BYTES = 8 * 1024 * 1024;
const HEAD_BYTES = 4;

/** Frames in a payload: each with its length before it. */
export function packFrames(frames: readonly Buffer[]): Buffer {
  return Buffer.concat(
    frames.flatMap((frame) => {
      const head = Buffer.alloc(HEAD_BYTES);
      head.writeUInt32BE(frame.length);
      return [head, frame];
    }),
  );
}

/** Those of a payload that are frames to the address; `wrong` counts the others. Never throws. */
export function unpackFrames(payload: Buffer, to: FrameMatch): { frames: Buffer[]; wrong: number } {
  const frames: Buffer[] = [];
  let wrong = 0;
  for (let at = 0; at < payload.length;) {
    const length = payload.length - at < HEAD_BYTES ? 0 : payload.readUInt32BE(at);
    const frame = payload.subarray(at + HEAD_BYTES, at + HEAD_BYTES + length);
    // Where one length is wrong, so is everything behind it.
    if (length === 0 || frame.length !== length) return { frames, wrong: wrong + 1 };
    if (isFrameTo(frame, to)) frames.push(frame);
    else wrong += 1;
    at += HEAD_BYTES + length;
  }
  return { frames, wrong };
}

/** A list of frames that never holds more than the limit: what comes too late for it is counted, not kept. */
export class FrameList {
  readonly frames: Buffer[] = [];
  dropped = 0;
  private bytes = 0;

  /** false: there was no room. */
  add(frame: Buffer): boolean {
    if (this.frames.length >= KEEP_LIMIT.frames || this.bytes + frame.length > KEEP_LIMIT.bytes) {
      this.dropped += 1;
      return false;
    }
    this.frames.push(frame);
    this.bytes += frame.length;
    return true;
  }
}

const same = (frame: Buffer): string => createHash("sha1").update(frame.subarray(VNET_BYTES)).digest("hex");

export class FrameKeeper {
  private readonly bridge: FrameSocket;
  private readonly link: FrameSocket;
  /** Seen on the bridge and, so far, not on the link. */
  private waiting: { frame: Buffer; id: string }[] = [];
  /** Seen on the link and, so far, not on the bridge: how often. */
  private readonly through = new Map<string, number>();
  private lost = 0;

  /** Throws E_TOOL. */
  constructor(bridge: string, link: string, to: FrameAddress) {
    const match = frameMatch(to);
    this.bridge = new FrameSocket(bridge, { to: match, queueBytes: QUEUE_BYTES, promiscuous: true });
    try {
      this.link = new FrameSocket(link, { to: match, queueBytes: QUEUE_BYTES, promiscuous: false });
    } catch (error) {
      this.bridge.close();
      throw error;
    }
  }

  /**
   * Frames that did not get through since the last time. `cut`: the link is down; before that none are given, since one
   * that was just seen on the bridge may be about to be seen on the link.
   */
  take(cut: boolean): Buffer[] {
    // The bridge first: what is in its queue by now and got through, is in the other one too.
    const seen = this.bridge.take();
    for (const frame of this.link.take()) {
      const id = same(frame);
      this.through.set(id, (this.through.get(id) ?? 0) + 1);
    }
    const all = [...this.waiting, ...seen.map((frame) => ({ frame, id: same(frame) }))];
    this.waiting = all.filter(({ id }) => {
      const times = this.through.get(id);
      if (times === undefined) return true;
      if (times === 1) this.through.delete(id);
      else this.through.set(id, times - 1);
      return false;
    });
    if (!cut) {
      const over = Math.max(0, this.waiting.length - KEEP_LIMIT.frames);
      this.lost += over;
      this.waiting.splice(0, over);
      return [];
    }
    return this.waiting.splice(0).map(({ frame }) => frame);
  }

  /** Frames that were lost for want of room in the kernel's queue, so far. */
  get overflowed(): number {
    this.lost += this.bridge.overflowed();
    return this.lost;
  }

  close(): void {
    this.bridge.close();
    this.link.close();
  }
}

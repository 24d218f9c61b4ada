/**
 * Holds the address of a workload that does not run: answers who asks for it (ARP, with the workload's own MAC address) and
 * keeps what comes for it. Packet sockets on the bridge: the node's own network stack does not have the address, so nothing
 * answers for the workload's ports. Ends with the process that opened it.
 */
import { frameMatch, FrameSocket, type FrameAddress } from "./frame-socket.js";
import { arpAnswer, arpClaim, ETH_P_ARP } from "./frames.js";
import { FrameList } from "./kept-frames.js";
import { PacketSocket } from "./packet.js";

/** The kernel counts its own overhead here. */
const QUEUE_BYTES = 1024 * 1024;
/** Whoever sent it has given up by then: a SYN is sent again for two minutes. */
const KEEP_MS = 130_000;
/** Of ARP frames that are looked at in one pass: what comes in a flood waits, or is lost. */
const ARP_AT_ONCE = 256;

export class AddressHolder {
  private readonly address: FrameAddress;
  private readonly arp: PacketSocket;
  private readonly socket: FrameSocket;
  private list = new FrameList();
  private lastAt = 0;
  /** Somebody else has said that the address is theirs: nothing is answered any more. */
  claimed = false;

  /** Throws E_TOOL. */
  constructor(bridge: string, address: FrameAddress) {
    this.address = address;
    this.arp = new PacketSocket(bridge, ETH_P_ARP);
    try {
      // Also what is for a MAC address that the bridge does not know, and for one that it has on no port any more.
      this.socket = new FrameSocket(bridge, { to: frameMatch(address), queueBytes: QUEUE_BYTES, promiscuous: true });
    } catch (error) {
      this.arp.close();
      throw error;
    }
  }

  /** What came for it before. */
  take(frames: readonly Buffer[]): void {
    for (const frame of frames) this.list.add(frame);
    this.lastAt = performance.now();
  }

  /** Answers and keeps what has come since the last time. True: something is kept. */
  pass(): boolean {
    const { mac, ip } = this.address;
    const answers: Buffer[] = [];
    for (let left = ARP_AT_ONCE, frame = this.arp.receive(); frame !== undefined; frame = this.arp.receive()) {
      // Not one's own: those are not seen here. A process that was stopped for a while may find it behind the questions.
      this.claimed ||= arpClaim(frame, ip) !== undefined;
      const answer = arpAnswer(frame, mac, ip);
      if (answer !== undefined) answers.push(answer);
      if ((left -= 1) === 0) break;
    }
    if (!this.claimed) for (const answer of answers) this.arp.send(answer);
    const now = performance.now();
    for (const frame of this.socket.take()) {
      this.list.add(frame);
      this.lastAt = now;
    }
    if (this.list.frames.length > 0 && now - this.lastAt > KEEP_MS) this.list = new FrameList();
    return this.list.frames.length > 0;
  }

  /** Ends it, with what it has kept. */
  release(): Buffer[] {
    this.pass();
    this.close();
    return this.list.frames;
  }

  close(): void {
    this.arp.close();
    this.socket.close();
  }
}

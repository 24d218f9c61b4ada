/**
 * Whole IPv4 frames to one address on one link, taken and put with what the kernel knows about them (virtio_net_hdr):
 * between local links checksums are not filled in and segments are not cut yet, so a frame without that head is worth
 * nothing at the other end. Non-blocking; ends with the process that opened it.
 */
import koffi from "koffi";
import { bareIp } from "../model/address.js";
import { ferryError } from "../model/failure.js";
import { ipv4Bytes, macBytes } from "./frames.js";
import { AF_PACKET, packetAddress, SOCK_RAW_NONBLOCK_CLOEXEC, socketCalls } from "./socket-calls.js";
import { errnoName, mapAnonymous, unmap } from "./syscall.js";

const ETH_P_ALL = 3;
const ETH_P_IP = 0x0800;
const SOL_SOCKET = 1;
const SO_RCVBUF = 8;
const SO_ATTACH_FILTER = 26;
const SO_RCVBUFFORCE = 33;
const SOL_PACKET = 263;
const PACKET_ADD_MEMBERSHIP = 1;
const PACKET_STATISTICS = 6;
const PACKET_VNET_HDR = 15;
const PACKET_MR_PROMISC = 1;
const MSG_TRUNC = 0x20;
const ENETDOWN = 100;

/** struct virtio_net_hdr: flags, gso type, header length, segment size, where the checksum starts and goes. */
export const VNET_BYTES = 10;
export const ETHERNET_BYTES = 14;
const IPV4_BYTES = 20;
/** The largest packet of IPv4 with its Ethernet header and virtio_net_hdr. */
export const MAX_FRAME_BYTES = VNET_BYTES + ETHERNET_BYTES + 65_535;

/** Where a workload lives: only frames to both are taken, and put. */
export interface FrameAddress {
  mac: string;
  /** IPv4, without prefix length. */
  ip: string;
}

export const frameAddress = (network: { mac: string; ip: string }): FrameAddress => ({
  mac: network.mac,
  ip: bareIp(network.ip),
});

/** What frames to an address begin with. */
export interface FrameMatch {
  mac: Buffer;
  ip: Buffer;
}
export const frameMatch = ({ mac, ip }: FrameAddress): FrameMatch => ({ mac: macBytes(mac), ip: ipv4Bytes(ip) });

/** Is this (virtio_net_hdr and frame) an IPv4 frame to the address, of a length that can be? */
export const isFrameTo = (frame: Buffer, to: FrameMatch): boolean =>
  frame.length >= VNET_BYTES + ETHERNET_BYTES + IPV4_BYTES &&
  frame.length <= MAX_FRAME_BYTES &&
  frame.subarray(VNET_BYTES, VNET_BYTES + 6).equals(to.mac) &&
  frame.readUInt16BE(VNET_BYTES + 12) === ETH_P_IP &&
  frame.subarray(VNET_BYTES + 30, VNET_BYTES + 34).equals(to.ip);

/** Classic BPF that lets only those frames into the socket's queue. */
function filterFor(to: FrameMatch): Buffer {
  const LOAD_WORD = 0x20;
  const LOAD_HALF = 0x28;
  const IF_EQUAL = 0x15;
  const RETURN = 0x06;
  const drop = 9;
  const code: [number, number, number, number][] = [];
  const need = (load: number, at: number, value: number): void => {
    code.push([load, 0, 0, at]);
    // Where it differs: on to the last instruction, which drops.
    code.push([IF_EQUAL, 0, drop - (code.length + 1), value]);
  };
  need(LOAD_HALF, 12, ETH_P_IP);
  need(LOAD_WORD, 0, to.mac.readUInt32BE(0));
  need(LOAD_HALF, 4, to.mac.readUInt16BE(4));
  need(LOAD_WORD, 30, to.ip.readUInt32BE(0));
  code.push([RETURN, 0, 0, 0xffff_ffff], [RETURN, 0, 0, 0]);
  const program = Buffer.alloc(code.length * 8);
  code.forEach(([op, yes, no, k], i) => {
    program.writeUInt16LE(op, i * 8);
    program.writeUInt8(yes, i * 8 + 2);
    program.writeUInt8(no, i * 8 + 3);
    program.writeUInt32LE(k, i * 8 + 4);
  });
  return program;
}

interface Taking {
  to: FrameMatch;
  queueBytes: number;
  promiscuous: boolean;
}

const int = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
};

export class FrameSocket {
  private readonly fd: number;
  private readonly room = Buffer.alloc(MAX_FRAME_BYTES);
  private closed = false;

  /**
   * Opens one on `link`. With `take`, frames to that address which pass there (in either direction) wait in a queue of
   * `queueBytes`; with `promiscuous` a bridge shows also those that it floods or forwards. Throws E_TOOL.
   */
  constructor(link: string, take?: Taking) {
    const index = socketCalls().index(link);
    if (index === 0) throw ferryError("E_TOOL", `there is no network interface ${link}`);
    // Protocol 0: nothing is queued before the filter is there.
    this.fd = socketCalls().socket(AF_PACKET, SOCK_RAW_NONBLOCK_CLOEXEC, 0);
    const doing = this.fd < 0 ? "socket" : this.prepare(index, take);
    if (doing === undefined) return;
    const errno = koffi.errno();
    this.close();
    throw ferryError("E_TOOL", `a packet socket on ${link}: ${doing}: ${errnoName(errno)}`, {
      remedy: "the agent must run as root (CAP_NET_RAW, CAP_NET_ADMIN)",
    });
  }

  /** What could not be done; undefined: all of it was. */
  private prepare(index: number, take: Taking | undefined): string | undefined {
    if (!this.set(SOL_PACKET, PACKET_VNET_HDR, int(1))) return "asking for offload headers";
    if (take !== undefined) {
      if (!this.filter(take.to)) return "setting its filter";
      const queue = int(take.queueBytes);
      if (!this.set(SOL_SOCKET, SO_RCVBUFFORCE, queue)) this.set(SOL_SOCKET, SO_RCVBUF, queue);
      if (take.promiscuous) {
        const membership = Buffer.alloc(16);
        membership.writeInt32LE(index, 0);
        membership.writeUInt16LE(PACKET_MR_PROMISC, 4);
        if (!this.set(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)) return "seeing what the bridge forwards";
      }
    }
    const address = packetAddress(index, take === undefined ? 0 : ETH_P_ALL);
    return socketCalls().bind(this.fd, address, address.length) < 0 ? "bind" : undefined;
  }

  private set(level: number, name: number, value: Buffer): boolean {
    return socketCalls().set(this.fd, level, name, value, value.length) === 0;
  }

  private filter(to: FrameMatch): boolean {
    const code = filterFor(to);
    // The kernel is given its address: a Buffer's may not be its own for long.
    const room = mapAnonymous(code.length);
    code.copy(room.bytes);
    const program = Buffer.alloc(16);
    program.writeUInt16LE(code.length / 8, 0);
    program.writeBigUInt64LE(BigInt(room.address), 8);
    const done = this.set(SOL_SOCKET, SO_ATTACH_FILTER, program);
    unmap(room.address, code.length);
    return done;
  }

  /** Everything that waits: virtio_net_hdr and frame, in order. */
  take(): Buffer[] {
    const frames: Buffer[] = [];
    const c = socketCalls();
    for (let errors = 0; !this.closed && errors < 2;) {
      const length = c.recv(this.fd, this.room, this.room.length, MSG_TRUNC);
      if (length > this.room.length) continue;
      if (length > 0) frames.push(Buffer.from(this.room.subarray(0, length)));
      // That the link went down is said once, before what waits from earlier.
      else if (koffi.errno() === ENETDOWN) errors += 1;
      else break;
    }
    return frames;
  }

  /** Puts one (virtio_net_hdr and frame) on the link. false: the kernel refused it. */
  put(frame: Buffer): boolean {
    return !this.closed && socketCalls().send(this.fd, frame, frame.length, 0) === frame.length;
  }

  /** Frames that found the queue full since the last time this was asked. */
  overflowed(): number {
    const statistics = Buffer.alloc(8);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(statistics.length);
    if (this.closed || socketCalls().get(this.fd, SOL_PACKET, PACKET_STATISTICS, statistics, length) !== 0) return 0;
    return statistics.readUInt32LE(4);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    if (this.fd >= 0) socketCalls().close(this.fd);
  }
}

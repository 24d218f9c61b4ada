/** Packet sockets (AF_PACKET) through koffi: raw frames on one interface. Non-blocking; close it yourself. */
import koffi from "koffi";
import { ferryError } from "../model/failure.js";
import { AF_PACKET, packetAddress, SOCK_RAW_NONBLOCK_CLOEXEC, socketCalls } from "./socket-calls.js";

const swap16 = (value: number): number => ((value & 0xff) << 8) | (value >>> 8);

export class PacketSocket {
  private readonly fd: number;

  /** Opens one on `link` for frames of `protocol` (an ETH_P_* number). Throws E_TOOL. */
  constructor(link: string, protocol: number) {
    const c = socketCalls();
    const index = c.index(link);
    if (index === 0) throw ferryError("E_TOOL", `there is no network interface ${link}`);
    this.fd = c.socket(AF_PACKET, SOCK_RAW_NONBLOCK_CLOEXEC, swap16(protocol));
    const address = packetAddress(index, protocol);
    if (this.fd < 0 || c.bind(this.fd, address, address.length) < 0) {
      const errno = koffi.errno();
      if (this.fd >= 0) c.close(this.fd);
      throw ferryError("E_TOOL", `a packet socket on ${link} can't be opened (errno ${errno})`, {
        remedy: "the agent must run as root (CAP_NET_RAW)",
      });
    }
  }

  /** Sends one whole frame. false: the kernel refused it (link down, queue full). */
  send(frame: Buffer): boolean {
    return socketCalls().send(this.fd, frame, frame.length, 0) === frame.length;
  }

  /** The next waiting frame, or undefined. */
  receive(): Buffer | undefined {
    const frame = Buffer.alloc(2048);
    const length = socketCalls().recv(this.fd, frame, frame.length, 0);
    return length > 0 ? frame.subarray(0, length) : undefined;
  }

  close(): void {
    socketCalls().close(this.fd);
  }
}

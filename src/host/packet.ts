/** Packet sockets (AF_PACKET) through koffi: raw frames on one interface. Non-blocking; close it yourself. */
import koffi from "koffi";
import { ferryError } from "../model/failure.js";

const AF_PACKET = 17;
const SOCK_RAW_NONBLOCK_CLOEXEC = 3 | 0o4000 | 0o2000000;
const swap16 = (value: number): number => ((value & 0xff) << 8) | (value >>> 8);

type Fn = (...args: (number | string | Buffer)[]) => number;
let loaded: { socket: Fn; bind: Fn; send: Fn; recv: Fn; close: Fn; index: Fn } | undefined;
function libc(): NonNullable<typeof loaded> {
  if (loaded === undefined) {
    const lib = koffi.load("libc.so.6");
    const fn = (definition: string): Fn => lib.func(definition) as Fn;
    loaded = {
      socket: fn("int socket(int domain, int type, int protocol)"),
      bind: fn("int bind(int fd, void *address, uint32 length)"),
      send: fn("int64 send(int fd, void *bytes, uint64 length, int flags)"),
      recv: fn("int64 recv(int fd, void *bytes, uint64 length, int flags)"),
      close: fn("int close(int fd)"),
      index: fn("uint32 if_nametoindex(const char *name)"),
    };
  }
  return loaded;
}

export class PacketSocket {
  private readonly fd: number;

  /** Opens one on `link` for frames of `protocol` (an ETH_P_* number). Throws E_TOOL. */
  constructor(link: string, protocol: number) {
    const c = libc();
    const index = c.index(link);
    if (index === 0) throw ferryError("E_TOOL", `there is no network interface ${link}`);
    this.fd = c.socket(AF_PACKET, SOCK_RAW_NONBLOCK_CLOEXEC, swap16(protocol));
    const address = Buffer.alloc(20);
    address.writeUInt16LE(AF_PACKET, 0);
    address.writeUInt16BE(protocol, 2);
    address.writeInt32LE(index, 4);
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
    return libc().send(this.fd, frame, frame.length, 0) === frame.length;
  }

  /** The next waiting frame, or undefined. */
  receive(): Buffer | undefined {
    const frame = Buffer.alloc(2048);
    const length = libc().recv(this.fd, frame, frame.length, 0);
    return length > 0 ? frame.subarray(0, length) : undefined;
  }

  close(): void {
    libc().close(this.fd);
  }
}

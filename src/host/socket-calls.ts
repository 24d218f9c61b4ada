/** glibc's socket calls that Node does not offer, through koffi: -1 and `koffi.errno()` when the kernel says no. */
import koffi from "koffi";

type Fn = (...args: (number | bigint | string | Buffer)[]) => number;
export type SocketCalls = Record<"socket" | "bind" | "send" | "recv" | "close" | "ioctl" | "index" | "set" | "get", Fn>;

export const SOCK_CLOEXEC = 0o2000000;
export const AF_PACKET = 17;
/** SOCK_RAW, not blocking, not inherited. */
export const SOCK_RAW_NONBLOCK_CLOEXEC = 3 | 0o4000 | SOCK_CLOEXEC;

let loaded: SocketCalls | undefined;
/** Loaded when first needed: most commands never are. */
export function socketCalls(): SocketCalls {
  if (loaded === undefined) {
    const lib = koffi.load("libc.so.6");
    const fn = (definition: string): Fn => lib.func(definition) as Fn;
    loaded = {
      socket: fn("int socket(int domain, int type, int protocol)"),
      bind: fn("int bind(int fd, void *address, uint32 length)"),
      send: fn("int64 send(int fd, void *bytes, uint64 length, int flags)"),
      recv: fn("int64 recv(int fd, _Out_ void *bytes, uint64 length, int flags)"),
      close: fn("int close(int fd)"),
      ioctl: fn("int ioctl(int fd, uint64 request, _Inout_ void *argument)"),
      index: fn("uint32 if_nametoindex(const char *name)"),
      set: fn("int setsockopt(int fd, int level, int name, void *value, uint32 length)"),
      get: fn("int getsockopt(int fd, int level, int name, _Inout_ void *value, _Inout_ void *length)"),
    };
  }
  return loaded;
}

/** struct sockaddr_ll: where a packet socket listens. `protocol`: an ETH_P_* number, 0 for none. */
export function packetAddress(index: number, protocol: number): Buffer {
  const address = Buffer.alloc(20);
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16BE(protocol, 2);
  address.writeInt32LE(index, 4);
  return address;
}

/**
 * The sockets of a network namespace, as /proc/<pid>/net and `ss` show them. Read from outside through any task that
 * lives there; nothing is changed.
 */
import koffi, { type LibraryHandle } from "koffi";
import { run } from "./exec.js";
import { readProc } from "./procfs.js";

export interface InetSocket {
  protocol: "tcp" | "udp" | "udplite" | "icmp" | "raw";
  /** "0": no descriptor yet or any more (a request being accepted, an orphan). */
  inode: string;
  /** Address without brackets, port; e.g. 10.77.0.100 and 6379. */
  local: string;
  localPort: number;
  remote: string;
  remotePort: number;
  state: string;
  sendQueue: number;
  /** For a listening TCP socket: connections that wait to be accepted. */
  receiveQueue: number;
}

export interface UnixSocket {
  inode: string;
  /** Inode of the connected peer, "0": none. */
  peer: string;
  type: string;
  state: string;
  path: string;
}

const TCP_STATES = [
  "?",
  "ESTABLISHED",
  "SYN_SENT",
  "SYN_RECV",
  "FIN_WAIT1",
  "FIN_WAIT2",
  "TIME_WAIT",
  "CLOSE",
  "CLOSE_WAIT",
  "LAST_ACK",
  "LISTEN",
  "CLOSING",
  "NEW_SYN_RECV",
];

/** The kernel prints addresses as 32-bit words in host order (little endian on every machine that Ferry knows). */
export function decodeAddress(hex: string): string {
  const bytes = Buffer.from(hex, "hex");
  for (let at = 0; at + 4 <= bytes.length; at += 4) bytes.subarray(at, at + 4).reverse();
  if (bytes.length === 4) return bytes.join(".");
  const groups: string[] = [];
  for (let at = 0; at + 2 <= bytes.length; at += 2) groups.push(bytes.readUInt16BE(at).toString(16));
  const mapped = groups.join(":").startsWith("0:0:0:0:0:ffff:") ? bytes.subarray(12).join(".") : undefined;
  return mapped ?? groups.join(":");
}

const INET = /^\s*\d+: ([0-9A-F]+):([0-9A-F]{4}) ([0-9A-F]+):([0-9A-F]{4}) ([0-9A-F]{2}) ([0-9A-F]+):([0-9A-F]+) (.*)$/;

/** /proc/<pid>/net/{tcp,udp,raw,icmp,udplite}{,6}. */
export function parseInet(protocol: InetSocket["protocol"], text: string): InetSocket[] {
  const sockets: InetSocket[] = [];
  for (const line of text.split("\n")) {
    const match = INET.exec(line);
    if (!match) continue;
    const [, local = "", localPort = "", remote = "", remotePort = "", state = "", send = "", receive = ""] = match;
    // tr tm->when retrnsmt uid timeout inode
    const inode = (match[8] ?? "").trim().split(/\s+/)[4] ?? "0";
    sockets.push({
      protocol,
      inode,
      local: decodeAddress(local),
      localPort: Number.parseInt(localPort, 16),
      remote: decodeAddress(remote),
      remotePort: Number.parseInt(remotePort, 16),
      state: TCP_STATES[Number.parseInt(state, 16)] ?? "?",
      sendQueue: Number.parseInt(send, 16),
      receiveQueue: Number.parseInt(receive, 16),
    });
  }
  return sockets;
}

const SS = /^(u_\S+)\s+(\S+)\s+\d+\s+\d+\s+(.*?)\s(\d+)\s+(\S.*)\s(\d+)\s*$/;

/** Output of `ss -xanH`: type, state, queues, path and inode, peer's path and inode. */
export function parseSsUnix(text: string): UnixSocket[] {
  const sockets: UnixSocket[] = [];
  for (const line of text.split("\n")) {
    const match = SS.exec(line);
    if (!match) continue;
    const [, type = "", state = "", path = "", inode = "", , peer = ""] = match;
    sockets.push({ type, state, path, inode, peer });
  }
  return sockets;
}

export interface NamespaceSockets {
  inet: InetSocket[];
  unix: UnixSocket[];
  /** Inodes of AF_PACKET and netlink sockets. */
  packet: Set<string>;
  netlink: Set<string>;
}

/** Inode column of tables that have a header line with the word Inode. */
function inodeColumn(text: string): Set<string> {
  const [header = "", ...lines] = text.split("\n");
  const column = header.trim().split(/\s+/).indexOf("Inode");
  const inodes = lines.map((line) => line.trim().split(/\s+/)[column] ?? "");
  return new Set(column < 0 ? [] : inodes.filter((inode) => /^\d+$/.test(inode)));
}

/** All sockets of the network namespace that `pid` lives in. Throws E_TOOL when `ss` fails. */
export async function socketsOf(pid: number): Promise<NamespaceSockets> {
  const table = async (protocol: InetSocket["protocol"], name: string): Promise<InetSocket[]> =>
    parseInet(protocol, (await readProc(pid, `net/${name}`)) ?? "");
  const [tcp, tcp6, udp, udp6, lite, lite6, raw, raw6, icmp, icmp6, packet, netlink, unix] = await Promise.all([
    table("tcp", "tcp"),
    table("tcp", "tcp6"),
    table("udp", "udp"),
    table("udp", "udp6"),
    table("udplite", "udplite"),
    table("udplite", "udplite6"),
    table("raw", "raw"),
    table("raw", "raw6"),
    table("icmp", "icmp"),
    table("icmp", "icmp6"),
    readProc(pid, "net/packet"),
    readProc(pid, "net/netlink"),
    run("nsenter", [`--net=/proc/${pid}/ns/net`, "ss", "-xanH"], {
      doing: "listing the workload's unix sockets",
      timeoutMs: 5000,
    }),
  ]);
  return {
    inet: [...tcp, ...tcp6, ...udp, ...udp6, ...lite, ...lite6, ...raw, ...raw6, ...icmp, ...icmp6],
    unix: parseSsUnix(unix.stdout),
    packet: inodeColumn(packet ?? ""),
    netlink: inodeColumn(netlink ?? ""),
  };
}

/** The socket's protocol as the kernel calls it (MPTCP, SCTP, UNIX-STREAM, AF_VSOCK, ...); undefined when it is gone. */
export function socketProtocol(pid: number, fd: number): string | undefined {
  getxattr ??= koffi
    .load("libc.so.6")
    .func("int64_t getxattr(const char *path, const char *name, _Out_ uint8_t *value, size_t size)");
  const value = Buffer.alloc(64);
  const length = Number(getxattr(`/proc/${pid}/fd/${fd}`, "system.sockprotoname", value, value.length));
  return length <= 0 ? undefined : value.toString("latin1", 0, length).replace(/\0.*$/, "");
}
let getxattr: ReturnType<LibraryHandle["func"]> | undefined;

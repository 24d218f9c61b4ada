/** Checks on sockets: connections that can't be cut out of the kernel, peers outside of the tree. Pure. */
import { shown } from "../../host/procfs.js";
import type { InetSocket, NamespaceSockets, UnixSocket } from "../../host/sockets.js";
import type { Finding } from "../../model/plan.js";
import { finder, listText } from "./findings.js";
import { taskName } from "./tasks.js";
import type { Tree } from "./tree.js";

const { block, warn, info } = finder("source");

export interface OwnedSocket {
  inode: string;
  /** "redis (pid 7), descriptor 5". */
  at: string;
  pid: number;
  fd: number;
}

/** Sockets that the tree has open, each once. */
export function ownedSockets(tree: Tree): Map<string, OwnedSocket> {
  const owned = new Map<string, OwnedSocket>();
  for (const task of tree.tasks) {
    for (const file of task.files) {
      const inode = /^socket:\[(\d+)\]$/.exec(file.link)?.[1];
      if (inode === undefined || owned.has(inode)) continue;
      owned.set(inode, { inode, at: `${taskName(task)}, descriptor ${file.fd}`, pid: task.pid, fd: file.fd });
    }
  }
  return owned;
}

/** Unix sockets whose peer is not in the tree: whom to look for outside. */
export function externalPeers(owned: ReadonlyMap<string, OwnedSocket>, unix: readonly UnixSocket[]): UnixSocket[] {
  return unix.filter((socket) => owned.has(socket.inode) && socket.peer !== "0" && !owned.has(socket.peer));
}

export function checkUnix(
  owned: ReadonlyMap<string, OwnedSocket>,
  external: readonly UnixSocket[],
  holders: ReadonlyMap<string, string>,
): Finding[] {
  return external.map((socket) => {
    const holder = holders.get(`socket:[${socket.peer}]`) ?? "somebody";
    const name = socket.path === "*" || socket.path === "" ? "" : ` ${shown(socket.path)}`;
    return block(
      "unix socket",
      `${owned.get(socket.inode)?.at ?? "?"}: unix socket${name} is connected to ${holder} outside of the workload`,
      "let the program close it (system log, D-Bus, a database's local socket); use TCP to reach services outside",
    );
  });
}

const MOVING_STATES = new Set([
  "ESTABLISHED",
  "SYN_SENT",
  "FIN_WAIT1",
  "FIN_WAIT2",
  "CLOSE",
  "CLOSE_WAIT",
  "LAST_ACK",
  "LISTEN",
  "CLOSING",
]);
const HALF_CLOSED = new Set(["FIN_WAIT1", "FIN_WAIT2", "CLOSE_WAIT", "LAST_ACK", "CLOSING"]);

const endsText = (socket: InetSocket): string =>
  `${socket.local}:${socket.localPort} -> ${socket.remote}:${socket.remotePort}`;
const wildcard = (address: string): boolean => /^[0:.]+$/.test(address);
const loopback = (address: string): boolean => address.startsWith("127.") || address === "0:0:0:0:0:0:0:1";

/**
 * `ip`: the workload's address without prefix: the only one that exists on the destination besides loopback.
 * `accepting`: connection requests (SYN_RECV) seen, which no descriptor names yet.
 */
export function checkInet(
  owned: ReadonlyMap<string, OwnedSocket>,
  inet: readonly InetSocket[],
  ip: string | undefined,
): Finding[] {
  const findings: Finding[] = [];
  let halfClosed = 0;
  let established = 0;
  for (const socket of inet) {
    if (socket.protocol === "tcp" && (socket.state === "SYN_RECV" || socket.state === "NEW_SYN_RECV")) {
      findings.push(
        warn(
          "connections",
          `a connection from ${socket.remote} to port ${socket.localPort} is just being made; the client may have to connect again`,
          "nothing, or migrate when fewer clients connect",
        ),
      );
      continue;
    }
    const owner = owned.get(socket.inode);
    if (owner === undefined) continue;
    if (socket.protocol === "raw") {
      findings.push(
        warn(
          "raw socket",
          `${owner.at}: raw socket; packets during the move are lost`,
          "the program must cope with loss",
        ),
      );
      continue;
    }
    if (socket.protocol === "udp" && socket.sendQueue > 0) {
      findings.push(
        warn(
          "udp",
          `${owner.at}: UDP socket on port ${socket.localPort} has unsent data; a corked one can't be dumped`,
          'migrate again if the dump fails with "corked dgram socket"',
        ),
      );
    }
    if (socket.protocol === "tcp") {
      if (!MOVING_STATES.has(socket.state)) {
        findings.push(
          block(
            "connections",
            `${owner.at}: TCP socket ${endsText(socket)} is in state ${socket.state}`,
            "try again in a moment",
          ),
        );
      }
      if (socket.state === "LISTEN" && socket.receiveQueue > 0) {
        findings.push(
          warn(
            "connections",
            `${owner.at}: ${socket.receiveQueue} connections to port ${socket.localPort} wait to be accepted; what still waits at the freeze is refused by the engine or lost`,
            "wait until the program has accepted them",
          ),
        );
      }
      if (HALF_CLOSED.has(socket.state)) halfClosed += 1;
      if (socket.state === "ESTABLISHED") established += 1;
    }
    if (ip !== undefined && !wildcard(socket.local) && !loopback(socket.local) && socket.local !== ip) {
      const linkLocal = socket.local.startsWith("fe80:");
      const message = `${owner.at}: bound to ${socket.local}, which is not the workload's address ${ip}`;
      if (!socket.local.includes(":")) {
        findings.push(
          block(
            "address",
            `${message} and does not exist on the destination`,
            "bind to 0.0.0.0 or to the workload's address",
          ),
        );
      } else if (!linkLocal) {
        findings.push(
          warn("address", message, "use the workload's own address; others may be missing on the destination"),
        );
      }
    }
  }
  if (halfClosed > 0) findings.push(info("connections", `${halfClosed} half-closed TCP connections; they move`));
  if (established > 0) findings.push(info("connections", `${established} established TCP connections move with it`));
  return findings;
}

const BY_PROTOCOL: Record<string, { name: string; remedy: string }> = {
  MPTCP: { name: "Multipath TCP", remedy: "use plain TCP (Go programs: GODEBUG=multipathtcp=0)" },
  SCTP: { name: "SCTP", remedy: "use TCP or UDP" },
  DCCP: { name: "DCCP", remedy: "use TCP or UDP" },
  SMC: { name: "SMC", remedy: "use plain TCP" },
};

/** Sockets that no table of the workload's network namespace lists: another kind, or another namespace. */
export function checkOtherSockets(
  owned: ReadonlyMap<string, OwnedSocket>,
  sockets: NamespaceSockets,
  protocolOf: (pid: number, fd: number) => string | undefined,
): Finding[] {
  const listed = new Set([
    ...sockets.inet.map((socket) => socket.inode),
    ...sockets.unix.map((socket) => socket.inode),
    ...sockets.netlink,
  ]);
  const unbound: string[] = [];
  const findings: Finding[] = [];
  for (const socket of owned.values()) {
    if (listed.has(socket.inode)) continue;
    if (sockets.packet.has(socket.inode)) {
      findings.push(
        warn(
          "packet socket",
          `${socket.at}: packet socket; packets during the move are lost, and a bound one needs the same interface number`,
          "stop the sniffer (tcpdump, DHCP client) inside the workload if the restore fails",
        ),
      );
      continue;
    }
    const protocol = protocolOf(socket.pid, socket.fd);
    if (protocol === undefined) continue;
    // A TCP or UDP socket that was neither bound nor connected is in no table, and moves.
    if (/^(?:TCP|UDP|UDP-Lite|PING|RAW)(?:v6)?$/.test(protocol)) {
      unbound.push(socket.at);
      continue;
    }
    const known = BY_PROTOCOL[protocol.replace(/v6$/, "")];
    findings.push(
      protocol.startsWith("UNIX")
        ? block(
            "unix socket",
            `${socket.at}: a unix socket made outside of the workload (it was inherited at its start)`,
            "start it with standard streams in files (`ferry run` does so)",
          )
        : block(
            known === undefined ? "socket" : protocol.replace(/v6$/, "").toLowerCase(),
            `${socket.at}: ${known?.name ?? shown(protocol)} socket, which the engine can't dump`,
            known?.remedy ?? "turn the feature off in the program that opens it",
          ),
    );
  }
  if (unbound.length > 8) findings.push(info("connections", `sockets that are in no table: ${listText(unbound, 3)}`));
  return findings;
}

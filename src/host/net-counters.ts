/**
 * What a network namespace has sent and got, by the kernel's own counters of any process in it. Unicast packets of IPv4 and
 * IPv6 only, and none of the loopback: neither who-has-it chatter, nor what a workload says to itself.
 */
import { readFileSync } from "node:fs";

/** Two lines a protocol: names, then values. Unknown ones are of no interest; what is missing counts as 0. */
export function parseSnmp(text: string): Map<string, number> {
  const found = new Map<string, number>();
  const lines = text.split("\n");
  for (let i = 0; i + 1 < lines.length; i += 2) {
    const [head = "", ...names] = (lines[i] ?? "").split(" ");
    const [again = "", ...values] = (lines[i + 1] ?? "").split(" ");
    if (head === "" || head !== again || names.length !== values.length) continue;
    names.forEach((name, at) => {
      const value = Number(values[at]);
      if (Number.isFinite(value)) found.set(`${head}${name}`, value);
    });
  }
  return found;
}

/** One name and value a line. */
export function parseSnmp6(text: string): Map<string, number> {
  const rows = text.split("\n").map((line) => line.trim().split(/\s+/));
  return new Map(
    rows.flatMap(([name = "", value = ""]) => (/^\d+$/.test(value) ? [[name, Number(value)] as const] : [])),
  );
}

/** Packets that the loopback has delivered, by /proc/PID/net/dev. */
export function parseLoopback(text: string): number {
  const match = /^\s*lo:\s*\d+\s+(\d+)\s/m.exec(text);
  return match?.[1] === undefined ? 0 : Number(match[1]);
}

interface Texts {
  snmp: string;
  netstat: string;
  snmp6: string;
  dev: string;
}

export function unicastPackets({ snmp, netstat, snmp6, dev }: Texts): number {
  const v4 = new Map([...parseSnmp(snmp), ...parseSnmp(netstat)]);
  const v6 = parseSnmp6(snmp6);
  const of = (name: string): number => v4.get(name) ?? v6.get(name) ?? 0;
  const all = of("Ip:InReceives") + of("Ip:OutRequests") + of("Ip6InReceives") + of("Ip6OutRequests");
  const toMany =
    of("IpExt:InMcastPkts") +
    of("IpExt:OutMcastPkts") +
    of("IpExt:InBcastPkts") +
    of("IpExt:OutBcastPkts") +
    of("Ip6InMcastPkts") +
    of("Ip6OutMcastPkts");
  // Each of the loopback's was sent and got.
  return all - toMany - 2 * parseLoopback(dev);
}

const TRIES = 3;

/** In and out together, of the namespace of `pid`; undefined: there is no such process. Goes up, or begins anew with the namespace. */
export function packetsOf(pid: number): number | undefined {
  const read = (file: string): string => readFileSync(`/proc/${pid}/net/${file}`, "utf8");
  const readOr = (file: string): string => {
    try {
      return read(file);
    } catch {
      // A kernel without IPv6.
      return "";
    }
  };
  try {
    let dev = read("dev");
    for (let left = TRIES; ; left -= 1) {
      const texts = { snmp: read("snmp"), netstat: read("netstat"), snmp6: readOr("snmp6"), dev };
      dev = read("dev");
      // Read one after the other: the loopback's must be those of the others.
      if (left === 0 || parseLoopback(dev) === parseLoopback(texts.dev)) return unicastPackets(texts);
    }
  } catch {
    return undefined;
  }
}

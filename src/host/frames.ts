/** Ethernet frames that tell the neighbours where an address lives now: gratuitous ARP and unsolicited NA. Pure. */

import { parseIpv4 } from "../model/spec-check.js";

export const ETH_P_ARP = 0x0806;
export const ETH_P_IPV6 = 0x86dd;
const BROADCAST = Buffer.alloc(6, 0xff);

export function macBytes(mac: string): Buffer {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(mac)) throw new RangeError(`${JSON.stringify(mac)} is not a MAC address`);
  return Buffer.from(mac.replaceAll(":", ""), "hex");
}

export function ipv4Bytes(address: string): Buffer {
  const number = parseIpv4(address);
  if (number === undefined) throw new RangeError(`${JSON.stringify(address)} is not an IPv4 address`);
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(number);
  return bytes;
}

/** Full or `::` form; no zone, no embedded IPv4. */
export function ipv6Bytes(address: string): Buffer {
  const [head = "", tail, more] = address.split("::");
  const groups = (text: string): string[] => (text === "" ? [] : text.split(":"));
  const left = groups(head);
  const right = tail === undefined ? [] : groups(tail);
  const missing = 8 - left.length - right.length;
  const all = [...left, ...Array.from({ length: Math.max(0, missing) }, () => "0"), ...right];
  const wrong = more !== undefined || all.length !== 8 || (tail === undefined ? missing !== 0 : missing < 1);
  if (wrong || all.some((group) => !/^[0-9a-f]{1,4}$/i.test(group))) {
    throw new RangeError(`${JSON.stringify(address)} is not an IPv6 address`);
  }
  const bytes = Buffer.alloc(16);
  all.forEach((group, i) => bytes.writeUInt16BE(Number.parseInt(group, 16), i * 2));
  return bytes;
}

function arp(operation: 1 | 2, mac: Buffer, sender: Buffer, targetMac: Buffer, target: Buffer): Buffer {
  const header = Buffer.alloc(22);
  BROADCAST.copy(header, 0);
  mac.copy(header, 6);
  header.writeUInt16BE(ETH_P_ARP, 12);
  header.writeUInt16BE(1, 14); // Ethernet
  header.writeUInt16BE(0x0800, 16); // IPv4
  header[18] = 6;
  header[19] = 4;
  header.writeUInt16BE(operation, 20);
  return Buffer.concat([header, mac, sender, targetMac, target]);
}

/** Both forms of gratuitous ARP: some stacks take only requests, some only replies. */
export function gratuitousArp(mac: string, ip: string): Buffer[] {
  const hardware = macBytes(mac);
  const address = ipv4Bytes(ip);
  return [arp(1, hardware, address, Buffer.alloc(6), address), arp(2, hardware, address, BROADCAST, address)];
}

/** RFC 5227 probe: asks who has `ip` without claiming it. */
export const arpProbe = (mac: string, ip: string): Buffer =>
  arp(1, macBytes(mac), Buffer.alloc(4), Buffer.alloc(6), ipv4Bytes(ip));

/** The answer to the probe of `to`, and to nobody else: no cache learns of it. */
export const arpDefence = (mac: string, ip: string, to: string): Buffer =>
  arpReply(macBytes(mac), ipv4Bytes(ip), macBytes(to), Buffer.alloc(4));

/** To `asker` alone. */
function arpReply(mac: Buffer, address: Buffer, asker: Buffer, target: Buffer): Buffer {
  const frame = arp(2, mac, address, asker, target);
  asker.copy(frame, 0);
  return frame;
}

const isArp = (frame: Buffer): boolean => frame.length >= 42 && frame.readUInt16BE(12) === ETH_P_ARP;
const senderOf = (frame: Buffer): string =>
  [...frame.subarray(22, 28)].map((byte) => byte.toString(16).padStart(2, "0")).join(":");

/** Does this frame say that somebody has `ip`? Then the MAC address that says so. */
export function arpClaim(frame: Buffer, ip: string): string | undefined {
  return isArp(frame) && frame.subarray(28, 32).equals(ipv4Bytes(ip)) ? senderOf(frame) : undefined;
}

/** Is this frame the probe of somebody who wants `ip` himself? Then his MAC address. */
export function arpWanted(frame: Buffer, ip: string): string | undefined {
  if (!isArp(frame) || frame.readUInt16BE(20) !== 1 || frame.readUInt32BE(28) !== 0) return undefined;
  return frame.subarray(38, 42).equals(ipv4Bytes(ip)) ? senderOf(frame) : undefined;
}

/** The answer to an ARP request for `ip`, to whoever asks; undefined: this frame is none. */
export function arpAnswer(frame: Buffer, mac: string, ip: string): Buffer | undefined {
  if (!isArp(frame) || frame.readUInt16BE(20) !== 1) return undefined;
  const [own, address] = [macBytes(mac), ipv4Bytes(ip)];
  const asker = frame.subarray(22, 28);
  // One's own: it announces itself.
  if (!frame.subarray(38, 42).equals(address) || asker.equals(own)) return undefined;
  return arpReply(own, address, asker, frame.subarray(28, 32));
}

function checksum(...parts: Buffer[]): number {
  const all = Buffer.concat(parts);
  let sum = 0;
  for (let i = 0; i < all.length; i += 2) sum += ((all[i] ?? 0) << 8) | (all[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** RFC 4861 unsolicited neighbour advertisement with the override flag, to all nodes. */
export function unsolicitedAdvertisement(mac: string, ip: string): Buffer {
  const hardware = macBytes(mac);
  const source = ipv6Bytes(ip);
  const all = ipv6Bytes("ff02::1");
  const message = Buffer.concat([Buffer.from([136, 0, 0, 0, 0x20, 0, 0, 0]), source, Buffer.from([2, 1]), hardware]);
  const pseudo = Buffer.alloc(8);
  pseudo.writeUInt32BE(message.length, 0);
  pseudo[7] = 58;
  message.writeUInt16BE(checksum(source, all, pseudo, message), 2);
  const header = Buffer.alloc(8);
  header[0] = 0x60;
  header.writeUInt16BE(message.length, 4);
  header[6] = 58;
  header[7] = 255;
  const ethernet = Buffer.alloc(14);
  Buffer.from([0x33, 0x33, 0, 0, 0, 1]).copy(ethernet, 0);
  hardware.copy(ethernet, 6);
  ethernet.writeUInt16BE(ETH_P_IPV6, 12);
  return Buffer.concat([ethernet, header, source, all, message]);
}

/** The address that a link has by its MAC address alone (EUI-64, RFC 4291): it moves with that. */
export function linkLocal(mac: string): string {
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = macBytes(mac);
  const group = (high: number, low: number): string => ((high << 8) | low).toString(16);
  return `fe80::${group(a ^ 2, b)}:${group(c, 0xff)}:${group(0xfe, d)}:${group(e, f)}`;
}

/** Everything that announces `addresses` (without prefix length) at `mac`. */
export const announcements = (mac: string, addresses: readonly string[]): Buffer[] =>
  addresses.flatMap((ip) => (ip.includes(":") ? [unsolicitedAdvertisement(mac, ip)] : gratuitousArp(mac, ip)));

/**
 * Addresses for workloads that were given none: a range in the middle of the network that the nodes' bridge is in (.100
 * to .199 of a /24). The first choice depends on the name alone, so that a repeated request is the same request.
 */
import { bareIp } from "../model/address.js";

/** The lab's, for a node that does not say. */
export const DEFAULT_NETWORK = "10.77.0.0/24";
/** The range begins at, and is as long as, this share of the network; a hundred addresses at most. */
const SHARE = 100 / 256;
const MOST = 100;

const numberOf = (ip: string): number => ip.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
const ipOf = (value: number): string => [24, 16, 8, 0].map((bits) => Math.floor(value / 2 ** bits) % 256).join(".");

export const prefixOf = (network: string): number => Number(network.split("/")[1] ?? 24);

export interface AddressRange {
  first: string;
  last: string;
  count: number;
}

/** The addresses that Ferry gives out in a network like "10.77.0.0/24" (any address of it will do). */
export function addressRange(network: string): AddressRange {
  const size = 2 ** (32 - prefixOf(network));
  const base = Math.floor(numberOf(bareIp(network)) / size) * size;
  const count = Math.max(1, Math.min(MOST, Math.floor(size * SHARE)));
  const first = base + Math.floor(size * SHARE);
  return { first: ipOf(first), last: ipOf(first + count - 1), count };
}

/** FNV-1a, 32 bits: spread over the range is all that is asked of it. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (const char of text) value = Math.imul(value ^ (char.codePointAt(0) ?? 0), 0x01000193) >>> 0;
  return value;
}

/** First free address of the range from the name's own place on, with prefix length; undefined: all are taken. */
export function chooseIp(name: string, taken: ReadonlySet<string>, network = DEFAULT_NETWORK): string | undefined {
  const { first, count } = addressRange(network);
  const start = hash(name) % count;
  for (let i = 0; i < count; i += 1) {
    const ip = ipOf(numberOf(first) + ((start + i) % count));
    if (!taken.has(ip)) return `${ip}/${prefixOf(network)}`;
  }
  return undefined;
}

/** 02:fe and the four bytes of the address: locally administered, unicast, unique where the address is. */
export function macOf(ip: string): string {
  const bytes = bareIp(ip)
    .split(".")
    .map((part) => Number(part).toString(16).padStart(2, "0"));
  return ["02", "fe", ...bytes].join(":");
}

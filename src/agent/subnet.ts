/** IPv4 networks, as policies name them. */
import { bareIp } from "../model/address.js";
import { parseIpv4 } from "../model/spec-check.js";

export interface Subnet {
  first: number;
  size: number;
}

/** "10.77.0.0/24"; undefined when it is no network. */
export function parseSubnet(text: string): Subnet | undefined {
  const [address, prefix, ...rest] = text.split("/");
  const base = parseIpv4(address ?? "");
  if (base === undefined || rest.length > 0 || !/^(?:\d|[12]\d|3[0-2])$/.test(prefix ?? "")) return undefined;
  const size = 2 ** (32 - Number(prefix));
  return { first: Math.floor(base / size) * size, size };
}

/** Does the address of "address/prefix" lie in it? */
export function inSubnet(ip: string, net: Subnet | undefined): boolean {
  const address = parseIpv4(bareIp(ip));
  return net !== undefined && address !== undefined && address >= net.first && address < net.first + net.size;
}

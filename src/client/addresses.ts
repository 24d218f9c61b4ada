/**
 * Addresses for workloads that were given none: 10.77.0.100 to .199, the range that the nodes' bridge keeps for them.
 * The first choice depends on the name alone, so that a repeated request is the same request.
 */
const FIRST = 100;
const COUNT = 100;

/** FNV-1a, 32 bits: spread over the range is all that is asked of it. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (const char of text) value = Math.imul(value ^ (char.codePointAt(0) ?? 0), 0x01000193) >>> 0;
  return value;
}

/** First free address from the name's own place on, with prefix length; undefined: all hundred are taken. */
export function chooseIp(name: string, taken: ReadonlySet<string>): string | undefined {
  const start = hash(name) % COUNT;
  for (let i = 0; i < COUNT; i += 1) {
    const ip = `10.77.0.${FIRST + ((start + i) % COUNT)}`;
    if (!taken.has(ip)) return `${ip}/24`;
  }
  return undefined;
}

export const bareIp = (ip: string): string => ip.split("/")[0] ?? ip;

/** 02:fe and the four bytes of the address: locally administered, unicast, unique where the address is. */
export function macOf(ip: string): string {
  const bytes = bareIp(ip)
    .split(".")
    .map((part) => Number(part).toString(16).padStart(2, "0"));
  return ["02", "fe", ...bytes].join(":");
}

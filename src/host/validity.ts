/** When certificates and revocation lists run out, in words. */
import type { X509Certificate } from "node:crypto";

const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;

/** A time in Unix milliseconds, to the second. */
export const utc = (time: number): string => new Date(time).toISOString().replace(/\.000Z$/, "Z");

/** From when until when a certificate is valid, in Unix milliseconds. */
export const validity = (certificate: X509Certificate): [from: number, until: number] => [
  Date.parse(certificate.validFrom),
  Date.parse(certificate.validTo),
];

/**
 * How a time span ends, when it has ended or is about to: a third of it is left, at most 30 days. undefined otherwise. All
 * in Unix milliseconds.
 */
export function nearEnd(from: number, until: number, now: number): string | undefined {
  if (now > until) return `ran out on ${utc(until)}`;
  const leftMs = until - now;
  if (leftMs > Math.min(30 * DAY_MS, (until - from) / 3)) return undefined;
  const left = leftMs < 2 * DAY_MS ? `${Math.floor(leftMs / HOUR_MS)} hours` : `${Math.floor(leftMs / DAY_MS)} days`;
  return `runs out on ${utc(until)}, in ${left}`;
}

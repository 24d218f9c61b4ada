/**
 * Certificate revocation lists (RFC 5280), read strictly: complete lists, directly signed by the CA whose certificates they
 * name. OpenSSL could look at them in the TLS handshake, but the signed statements between nodes need the same answer, and
 * its errors would not say which certificate, since when, or what to do.
 */
import { verify, type X509Certificate } from "node:crypto";
import { ferryError, type FerryError } from "../model/failure.js";

const TAG = { integer: 0x02, bits: 0x03, oid: 0x06, boolean: 0x01, sequence: 0x30, utc: 0x17, time: 0x18, own0: 0xa0 };
/** Hash by the object identifier of the signature's algorithm; null: the algorithm has its own. */
const HASHES: ReadonlyMap<string, string | null> = new Map([
  ["2a8648ce3d040302", "sha256"],
  ["2a8648ce3d040303", "sha384"],
  ["2a8648ce3d040304", "sha512"],
  ["2a864886f70d01010b", "sha256"],
  ["2a864886f70d01010c", "sha384"],
  ["2a864886f70d01010d", "sha512"],
  ["2b6570", null],
]);
const PEM = /-----BEGIN X509 CRL-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END X509 CRL-----/g;

export interface RevocationList {
  /** Unix milliseconds. `until`: when the next one was promised. */
  from: number;
  until: number | undefined;
  /** Unix milliseconds of the revocation, by serial number. */
  revoked: ReadonlyMap<bigint, number>;
  /** Whether this CA has signed it. */
  isOf(ca: X509Certificate): boolean;
}

const wrong = (why: string): FerryError => ferryError("E_PEER_CERT", `not a revocation list: ${why}`);

interface Value {
  tag: number;
  /** With tag and length. */
  whole: Buffer;
  content: Buffer;
}

/** The values of one DER sequence, taken one after the other. */
class Reader {
  #at = 0;
  readonly #bytes: Buffer;
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  /** The next value; undefined, and nothing taken, when it has none of these tags. */
  option(...tags: number[]): Value | undefined {
    if (this.atEnd || !tags.includes(this.#byte(this.#at))) return undefined;
    const start = this.#at;
    let length = this.#byte(start + 1);
    let at = start + 2;
    if (length > 0x80 && length <= 0x84) {
      const digits = length - 0x80;
      length = 0;
      for (let i = 0; i < digits; i += 1) length = length * 256 + this.#byte(at++);
    } else if (length >= 0x80) throw wrong("a length of no DER");
    if (at + length > this.#bytes.length) throw wrong("it is cut");
    this.#at = at + length;
    return {
      tag: this.#byte(start),
      whole: this.#bytes.subarray(start, this.#at),
      content: this.#bytes.subarray(at, this.#at),
    };
  }

  take(...tags: number[]): Value {
    const value = this.option(...tags);
    if (value === undefined) throw wrong("a field is missing or of another kind");
    return value;
  }

  #byte(at: number): number {
    const byte = this.#bytes[at];
    if (byte === undefined) throw wrong("it is cut");
    return byte;
  }
}

function timeOf({ tag, content }: Value): number {
  const text = content.toString("latin1");
  const parts = /^(\d{2}|\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(text)?.slice(1);
  const [year = "", month, day, hour, minute, second] = parts ?? [];
  if (year.length !== (tag === TAG.utc ? 2 : 4)) throw wrong("a time of no DER");
  const century = tag === TAG.utc ? (Number(year) < 50 ? "20" : "19") : "";
  return Date.parse(`${century}${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
}

const numberOf = ({ content }: Value): bigint => BigInt(`0x0${content.toString("hex")}`);

/** What a critical extension says would change what the list means. */
function refuseCritical(extensions: Value): void {
  const list = new Reader(new Reader(extensions.content).take(TAG.sequence).content);
  while (!list.atEnd) {
    const extension = new Reader(list.take(TAG.sequence).content);
    extension.take(TAG.oid);
    if (extension.option(TAG.boolean)?.content[0] === 0xff) throw wrong("it is a partial or an indirect one");
  }
}

function parseOne(der: Buffer): RevocationList {
  const outer = new Reader(der);
  const list = new Reader(outer.take(TAG.sequence).content);
  if (!outer.atEnd) throw wrong("something follows it");
  const signed = list.take(TAG.sequence);
  const outerAlgorithm = list.take(TAG.sequence);
  const algorithm = new Reader(outerAlgorithm.content).take(TAG.oid).content.toString("hex");
  const bits = list.take(TAG.bits).content;
  if (!list.atEnd || bits[0] !== 0) throw wrong("its signature is of no form that is known here");
  const signature = bits.subarray(1);
  const hash = HASHES.get(algorithm);
  if (hash === undefined) throw wrong("it is signed in a way that is not known here");
  const fields = new Reader(signed.content);
  fields.option(TAG.integer);
  // the one that is signed with the rest
  if (!fields.take(TAG.sequence).whole.equals(outerAlgorithm.whole)) throw wrong("it names two ways of signing");
  fields.take(TAG.sequence);
  const from = timeOf(fields.take(TAG.utc, TAG.time));
  const next = fields.option(TAG.utc, TAG.time);
  const revoked = new Map<bigint, number>();
  const entries = new Reader(fields.option(TAG.sequence)?.content ?? Buffer.alloc(0));
  while (!entries.atEnd) {
    const entry = new Reader(entries.take(TAG.sequence).content);
    revoked.set(numberOf(entry.take(TAG.integer)), timeOf(entry.take(TAG.utc, TAG.time)));
  }
  const extensions = fields.option(TAG.own0);
  if (extensions !== undefined) refuseCritical(extensions);
  if (!fields.atEnd) throw wrong("it has fields that are not known here");
  return {
    from,
    until: next === undefined ? undefined : timeOf(next),
    revoked,
    isOf: (ca) => {
      try {
        return verify(hash, signed.whole, ca.publicKey, signature);
      } catch {
        // a key of another kind than the signature's
        return false;
      }
    },
  };
}

/** The lists of a PEM file, in its order. Throws E_PEER_CERT when there is none, or one of them is not a list. */
export function parseRevocationLists(pem: string): RevocationList[] {
  const lists = Array.from(pem.matchAll(PEM), ([, base64 = ""]) => parseOne(Buffer.from(base64, "base64")));
  if (lists.length === 0) throw wrong("there is no X509 CRL in it (PEM)");
  return lists;
}

/** The serial number as the lists have it. */
export const serialOf = (certificate: X509Certificate): bigint => BigInt(`0x${certificate.serialNumber}`);

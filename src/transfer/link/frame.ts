/**
 * Frames on the wire. All numbers are big endian:
 *
 *    0  u32  magic "FRY1"
 *    4  u32  length of the whole frame
 *    8  u64  sequence: 0, 1, 2, ... per direction; must be exactly the next
 *   16  u8   kind
 *   17  u8   length of type (ASCII)
 *   18  u16  zero
 *   20  u32  length of meta (JSON object, UTF-8)
 *   24  u32  length of payload
 *   28  u32  CRC-32 of bytes 0..27, type, meta, payload
 *   32  type, meta, payload
 *
 * TLS keeps out attackers; sequence and checksum are there for our own mistakes (a buffer changed while it was queued,
 * a frame sent twice over a new connection), which would otherwise become silently wrong memory.
 */
import { crc32 } from "node:zlib";
import { ferryError, type FerryError } from "../../model/failure.js";
import { MAX_META_BYTES, MAX_PAYLOAD_BYTES } from "./types.js";

export const HEADER_BYTES = 32;
const MAGIC = 0x46525931;

/** What a frame is for. `data` carries users' frames; the rest is the link's own. */
export const KIND = { hello: 1, welcome: 2, refuse: 3, data: 4, ping: 5, pong: 6, bye: 7, abort: 8 } as const;
export type Kind = (typeof KIND)[keyof typeof KIND];
const KINDS: ReadonlySet<number> = new Set(Object.values(KIND));
const isKind = (value: number): value is Kind => KINDS.has(value);

export interface RawFrame {
  kind: Kind;
  type: string;
  meta: Record<string, unknown>;
  payload: Buffer;
  /** Size on the wire. */
  bytes: number;
}

const TYPE = /^[a-zA-Z][a-zA-Z0-9._-]{0,63}$/;
/** Payloads from this size on have memory of their own, in steps, which can be lent and taken back. */
const LENT_FROM_BYTES = 4096;
const LENT_STEP_BYTES = 65_536;
const MAX_RETURNED = 8;
const NOTHING = Buffer.alloc(0);
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const frameError = (message: string): FerryError => ferryError("E_FRAME", message);

/**
 * Everything of a frame that precedes its payload. Throws E_FRAME when type, meta or payload break the limits that the
 * receiver holds.
 */
export function encodeHead(
  kind: Kind,
  sequence: number,
  type: string,
  meta: object,
  payload: readonly Buffer[],
): { head: Buffer; bytes: number } {
  if (kind === KIND.data && !TYPE.test(type)) {
    throw frameError(`frame type ${JSON.stringify(type.slice(0, 80))} is not valid: letters, digits, ._-, at most 64`);
  }
  const json = JSON.stringify(meta);
  const metaBytes = Buffer.byteLength(json);
  if (metaBytes > MAX_META_BYTES)
    throw frameError(`frame ${type}: ${metaBytes} bytes of meta, limit ${MAX_META_BYTES}`);
  let payloadBytes = 0;
  for (const part of payload) payloadBytes += part.length;
  if (payloadBytes > MAX_PAYLOAD_BYTES) {
    throw frameError(`frame ${type}: ${payloadBytes} bytes of payload, limit ${MAX_PAYLOAD_BYTES}`);
  }
  const headBytes = HEADER_BYTES + type.length + metaBytes;
  const bytes = headBytes + payloadBytes;
  const head = Buffer.allocUnsafe(headBytes);
  head.writeUInt32BE(MAGIC, 0);
  head.writeUInt32BE(bytes, 4);
  head.writeUInt32BE(Math.floor(sequence / 2 ** 32), 8);
  head.writeUInt32BE(sequence % 2 ** 32, 12);
  head.writeUInt8(kind, 16);
  head.writeUInt8(type.length, 17);
  head.writeUInt16BE(0, 18);
  head.writeUInt32BE(metaBytes, 20);
  head.writeUInt32BE(payloadBytes, 24);
  head.write(type, HEADER_BYTES, "latin1");
  head.write(json, HEADER_BYTES + type.length, "utf8");
  let crc = crc32(head.subarray(0, 28));
  crc = crc32(head.subarray(HEADER_BYTES), crc);
  // zlib starts again from zero when it is given no bytes
  for (const part of payload) if (part.length > 0) crc = crc32(part, crc);
  head.writeUInt32BE(crc, 28);
  return { head, bytes };
}

export interface ParserLimits {
  meta: number;
  payload: number;
}

/**
 * Takes the stream in pieces of any size and gives back frames. Payload bytes are copied once, into their own buffer,
 * and summed while they are hot in the cache. A parser that has thrown is spent.
 */
export class FrameParser {
  limits: ParserLimits;
  #sequence = 0;
  readonly #header = Buffer.alloc(HEADER_BYTES);
  /** Bytes of the header that are here; HEADER_BYTES: the rest of the frame is being read. */
  #headerFilled = 0;
  #kind: Kind = KIND.ping;
  #typeBytes = 0;
  #body = NOTHING;
  #bodyFilled = 0;
  #payload: Buffer = NOTHING;
  #payloadFilled = 0;
  #crc = 0;
  readonly #returned: Buffer[] = [];

  constructor(limits: ParserLimits) {
    this.limits = limits;
  }

  /** The stream may not end here. */
  get midFrame(): boolean {
    return this.#headerFilled > 0;
  }

  /** Number of the frame that comes, or comes next. */
  get sequence(): number {
    return this.#sequence;
  }

  /** In words: how much of which frame is here. */
  describe(): string {
    const here = this.#headerFilled + this.#bodyFilled + this.#payloadFilled;
    const all =
      this.#headerFilled < HEADER_BYTES ? "a frame" : `${HEADER_BYTES + this.#body.length + this.#payload.length}`;
    return `${here} bytes of ${all} (frame ${this.#sequence})`;
  }

  /** Gives every frame that is complete now to `take`. Throws E_FRAME at the first wrong byte that can be known. */
  push(chunk: Buffer, take: (frame: RawFrame) => void): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#headerFilled < HEADER_BYTES) {
        const count = Math.min(HEADER_BYTES - this.#headerFilled, chunk.length - at);
        chunk.copy(this.#header, this.#headerFilled, at, at + count);
        this.#headerFilled += count;
        at += count;
        // a wrong magic is known after four bytes: a peer that speaks something else may never send 32
        if (this.#headerFilled >= 4) this.#checkMagic();
        if (this.#headerFilled < HEADER_BYTES) return;
        this.#openFrame();
      }
      if (this.#bodyFilled < this.#body.length) {
        const count = Math.min(this.#body.length - this.#bodyFilled, chunk.length - at);
        chunk.copy(this.#body, this.#bodyFilled, at, at + count);
        this.#bodyFilled += count;
        at += count;
        if (this.#bodyFilled < this.#body.length) return;
        this.#crc = crc32(this.#body, this.#crc);
      }
      if (this.#payloadFilled < this.#payload.length) {
        const count = Math.min(this.#payload.length - this.#payloadFilled, chunk.length - at);
        const piece = count === chunk.length ? chunk : chunk.subarray(at, at + count);
        this.#payload.set(piece, this.#payloadFilled);
        this.#crc = crc32(piece, this.#crc);
        this.#payloadFilled += count;
        at += count;
        if (this.#payloadFilled < this.#payload.length) return;
      }
      take(this.#closeFrame());
    }
  }

  #checkMagic(): void {
    const magic = this.#header.readUInt32BE(0);
    if (magic !== MAGIC) {
      throw frameError(`frame ${this.#sequence} starts with 0x${magic.toString(16)}: these are not a link's bytes`);
    }
  }

  #openFrame(): void {
    const header = this.#header;
    const which = `frame ${this.#sequence}`;
    const sequence = header.readUInt32BE(8) * 2 ** 32 + header.readUInt32BE(12);
    const kind = header.readUInt8(16);
    const typeBytes = header.readUInt8(17);
    const metaBytes = header.readUInt32BE(20);
    const payloadBytes = header.readUInt32BE(24);
    const total = header.readUInt32BE(4);
    // lengths first: nothing is allocated before they are known to be small
    if (metaBytes > this.limits.meta)
      throw frameError(`${which}: ${metaBytes} bytes of meta, limit ${this.limits.meta}`);
    if (payloadBytes > this.limits.payload) {
      throw frameError(`${which}: ${payloadBytes} bytes of payload, limit ${this.limits.payload}`);
    }
    if (total !== HEADER_BYTES + typeBytes + metaBytes + payloadBytes) {
      throw frameError(`${which}: its length ${total} is not the sum of its parts`);
    }
    if (header.readUInt16BE(18) !== 0) throw frameError(`${which}: reserved bytes are not zero`);
    if (!isKind(kind)) throw frameError(`${which}: unknown kind ${kind}`);
    if (sequence < this.#sequence) throw frameError(`frame ${sequence} came again, expected ${this.#sequence}`);
    if (sequence > this.#sequence) throw frameError(`frame ${sequence} came before frame ${this.#sequence}`);
    this.#kind = kind;
    this.#typeBytes = typeBytes;
    this.#crc = crc32(header.subarray(0, 28));
    this.#body = Buffer.allocUnsafe(typeBytes + metaBytes);
    this.#payload = this.#memory(payloadBytes);
    this.#bodyFilled = 0;
    this.#payloadFilled = 0;
  }

  /** Memory for a payload: lent memory that came back, else new. Big ones stand alone, so that keeping one keeps nothing else. */
  #memory(bytes: number): Buffer {
    if (bytes === 0) return NOTHING;
    if (bytes < LENT_FROM_BYTES) return Buffer.allocUnsafe(bytes);
    const at = this.#returned.findIndex((slab) => slab.length >= bytes && slab.length <= 4 * bytes);
    const [slab] = at < 0 ? [] : this.#returned.splice(at, 1);
    return (slab ?? Buffer.allocUnsafeSlow(Math.ceil(bytes / LENT_STEP_BYTES) * LENT_STEP_BYTES)).subarray(0, bytes);
  }

  /** Takes the memory of a payload back for later frames: nobody may look at it any more. */
  takeBack(payload: Buffer): void {
    if (payload.length < LENT_FROM_BYTES || this.#returned.length >= MAX_RETURNED) return;
    this.#returned.push(Buffer.from(payload.buffer));
  }

  #closeFrame(): RawFrame {
    const which = `frame ${this.#sequence}`;
    const expected = this.#header.readUInt32BE(28);
    if (this.#crc !== expected) {
      throw frameError(`${which}: checksum is ${this.#crc.toString(16)}, its header says ${expected.toString(16)}`);
    }
    const type = this.#body.toString("latin1", 0, this.#typeBytes);
    if (this.#kind === KIND.data ? !TYPE.test(type) : type !== "") throw frameError(`${which}: its type is not valid`);
    const frame: RawFrame = {
      kind: this.#kind,
      type,
      meta: parseMeta(this.#body.subarray(this.#typeBytes), which),
      payload: this.#payload,
      bytes: HEADER_BYTES + this.#body.length + this.#payload.length,
    };
    this.#sequence += 1;
    this.#headerFilled = 0;
    this.#body = NOTHING;
    this.#payload = NOTHING;
    this.#bodyFilled = 0;
    this.#payloadFilled = 0;
    return frame;
  }
}

function parseMeta(bytes: Buffer, which: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(UTF8.decode(bytes));
  } catch {
    throw frameError(`${which}: its meta is not JSON`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw frameError(`${which}: its meta is not a JSON object`);
  }
  return value as Record<string, unknown>;
}

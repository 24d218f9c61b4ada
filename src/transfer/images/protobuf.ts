/**
 * Reader of protobuf (proto2) messages, strict: anything that a correct encoder does not write is an error. Only what
 * criu's images need: varints, length-delimited fields, and skipping of fields that are not asked for.
 */

/** A message could not be read; the caller adds the file. */
export class ProtobufError extends Error {
  override readonly name = "ProtobufError";
}

/** A field as met on the wire: `varint` for wire type 0, `bytes` for type 2; the fixed types are skipped. */
export interface WireField {
  number: number;
  varint: VarintRef | undefined;
  bytes: Buffer | undefined;
  /** The whole field as it was written, with its number. */
  raw: Buffer;
}

/** Where a varint lies: decoded only when asked for, since some fields do not fit a number. */
export interface VarintRef {
  buffer: Buffer;
  start: number;
  end: number;
}

/** The varint as a number. Throws above 2^53 - 1: no address, count or id that Ferry accepts is larger. */
export function varintNumber(ref: VarintRef): number {
  let value = 0;
  let scale = 1;
  for (let at = ref.start; at < ref.end; at += 1) {
    value += ((ref.buffer[at] ?? 0) & 0x7f) * scale;
    scale *= 128;
  }
  if (!Number.isSafeInteger(value)) throw new ProtobufError("a number is larger than 2^53");
  return value;
}

function scanVarint(buffer: Buffer, start: number): VarintRef {
  for (let at = start; at < buffer.length && at < start + 10; at += 1) {
    if (((buffer[at] ?? 0) & 0x80) !== 0) continue;
    if (buffer[at] === 0 && at > start) throw new ProtobufError(`a number at byte ${start} is longer than it need be`);
    return { buffer, start, end: at + 1 };
  }
  throw new ProtobufError(`a number at byte ${start} does not end`);
}

/** Calls `visit` for every field of the message, in order. Throws ProtobufError on malformed bytes. */
export function readMessage(buffer: Buffer, visit: (field: WireField) => void): void {
  let at = 0;
  while (at < buffer.length) {
    const start = at;
    const key = scanVarint(buffer, start);
    const tag = varintNumber(key);
    const number = Math.floor(tag / 8);
    if (number < 1 || number > 0x1fffffff) throw new ProtobufError(`field number ${number} at byte ${at}`);
    at = key.end;
    switch (tag % 8) {
      case 0: {
        const varint = scanVarint(buffer, at);
        at = varint.end;
        visit({ number, varint, bytes: undefined, raw: buffer.subarray(start, at) });
        break;
      }
      case 2: {
        const ref = scanVarint(buffer, at);
        const length = varintNumber(ref);
        const end = ref.end + length;
        if (end > buffer.length) throw new ProtobufError(`field ${number} is cut short at byte ${at}`);
        at = end;
        visit({ number, varint: undefined, bytes: buffer.subarray(ref.end, end), raw: buffer.subarray(start, end) });
        break;
      }
      case 1:
      case 5: {
        const width = tag % 8 === 1 ? 8 : 4;
        if (at + width > buffer.length) throw new ProtobufError(`field ${number} is cut short at byte ${at}`);
        at += width;
        visit({ number, varint: undefined, bytes: undefined, raw: buffer.subarray(start, at) });
        break;
      }
      default:
        throw new ProtobufError(`wire type ${tag % 8} at byte ${at}`);
    }
  }
}

/** Scalar number fields by name; absent ones are undefined, a field given twice is refused. */
export function readScalars<Name extends string>(
  buffer: Buffer,
  names: Record<number, Name>,
): Partial<Record<Name, number>> {
  const found: Partial<Record<Name, number>> = {};
  readMessage(buffer, (field) => {
    const name = names[field.number];
    if (name === undefined) return;
    if (field.varint === undefined) throw new ProtobufError(`field ${name} is not a number`);
    if (found[name] !== undefined) throw new ProtobufError(`field ${name} is there twice`);
    found[name] = varintNumber(field.varint);
  });
  return found;
}

/** A repeated number field, packed or not. */
export function collectNumbers(field: WireField, into: number[]): void {
  if (field.varint !== undefined) {
    into.push(varintNumber(field.varint));
  } else if (field.bytes !== undefined) {
    for (let at = 0; at < field.bytes.length;) {
      const ref = scanVarint(field.bytes, at);
      into.push(varintNumber(ref));
      at = ref.end;
    }
  } else {
    throw new ProtobufError(`field ${field.number} is not a list of numbers`);
  }
}

/** A number as it is written. Up to 2^53 - 1. */
export function encodeVarint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  return Buffer.from([...bytes, rest]);
}

/** A number field as it is written. */
export const scalarField = (number: number, value: number): Buffer =>
  Buffer.concat([encodeVarint(number * 8), encodeVarint(value)]);

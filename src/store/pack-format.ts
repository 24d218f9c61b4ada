/**
 * A pack: one object with many blocks (docs/store.md has the layout). Blocks are compressed and encrypted together, a
 * segment of up to 16 at a time; what is read at random is one segment.
 *
 *   head 24 | segments | ids of blocks | directory (44 per segment) | foot 120
 *
 * A pack's digest covers directory and foot, which cover every other byte but the head, which is fixed by the name.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, type KeyObject } from "node:crypto";
import { ferryError } from "../model/failure.js";
import { CODEC } from "./codec.js";

/** One page: what is shared or new. */
export const BLOCK_BYTES = 4096;
export const SEGMENT_BLOCKS = 16;
/** A block's id: HMAC-SHA256 of its content, cut to this. */
export const ID_BYTES = 16;

export const HEAD_BYTES = 24;
export const ENTRY_BYTES = 44;
export const FOOT_BYTES = 120;
const TAG_BYTES = 16;
const HEAD_MAGIC = "FERRYPK1";
const FOOT_MAGIC = "FERRYPE1";
/** Meta segments hold one block of any size up to this. */
export const MAX_RAW_BYTES = 256 * 1024 ** 2;

export const packKey = (id: string): string => `packs/${id.slice(0, 2)}/${id}`;

export const sha256 = (...parts: readonly Buffer[]): Buffer => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
};

export const blockId = (key: KeyObject, block: Buffer): Buffer =>
  createHmac("sha256", key).update(block).digest().subarray(0, ID_BYTES);

export interface SegmentEntry {
  /** In the object. */
  offset: number;
  storedBytes: number;
  rawBytes: number;
  firstBlock: number;
  blocks: number;
  codec: number;
  /** sha256 of what is stored. */
  digest: Buffer;
}

export interface PackIndex {
  id: string;
  bytes: number;
  encrypted: boolean;
  dataKeyId: string;
  idKeyId: string;
  blocks: number;
  segments: SegmentEntry[];
  ids: { offset: number; bytes: number; digest: Buffer };
  /** sha256 of directory and foot, hex. */
  digest: string;
}

export const head = (packId: string): Buffer => Buffer.concat([Buffer.from(HEAD_MAGIC), Buffer.from(packId, "hex")]);

/** Each key is one pack's, and each number is used once in it: no nonce is used twice with a key. */
function nonce(part: "segment" | "ids", number: number): Buffer {
  const bytes = Buffer.alloc(12);
  bytes[0] = part === "segment" ? 0 : 1;
  bytes.writeUInt32BE(number, 8);
  return bytes;
}

const aad = (packId: string): Buffer => Buffer.from(`ferry pack ${packId}`);

export function seal(key: KeyObject, packId: string, part: "segment" | "ids", number: number, body: Buffer): Buffer {
  const cipher = createCipheriv("aes-256-gcm", key, nonce(part, number)).setAAD(aad(packId));
  return Buffer.concat([cipher.update(body), cipher.final(), cipher.getAuthTag()]);
}

/** @throws Error when it was changed, or the key is another */
export function unseal(key: KeyObject, packId: string, part: "segment" | "ids", number: number, body: Buffer): Buffer {
  const decipher = createDecipheriv("aes-256-gcm", key, nonce(part, number))
    .setAAD(aad(packId))
    .setAuthTag(body.subarray(body.length - TAG_BYTES));
  return Buffer.concat([decipher.update(body.subarray(0, body.length - TAG_BYTES)), decipher.final()]);
}

/** Directory and foot of a pack. */
export function encodeTail(index: Omit<PackIndex, "bytes" | "digest">): Buffer {
  const directory = Buffer.alloc(index.segments.length * ENTRY_BYTES);
  for (const [at, segment] of index.segments.entries()) {
    const start = at * ENTRY_BYTES;
    directory.writeUInt32LE(segment.storedBytes, start);
    directory.writeUInt32LE(segment.rawBytes, start + 4);
    directory.writeUInt16LE(segment.blocks, start + 8);
    directory.writeUInt8(segment.codec, start + 10);
    segment.digest.copy(directory, start + 12);
  }
  const foot = Buffer.alloc(FOOT_BYTES);
  foot.writeUInt8(1, 0);
  foot.writeUInt8(index.encrypted ? 1 : 0, 1);
  foot.writeUInt32LE(index.segments.length, 4);
  foot.writeUInt32LE(index.blocks, 8);
  foot.writeUInt32LE(index.ids.bytes, 12);
  Buffer.from(index.id, "hex").copy(foot, 16);
  Buffer.from(index.dataKeyId, "hex").copy(foot, 32);
  Buffer.from(index.idKeyId, "hex").copy(foot, 48);
  index.ids.digest.copy(foot, 64);
  foot.write(FOOT_MAGIC, 112, "latin1");
  return Buffer.concat([directory, foot]);
}

export const corruptPack = (id: string, what: string): Error =>
  ferryError("E_STORE_CORRUPT", `pack ${id} of the store was changed or is cut: ${what}`, {
    remedy: "`fsck` lists every checkpoint that needs it; restore from another one",
  });

/** How much of the object's end must be read to have the directory; asks for the last FOOT_BYTES. */
export function tailBytes(id: string, foot: Buffer, objectBytes: number): number {
  const segments = foot.readUInt32LE(4);
  const tail = segments * ENTRY_BYTES + FOOT_BYTES;
  if (foot.toString("latin1", 112) !== FOOT_MAGIC) throw corruptPack(id, "its end has no mark");
  if (HEAD_BYTES + tail > objectBytes) throw corruptPack(id, "its directory does not fit into it");
  return tail;
}

/**
 * Parses the end of a pack, strictly: every byte of the object must be accounted for.
 * @param tail exactly tailBytes() of it
 * @throws FerryError E_STORE_CORRUPT
 */
export function decodeTail(id: string, tail: Buffer, objectBytes: number): PackIndex {
  const foot = tail.subarray(tail.length - FOOT_BYTES);
  const hex = (at: number): string => foot.toString("hex", at, at + 16);
  if (foot.readUInt8(0) !== 1) throw corruptPack(id, `format ${foot.readUInt8(0)} is not known`);
  if (foot.readUInt8(1) > 1) throw corruptPack(id, "its cipher is not known");
  if (hex(16) !== id) throw corruptPack(id, "it is another pack");
  if (foot.subarray(96, 112).some((byte) => byte !== 0)) throw corruptPack(id, "its end is not as it must be");
  const encrypted = foot.readUInt8(1) === 1;
  const blocks = foot.readUInt32LE(8);
  const segments: SegmentEntry[] = [];
  let offset = HEAD_BYTES;
  let firstBlock = 0;
  for (let at = 0; at < tail.length - FOOT_BYTES; at += ENTRY_BYTES) {
    const entry: SegmentEntry = {
      offset,
      storedBytes: tail.readUInt32LE(at),
      rawBytes: tail.readUInt32LE(at + 4),
      firstBlock,
      blocks: tail.readUInt16LE(at + 8),
      codec: tail.readUInt8(at + 10),
      digest: tail.subarray(at + 12, at + 44),
    };
    const single = entry.blocks === 1 && entry.rawBytes <= MAX_RAW_BYTES;
    if (entry.blocks === 0 || !(single || entry.rawBytes === entry.blocks * BLOCK_BYTES)) {
      throw corruptPack(id, `segment ${segments.length} has no size that can be`);
    }
    if (entry.codec > CODEC.deflate || tail.readUInt8(at + 11) !== 0) {
      throw corruptPack(id, `the codec of segment ${segments.length} is not known`);
    }
    segments.push(entry);
    offset += entry.storedBytes;
    firstBlock += entry.blocks;
  }
  const idsBytes = foot.readUInt32LE(12);
  if (firstBlock !== blocks || idsBytes !== blocks * ID_BYTES + (encrypted ? TAG_BYTES : 0)) {
    throw corruptPack(id, "its counts differ");
  }
  if (offset + idsBytes + tail.length !== objectBytes) throw corruptPack(id, "its sizes do not add up");
  return {
    id,
    bytes: objectBytes,
    encrypted,
    dataKeyId: hex(32),
    idKeyId: hex(48),
    blocks,
    segments,
    ids: { offset, bytes: idsBytes, digest: foot.subarray(64, 96) },
    digest: sha256(tail).toString("hex"),
  };
}

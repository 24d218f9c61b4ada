/** Whether what lies there is what was signed: for who looks at a whole checkpoint, in the store or in a file. */
import { getExisting, type Backend } from "./backend.js";
import type { KeyRing } from "./config.js";
import { blockId, BLOCK_BYTES, corruptPack, decodeTail, FOOT_BYTES, head, HEAD_BYTES } from "./pack-format.js";
import { packKey, sha256, tailBytes, type PackIndex } from "./pack-format.js";
import { idAt, type PackReader, type PackRef } from "./pack-reader.js";
import type { CheckpointReader } from "./reader.js";

/** Segments that are read by one request: up to 4 MiB unpacked. */
const SEGMENTS_AT_ONCE = 64;

export interface Place {
  backend: Backend;
  ring: KeyRing;
  packs: PackReader;
}

/** Every run of every stream lies within a pack that is known. @throws FerryError E_STORE_CORRUPT */
export async function checkMaps({ packs }: Pick<Place, "packs">, reader: CheckpointReader): Promise<void> {
  for (const stream of reader.streams) {
    for (const window of stream.windows) {
      for (const { pack, block, blocks } of await reader.runs(stream, window)) {
        const index = await packs.index(pack);
        if (block + blocks > index.blocks) throw corruptPack(pack.id, `it has no block ${block + blocks - 1}`);
      }
    }
  }
}

/**
 * Every byte of a pack, and that each block has the content that its id says.
 * @throws FerryError E_STORE_CORRUPT, E_STORE_KEY
 */
export async function checkPack({ backend, ring, packs }: Place, pack: PackRef): Promise<PackIndex> {
  // Not from what was opened before: the object as it is now.
  const index: PackIndex = await packs.freshIndex(pack);
  const start = await getExisting(backend, packKey(pack.id), { offset: 0, bytes: HEAD_BYTES });
  if (!start.equals(head(pack.id))) throw corruptPack(pack.id, "its head differs");
  const ids = await packs.ids(index);
  const idKey = await ring.idKey(index.idKeyId);
  for (let from = 0; from < index.segments.length; from += SEGMENTS_AT_ONCE) {
    const to = Math.min(from + SEGMENTS_AT_ONCE, index.segments.length) - 1;
    const segments = await packs.segments(index, from, to);
    for (const [at, raw] of segments.entries()) {
      const entry = index.segments[from + at];
      if (entry === undefined) continue;
      for (let i = 0; i < entry.blocks; i += 1) {
        const block = entry.blocks === 1 ? raw : raw.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
        if (!blockId(idKey, block).equals(idAt(ids, entry.firstBlock + i))) {
          throw corruptPack(pack.id, `block ${entry.firstBlock + i} is not what its id says`);
        }
      }
    }
  }
  return index;
}

/**
 * That these are the very bytes that were signed; nothing is decrypted.
 * @throws FerryError E_STORE_CORRUPT
 */
export function demandSigned(body: Buffer, { id, bytes, digest }: PackRef): PackIndex {
  if (body.length !== bytes) throw corruptPack(id, `it has ${body.length} bytes instead of ${bytes}`);
  if (bytes < HEAD_BYTES + FOOT_BYTES) throw corruptPack(id, "it is too short");
  const tail = tailBytes(id, body.subarray(bytes - FOOT_BYTES), bytes);
  const index = decodeTail(id, body.subarray(bytes - tail), bytes);
  if (index.digest !== digest) throw corruptPack(id, "its directory is not the one that was signed");
  if (!body.subarray(0, HEAD_BYTES).equals(head(id))) throw corruptPack(id, "its head differs");
  for (const part of [...index.segments, { ...index.ids, storedBytes: index.ids.bytes }]) {
    if (!sha256(body.subarray(part.offset, part.offset + part.storedBytes)).equals(part.digest)) {
      throw corruptPack(id, `what lies at ${part.offset} has another digest`);
    }
  }
  return index;
}

/** Exported checkpoints taken apart and put together again, with a digest that is right for what they have become. */
import { createHash } from "node:crypto";

export interface ArchiveEntry {
  name: string;
  body: Buffer;
}

const MAGIC = Buffer.from("FERRYAR2");

export function entriesOf(archive: Buffer): ArchiveEntry[] {
  const entries: ArchiveEntry[] = [];
  for (let at = MAGIC.length; ;) {
    const nameBytes = archive.readUInt32LE(at);
    if (nameBytes === 0) return entries;
    const name = archive.toString("latin1", at + 4, at + 4 + nameBytes);
    const bytes = Number(archive.readBigUInt64LE(at + 4 + nameBytes));
    const start = at + 4 + nameBytes + 8;
    entries.push({ name, body: archive.subarray(start, start + bytes) });
    at = start + bytes;
  }
}

export function archiveOf(entries: readonly ArchiveEntry[]): Buffer {
  const parts = entries.flatMap(({ name, body }) => {
    const head = Buffer.alloc(4 + name.length + 8);
    head.writeUInt32LE(name.length);
    head.write(name, 4, "latin1");
    head.writeBigUInt64LE(BigInt(body.length), 4 + name.length);
    return [head, body];
  });
  const all = Buffer.concat([MAGIC, ...parts, Buffer.alloc(4)]);
  return Buffer.concat([all, createHash("sha256").update(all).digest()]);
}

/**
 * The build id of an ELF file: the GNU note that linkers write, by which criu and Ferry tell two builds of a library apart
 * even when their sizes are equal.
 */
import { open, type FileHandle } from "node:fs/promises";
import { limited } from "./limit.js";

const PT_NOTE = 4;
const NT_GNU_BUILD_ID = 3;
/** Notes are tiny; what claims to be larger is not read. */
const MAX_NOTES = 64 * 1024;
const MAX_HEADERS = 64 * 1024;

async function readAt(file: FileHandle, offset: number, length: number): Promise<Buffer | undefined> {
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await file.read(buffer, 0, length, offset);
  return bytesRead === length ? buffer : undefined;
}

/** Finds the build id in the content of a note segment or section. */
export function buildIdInNotes(notes: Buffer, little: boolean): string | undefined {
  const u32 = (at: number): number => (little ? notes.readUInt32LE(at) : notes.readUInt32BE(at));
  for (let at = 0; at + 12 <= notes.length;) {
    const nameSize = u32(at);
    const contentSize = u32(at + 4);
    const name = at + 12;
    const content = name + Math.ceil(nameSize / 4) * 4;
    const end = content + contentSize;
    if (end > notes.length || name + nameSize > notes.length) return undefined;
    if (
      contentSize > 0 &&
      u32(at + 8) === NT_GNU_BUILD_ID &&
      notes.toString("latin1", name, name + nameSize) === "GNU\0"
    ) {
      return notes.toString("hex", content, end);
    }
    at = content + Math.ceil(contentSize / 4) * 4;
  }
  return undefined;
}

async function buildIdOf(file: FileHandle): Promise<string | undefined> {
  const head = await readAt(file, 0, 64);
  if (head === undefined || head.readUInt32BE(0) !== 0x7f454c46) return undefined;
  const wide = head[4] === 2;
  const little = head[5] === 1;
  if ((!wide && head[4] !== 1) || (!little && head[5] !== 2)) return undefined;
  const u16 = (from: Buffer, at: number): number => (little ? from.readUInt16LE(at) : from.readUInt16BE(at));
  const u32 = (from: Buffer, at: number): number => (little ? from.readUInt32LE(at) : from.readUInt32BE(at));
  const u64 = (from: Buffer, at: number): number =>
    Number(little ? from.readBigUInt64LE(at) : from.readBigUInt64BE(at));
  const headers = wide ? u64(head, 32) : u32(head, 28);
  const size = u16(head, wide ? 54 : 42);
  const count = u16(head, wide ? 56 : 44);
  if (size < (wide ? 56 : 32) || count === 0 || size * count > MAX_HEADERS || !Number.isSafeInteger(headers)) {
    return undefined;
  }
  const table = await readAt(file, headers, size * count);
  if (table === undefined) return undefined;
  for (let at = 0; at < table.length; at += size) {
    if (u32(table, at) !== PT_NOTE) continue;
    const offset = wide ? u64(table, at + 8) : u32(table, at + 4);
    const length = wide ? u64(table, at + 32) : u32(table, at + 16);
    if (length > MAX_NOTES || !Number.isSafeInteger(offset)) continue;
    const notes = await readAt(file, offset, length);
    const found = notes === undefined ? undefined : buildIdInNotes(notes, little);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** Build id in hexadecimal; undefined when the file is no ELF file, has none, or can't be read. */
export const elfBuildId = (path: string): Promise<string | undefined> => limited(() => readBuildId(path));

async function readBuildId(path: string): Promise<string | undefined> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, "r");
    return await buildIdOf(file);
  } catch {
    return undefined;
  } finally {
    await file?.close();
  }
}

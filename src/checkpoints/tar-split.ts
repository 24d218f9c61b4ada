/**
 * A tar archive taken apart, and put together again byte for byte: `meta` has every header, extended header, sparse map and
 * padding in order, `data` the content of each file. So the content can lie at offsets where equal blocks are found.
 *
 * The reader is strict on purpose. What it reads comes back from a store and is given to tar as root: only what our own
 * `tar --format=posix` writes is passed on, and nothing whose name leads out of the directory.
 */
import { ferryError, type FerryError } from "../model/failure.js";

export const TAR_BLOCK = 512;
/** Extended headers of one entry: the kernel allows 64 KiB per extended attribute, and few of them. */
const MAX_EXTENDED_BYTES = 4 * 1024 * 1024;
/** Text of a sparse map: two numbers per region. */
const MAX_MAP_BYTES = 64 * 1024 * 1024;
const MAX_NAME_BYTES = 32 * 1024;

/** Where the parts of an archive come from. */
export interface TarInput {
  /** The next `bytes` of headers and padding. Throws when there are not so many. */
  meta(bytes: number): Promise<Buffer>;
  /** The next `bytes` of content, in pieces; nothing of them may be kept. */
  content(bytes: number): AsyncIterable<Buffer>;
  /** What is left of the headers behind the end of the archive. */
  rest(): AsyncIterable<Buffer>;
}

/** Where they go, in the archive's order. */
export interface TarOutput {
  meta(data: Buffer): Promise<void>;
  content(data: Buffer): Promise<void>;
  /** The content of one file is complete. */
  contentEnd(bytes: number): Promise<void>;
}

export type TarType =
  "file" | "hard link" | "symbolic link" | "character device" | "block device" | "directory" | "pipe";
const TYPES: Record<string, TarType> = {
  "0": "file",
  "1": "hard link",
  "2": "symbolic link",
  "3": "character device",
  "4": "block device",
  "5": "directory",
  "6": "pipe",
};
/** Keys of extended headers that our tar writes; the last two for what it finds on the files. */
const KEYS =
  /^(?:path|linkpath|size|mtime|uid|gid|uname|gname|hdrcharset|GNU\.sparse\.(?:major|minor|name|realsize)|SCHILY\.acl\.(?:access|default)|SCHILY\.xattr\..+)$/s;

export interface TarEntry {
  /** As tar would take it, one character per byte. */
  name: string;
  type: TarType;
  /** In the archive, behind the headers: sparse map included. */
  bytes: number;
  sparse: boolean;
  link: string;
}

const wrong = (what: string): FerryError =>
  ferryError("E_STORE_CORRUPT", `the archive of the files is none that Ferry has made: ${what}`, {
    remedy: "nothing of it was used: restore from another checkpoint",
  });

/**
 * Reads one archive to its end and passes it on.
 * @returns how many entries it had
 * @throws FerryError E_STORE_CORRUPT before anything of an entry that is not as it must be is passed on
 */
export async function walkTar(input: TarInput, output: TarOutput): Promise<number> {
  const names = new Names();
  for (let entries = 0; ; entries += 1) {
    const headers = await readHeaders(input);
    if (headers === undefined) {
      await passEnd(input, output);
      return entries;
    }
    names.check(headers.entry);
    for (const block of headers.blocks) await output.meta(block);
    await passContent(headers.entry, input, output);
  }
}

/** An entry as its headers tell it. */
export interface ListedEntry {
  entry: TarEntry;
  /** Its name's, without "." and empty ones. */
  parts: string[];
  /** All of them as they stand there, a sparse map included. */
  headers: Buffer;
  /** Of its content, without a sparse map. */
  contentBytes: number;
}

/** What is in an archive, in its order, from its headers alone. @throws FerryError E_STORE_CORRUPT */
export async function* listTar(input: Pick<TarInput, "meta">): AsyncGenerator<ListedEntry> {
  const names = new Names();
  for (;;) {
    const headers = await readHeaders(input);
    if (headers === undefined) return;
    const { entry, blocks } = headers;
    names.check(entry);
    const map = entry.sparse ? await readMap(entry, input) : [];
    const contentBytes = entry.bytes - map.length * TAR_BLOCK;
    const padding = padded(contentBytes) - contentBytes;
    if (padding > 0) zeros(await input.meta(padding));
    yield { entry, parts: partsOf(entry.name), headers: Buffer.concat([...blocks, ...map]), contentBytes };
  }
}

async function passContent(entry: TarEntry, input: TarInput, output: TarOutput): Promise<void> {
  let left = entry.bytes;
  if (entry.sparse) {
    for (const block of await readMap(entry, input)) {
      left -= block.length;
      await output.meta(block);
    }
  }
  const content = left;
  if (content > 0) {
    for await (const piece of input.content(content)) {
      left -= piece.length;
      await output.content(piece);
    }
    if (left !== 0) throw wrong(`${show(entry.name)} is cut`);
    await output.contentEnd(content);
  }
  const padding = padded(content) - content;
  if (padding > 0) await output.meta(zeros(await input.meta(padding)));
}

/** The second of two empty blocks, and what fills the last record. */
async function passEnd(input: TarInput, output: TarOutput): Promise<void> {
  await output.meta(Buffer.alloc(TAR_BLOCK));
  await output.meta(zeros(await input.meta(TAR_BLOCK)));
  for await (const piece of input.rest()) await output.meta(zeros(piece));
}

const padded = (bytes: number): number => Math.ceil(bytes / TAR_BLOCK) * TAR_BLOCK;

function zeros(data: Buffer): Buffer {
  if (data.some((byte) => byte !== 0)) throw wrong("there is something where nothing must be");
  return data;
}

/** One entry's headers; undefined at the end of the archive. */
async function readHeaders(input: Pick<TarInput, "meta">): Promise<{ entry: TarEntry; blocks: Buffer[] } | undefined> {
  const first = await input.meta(TAR_BLOCK);
  if (isEmpty(first)) return undefined;
  if (typeOf(first) !== "x") return { entry: entryOf(first, new Map()), blocks: [first] };
  const bytes = checkedHeader(first);
  if (bytes === 0 || bytes > MAX_EXTENDED_BYTES) throw wrong(`an extended header of ${bytes} bytes`);
  const extended = await input.meta(padded(bytes));
  zeros(extended.subarray(bytes));
  const records = parseRecords(extended.subarray(0, bytes));
  const header = await input.meta(TAR_BLOCK);
  return { entry: entryOf(header, records), blocks: [first, extended, header] };
}

const isEmpty = (block: Buffer): boolean => block.every((byte) => byte === 0);
const typeOf = (header: Buffer): string => String.fromCharCode(header[156] ?? 0);

/** Up to the first zero byte. */
function text(header: Buffer, from: number, bytes: number): string {
  const field = header.subarray(from, from + bytes);
  const end = field.indexOf(0);
  return field.toString("latin1", 0, end < 0 ? field.length : end);
}

/** Octal digits, or base 256 when the first bit is set. */
function number(header: Buffer, from: number, bytes: number): number {
  const field = header.subarray(from, from + bytes);
  if (((field[0] ?? 0) & 0x80) !== 0) {
    // bit 6: negative
    let value = BigInt((field[0] ?? 0) & 0x7f);
    for (const byte of field.subarray(1)) value = (value << 8n) | BigInt(byte);
    if (((field[0] ?? 0) & 0x40) !== 0 || value > BigInt(Number.MAX_SAFE_INTEGER)) throw wrong("a number is too big");
    return Number(value);
  }
  const digits = /^ *([0-7]+)[ \0]*$/.exec(field.toString("latin1"))?.[1];
  if (digits === undefined) throw wrong("a number in a header is none");
  const value = Number.parseInt(digits, 8);
  if (!Number.isSafeInteger(value)) throw wrong("a number is too big");
  return value;
}

/** @returns its size field */
function checkedHeader(header: Buffer): number {
  if (header.toString("latin1", 257, 265) !== "ustar\x0000") throw wrong("a header is not that of a posix archive");
  let sum = 8 * 0x20;
  for (let at = 0; at < TAR_BLOCK; at += 1) if (at < 148 || at >= 156) sum += header[at] ?? 0;
  if (number(header, 148, 8) !== sum) throw wrong("the sum of a header is not right");
  return number(header, 124, 12);
}

/** "LENGTH KEY=VALUE\n", the length counts all of it. */
function parseRecords(data: Buffer): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < data.length;) {
    const length = /^([1-9]\d{0,7}) /.exec(data.toString("latin1", at, at + 9))?.[1];
    if (length === undefined) throw wrong("an extended header has no length");
    const end = at + Number(length);
    if (end > data.length || data[end - 1] !== 0x0a) throw wrong("an extended header has a wrong length");
    const record = data.toString("latin1", at + length.length + 1, end - 1);
    const equals = record.indexOf("=");
    const key = record.slice(0, Math.max(0, equals));
    if (!KEYS.test(key)) throw wrong(`an extended header with ${show(key)}`);
    if (records.has(key)) throw wrong(`an extended header has ${show(key)} twice`);
    records.set(key, record.slice(equals + 1));
    at = end;
  }
  return records;
}

function entryOf(header: Buffer, records: ReadonlyMap<string, string>): TarEntry {
  let bytes = checkedHeader(header);
  const type = TYPES[typeOf(header)];
  if (type === undefined) throw wrong(`an entry of type ${show(typeOf(header))}`);
  const size = records.get("size");
  if (size !== undefined) {
    bytes = Number(size);
    if (!/^\d{1,16}$/.test(size) || !Number.isSafeInteger(bytes)) throw wrong("a size is none");
  }
  const prefix = text(header, 345, 155);
  const short = prefix === "" ? text(header, 0, 100) : `${prefix}/${text(header, 0, 100)}`;
  const sparse = records.has("GNU.sparse.major");
  if (sparse && (records.get("GNU.sparse.major") !== "1" || records.get("GNU.sparse.minor") !== "0"))
    throw wrong("a sparse file of another format");
  if (sparse ? type !== "file" : [...records.keys()].some((key) => key.startsWith("GNU.sparse.")))
    throw wrong("the map of a sparse file without the file");
  const name = (sparse ? records.get("GNU.sparse.name") : undefined) ?? records.get("path") ?? short;
  // tar makes a directory of it
  if (type === "file" && name.endsWith("/")) throw wrong(`a file with the name of a directory, ${show(name)}`);
  if (type !== "file" && bytes !== 0) throw wrong(`a ${type} with content`);
  // Of a sparse file tar looks at each of these: none may lead elsewhere.
  for (const each of [short, records.get("path"), records.get("GNU.sparse.name")])
    if (each !== undefined) partsOf(each);
  const link = records.get("linkpath") ?? text(header, 157, 100);
  return { name, type, bytes, sparse, link };
}

/** The map of a sparse file (format 1.0) in front of its content: numbers by lines, the first says how many pairs follow. */
async function readMap(entry: TarEntry, input: Pick<TarInput, "meta">): Promise<Buffer[]> {
  const blocks: Buffer[] = [];
  let lines = 0;
  let wanted: number | undefined;
  let digits = "";
  while (wanted === undefined || lines < wanted) {
    if ((blocks.length + 1) * TAR_BLOCK > Math.min(entry.bytes, MAX_MAP_BYTES))
      throw wrong(`the map of ${show(entry.name)} has no end`);
    const block = await input.meta(TAR_BLOCK);
    blocks.push(block);
    let at = 0;
    for (; at < TAR_BLOCK && (wanted === undefined || lines < wanted); at += 1) {
      const byte = block[at] ?? 0;
      if (byte === 0x0a && digits !== "") {
        lines += 1;
        wanted ??= 1 + 2 * Number(digits);
        digits = "";
      } else if (byte >= 0x30 && byte <= 0x39 && digits.length < 20) {
        digits += String.fromCharCode(byte);
      } else throw wrong(`the map of ${show(entry.name)} is none`);
    }
    zeros(block.subarray(at));
  }
  return blocks;
}

/** Throws for a name that leads out of the directory in which it is used. */
function partsOf(name: string): string[] {
  const parts = name.split("/");
  if (
    name === "" ||
    name.startsWith("/") ||
    parts.includes("..") ||
    name.includes("\0") ||
    name.length > MAX_NAME_BYTES
  )
    throw wrong(`the name ${show(name)}`);
  return parts.filter((part) => part !== "" && part !== ".");
}

/** Nothing is below what is no directory: a link there would lead tar elsewhere. */
class Names {
  readonly #links = new Set<string>();

  check({ name, type, link }: TarEntry): void {
    const parts = partsOf(name);
    this.#below(parts, name);
    if (type === "hard link") {
      const to = partsOf(link);
      this.#below(to, link);
    }
    const key = parts.join("/");
    if (this.#links.has(key)) throw wrong(`the name ${show(name)} twice`);
    if (type === "symbolic link") this.#links.add(key);
  }

  #below(parts: string[], name: string): void {
    for (let count = 1; count < parts.length; count += 1)
      if (this.#links.has(parts.slice(0, count).join("/"))) throw wrong(`${show(name)} lies behind a link`);
  }
}

const show = (name: string): string => JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}...` : name);

/**
 * One checkpoint as one file (docs/store.md): its objects one after the other, packs as they lie in the store, so that its
 * signature holds and nothing is decrypted on the way.
 *
 *   "FERRYAR2" | entries: u32 length of the name, name, u64 length of the content, content | u32 0 | sha256 of all before
 *
 * Numbers are little endian. The manifest comes first, then the data keys, then the packs; nothing else, nothing twice.
 */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";
import { ferryError, toFailure } from "../model/failure.js";
import { tooShort, type Backend, type Range } from "./backend.js";

export const ARCHIVE_MAGIC = "FERRYAR2";
const DIGEST_BYTES = 32;
const MAX_NAME_BYTES = 512;
/** Names are no paths: each is one of these, and nothing is made of it but an object of the store. */
const NAMES = [
  { kind: "manifest", pattern: /^checkpoints\/[a-z0-9-]{1,64}\/[0-9TZa-f-]{1,64}\.json$/, maxBytes: 1024 ** 2 },
  { kind: "key", pattern: /^keys\/[0-9a-f]{32}\/([0-9a-f]{16}|plain)$/, maxBytes: 4096 },
  { kind: "pack", pattern: /^packs\/([0-9a-f]{2})\/\1[0-9a-f]{30}$/, maxBytes: 2 ** 30 },
] as const;
type Kind = (typeof NAMES)[number]["kind"];
const ORDER: readonly Kind[] = ["manifest", "key", "pack"];
const MAX_ENTRIES = 4 * 1024 ** 2;
const PIECE_BYTES = 1024 ** 2;

export const wrongFile = (what: string): Error =>
  ferryError("E_STORE_CORRUPT", `the file is no checkpoint of Ferry's: ${what}`, {
    remedy: "nothing of it was taken: export it again, or bring the file over again",
  });

/** What stands in front of an entry's content. */
export function entryHead(name: string, bytes: number): Buffer {
  const head = Buffer.alloc(4 + name.length + 8);
  head.writeUInt32LE(name.length);
  head.write(name, 4, "latin1");
  head.writeBigUInt64LE(BigInt(bytes), 4 + name.length);
  return head;
}

interface Entry {
  kind: Kind;
  offset: number;
  bytes: number;
}

/** An exported checkpoint that was read to its end: whole, by its own digest; who signed it is another question. */
export class Archive {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #entries: Map<string, Entry>;

  private constructor(file: FileHandle, path: string, entries: Map<string, Entry>) {
    this.#file = file;
    this.#path = path;
    this.#entries = entries;
  }

  /** @throws FerryError E_STORE_CORRUPT, E_REQUEST: it can't be read */
  static async open(path: string): Promise<Archive> {
    // A pipe without a writer would be waited for.
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: unknown) => {
      throw ferryError("E_REQUEST", `${path} can't be read: ${toFailure(error).message}`, {
        remedy: "name a file that `checkpoints export` has written",
      });
    });
    try {
      const info = await file.stat();
      if (!info.isFile()) {
        throw ferryError("E_REQUEST", `${path} is no plain file`, {
          remedy: "name a file that `checkpoints export` has written, or give it to standard input: -",
        });
      }
      return new Archive(file, path, await readEntries(file, info.size));
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  names(kind: Kind): string[] {
    return [...this.#entries].flatMap(([name, entry]) => (entry.kind === kind ? [name] : []));
  }

  sizeOf(name: string): number | undefined {
    return this.#entries.get(name)?.bytes;
  }

  /** @throws FerryError E_STORE_CORRUPT: there is none, or the file has changed meanwhile */
  async content(name: string): Promise<Buffer> {
    const body = await this.backend().get(name);
    if (body === undefined) throw wrongFile(`${name} is missing in it`);
    return body;
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  /** For who reads checkpoints: this one. Nothing can be put into it. */
  backend(): Backend {
    const never = (): Promise<never> =>
      Promise.reject(ferryError("E_INTERNAL", "nothing is written to an exported checkpoint"));
    const entries = this.#entries;
    const backend: Backend = {
      name: this.#path,
      put: never,
      replace: never,
      delete: never,
      sweep: never,
      get: async (key, range) => {
        const entry = entries.get(key);
        return entry === undefined ? undefined : this.#read(backend, key, entry, range);
      },
      stat: (key) => {
        const entry = entries.get(key);
        return Promise.resolve(entry === undefined ? undefined : { key, bytes: entry.bytes, modifiedMs: 0 });
      },
      async *list(prefix) {
        for (const [key, { bytes }] of entries) if (key.startsWith(prefix)) yield { key, bytes, modifiedMs: 0 };
      },
      close: () => undefined,
    };
    return backend;
  }

  async #read(backend: Backend, key: string, entry: Entry, range?: Range): Promise<Buffer> {
    const { offset, bytes } = range ?? { offset: 0, bytes: entry.bytes };
    const there = Math.max(0, Math.min(bytes, entry.bytes - offset));
    if (there < bytes) throw tooShort(backend, key, { offset, bytes }, there);
    return readAt(this.#file, entry.offset + offset, bytes);
  }
}

async function readAt(file: FileHandle, offset: number, bytes: number): Promise<Buffer> {
  const body = Buffer.allocUnsafeSlow(bytes);
  for (let got = 0; got < bytes;) {
    const { bytesRead } = await file.read(body, got, bytes - got, offset + got);
    if (bytesRead === 0) throw wrongFile("it is cut");
    got += bytesRead;
  }
  return body;
}

/** Every byte is read once: what comes of it lies where it says. */
async function readEntries(file: FileHandle, fileBytes: number): Promise<Map<string, Entry>> {
  const hash = createHash("sha256");
  let at = 0;
  const need = (bytes: number): void => {
    if (at + bytes > fileBytes) throw wrongFile("it is cut");
  };
  const take = async (bytes: number): Promise<Buffer> => {
    need(bytes);
    const data = await readAt(file, at, bytes);
    hash.update(data);
    at += bytes;
    return data;
  };
  const magic = (await take(Math.min(ARCHIVE_MAGIC.length, fileBytes))).toString("latin1");
  if (magic !== ARCHIVE_MAGIC) {
    const other = magic.startsWith("FERRYAR") ? `format ${JSON.stringify(magic.slice(7))} is not known` : undefined;
    throw wrongFile(other ?? (ARCHIVE_MAGIC.startsWith(magic) ? "it is cut" : "it does not begin as one"));
  }
  const entries = new Map<string, Entry>();
  let last: Kind | undefined;
  for (;;) {
    const nameBytes = (await take(4)).readUInt32LE();
    if (nameBytes === 0) break;
    if (nameBytes > MAX_NAME_BYTES) throw wrongFile("a name in it is too long");
    const name = (await take(nameBytes)).toString("latin1");
    const form = NAMES.find(({ pattern }) => pattern.test(name));
    if (form === undefined) throw wrongFile(`${JSON.stringify(name)} is no object of a checkpoint`);
    const { kind, maxBytes } = form;
    if (ORDER.indexOf(kind) < ORDER.indexOf(last ?? "manifest") || (last === undefined) !== (kind === "manifest")) {
      throw wrongFile(last === undefined ? "it does not begin with a manifest" : `${name} is not where it belongs`);
    }
    last = kind;
    const bytes = Number((await take(8)).readBigUInt64LE());
    if (bytes > maxBytes) throw wrongFile(`${name} has ${bytes} bytes, which none has`);
    need(bytes);
    if (entries.has(name)) throw wrongFile(`${name} is in it twice`);
    if (entries.size >= MAX_ENTRIES) throw wrongFile("it has too many objects");
    entries.set(name, { kind, offset: at, bytes });
    for (let left = bytes; left > 0; left -= PIECE_BYTES) await take(Math.min(left, PIECE_BYTES));
  }
  if (last === undefined) throw wrongFile("it has no manifest");
  const digest = hash.digest();
  if (at + DIGEST_BYTES > fileBytes) throw wrongFile("it is cut");
  if (!(await readAt(file, at, DIGEST_BYTES)).equals(digest)) throw wrongFile("its digest differs");
  if (at + DIGEST_BYTES !== fileBytes) throw wrongFile("something follows its end");
  return entries;
}

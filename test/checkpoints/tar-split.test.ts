/** An archive taken apart and put together; and what is no archive of ours. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  array,
  assert as check,
  asyncProperty,
  constantFrom,
  integer,
  nat,
  option,
  record as fields,
  string,
  stringMatching,
  tuple,
  uint8Array,
  type Arbitrary,
} from "fast-check";
import { ByteQueue } from "../../src/checkpoints/byte-queue.js";
import { walkTar, type TarInput, type TarOutput } from "../../src/checkpoints/tar-split.js";
import { ferryError, FerryError } from "../../src/model/failure.js";

interface Entry {
  name: string;
  type: string;
  content: Buffer;
  link?: string;
  records?: Record<string, string>;
  base256?: boolean;
}

const BLOCK = 512;
const pad = (data: Buffer): Buffer => Buffer.concat([data, Buffer.alloc((BLOCK - (data.length % BLOCK)) % BLOCK)]);

function header(name: string, type: string, size: number, link = "", base256 = false): Buffer {
  const block = Buffer.alloc(BLOCK);
  block.write(name, 0, 100, "latin1");
  block.write("0000644\x000000000\x000000000\x00", 100, "latin1");
  if (base256) {
    block[124] = 0x80;
    block.writeBigUInt64BE(BigInt(size), 128);
  } else block.write(`${size.toString(8).padStart(11, "0")}\0`, 124, "latin1");
  block.write("14000000000\x00        ", 136, "latin1");
  block.write(type, 156, "latin1");
  block.write(link, 157, 100, "latin1");
  block.write("ustar\x0000", 257, "latin1");
  return summed(block);
}

function summed(block: Buffer): Buffer {
  block.write("        ", 148, "latin1");
  const sum = block.reduce((all, byte) => all + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

function record(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length + 1;
  while (`${length}${rest}`.length !== length) length = `${length}${rest}`.length;
  return `${length}${rest}`;
}

function extended(records: Record<string, string>): Buffer {
  const text = Buffer.from(
    Object.entries(records)
      .map(([key, value]) => record(key, value))
      .join(""),
    "latin1",
  );
  return Buffer.concat([header("./PaxHeaders/x", "x", text.length), pad(text)]);
}

function archive(entries: readonly Entry[]): Buffer {
  const blocks = entries.flatMap(({ name, type, content, link, records = {}, base256 }) => {
    const size = records["size"] === undefined ? content.length : 0;
    const head = header(name, type, size, link, base256);
    return [...(Object.keys(records).length > 0 ? [extended(records)] : []), head, pad(content)];
  });
  const all = Buffer.concat([...blocks, Buffer.alloc(2 * BLOCK)]);
  return Buffer.concat([all, Buffer.alloc((10_240 - (all.length % 10_240)) % 10_240)]);
}

async function* inPieces(data: Buffer, bytes: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < data.length; at += bytes) yield await Promise.resolve(data.subarray(at, at + bytes));
}

const inputOf = (meta: ByteQueue, content: ByteQueue): TarInput => ({
  meta: async (bytes) => {
    const data = await meta.take(bytes);
    if (data.length !== bytes) throw ferryError("E_STORE_CORRUPT", "cut");
    return data;
  },
  content: (bytes) => content.pieces(bytes),
  rest: () => meta.rest(),
});

async function split(
  tar: Buffer,
  piece = 1000,
): Promise<{ meta: Buffer; data: Buffer; files: number[]; entries: number }> {
  const [meta, data, files]: [Buffer[], Buffer[], number[]] = [[], [], []];
  const queue = new ByteQueue(inPieces(tar, piece));
  const keep = (parts: Buffer[]) => (part: Buffer) => {
    parts.push(Buffer.from(part));
    return Promise.resolve();
  };
  const output: TarOutput = {
    meta: keep(meta),
    content: keep(data),
    contentEnd: (bytes) => {
      files.push(bytes);
      return Promise.resolve();
    },
  };
  const entries = await walkTar(inputOf(queue, queue), output);
  return { meta: Buffer.concat(meta), data: Buffer.concat(data), files, entries };
}

async function join(meta: Buffer, data: Buffer, piece = 777): Promise<Buffer> {
  const all: Buffer[] = [];
  const keep = (part: Buffer) => {
    all.push(Buffer.from(part));
    return Promise.resolve();
  };
  await walkTar(inputOf(new ByteQueue(inPieces(meta, piece)), new ByteQueue(inPieces(data, piece))), {
    meta: keep,
    content: keep,
    contentEnd: () => Promise.resolve(),
  });
  return Buffer.concat(all);
}

const file = (name: string, content: Buffer | string = "", more: Partial<Entry> = {}): Entry => ({
  name,
  type: "0",
  content: Buffer.from(content),
  ...more,
});
const other = (name: string, type: string, more: Partial<Entry> = {}): Entry => ({
  name,
  type,
  content: Buffer.alloc(0),
  ...more,
});

const refused = (tar: Buffer, why: RegExp) =>
  assert.rejects(split(tar), (error: unknown) => {
    assert.ok(error instanceof FerryError, String(error));
    assert.equal(error.code, "E_STORE_CORRUPT");
    assert.match(error.message, why);
    return true;
  });

const entry: Arbitrary<Entry> = fields({
  name: stringMatching(/^[a-z]{1,8}(\/[a-z]{1,8}){0,3}$/),
  type: constantFrom("0", "0", "0", "5", "3", "6"),
  content: uint8Array({ maxLength: 3000 }),
  way: constantFrom("octal", "base256", "pax"),
  xattr: option(string({ maxLength: 600 })),
}).map(({ name, type, content, way, xattr }) => {
  const bytes = Buffer.from(type === "0" ? content : []);
  const records: Record<string, string> = {};
  if (xattr !== null) records["SCHILY.xattr.user.x"] = Buffer.from(xattr).toString("latin1");
  if (way === "pax" && type === "0") records["size"] = String(bytes.length);
  return { name: `./${name}`, type, content: bytes, records, base256: way === "base256" };
});

describe("archives", () => {
  it("come back byte for byte, and their content lies apart", async () => {
    await check(
      asyncProperty(array(entry, { maxLength: 12 }), integer({ min: 1, max: 5000 }), async (entries, piece) => {
        const tar = archive(entries);
        const parts = await split(tar, piece);
        assert.equal(parts.entries, entries.length);
        assert.deepEqual(parts.data, Buffer.concat(entries.map(({ content }) => content)));
        assert.deepEqual(
          parts.files,
          entries.map(({ content }) => content.length).filter((bytes) => bytes > 0),
        );
        assert.deepEqual(await join(parts.meta, parts.data, piece), tar);
      }),
      { numRuns: 150 },
    );
  });

  it("that were changed end in words, or as they are: never otherwise", async () => {
    const tar = archive([
      other("./", "5"),
      file("./a", "x".repeat(700)),
      file("./long", "y", { records: { path: `./${"d/".repeat(90)}f`, "SCHILY.xattr.user.a": "b" } }),
      other("./l", "2", { link: "a" }),
    ]);
    await check(
      asyncProperty(
        array(tuple(nat(tar.length - 1), nat(255)), { minLength: 1, maxLength: 6 }),
        option(nat(tar.length)),
        async (changes, cut) => {
          const changed = Buffer.from(tar);
          for (const [at, byte] of changes) changed[at] = byte;
          const given = changed.subarray(0, cut ?? changed.length);
          try {
            const parts = await split(given);
            assert.deepEqual(await join(parts.meta, parts.data), given);
          } catch (error) {
            if (!(error instanceof FerryError)) throw error;
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  it("keep the map of a sparse file with the headers", async () => {
    const map = pad(Buffer.from("2\n4096\n4096\n1048576\n100\n"));
    const content = Buffer.concat([Buffer.alloc(4096, 1), Buffer.alloc(100, 2)]);
    const records = {
      "GNU.sparse.major": "1",
      "GNU.sparse.minor": "0",
      "GNU.sparse.name": "./s",
      "GNU.sparse.realsize": "1048676",
    };
    const tar = archive([file("./GNUSparseFile.1/s", Buffer.concat([map, content]), { records }), file("./t", "t")]);
    const parts = await split(tar);
    assert.deepEqual(parts.data, Buffer.concat([content, Buffer.from("t")]));
    assert.deepEqual(await join(parts.meta, parts.data), tar);
    for (const bad of ["2\n1\n2\n", "x\n", "\n", "9999999999999999999999\n1\n"]) {
      const given = archive([file("./s", pad(Buffer.from(bad)), { records })]);
      await refused(given, /map/);
    }
  });

  it("are refused when a name leads elsewhere", async () => {
    for (const name of ["../x", "/etc/shadow", "./a/../../x", "./..", ""]) {
      await refused(archive([file(name, "x")]), /the name/);
      await refused(archive([file("./a", "x", { records: { path: name } })]), /the name/);
      await refused(archive([file("./a", "x"), other("./b", "1", { link: name })]), /the name/);
      await refused(archive([other("./b", "1", { records: { linkpath: name } })]), /the name/);
      const records = { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name };
      await refused(archive([file("./a", pad(Buffer.from("0\n")), { records })]), /the name/);
    }
    await refused(archive([other("./a", "2", { link: "/etc" }), file("./a/shadow", "x")]), /behind a link/);
    await refused(archive([other("./a", "2", { link: "b" }), file("a//./c", "x")]), /behind a link/);
    await refused(archive([other("./a", "2", { link: "/etc" }), other("./b", "1", { link: "a/shadow" })]), /behind/);
    await refused(archive([other("./a", "2", { link: "/etc/x" }), file("./a", "x")]), /twice/);
    // Where a link itself leads is its owner's matter, who reads it in a root of its own.
    await split(archive([other("./a", "2", { link: "../../etc" })]));
  });

  it("are refused when tar could read them otherwise than we do", async () => {
    await refused(archive([file("./a/", "x")]), /name of a directory/);
    for (const type of ["g", "L", "K", "7", "S", "D", "V", "M", "\0"])
      await refused(archive([other("./a", type)]), /type/);
    for (const type of ["1", "2", "5", "6"]) {
      await refused(archive([{ name: "./a", type, content: Buffer.alloc(512), link: "b" }]), /with content/);
    }
    await refused(archive([file("./a", "x", { records: { "GNU.sparse.map": "0,1" } })]), /extended header with/);
    await refused(archive([file("./a", "x", { records: { "GNU.sparse.name": "./b" } })]), /without the file/);
    await refused(archive([file("./a", "x", { records: { size: "-1" } })]), /size/);
    const twice = Buffer.from(record("path", "./a") + record("path", "./b"));
    const given = Buffer.concat([header("x", "x", twice.length), pad(twice), archive([file("./a")])]);
    await refused(given, /twice/);
    await refused(Buffer.concat([archive([file("./a")]), archive([file("./b")])]), /where nothing must be/);
  });
});

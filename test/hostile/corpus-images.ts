/** Directories of images, their manifests, page tables: what a peer, a damaged disk or a stranger may have put there. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readImageSet } from "../../src/transfer/images/areas.js";
import { MAX_MESSAGES, parseMm, parsePagemap } from "../../src/transfer/images/criu.js";
import { parseLeftOut } from "../../src/transfer/images/left-out.js";
import { ImageReceiver } from "../../src/transfer/images/receive.js";
import { sendImages } from "../../src/transfer/images/send.js";
import type { LinkSession } from "../../src/transfer/link/index.js";
import { parseMeta } from "../../src/transfer/mover/process.js";
import { checkTable, readTable } from "../../src/transfer/pages/table.js";
import { bytes, image, mm, number, pagemap, pstree } from "../support/criu-images.js";
import { refused, taken, type Refused, type Room } from "./entry.js";
import { BASE, DIGEST, IMAGES } from "./samples.js";

const LAZY = 2;
const ANONYMOUS = 0x22;

function inDirectory<T>(use: (dir: string) => T): T {
  const dir = mkdtempSync("/dev/shm/ferry-hostile-");
  try {
    return use(dir);
  } finally {
    rmSync(dir, { recursive: true });
  }
}
/** A whole set with one thing changed. */
const set = (input: string, says: string, change: (files: Record<string, Buffer>, dir: string) => void): Refused =>
  refused(input, "E_IMAGE_INCOMPLETE", says, () =>
    inDirectory((dir) => {
      const files = { ...IMAGES };
      change(files, dir);
      for (const [name, data] of Object.entries(files)) writeFileSync(join(dir, name), data);
      return readImageSet(dir);
    }),
  );
const lazy = (start: number, pages: number | bigint): Buffer =>
  image("pagemap", [number(1, 1), Buffer.concat([number(1, start), number(4, LAZY), number(5, pages)])]);
const entries = (input: string, says: string, image: Buffer): Refused =>
  set(input, says, (files) => (files["pagemap-1.img"] = image));
const area = (start: number, end: number, flags = ANONYMOUS): { start: number; end: number; flags: number } => ({
  start,
  end,
  flags,
});

const CONTENT = Buffer.from("0123456789");
const PIECE = { name: "core-1.img", size: 10, offset: 0 };
const receiving = (
  input: string,
  code: Refused["code"],
  says: string,
  use: (receiver: ImageReceiver, dir: string) => void,
): Refused =>
  refused(input, code, says, () =>
    inDirectory((dir) => {
      const receiver = new ImageReceiver(join(dir, "images"));
      receiver.begin({ files: 2, bytes: 20 });
      try {
        use(receiver, dir);
      } finally {
        receiver.abandon();
      }
    }),
  );
const table = (input: string, says: string, use: () => void): Refused => refused(input, "E_PAGES", says, use);
const slots = { vpid: 1, start: BigInt(BASE), pages: 8, slot: 0 };
/** A session that takes everything: nothing gets so far. */
const nobody = { send: () => Promise.resolve() } as unknown as LinkSession;

export const IMAGE_SETS: Room = {
  title: "Images and pages",
  entries: [
    set("no inventory", "criu image inventory.img: is missing", (files) => delete files["inventory.img"]),
    set("an empty inventory", "ends at byte 0", (files) => (files["inventory.img"] = Buffer.alloc(0))),
    set(
      "an image of another kind",
      "wrong magic, not a mm image",
      (files) => (files["mm-1.img"] = IMAGES["pagemap-1.img"]!),
    ),
    set(
      "an unknown image format",
      "image format 3 is not known",
      (files) => (files["inventory.img"] = image("inventory", [number(1, 3)])),
    ),
    set("a tree without tasks", "holds no task", (files) => (files["pstree.img"] = pstree([]))),
    set("one pid twice", "pid 1 is there twice", (files) => (files["pstree.img"] = pstree([1, 1]))),
    set(
      "pid 2^32",
      "pid 4294967296",
      (files) => (files["pstree.img"] = image("pstree", [Buffer.concat([number(1, 2 ** 32), number(2, 0)])])),
    ),
    set("memory without its pagemap", "pagemap-1.img: is missing", (files) => delete files["pagemap-1.img"]),
    set("a pagemap of no task", "belongs to no task", (files) => (files["pagemap-9.img"] = pagemap(9, []))),
    set("pages cut short", "has 4096 bytes", (files) => (files["pages-1.img"] = Buffer.alloc(4096))),
    set(
      "a number that does not end",
      "does not end",
      (files) => (files["pstree.img"] = image("pstree", [Buffer.alloc(12, 0xff)])),
    ),
    set(
      "a number in more bytes than it needs",
      "longer than it need be",
      (files) => (files["pstree.img"] = image("pstree", [Buffer.from([8, 0x81, 0x00])])),
    ),
    set("a message longer than its file", "is cut short", (files) => {
      const cut = Buffer.from(IMAGES["mm-1.img"]!);
      cut.writeUInt32LE(1000, 8);
      files["mm-1.img"] = cut;
    }),
    set("a message of 4 GiB", "a message of 4294967295 bytes is refused", (files) => {
      const cut = Buffer.from(IMAGES["mm-1.img"]!);
      cut.writeUInt32LE(0xffff_ffff, 8);
      files["mm-1.img"] = cut;
    }),
    refused(
      "more empty messages than any tree has areas",
      "E_IMAGE_INCOMPLETE",
      `holds more than ${MAX_MESSAGES} messages`,
      () => parsePagemap("pagemap-1.img", Buffer.concat([image("pagemap", []), Buffer.alloc(4 * (MAX_MESSAGES + 2))])),
    ),
    set("areas that overlap", "areas overlap at 7f0000004000", (files) => {
      files["mm-1.img"] = mm([area(0x400000, 0x402000), area(BASE, BASE + 0x8000), area(BASE + 0x4000, BASE + 0x9000)]);
    }),
    set(
      "an area that ends before it begins",
      "is empty or not aligned",
      (files) => (files["mm-1.img"] = mm([area(BASE, BASE - 4096)])),
    ),
    taken("guards over an area, as criu lists them", "left out: they are no areas", () => {
      const guard = bytes(
        14,
        Buffer.concat([number(1, BASE), number(2, BASE + 4096), number(6, 0x22), number(7, 1 << 16)]),
      );
      const real = bytes(14, Buffer.concat([number(1, BASE), number(2, BASE + 0x4000), number(6, 0x22), number(7, 1)]));
      const areas = parseMm("mm-1.img", image("mm", [Buffer.concat([real, guard])]));
      assert.deepEqual(areas, [{ start: BASE, end: BASE + 0x4000, lazy: true }]);
    }),
    entries("pages outside every area", "lie in no memory area", lazy(BASE + 0x8000, 1)),
    entries("lazy pages in an area of a file", "can't be filled lazily", lazy(0x400000, 1)),
    entries("2^40 pages", "ends above the addresses of user space", lazy(BASE, 2 ** 40)),
    entries("2^60 pages", "larger than 2^53", lazy(BASE, 2n ** 60n)),
    entries("-1 pages", "larger than 2^53", lazy(BASE, -1n)),
    entries("an address that is not a page's", "is empty or not aligned", lazy(BASE + 1, 1)),
    entries("pages in a parent image", "lies in a parent image", pagemap(1, [{ start: BASE, pages: 1, flags: 1 }])),
    entries("flags that nobody knows", "has flags 64", pagemap(1, [{ start: BASE, pages: 1, flags: 64 }])),
    entries(
      "entries that overlap",
      "overlaps or precedes the entry before it",
      pagemap(1, [
        { start: BASE, pages: 3, flags: LAZY },
        { start: BASE + 0x2000, pages: 1, flags: LAZY },
      ]),
    ),
    set("two tasks with one pages file", "shares pages-1.img with", (files) => {
      files["pstree.img"] = pstree([1, 2]);
      files["mm-2.img"] = files["mm-1.img"]!;
      files["pagemap-2.img"] = files["pagemap-1.img"]!;
    }),
    set("a symbolic link as an image", "is not a plain file", (files, dir) => {
      delete files["mm-1.img"];
      symlinkSync("/etc/passwd", join(dir, "mm-1.img"));
    }),
    set("a FIFO as an image", "is not a plain file", (files, dir) => {
      delete files["pagemap-1.img"];
      execFileSync("mkfifo", [join(dir, "pagemap-1.img")]);
    }),
    set("a device as an image", "is not a plain file", (files, dir) => {
      delete files["pages-1.img"];
      symlinkSync("/dev/zero", join(dir, "pages-1.img"));
    }),
    set("a directory as an image", "is not a plain file", (files, dir) => {
      delete files["inventory.img"];
      mkdirSync(join(dir, "inventory.img"));
    }),
    refused("a FIFO among the images to send", "E_IMAGE_INCOMPLETE", "core-1.img: is not a plain file", async () => {
      const dir = mkdtempSync("/dev/shm/ferry-hostile-");
      execFileSync("mkfifo", [join(dir, "core-1.img")]);
      await sendImages(dir, nobody).finally(() => rmSync(dir, { recursive: true }));
    }),
    receiving("a peer's image `../../etc/x.img`", "E_FRAME", "a name that no image has", (r) =>
      r.piece({ ...PIECE, name: "../../etc/x.img" }, CONTENT),
    ),
    receiving("a piece that does not follow", "E_FRAME", "does not start at its beginning", (r) =>
      r.piece({ ...PIECE, offset: 5 }, CONTENT),
    ),
    receiving("a piece before the first", "E_FRAME", "a piece of core-1.img at -5", (r) => {
      r.piece(PIECE, CONTENT.subarray(0, 4));
      r.piece({ ...PIECE, offset: -5 }, CONTENT);
    }),
    receiving("one image twice", "E_FRAME", "or came twice", (r) => {
      r.piece(PIECE, CONTENT);
      r.piece(PIECE, CONTENT);
    }),
    receiving("more files than announced", "E_FRAME", "more than the 2 files", (r) => {
      for (const id of [1, 2, 3]) r.piece({ name: `core-${id}.img`, size: 0, offset: 0 }, Buffer.alloc(0));
    }),
    receiving("more bytes than announced", "E_FRAME", "more than the 20 bytes", (r) => {
      r.piece({ ...PIECE, size: 30 }, Buffer.alloc(30));
    }),
    receiving("a million files", "E_FRAME", "too many or too large", (r) => r.begin({ files: 1_000_000, bytes: 1 })),
    receiving("images of 2^50 bytes", "E_FRAME", "too many or too large", (r) => r.begin({ files: 1, bytes: 2 ** 50 })),
    receiving("an image with one flipped bit", "E_IMAGE_DIGEST", "core-1.img is not what the source sent", (r) => {
      r.piece(PIECE, CONTENT);
      r.finish([{ name: "core-1.img", size: 10, sha256: DIGEST }]);
    }),
    receiving("an image that is not in the manifest", "E_IMAGE_DIGEST", "core-1.img is not in the manifest", (r) => {
      r.piece(PIECE, CONTENT);
      r.finish([]);
    }),
    receiving("a manifest of what did not arrive", "E_IMAGE_DIGEST", "did not arrive", (r) =>
      r.finish([{ name: "core-2.img", size: 1, sha256: DIGEST }]),
    ),
    receiving("the images' directory is a symbolic link", "E_STATE", "is a symbolic link", (_r, dir) => {
      mkdirSync(join(dir, "elsewhere"));
      symlinkSync(join(dir, "elsewhere"), join(dir, "link"));
      new ImageReceiver(join(dir, "link")).begin({ files: 1, bytes: 1 });
    }),
    taken("a link where an image is to be written", "removed, not followed", () =>
      inDirectory((dir) => {
        writeFileSync(join(dir, "victim"), "untouched");
        mkdirSync(join(dir, "images"));
        symlinkSync(join(dir, "victim"), join(dir, "images", "core-1.img"));
        const receiver = new ImageReceiver(join(dir, "images"));
        receiver.begin({ files: 1, bytes: 10 });
        receiver.piece(PIECE, CONTENT);
        assert.equal(readFileSync(join(dir, "victim"), "utf8"), "untouched");
      }),
    ),
    refused(
      "a manifest with a path in it",
      "E_FRAME",
      "frame manifest is not valid: files.0.name: not an image name",
      () => parseMeta("manifest", { files: [{ name: "/etc/passwd", size: 1, sha256: DIGEST }] }),
    ),
    refused("a file of -1 bytes", "E_FRAME", "frame file is not valid: size: Too small", () =>
      parseMeta("file", { name: "core-1.img", size: -1, offset: 0 }),
    ),
    table(
      "a table of areas that is not there",
      "the table of lazy areas is not usable: ENOENT",
      () => void readTable("/nonexistent"),
    ),
    table("a table that claims 2^40 areas", "bytes for 1099511627776 areas", () =>
      inDirectory((dir) => {
        const data = Buffer.alloc(24);
        data.writeUInt32LE(0x46415254, 0);
        data.writeUInt32LE(1, 4);
        data.writeBigUInt64LE(2n ** 40n, 8);
        writeFileSync(join(dir, "areas"), data);
        readTable(dir);
      }),
    ),
    table("areas of a table that overlap", "overlap at 0x", () =>
      checkTable({ areas: [slots, { ...slots, slot: 8 }], slots: 16 }),
    ),
    table("one slot for two pages", "slot 4 where 8 is the next free one", () =>
      checkTable({ areas: [slots, { ...slots, start: 0n, slot: 4 }], slots: 16 }),
    ),
    table("an area of -1 pages", "an area of -1 pages", () =>
      checkTable({ areas: [{ ...slots, pages: -1 }], slots: 8 }),
    ),
    table("an area that leaves the address space", "an area of 9007199254740991 pages", () =>
      checkTable({ areas: [{ ...slots, pages: Number.MAX_SAFE_INTEGER }], slots: Number.MAX_SAFE_INTEGER }),
    ),
    table("a list of left-out areas that is cut short", "left-out is cut short", () =>
      parseLeftOut("812 7f0000000000 7f00"),
    ),
    table("a left-out area that ends before it begins", "left-out: the line", () => parseLeftOut("812 2000 1000\n")),
    set("an area that is no message", "an area that is not a message", (files) => {
      files["mm-1.img"] = image("mm", [number(14, 7)]);
    }),
    set("an area without an end", "an area without start, end or flags", (files) => {
      files["mm-1.img"] = image("mm", [bytes(14, number(1, BASE))]);
    }),
  ],
};

/** Parsers of criu's images and the receiving end, against everything that criu would not write. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { lstatSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { readImageSet } from "../../src/transfer/images/areas.js";
import { parseInventory, parseMm, parsePagemap, parsePstree } from "../../src/transfer/images/criu.js";
import { isImageName } from "../../src/transfer/images/names.js";
import { ImageReceiver } from "../../src/transfer/images/receive.js";
import { bytes, image, inventory, mm, number, pagemap, pstree } from "../support/criu-images.js";

const root = mkdtempSync("/dev/shm/ferry-images-");
after(() => rmSync(root, { recursive: true, force: true }));
const incomplete = { code: "E_IMAGE_INCOMPLETE" };

const LAZY = 2;
const PRESENT = 4;
const PRIVATE_ANONYMOUS = 0x22;
const base = 0x7f0000000000;

/** A set that is whole: one task, eight lazy pages in two areas, two present ones. */
function whole(): Record<string, Buffer> {
  return {
    "inventory.img": inventory(),
    "pstree.img": pstree([1]),
    "mm-1.img": mm([
      { start: 0x400000, end: 0x402000, flags: 2 },
      { start: base, end: base + 0x4000, flags: PRIVATE_ANONYMOUS },
      { start: base + 0x4000, end: base + 0x8000, flags: PRIVATE_ANONYMOUS },
      { start: 0xffffffffff600000n, end: 0xffffffffff601000n, flags: PRIVATE_ANONYMOUS },
    ]),
    "pagemap-1.img": pagemap(1, [
      { start: 0x400000, pages: 2, flags: PRESENT },
      { start: base, pages: 8, flags: LAZY },
    ]),
    "pages-1.img": Buffer.alloc(2 * 4096, 1),
    "core-1.img": Buffer.from("not looked into"),
  };
}
let sequence = 0;
function write(files: Record<string, Buffer>): string {
  const dir = join(root, String(sequence++));
  mkdirSync(dir);
  for (const [name, data] of Object.entries(files)) writeFileSync(join(dir, name), data);
  return dir;
}

test("a whole set: areas, slots, present pages, a digest that does not depend on the directory", () => {
  const set = readImageSet(write(whole()));
  assert.deepEqual(set.table, { areas: [{ vpid: 1, start: BigInt(base), pages: 8, slot: 0 }], slots: 8 });
  assert.equal(set.presentPages, 2);
  assert.equal(set.areasDigest, readImageSet(write(whole())).areasDigest);
});

test("zombies have no memory, shared memory has a pagemap of its own", () => {
  const files = whole();
  files["pstree.img"] = pstree([1, 7]);
  files["pagemap-shmem-5.img"] = pagemap(2, [{ start: 0, pages: 1, flags: PRESENT }]);
  files["pages-2.img"] = Buffer.alloc(4096);
  assert.equal(readImageSet(write(files)).presentPages, 3);
});

test("every parsed image cut at every byte is refused", () => {
  const files = whole();
  for (const name of ["inventory.img", "pstree.img", "mm-1.img", "pagemap-1.img"]) {
    const data = files[name]!;
    for (let length = 0; length < data.length; length += 1) {
      const dir = write({ ...files, [name]: data.subarray(0, length) });
      try {
        const set = readImageSet(dir);
        // Only a cut between two entries leaves a file that can be read: what is lost there is the audit's to find.
        assert.equal(name, "pagemap-1.img", `${name} cut to ${length} bytes`);
        assert.ok(set.table.slots < 8);
      } catch (error) {
        assert.equal(
          (error as { code?: string }).code,
          "E_IMAGE_INCOMPLETE",
          `${name} cut to ${length}: ${String(error)}`,
        );
      }
      rmSync(dir, { recursive: true });
    }
  }
});

test("flipped bits never give anything but a set or E_IMAGE_INCOMPLETE", () => {
  const files = whole();
  for (const name of ["inventory.img", "pstree.img", "mm-1.img", "pagemap-1.img"]) {
    const data = files[name]!;
    const dir = write(files);
    for (let bit = 0; bit < data.length * 8; bit += 1) {
      const flipped = Buffer.from(data);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      writeFileSync(join(dir, name), flipped);
      try {
        readImageSet(dir);
      } catch (error) {
        assert.equal((error as { code?: string }).code, "E_IMAGE_INCOMPLETE", `${name} bit ${bit}: ${String(error)}`);
      }
    }
  }
});

test("sets that do not fit together are refused", () => {
  const cases: [string, (files: Record<string, Buffer>) => void][] = [
    ["no inventory", (f) => delete f["inventory.img"]],
    ["an unknown format", (f) => (f["inventory.img"] = image("inventory", [number(1, 3)]))],
    ["an empty inventory", (f) => (f["inventory.img"] = Buffer.alloc(0))],
    ["no task", (f) => (f["pstree.img"] = pstree([]))],
    ["a task twice", (f) => (f["pstree.img"] = pstree([1, 1]))],
    ["memory without pagemap", (f) => delete f["pagemap-1.img"]],
    ["pagemap without memory", (f) => delete f["mm-1.img"]],
    ["pagemap of nobody", (f) => (f["pagemap-9.img"] = pagemap(9, []))],
    ["pages cut short", (f) => (f["pages-1.img"] = Buffer.alloc(4096))],
    ["pages too long", (f) => (f["pages-1.img"] = Buffer.alloc(3 * 4096))],
    ["no pages file", (f) => delete f["pages-1.img"]],
    ["lazy in a file's area", (f) => (f["pagemap-1.img"] = pagemap(1, [{ start: 0x400000, pages: 1, flags: LAZY }]))],
    [
      "lazy outside all areas",
      (f) => (f["pagemap-1.img"] = pagemap(1, [{ start: base + 0x8000, pages: 1, flags: LAZY }])),
    ],
    ["a huge count", (f) => (f["pagemap-1.img"] = pagemap(1, [{ start: base, pages: 2 ** 40, flags: LAZY }]))],
    [
      "a count above 2^53",
      (f) =>
        (f["pagemap-1.img"] = image("pagemap", [number(1, 1), Buffer.concat([number(1, base), number(5, 2n ** 60n)])])),
    ],
    ["pages in a parent", (f) => (f["pagemap-1.img"] = pagemap(1, [{ start: base, pages: 1, flags: 1 }]))],
    ["not aligned", (f) => (f["pagemap-1.img"] = pagemap(1, [{ start: base + 1, pages: 1, flags: LAZY }]))],
    [
      "two tasks, one pages file",
      (f) => {
        f["pstree.img"] = pstree([1, 2]);
        f["mm-2.img"] = f["mm-1.img"]!;
        f["pagemap-2.img"] = f["pagemap-1.img"]!;
      },
    ],
    [
      "overlap",
      (f) =>
        (f["pagemap-1.img"] = pagemap(1, [
          { start: base, pages: 3, flags: LAZY },
          { start: base + 0x2000, pages: 1, flags: LAZY },
        ])),
    ],
    [
      "lazy shared memory",
      (f) => {
        f["pagemap-shmem-5.img"] = pagemap(2, [{ start: 0, pages: 1, flags: LAZY }]);
      },
    ],
  ];
  for (const [name, change] of cases) {
    const files = whole();
    change(files);
    assert.throws(() => readImageSet(write(files)), incomplete, name);
  }
});

test("messages that lie about their length", () => {
  const huge = Buffer.alloc(12);
  huge.writeUInt32LE(0x54564319, 0);
  huge.writeUInt32LE(0x56084025, 4);
  huge.writeUInt32LE(0xffffffff, 8);
  assert.throws(() => parsePagemap("pagemap-1.img", huge), incomplete);
  assert.throws(() => parsePagemap("pagemap-1.img", image("mm", [])), /wrong magic/);
  assert.throws(() => parseMm("mm-1.img", image("mm", [bytes(14, number(1, 0))])), incomplete);
  assert.throws(() => parsePstree("pstree.img", image("pstree", [Buffer.from([0xff, 0xff])])), incomplete);
  assert.throws(() => parseInventory("inventory.img", image("inventory", [number(1, 2), number(1, 2)])), incomplete);
});

test("names: criu's, and nothing else", () => {
  for (const name of [
    "inventory.img",
    "core-12.img",
    "tmpfs-dev-57.tar.gz.img",
    "ip6tables-9.img",
    "ghost-file-1f.img",
  ]) {
    assert.ok(isImageName(name), name);
  }
  for (const name of [
    "../x.img",
    "/x.img",
    "a/b.img",
    "x.img\0",
    ".img",
    "X.img",
    "dump.log",
    "a..img",
    "lazy-pages.socket",
    `${"a".repeat(200)}.img`,
    7,
  ]) {
    assert.ok(!isImageName(name), String(name));
  }
});

const sha256 = (data: Buffer): string => createHash("sha256").update(data).digest("hex");

test("receiving: what is not in order, not announced or not what was sent", () => {
  const dir = join(root, "receive");
  const data = Buffer.from("0123456789");
  const piece = { name: "core-1.img", size: 10, offset: 0 };
  const entry = { name: "core-1.img", size: 10, sha256: sha256(data) };
  const fresh = (files = 1, total = 10): ImageReceiver => {
    const receiver = new ImageReceiver(dir);
    receiver.begin({ files, bytes: total });
    return receiver;
  };
  const frame = { code: "E_FRAME" };
  const digest = { code: "E_IMAGE_DIGEST" };
  assert.throws(() => new ImageReceiver(dir).piece(piece, data), frame);
  assert.throws(() => fresh().piece({ ...piece, name: "../../etc/x.img" }, data), frame);
  assert.throws(() => fresh().piece({ ...piece, offset: 5 }, data), frame);
  assert.throws(() => fresh(1, 9).piece(piece, data), frame);
  assert.throws(() => fresh(0).piece(piece, data), frame);
  assert.throws(() => fresh().piece({ ...piece, size: 9 }, data), frame);
  assert.throws(() => fresh().piece(piece, Buffer.alloc(0)), frame);
  assert.throws(() => fresh(1, 2 ** 50), frame);
  assert.throws(() => fresh(1, 2 ** 39), { code: "E_NO_SPACE" });

  const cut = fresh();
  cut.piece(piece, data.subarray(0, 4));
  assert.throws(() => cut.finish([entry]), frame);
  cut.abandon();

  // a link that somebody planted is removed, not followed
  writeFileSync(join(root, "victim"), "untouched");
  rmSync(join(dir, "core-1.img"), { force: true });
  symlinkSync(join(root, "victim"), join(dir, "core-1.img"));
  const good = fresh();
  good.piece(piece, data.subarray(0, 4));
  good.piece({ ...piece, offset: 4 }, data.subarray(4));
  assert.throws(() => good.piece(piece, data), frame);
  assert.throws(() => good.finish([{ ...entry, sha256: sha256(Buffer.from("x")) }]), digest);
  assert.throws(() => good.finish([]), digest);
  assert.throws(() => good.finish([entry, { ...entry, name: "core-2.img" }]), digest);
  assert.equal(good.finish([entry]).length, 64);
  assert.equal(readFileSync(join(root, "victim"), "utf8"), "untouched");
  assert.equal(lstatSync(join(dir, "core-1.img")).mode & 0o7777, 0o600);
});

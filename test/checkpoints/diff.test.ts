/** What changed between two checkpoints: memory by area, files by name, sockets. The images are built, the volume is tar's. */
import assert from "node:assert/strict";
import { chmodSync, mkdirSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { truncate } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import { compareCheckpoints } from "../../src/checkpoints/diff/compare.js";
import { saveVolume } from "../../src/checkpoints/volume.js";
import { renderDiff } from "../../src/cli/render/diff.js";
import { PLAIN } from "../../src/cli/render/style.js";
import type { CheckpointDiff } from "../../src/model/checkpoints.js";
import type { Manifest, Store } from "../../src/store/index.js";
import { parseSockets } from "../../src/transfer/images/describe.js";
import { begin, facts, openLocal, page, PAGE, pages, tempDir } from "../store/kit.js";
import { bytes, image, mm, number, pstree } from "../support/criu-images.js";

const root = process.getuid?.() === 0 ? {} : { skip: "needs root" };
const ANONYMOUS = 0x22;
const HEAP = 0x5500_0000_0000;
const AREA = 0x7f00_0000_0000;

const core = (name: string): Buffer => image("core", [bytes(3, bytes(6, Buffer.from(name)))]);
const ip = (text: string): number => Buffer.from(text.split(".").map(Number)).readUInt32LE();
const tcp = (state: number, local: [string, number], remote: [string, number] = ["0.0.0.0", 0]): Buffer =>
  bytes(
    4,
    Buffer.concat([
      number(1, 1),
      number(3, 2),
      number(4, 1),
      number(5, 6),
      number(6, state),
      number(7, local[1]),
      number(8, remote[1]),
      number(11, ip(local[0])),
      number(12, ip(remote[0])),
    ]),
  );
const file = (socket: Buffer): Buffer => Buffer.concat([number(1, 4), number(2, 7), socket]);

interface Contents {
  images: Record<string, Buffer>;
  memory: Record<number, [address: number, data: Buffer][]>;
  volume?: string;
}

async function save(store: Store, { images, memory, volume }: Contents): Promise<Manifest> {
  const writer = await begin(store, "web");
  for (const [name, data] of Object.entries(images)) await writer.file(`images/${name}`, { kind: "image" }, data);
  for (const [pid, parts] of Object.entries(memory)) {
    const stream = writer.stream(`memory/${pid}`, { kind: "memory" });
    for (const [address, data] of parts) await stream.write(address, data);
  }
  if (volume !== undefined) await saveVolume(volume, writer);
  return writer.commit(facts("web"));
}

async function compare(store: Store, one: Manifest, two: Manifest, filesMs?: number): Promise<CheckpointDiff> {
  const before = await store.read("web", one.id);
  const after = await store.read("web", two.id);
  const diff = await compareCheckpoints(store, before, after, filesMs);
  await before.close();
  await after.close();
  return diff;
}

/** mm of a heap of 64 pages and an area of 4096. */
const areas = mm([
  { start: HEAP, end: HEAP + 64 * PAGE, flags: ANONYMOUS },
  { start: AREA, end: AREA + 4096 * PAGE, flags: ANONYMOUS },
]);
const heapAt = (image: Buffer): Buffer => {
  // mm() has 4096 for brkStart and brk: fields 6 and 7.
  const field = (id: number, value: number): Buffer => number(id, value);
  const body = image.subarray(12);
  const others = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12].reduce((sum, id) => sum + field(id, 4096).length, 0);
  const scalars = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12].map((id) =>
    field(id, id === 6 ? HEAP : id === 7 ? HEAP + 32 * PAGE : 4096),
  );
  const message = Buffer.concat([...scalars, body.subarray(others)]);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(message.length);
  return Buffer.concat([image.subarray(0, 8), length, message]);
};

describe("the difference of two checkpoints", () => {
  it("says of each process where its memory has changed, however scattered", async (t) => {
    const store = await openLocal(await tempDir(t));
    const images = { "pstree.img": pstree([1, 2]), "core-1.img": core("redis"), "mm-1.img": heapAt(areas) };
    const files = { "files.img": image("files", [file(tcp(10, ["0.0.0.0", 6379]))]) };
    const one = await save(store, {
      images: { ...images, ...files, "core-2.img": core("helper") },
      memory: {
        1: [
          [HEAP, pages(1, 64)],
          [AREA, pages(1000, 2000)],
        ],
        2: [[AREA, pages(1, 4)]],
      },
    });
    const scattered = pages(1000, 2000);
    for (let at = 0; at < 2000; at += 20) page(50_000 + at).copy(scattered, at * PAGE);
    const two = await save(store, {
      images: {
        "pstree.img": pstree([1, 3]),
        "core-1.img": core("redis"),
        "mm-1.img": heapAt(areas),
        "core-3.img": core("new\u001b[31m"),
        "files.img": image("files", [
          file(tcp(10, ["0.0.0.0", 6379])),
          file(tcp(1, ["10.77.0.5", 6379], ["10.77.0.1", 40_000])),
        ]),
      },
      memory: {
        1: [
          [HEAP, Buffer.concat([page(7777), page(7778), pages(3, 62)])],
          [AREA, scattered],
        ],
        3: [[AREA, pages(1, 4)]],
      },
    });
    const diff = await compare(store, one, two);
    const [redis, helper, fresh] = diff.processes?.list ?? [];
    assert.deepEqual(redis, {
      pid: 1,
      name: "redis",
      change: "changed",
      before: 2064 * PAGE,
      after: 2064 * PAGE,
      changed: 102 * PAGE,
      areas: [
        { start: AREA.toString(16), end: (AREA + 4096 * PAGE).toString(16), kind: "anonymous", changed: 100 * PAGE },
        { start: HEAP.toString(16), end: (HEAP + 64 * PAGE).toString(16), kind: "heap", changed: 2 * PAGE },
      ],
      moreAreas: 0,
    });
    assert.deepEqual([helper?.name, helper?.change, helper?.before], ["helper", "removed", 4 * PAGE]);
    assert.deepEqual([fresh?.pid, fresh?.change, fresh?.after], [3, "added", 4 * PAGE]);
    assert.deepEqual(diff.sockets, {
      list: [
        {
          change: "added",
          protocol: "tcp",
          state: "established",
          local: "10.77.0.5:6379",
          remote: "10.77.0.1:40000",
        },
      ],
      more: 0,
      same: 1,
    });
    assert.deepEqual([diff.files, diff.notes], [undefined, undefined]);
    const text = renderDiff(diff, PLAIN).join("\n");
    assert.match(
      text,
      /memory: 440 KiB changed in 3 processes\n {2}~ 1 redis: 408 KiB of 8\.1 MiB\n {6}400 KiB of the area/,
    );
    assert.match(text, /8\.0 KiB of the heap 5500/);
    assert.match(text, /\+ tcp established 10\.77\.0\.5:6379 - 10\.77\.0\.1:40000/);
    // oxlint-disable-next-line no-control-regex -- a name in an image is not the terminal's master
    assert.doesNotMatch(text, /\u001b/);
  });

  it("says which files came, went and changed, wherever their contents lie", root, async (t) => {
    const base = await tempDir(t);
    const store = await openLocal(join(base, "store"));
    const volume = join(base, "volume");
    const path = (name: string): string => join(volume, "data", name);
    mkdirSync(path("a"), { recursive: true });
    mkdirSync(path("empty"));
    writeFileSync(path("first"), "grows");
    writeFileSync(path("a/same"), pages(1, 50));
    writeFileSync(path("a.txt"), pages(100, 50));
    writeFileSync(path("goes"), "away");
    writeFileSync(path("zz-big"), pages(200, 300));
    writeFileSync(path("mode"), "x");
    writeFileSync(path("times"), "x");
    symlinkSync("here", path("link"));
    writeFileSync(path("ä\nodd"), "x");
    const images = { "pstree.img": pstree([1]), "files.img": image("files", []) };
    const one = await save(store, { images, memory: {}, volume });
    // All that lies behind moves.
    writeFileSync(path("first"), pages(500, 20));
    const changed = pages(100, 50);
    page(9999).copy(changed, 7 * PAGE);
    const before = new Date(1_700_000_000_000);
    writeFileSync(path("a.txt"), changed);
    rmSync(path("goes"));
    writeFileSync(path("comes"), "new");
    chmodSync(path("mode"), 0o700);
    utimesSync(path("times"), before, before);
    rmSync(path("link"));
    symlinkSync("there", path("link"));
    await truncate(path("zz-big"), 100 * PAGE);
    renameSync(path("empty"), path("full"));
    const two = await save(store, { images, memory: {}, volume });
    const { files, notes } = await compare(store, one, two);
    assert.equal(notes, undefined);
    const list = (files?.list ?? []).map(({ name, change, changed: bytes }) => [name, change, bytes]);
    assert.deepEqual(
      list.filter(([, change]) => change !== "metadata"),
      [
        ["data/a.txt", "changed", PAGE],
        ["data/comes", "added", PAGE],
        ["data/empty", "removed", 0],
        ["data/first", "changed", 20 * PAGE],
        ["data/full", "added", 0],
        ["data/goes", "removed", PAGE],
        ["data/link", "changed", 0],
        ["data/zz-big", "changed", 200 * PAGE],
      ],
    );
    const metadata = list.filter(([, change]) => change === "metadata").map(([name]) => name);
    assert.ok(metadata.includes("data/mode") && metadata.includes("data/times"), JSON.stringify(metadata));
    assert.ok(!list.some(([name]) => name === "data/a/same" || name === "data/ä\nodd"));
    assert.deepEqual([files?.added, files?.removed, files?.changed, files?.more], [2, 2, 4, 0]);
    const same = await compare(store, two, two);
    assert.deepEqual([same.files?.list, same.streams], [[], []]);
    const text = renderDiff(await compare(store, one, two), PLAIN).join("\n");
    assert.match(text, /files: 2 added, 2 removed, 4 changed/);
    assert.match(text, /~ data\/a\.txt \(file\): 4\.0 KiB of 200 KiB\n/);
    assert.match(text, /~ data\/zz-big \(file\): 800 KiB of 400 KiB, was 1\.2 MiB/);
    assert.match(text, /~ data\/link \(symbolic link\): leads elsewhere/);
    const short = await compare(store, one, two, -1);
    assert.match(short.notes?.join() ?? "", /not all files were looked at/);
  });

  it("is cut where there is too much, and says so", root, async (t) => {
    const base = await tempDir(t);
    const store = await openLocal(join(base, "store"));
    const volume = join(base, "volume");
    mkdirSync(volume);
    const images = { "pstree.img": pstree([1]), "files.img": image("files", []) };
    const one = await save(store, { images, memory: {}, volume });
    for (let i = 0; i < 1000; i += 1) writeFileSync(join(volume, `file-${i}`), `content ${i}`);
    const sockets = Array.from({ length: 500 }, (_, i) => file(tcp(10, ["0.0.0.0", 1000 + i])));
    const two = await save(store, { images: { ...images, "files.img": image("files", sockets) }, memory: {}, volume });
    const diff = await compare(store, one, two);
    assert.deepEqual([diff.files?.added, diff.files?.list.length], [1000, 200]);
    assert.equal(diff.files?.more, 801, "and the directory's time");
    assert.deepEqual([diff.sockets?.list.length, diff.sockets?.more], [200, 300]);
    assert.ok(JSON.stringify(diff).length < 200_000);
  });

  it("says what it can of images that are not understood", async (t) => {
    const store = await openLocal(await tempDir(t));
    const memory = { 1: [[HEAP, pages(1, 4)] as [number, Buffer]] };
    const one = await save(store, { images: { "pstree.img": Buffer.from("rubbish") }, memory });
    const two = await save(store, { images: { "pstree.img": pstree([1]) }, memory: { 1: [[HEAP, pages(2, 4)]] } });
    const diff = await compare(store, one, two);
    assert.equal(diff.processes, undefined);
    assert.ok(diff.streams.some(({ name, changed }) => name === "memory/1" && changed > 0));
    assert.match(diff.notes?.join("\n") ?? "", /processes can't be compared: .*\nsockets can't be compared: /);
    assert.match(renderDiff(diff, PLAIN).join("\n"), /memory\/1\n/);
  });
});

describe("sockets in images", () => {
  it("are told in words, whatever their family", () => {
    const inet6 = bytes(
      4,
      Buffer.concat([
        number(3, 10),
        number(5, 17),
        number(6, 7),
        number(7, 53),
        number(8, 0),
        ...[0x80fe, 0, 0, 0x0100_0000].map((word) => number(11, word)),
      ]),
    );
    const unix = (name: string, state: number): Buffer =>
      bytes(16, Buffer.concat([number(1, 1), number(3, 1), number(4, state), bytes(11, Buffer.from(name))]));
    const found = parseSockets(
      "files.img",
      image("files", [inet6, unix("/run/x.sock\0", 10), unix("\0hidden", 10), unix("", 1)].map(file)),
    );
    assert.deepEqual(found, [
      { protocol: "udp", state: "open", local: "[fe80::1]:53" },
      { protocol: "unix", state: "listening", local: "/run/x.sock" },
      { protocol: "unix", state: "listening", local: "@hidden" },
    ]);
    assert.throws(() => parseSockets("files.img", Buffer.from("x")), { code: "E_IMAGE_INCOMPLETE" });
  });
});

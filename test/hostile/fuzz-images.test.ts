/** Properties of images, page tables and what the movers and the page daemon keep on the tmpfs. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after } from "node:test";
import * as fc from "fast-check";
import { slotsOf } from "../../src/checkpoints/working-set.js";
import { pagesOfEntries } from "../../src/host/pagemap.js";
import { decodeRuns, encodeRuns } from "../../src/store/working-set.js";
import { readImageSet } from "../../src/transfer/images/areas.js";
import { parseInventory, parseMm, parsePagemap, parsePstree } from "../../src/transfer/images/criu.js";
import { parseOwnAreas, parseSockets, parseTaskName } from "../../src/transfer/images/describe.js";
import { addLazyPages, parseLeftOut } from "../../src/transfer/images/left-out.js";
import { isImageName } from "../../src/transfer/images/names.js";
import { ImageReceiver } from "../../src/transfer/images/receive.js";
import { mendTimers } from "../../src/transfer/images/timers.js";
import { loadState, saveState } from "../../src/transfer/mover/destination-state.js";
import { EventLog, TYPE } from "../../src/transfer/pages/event-log.js";
import { readHolder } from "../../src/transfer/pages/identity.js";
import { BLOCK_PAGES, RegionMap } from "../../src/transfer/pages/regions.js";
import { checkTable, readTable, writeTable, TABLE_FILE } from "../../src/transfer/pages/table.js";
import { TaskSet } from "../../src/transfer/pages/tasks.js";
import { parseMessage } from "../../src/transfer/pages/uffd.js";
import { bytes, image as imageOf, number as scalar } from "../support/criu-images.js";
import { demandAnswer, fuzz, mutatedBytes, mutatedJsonText, mutatedText } from "./mutate.js";
import { BASE, DIGEST, FILES_IMAGE, IMAGES } from "./samples.js";

const root = mkdtempSync("/dev/shm/ferry-fuzz-images-");
after(() => rmSync(root, { recursive: true, force: true }));
const folder = (name: string): string => {
  const dir = join(root, name);
  mkdirSync(dir, { recursive: true });
  return dir;
};

const sample = (name: string): Buffer => IMAGES[name] ?? Buffer.alloc(0);
const inOrder = (runs: readonly { start: number; pages: number }[]): void => {
  let end = 0;
  for (const { start, pages } of runs) {
    assert.ok(start >= end && start % 4096 === 0 && Number.isSafeInteger(pages) && pages > 0);
    end = start + pages * 4096;
  }
};
fuzz("inventory.img", mutatedBytes([sample("inventory.img")]), (image) => parseInventory("inventory.img", image));
fuzz(
  "pstree.img",
  mutatedBytes([sample("pstree.img")]),
  (image) => parsePstree("pstree.img", image),
  (tasks) => {
    assert.equal(new Set(tasks.map(({ pid }) => pid)).size, tasks.length);
  },
);
fuzz(
  "mm.img",
  mutatedBytes([sample("mm-1.img")]),
  (image) => parseMm("mm-1.img", image),
  (areas) => {
    let last = 0;
    for (const { start, end } of areas.toSorted((a, b) => a.start - b.start)) {
      assert.ok(start < end && start >= last);
      last = end;
    }
  },
);
const PAGEMAP = sample("pagemap-1.img");
fuzz(
  "pagemap.img",
  mutatedBytes([PAGEMAP]),
  (image) => parsePagemap("pagemap-1.img", image),
  ({ entries }) => inOrder(entries),
);
fuzz("files.img", mutatedBytes([FILES_IMAGE]), mendTimers);
const inet = Buffer.concat(
  [
    [3, 2],
    [5, 6],
    [6, 1],
    [7, 80],
    [8, 4000],
    [11, 1],
    [12, 2],
  ].map(([id, n]) => scalar(id!, n!)),
);
const unix = Buffer.concat([scalar(3, 1), scalar(4, 10), bytes(11, Buffer.from("/run/x.sock"))]);
fuzz(
  "files.img: sockets",
  mutatedBytes([FILES_IMAGE, imageOf("files", [bytes(4, inet), bytes(16, unix)])]),
  (image) => parseSockets("files.img", image),
  (sockets) => {
    for (const { local } of sockets) assert.ok(local.length <= 300);
  },
);
fuzz("core.img", mutatedBytes([imageOf("core", [bytes(3, bytes(6, Buffer.from("redis")))])]), (image) =>
  parseTaskName("core-1.img", image),
);
fuzz("mm.img: kinds of areas", mutatedBytes([sample("mm-1.img")]), (image) => parseOwnAreas("mm-1.img", image));
fuzz("a pagemap that is completed", mutatedBytes([PAGEMAP]), (image) =>
  addLazyPages("pagemap-1.img", image, [{ start: BASE, pages: 8 }], [{ start: BASE, pages: 3 }]),
);
fuzz("left-out", mutatedText([`812 ${BASE.toString(16)} ${(BASE + 8192).toString(16)}\n`]), parseLeftOut, (areas) => {
  for (const { start, end } of areas) assert.ok(start < end);
});

const set = folder("set");
for (const [name, data] of Object.entries(IMAGES)) writeFileSync(join(set, name), data);
const changedFile = fc
  .constantFrom(...Object.keys(IMAGES))
  .chain((name) => fc.tuple(fc.constant(name), mutatedBytes([sample(name)])));
fuzz(
  "a set with one changed image",
  changedFile,
  ([name, data]) => {
    writeFileSync(join(set, name), data);
    try {
      return readImageSet(set);
    } finally {
      writeFileSync(join(set, name), sample(name));
    }
  },
  ({ table }) => checkTable(table),
  { share: 0.5 },
);

const sha256 = (data: Uint8Array): string => createHash("sha256").update(data).digest("hex");
const name = fc.constantFrom("core-1.img", "mm-1.img", "../../x.img", "/x.img", "a..img", "x", "core-1.img\0");
const number = fc.oneof(fc.nat(20), fc.constantFrom(-1, 2 ** 53, 2 ** 40, 100_001, Number.NaN));
const step = fc.oneof(
  fc.record({ do: fc.constant("begin" as const), files: number, bytes: number }),
  fc.record({
    do: fc.constant("piece" as const),
    name,
    size: number,
    offset: number,
    data: fc.uint8Array({ maxLength: 20 }),
  }),
  fc.record({ do: fc.constant("finish" as const), name, size: number }),
);
const received = folder("received");
fuzz(
  "pieces of images in any order write nothing but images into their directory",
  fc.array(step, { maxLength: 12 }),
  (steps) => {
    const receiver = new ImageReceiver(join(received, "in"));
    for (const one of [{ do: "begin" as const, files: 3, bytes: 40 }, ...steps]) {
      try {
        if (one.do === "begin") receiver.begin(one);
        else if (one.do === "piece") receiver.piece(one, Buffer.from(one.data));
        else receiver.finish([{ ...one, sha256: sha256(Buffer.alloc(0)) }]);
      } catch (error) {
        demandAnswer(error);
      }
    }
    receiver.abandon();
  },
  () => {
    assert.deepEqual(readdirSync(received), ["in"]);
    assert.ok(readdirSync(join(received, "in")).every(isImageName));
  },
  { share: 0.5 },
);

const edge = fc.constantFrom(0, 1, 511, 512, 513, 1024, 2 ** 27, 2 ** 31, 2 ** 47, 2 ** 53, -512, 0.5, Number.NaN);
const region = fc.record({
  vpid: fc.oneof(fc.integer({ min: 1, max: 3 }), edge),
  start: fc.oneof(
    fc.nat(8).map((block) => block * BLOCK_PAGES * 4096),
    edge,
  ),
  pages: fc.oneof(
    fc.integer({ min: 1, max: 3 }).map((blocks) => blocks * BLOCK_PAGES),
    edge,
  ),
});
fuzz("regions of a peer tile the slots, and none is there twice", fc.array(region, { maxLength: 10 }), (regions) => {
  const map = new RegionMap();
  for (const one of regions) {
    // as many slots as there may be take a second
    if (one.pages > 2 ** 20 && one.pages <= 2 ** 27) continue;
    try {
      map.add({ ...one, slot: map.slots });
    } catch (error) {
      demandAnswer(error);
    }
  }
  const seen = new Set<string>();
  for (let slot = 0; slot < map.slots; slot += BLOCK_PAGES) {
    const place = map.place(slot);
    seen.add(`${place?.vpid} ${place?.start}`);
  }
  assert.equal(seen.size * BLOCK_PAGES, map.slots);
});

const store = folder("store");
writeTable(store, { areas: [{ vpid: 1, start: BigInt(BASE), pages: 8, slot: 0 }], slots: 512 });
const tabled = folder("tabled");
writeTable(tabled, { areas: [{ vpid: 1, start: BigInt(BASE), pages: 8, slot: 0 }], slots: 512 });
const TABLE = Buffer.alloc(24 + 64);
TABLE.writeUInt32LE(0x46415254, 0);
TABLE.writeUInt32LE(1, 4);
TABLE.writeBigUInt64LE(2n, 8);
TABLE.writeBigUInt64LE(512n, 16);
for (const [index, at] of [24, 56].entries()) {
  TABLE.writeUInt32LE(1, at);
  TABLE.writeBigUInt64LE(BigInt(BASE + index * 0x10000), at + 8);
  TABLE.writeBigUInt64LE(8n, at + 16);
  TABLE.writeBigUInt64LE(BigInt(index * 8), at + 24);
}
fuzz(
  "the table of areas",
  mutatedBytes([TABLE]),
  (data) => {
    writeFileSync(join(store, TABLE_FILE), data);
    return readTable(store);
  },
  checkTable,
  { share: 0.5 },
);
fuzz(
  "a working set",
  mutatedBytes([
    encodeRuns([
      { vpid: 1, page: BASE / 4096, pages: 16 },
      { vpid: 7, page: 1, pages: 3 },
    ]),
  ]),
  (data) => decodeRuns(data, "workingsets/web/x"),
  (runs) => {
    const table = readTable(tabled);
    const slots = slotsOf(table, runs);
    assert.ok(slots.every(({ slot, pages }) => pages > 0 && slot >= 0 && slot + pages <= table.slots));
  },
  { share: 0.2 },
);
const HOLDER = {
  daemon: { pid: 7, startedAt: "9" },
  guard: null,
  position: 0,
  listening: 3,
  connection: -1,
  tasks: [[1, 5]],
};
const jsonFile = (sample: unknown): fc.Arbitrary<string> =>
  fc.oneof(mutatedText([JSON.stringify(sample)]), mutatedJsonText(sample));
fuzz(
  "holder.json",
  jsonFile(HOLDER),
  (text) => {
    writeFileSync(join(store, "holder.json"), text);
    return readHolder(store);
  },
  undefined,
  { share: 0.5 },
);
const STATE = {
  port: 7,
  images: { digest: DIGEST, areas: DIGEST, bytes: 1, pages: 1 },
  volumeFinal: true,
  filling: true,
};
saveState(store, STATE);
fuzz(
  "mover-state.json",
  jsonFile(STATE),
  (text) => {
    writeFileSync(join(store, "mover-state.json"), text);
    return loadState(store);
  },
  undefined,
  { share: 0.5 },
);

const areas = { areas: [{ vpid: 1, start: BigInt(BASE), pages: 8, slot: 0 }], slots: 8 };
const entry = (type: number, task: number, units: number, payload: Buffer, a = 0n, b = 0n): Buffer => {
  const bytes = Buffer.alloc(32 * (units + 1));
  bytes[0] = type;
  bytes[1] = 1;
  bytes.writeUInt32LE(task, 4);
  bytes.writeUInt32LE(units, 8);
  bytes.writeBigUInt64LE(a, 16);
  bytes.writeBigUInt64LE(b, 24);
  payload.copy(bytes, 32, 0, 32 * units);
  return bytes;
};
const word = Buffer.alloc(32);
word.writeInt32LE(1);
const descriptor = Buffer.alloc(96);
descriptor.writeUInt32LE(20, 32);
descriptor.writeInt32LE(9, 48);
const remap = Buffer.alloc(32);
remap[0] = 0x14;
remap.writeBigUInt64LE(BigInt(BASE), 8);
remap.writeBigUInt64LE(BigInt(BASE) + 0x100000n, 16);
remap.writeBigUInt64LE(8192n, 24);
const LOG = Buffer.concat([
  entry(TYPE.CONNECTED, 0, 0, word, 7n),
  entry(TYPE.WORD, 0, 1, word),
  entry(TYPE.UFFD, 0, 3, descriptor),
  entry(TYPE.MESSAGES, 1, 1, remap),
  entry(TYPE.FILLED, 1, 0, word, BigInt(BASE / 4096), 2n),
  entry(TYPE.DISCONNECTED, 0, 0, word),
]);
const log = folder("log");
fuzz(
  "the page daemon's log",
  mutatedBytes([LOG]),
  (bytes) => {
    const segment = Buffer.alloc(1 << 20);
    bytes.copy(segment);
    for (const name of readdirSync(log)) rmSync(join(log, name));
    writeFileSync(join(log, "events-0"), segment);
    const tasks = new TaskSet(areas);
    for (const one of EventLog.open(log).entries) tasks.apply(one);
    return tasks;
  },
  ({ filled }) => assert.ok(Number.isFinite(filled)),
  { share: 0.1, most: 100 },
);
fuzz("messages of a userfaultfd", mutatedBytes([remap]), (bytes) =>
  bytes.length < 32 ? undefined : parseMessage(bytes, 0),
);
fuzz(
  "entries of a pagemap",
  mutatedBytes([Buffer.alloc(64, 0x81)]),
  (bytes) => {
    const found: { start: number; pages: number }[] = [];
    pagesOfEntries(bytes, 4096, 7, false, (start, pages) => void found.push({ start, pages }));
    return found;
  },
  inOrder,
);

/** A peer that has the right certificate and sends what no source sends: a real destination's mover refuses it and lives. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { FailureData } from "../../src/model/failure.js";
import type { DestinationMoverStatus } from "../../src/model/mover.js";
import { sendImages } from "../../src/transfer/images/send.js";
import { dialLink, type Frame, type LinkSession } from "../../src/transfer/link/index.js";
import type { MoverClient } from "../../src/transfer/mover/client.js";
import { BLOCK_PAGES, MAX_REGION_SLOTS } from "../../src/transfer/pages/regions.js";
import { imageProcess } from "../support/criu-images.js";
import { cleanUp, identity, isRoot, makeIdentities, PAGE, pair, type Pair } from "./mover-kit.js";

const skip = isRoot ? false : "needs root: the movers' agents are";
/** What a peer can make the mover hold: a byte per slot, the blocks, and what the link buffers. */
const MAX_GROWTH_MIB = 400;
const STAGE = "0123456789abcdef0123456789abcdef";
const OTHER = "f".repeat(32);
const REGION = [7, 0x200000, BLOCK_PAGES, 0];

let both: Pair;
let d: MoverClient<DestinationMoverStatus>;
before(async () => {
  if (!isRoot) return;
  await makeIdentities();
  both = pair("hostile");
  d = await both.destination.start();
});
after(async () => {
  await d?.request({ verb: "exit" });
  await cleanUp();
});

interface Peer {
  control: LinkSession;
  bulk: LinkSession;
  /** Frames that came on either. */
  frames: Frame[];
  end: Promise<FailureData | undefined>;
}

async function peer(): Promise<Peer> {
  const dial = (purpose: "control" | "bulk" | "fault"): Promise<LinkSession> =>
    dialLink({
      identity: { node: "node-a", ...identity["node-a"] },
      host: "127.0.0.1",
      port: d.status().port,
      peer: "node-b",
      hello: { operation: "app.migrate.1", workload: "app", to: 1, purpose },
    });
  const frames: Frame[] = [];
  const opened = await Promise.all([dial("control"), dial("bulk")]);
  const [control, bulk] = opened;
  const end = new Promise<FailureData | undefined>((resolve) => {
    for (const session of opened) {
      session.onFrame((frame) => void frames.push(frame));
      session.onClose(resolve);
    }
  });
  return { control, bulk, frames, end };
}

async function frame({ frames }: Peer, type: string): Promise<Frame> {
  for (let waited = 0; waited < 5000; waited += 5) {
    const found = frames.find((one) => one.type === type);
    if (found !== undefined) return found;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`no frame ${type} came`);
}

const rssMib = (): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${d.status().pid}/status`, "utf8"))![1]) / 1024;

const u32s = (...numbers: number[]): Buffer => {
  const buffer = Buffer.alloc(numbers.length * 4);
  for (const [index, number] of numbers.entries()) buffer.writeUInt32LE(number, index * 4);
  return buffer;
};

type Step = [session: "bulk" | "control", type: string, meta: object, payload?: Buffer];
const begin: Step = ["bulk", "stage-begin", { stage: STAGE }];
const one: Step = ["bulk", "regions", { from: 0, regions: [REGION] }];
const regions = (...list: number[][]): Step => ["bulk", "regions", { from: 0, regions: list }];
const CASES: Record<string, Step[]> = {
  "regions without a stage": [one],
  "a stage with a wrong id": [["bulk", "stage-begin", { stage: "../x" }]],
  "regions that skip some": [begin, ["bulk", "regions", { from: 1, regions: [REGION] }]],
  "a region that is not what it was": [begin, one, regions([7, 0x400000, BLOCK_PAGES, 0])],
  "a region with another slot": [begin, regions([7, 0x200000, BLOCK_PAGES, 512])],
  "a region that is not aligned": [begin, regions([7, 0x201000, BLOCK_PAGES, 0])],
  "a region of part of a block": [begin, regions([7, 0x200000, 100, 0])],
  "a region of nothing": [begin, regions([7, 0x200000, 0, 0])],
  "a region of no task": [begin, regions([0, 0x200000, BLOCK_PAGES, 0])],
  "a region outside the address space": [begin, regions([7, 2 ** 47, BLOCK_PAGES, 0])],
  "a region that leaves the address space": [begin, regions([7, 2 ** 47 - 0x200000, 2 * BLOCK_PAGES, 0])],
  "regions that overlap": [begin, regions([7, 0x200000, 1024, 0], [7, 0x400000, 512, 1024])],
  "more slots than there may be": [begin, regions([7, 0, MAX_REGION_SLOTS, 0], [8, 0, BLOCK_PAGES, MAX_REGION_SLOTS])],
  "a region of a huge count": [begin, regions([7, 0, Number.MAX_SAFE_INTEGER, 0])],
  "pages outside the regions": [
    begin,
    one,
    ["bulk", "stage-pages", { data: [511, 2], zero: [] }, Buffer.alloc(2 * PAGE)],
  ],
  "zeros outside the regions": [begin, one, ["bulk", "stage-pages", { data: [], zero: [0, 513] }]],
  "zeros again and again": [begin, one, ["bulk", "stage-pages", { data: [], zero: [0, 512, 0, 512] }]],
  "fewer bytes than pages": [begin, one, ["bulk", "stage-pages", { data: [0, 2], zero: [] }, Buffer.alloc(PAGE)]],
  "more bytes than pages": [begin, one, ["bulk", "stage-pages", { data: [0, 1], zero: [] }, Buffer.alloc(PAGE + 1)]],
  "a run without its length": [begin, one, ["bulk", "stage-pages", { data: [0], zero: [] }]],
  "a slot that is no number": [begin, one, ["bulk", "stage-pages", { data: [0.5, 1], zero: [] }, Buffer.alloc(PAGE)]],
  "a list of old pages of another stage": [begin, one, ["control", "stale", { stage: OTHER }, u32s(0, 1)]],
  "a list of old pages that are not there": [begin, one, ["control", "stale", { stage: STAGE }, u32s(500, 100)]],
  "a list of old pages with half a record": [begin, one, ["control", "stale", { stage: STAGE }, u32s(0, 1, 2)]],
  "a credit that only the other end gives": [["bulk", "staged", { frames: 1 }]],
};

for (const [name, steps] of Object.entries(CASES)) {
  test(`refused: ${name}`, { skip, timeout: 20_000 }, async () => {
    const it = await peer();
    for (const [index, [session, type, meta, payload]] of steps.entries()) {
      await it[session].send(type, meta, payload);
      // sessions are not ordered among each other
      if (index < steps.length - 1 && type !== "stage-begin") await frame(it, "staged");
    }
    const failure = await it.end;
    assert.equal(failure?.code, "E_FRAME", JSON.stringify(failure));
    assert.equal(d.status().failure, undefined);
    it.control.destroy();
    it.bulk.destroy();
  });
}

test("as many slots as there may be cost little before they are used", { skip, timeout: 30_000 }, async () => {
  const before = rssMib();
  const it = await peer();
  for (let round = 0; round < 3; round += 1) {
    it.frames.length = 0;
    await it.bulk.send("stage-begin", { stage: STAGE });
    await it.bulk.send("regions", { from: 0, regions: [[7, 0, MAX_REGION_SLOTS, 0]] });
    await frame(it, "staged");
  }
  const grown = rssMib() - before;
  assert.ok(grown < MAX_GROWTH_MIB, `${grown} MiB`);
  console.log(`${grown.toFixed(0)} MiB for ${MAX_REGION_SLOTS} slots`);
  it.control.destroy();
  it.bulk.destroy();
});

const READY: Record<string, { stage: object; code: string }> = {
  "a stage that is not here": { stage: { id: OTHER, regions: 1 }, code: "E_FRAME" },
  "more regions than came": { stage: { id: STAGE, regions: 2 }, code: "E_FRAME" },
  "another table": { stage: { id: STAGE, regions: 1 }, code: "E_IMAGE_DIGEST" },
};
for (const [name, { stage, code }] of Object.entries(READY)) {
  test(`refused: ready with ${name}`, { skip, timeout: 20_000 }, async () => {
    const dir = join(both.source.dir, `images-${code}-${name.length}`);
    imageProcess(process.pid, dir);
    const it = await peer();
    await it.bulk.send("stage-begin", { stage: STAGE });
    await it.bulk.send("regions", { from: 0, regions: [REGION] });
    await frame(it, "staged");
    const { digest } = await sendImages(dir, it.control);
    await it.control.send("ready", { digest, areas: "0".repeat(64), stage });
    if (code === "E_FRAME") assert.equal((await it.end)?.code, code);
    else assert.equal(((await frame(it, "refused")).meta as { failure: FailureData }).failure.code, code);
    assert.equal(d.status().images.received, false);
    it.control.destroy();
    it.bulk.destroy();
  });
}

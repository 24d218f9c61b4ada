/** Properties of what another node sends: frames, handshakes, metas of frames, tokens, kept frames, JSON lines. */
import assert from "node:assert/strict";
import { after, before, describe } from "node:test";
import { crc32 } from "node:zlib";
import * as fc from "fast-check";
import { unpackFrames, packFrames } from "../../src/host/kept-frames.js";
import { arpClaim, arpProbe, arpWanted, gratuitousArp } from "../../src/host/frames.js";
import { parseReply, parseCommand, COMMAND, encodeCommand } from "../../src/transfer/pages/control.js";
import { FrameParser, HEADER_BYTES, KIND, type RawFrame } from "../../src/transfer/link/frame.js";
import { readFailure, readOffer, readWelcome } from "../../src/transfer/link/hello.js";
import { signReceipt, verifyReceipt } from "../../src/transfer/link/receipt.js";
import { signToken, verifyToken } from "../../src/transfer/link/token.js";
import type { LinkIdentity } from "../../src/transfer/link/index.js";
import { FRAMES, moverLine, requestLine, sourceRequest, type FrameType } from "../../src/transfer/mover/messages.js";
import { parseMeta } from "../../src/transfer/mover/process.js";
import { frameBytes, HELLO, makePki, type Pki } from "../transfer/link-support.js";
import { fuzz, fuzzJson, mutatedBytes, mutatedJsonText, mutatedText } from "./mutate.js";
import { DIGEST, FAILURE } from "./samples.js";

const LIMITS = { meta: 2000, payload: 5000 };
const FRAMES_OF_ONE = [
  frameBytes(0, "pages", { slot: 1, runs: [1] }, Buffer.alloc(700, 7)),
  frameBytes(1, "t", { a: "ü" }),
  frameBytes(2, "", {}, undefined, KIND.ping),
  frameBytes(3, "credit", { frames: 2 }, Buffer.from("x")),
];
const stream = Buffer.concat(FRAMES_OF_ONE);

function read(bytes: Buffer, step: number): RawFrame[] {
  const parser = new FrameParser({ ...LIMITS });
  const frames: RawFrame[] = [];
  for (let at = 0; at < bytes.length; at += step) {
    parser.push(bytes.subarray(at, at + step), (frame) => frames.push(frame));
  }
  return frames;
}
const chunked = (bytes: fc.Arbitrary<Buffer>): fc.Arbitrary<[Buffer, number]> =>
  fc.tuple(bytes, fc.constantFrom(1, 7, 31, 32, 33, 1000, 1 << 20));
const bounded = (frames: readonly RawFrame[]): void => {
  for (const { type, meta, payload } of frames) {
    assert.match(type, /^(?:[a-zA-Z][a-zA-Z0-9._-]{0,63})?$/);
    assert.ok(typeof meta === "object" && !Array.isArray(meta) && payload.length <= LIMITS.payload);
  }
};
const whole = read(stream, 1 << 20);
fuzz(
  "frames of a stream that was changed are those before the change, as they were",
  chunked(mutatedBytes([stream])),
  ([bytes, step]) => read(bytes, step),
  (frames) => {
    bounded(frames);
    for (const [index, frame] of frames.entries()) assert.deepEqual(frame, whole[index]);
  },
);

const u32 = fc.oneof(fc.nat(40), fc.constantFrom(0xffff_ffff, 2 ** 31, 2001, 5001, 2000, 5000), fc.nat(0xffff_ffff));
const forged = fc
  .record({
    total: fc.option(u32),
    high: fc.constantFrom(0, 0, 0, 1),
    low: fc.constantFrom(0, 0, 0, 7),
    kind: fc.nat(10),
    typeBytes: fc.nat(70),
    zero: fc.constantFrom(0, 0, 0, 9),
    metaBytes: u32,
    payloadBytes: u32,
    body: mutatedText(['{"a":1}', 'pages{"a":1}', "t[]", "x{}"]),
  })
  .map(({ total, high, low, kind, typeBytes, zero, metaBytes, payloadBytes, body }) => {
    const head = Buffer.alloc(HEADER_BYTES);
    const rest = Buffer.from(body);
    const lengths = rest.length % 2 === 0 ? metaBytes : Math.max(0, rest.length - typeBytes);
    const payload = rest.length % 2 === 0 ? payloadBytes : 0;
    head.write("FRY1", 0, "latin1");
    head.writeUInt32BE(total ?? (HEADER_BYTES + typeBytes + lengths + payload) % 2 ** 32, 4);
    head.writeUInt32BE(high, 8);
    head.writeUInt32BE(low, 12);
    head.writeUInt8(kind, 16);
    head.writeUInt8(typeBytes, 17);
    head.writeUInt16BE(zero, 18);
    head.writeUInt32BE(lengths, 20);
    head.writeUInt32BE(payload, 24);
    head.writeUInt32BE(crc32(rest, crc32(head.subarray(0, 28))), 28);
    return Buffer.concat([head, rest]);
  });
fuzz(
  "frames with a right checksum and anything in them",
  chunked(forged),
  ([bytes, step]) => read(bytes, step),
  bounded,
);

const OFFER = { versions: [1], hello: HELLO };
fuzzJson("an offer", [OFFER], readOffer, ({ version }) => assert.equal(version, 1));
fuzzJson("a welcome", [{ version: 1 }], readWelcome);
fuzzJson("a refusal", [FAILURE], (value) => readFailure(value));

const sha256 = DIGEST;
const stage = "0".repeat(32);
const METAS: Record<FrameType, unknown> = {
  "images-begin": { files: 1, bytes: 9 },
  file: { name: "core-1.img", size: 1, offset: 0 },
  manifest: { files: [{ name: "core-1.img", size: 1, sha256 }] },
  stale: { stage },
  ready: { digest: sha256, areas: sha256, stage: { id: stage, regions: 1 } },
  state: { digest: sha256, areas: null, stage: null },
  refused: { what: "pages", failure: FAILURE },
  complete: { slots: 1 },
  pages: { slot: 1, runs: [1, 2] },
  "stage-begin": { stage },
  regions: { from: 0, regions: [[7, 0x200000, 512, 0]] },
  "stage-pages": { data: [0, 1], zero: [1, 1] },
  staged: { frames: 1 },
  credit: { frames: 1 },
  need: { id: 1 },
  missing: { id: 1, runs: [[0, 1]], received: 1 },
  fault: { slot: 1, pages: 1 },
  "volume-open": { stream: 1, kind: "tree", gentle: true },
  "volume-data": { stream: 1 },
  "volume-eof": { stream: 1 },
  "volume-exit": { stream: 1, exitCode: 0, signal: null, lines: ["x"] },
  "volume-final": {},
};
for (const type of Object.keys(FRAMES) as FrameType[]) {
  assert.doesNotThrow(() => parseMeta(type, METAS[type]), type);
  fuzzJson(`meta of frame ${type}`, [METAS[type]], (meta) => parseMeta(type, meta), undefined, { share: 0.4 });
}
fuzzJson("a line to the mover", [{ id: 1, request: { verb: "scan", pids: { 1: 7 } } }], (line) => {
  const envelope = requestLine.safeParse(line);
  return envelope.success && sourceRequest.safeParse(envelope.data.request).success;
});
fuzzJson("a line of the mover", [{ id: 1, ok: false, failure: FAILURE }], (line) => moverLine.safeParse(line).success);
fuzz("a line of the page daemon", mutatedText(['{"missing":[0,1]}', '{"reset":true}']), parseReply);
fuzz("commands to the page daemon", mutatedBytes([encodeCommand("fill", 1, 2)]), (bytes) =>
  bytes.length < COMMAND ? undefined : parseCommand(bytes, 0),
);

const to = { mac: Buffer.from([2, 254, 0, 0, 0, 100]), ip: Buffer.from([10, 77, 0, 100]) };
const frame = Buffer.alloc(80);
to.mac.copy(frame, 10);
frame.writeUInt16BE(0x0800, 22);
to.ip.copy(frame, 40);
const packed = packFrames([frame, frame]);
fuzz(
  "kept frames",
  mutatedBytes([packed]),
  (payload) => unpackFrames(payload, to),
  ({ frames }, payload) => {
    assert.ok(frames.reduce((sum, one) => sum + one.length, 0) <= payload.length);
    for (const one of frames) assert.ok(one.subarray(10, 16).equals(to.mac) && one.subarray(40, 44).equals(to.ip));
  },
);
fuzz("answers to ARP", mutatedBytes(gratuitousArp("02:fe:00:00:00:64", "10.77.0.100")), (bytes) =>
  arpClaim(bytes, "10.77.0.100"),
);
fuzz("probes by ARP", mutatedBytes([arpProbe("02:fe:00:00:00:64", "10.77.0.100")]), (bytes) =>
  arpWanted(bytes, "10.77.0.100"),
);

describe("signed statements", () => {
  let pki: Pki;
  let identity: LinkIdentity;
  before(async () => {
    pki = await makePki();
    identity = await pki.identity("node-a");
  });
  after(() => pki.remove());
  const fields = { workload: "redis", operation: "redis.migrate.1", digest: DIGEST };
  const handOver = { ...fields, from: 1, to: 2, source: "node-a", destination: "node-b" };
  const owned = { ...fields, epoch: 2, owner: "node-a" };
  // made when it runs: the keys are not there yet
  const change = fc.nat();
  fuzz(
    "a token that was changed in anything is refused",
    change,
    (seed) => {
      const token = signToken(handOver, identity);
      const [changed = ""] = fc.sample(mutatedJsonText(token), { numRuns: 1, seed });
      const { from: _from, ...expect } = handOver;
      const accepted = verifyToken(JSON.parse(changed), identity, expect);
      assert.deepEqual({ ...accepted }, { ...token });
    },
    undefined,
    { share: 0.3 },
  );
  fuzz(
    "a receipt that was changed in anything is refused",
    change,
    (seed) => {
      const receipt = signReceipt({ ...fields, epoch: 2 }, identity);
      const [changed = ""] = fc.sample(mutatedJsonText(receipt), { numRuns: 1, seed });
      assert.deepEqual({ ...verifyReceipt(JSON.parse(changed), identity, owned) }, { ...receipt });
    },
    undefined,
    { share: 0.3 },
  );
});

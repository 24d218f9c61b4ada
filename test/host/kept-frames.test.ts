/** Frames to a link that is down are kept and put, as the kernel has them; what comes over the wire is not trusted. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { FrameList, KEEP_LIMIT, packFrames, unpackFrames } from "../../src/host/kept-frames.js";
import { frameMatch, isFrameTo, MAX_FRAME_BYTES, VNET_BYTES } from "../../src/host/frame-socket.js";
import { run } from "../../src/host/exec.js";

const to = frameMatch({ mac: "02:fe:00:00:00:07", ip: "10.9.0.7" });
function frame(bytes = 64): Buffer {
  const made = Buffer.alloc(VNET_BYTES + bytes);
  to.mac.copy(made, VNET_BYTES);
  made.writeUInt16BE(0x0800, VNET_BYTES + 12);
  to.ip.copy(made, VNET_BYTES + 30);
  return made;
}

test("only IPv4 frames to the workload's MAC and address are taken from a payload", () => {
  const good = [frame(34), frame(1514), frame(MAX_FRAME_BYTES - VNET_BYTES)];
  const wrong = [frame(33), frame(MAX_FRAME_BYTES - VNET_BYTES + 1), frame(), frame(), frame(), Buffer.alloc(3)];
  wrong[2]?.writeUInt8(0xff, VNET_BYTES);
  wrong[3]?.writeUInt16BE(0x0806, VNET_BYTES + 12);
  wrong[4]?.writeUInt8(8, VNET_BYTES + 33);
  const { frames, wrong: count } = unpackFrames(packFrames([...wrong, ...good]), to);
  assert.deepEqual(frames, good);
  assert.equal(count, wrong.length);
  assert.ok(good.every((one) => isFrameTo(one, to)));
});

test("a payload that is cut or lies about lengths gives what is whole, and never throws", () => {
  const payload = packFrames([frame(), frame(100)]);
  for (let length = 0; length < payload.length; length += 1) {
    assert.ok(unpackFrames(payload.subarray(0, length), to).frames.length <= 1);
  }
  const huge = Buffer.concat([Buffer.from([0xff, 0xff, 0xff, 0xff]), frame()]);
  assert.deepEqual(unpackFrames(huge, to), { frames: [], wrong: 1 });
  assert.deepEqual(unpackFrames(Buffer.alloc(64), to), { frames: [], wrong: 1 });
});

test("no more is kept than the limit says, in frames and in bytes", () => {
  const many = new FrameList();
  for (let i = 0; i < KEEP_LIMIT.frames + 5; i += 1) many.add(frame());
  assert.deepEqual([many.frames.length, many.dropped], [KEEP_LIMIT.frames, 5]);
  const large = new FrameList();
  for (let i = 0; i < 200; i += 1) large.add(frame(60_000));
  assert.ok(large.frames.length * 60_000 <= KEEP_LIMIT.bytes && large.dropped > 0);
});

test(
  "what is sent while the link is down is kept and arrives once; what got through before is not kept",
  { skip: process.getuid?.() === 0 ? false : "needs root" },
  async () => {
    const program = fileURLToPath(new URL("kept-frames-main.js", import.meta.url));
    const { stdout } = await run("unshare", ["--net", "--mount", process.execPath, program], { timeoutMs: 60_000 });
    const seen = JSON.parse(stdout) as { early: number; words: string[]; bytes: number; put: boolean };
    assert.deepEqual(seen.words, ["a1", "a2", "a3", "b1", "b2"]);
    assert.equal(seen.early, 0);
    assert.equal(seen.put, true);
  },
);

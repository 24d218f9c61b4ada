import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { latencyPicture } from "../../deploy/demo/picture.js";
import { toPng } from "../../deploy/demo/png.js";
import { encode, ReplyReader } from "../../deploy/demo/resp.js";
import { toSvg } from "../../deploy/demo/svg.js";
import {
  countSequence,
  judge,
  longestLatency,
  parseSamples,
  type MoveResult,
  type Sample,
} from "../../deploy/demo/verdict.js";

const sample = (value: number, sentAt: number, latencyMs = 0.2): Sample => ({ value, sentAt, latencyMs });
const move = (more: Partial<MoveResult> = {}): MoveResult => ({
  mode: "cold",
  source: "node-a",
  destination: "node-b",
  outcome: "moved",
  blackoutMs: 200,
  clientGapMs: 400,
  residualMs: 0,
  totalMs: 900,
  from: 10,
  to: 900,
  ...more,
});
const good = {
  samples: [sample(1, 0), sample(2, 5), sample(3, 20, 400)],
  connections: 1,
  breaks: 0,
  errors: 0,
  digests: ["d", "d", "d"],
  copies: [1, 1],
  moves: [move(), move()],
  asked: 2,
};

describe("the verdict", () => {
  test("everything in order", () => {
    const verdict = judge(good);
    assert.deepEqual(verdict.problems, []);
    assert.ok(verdict.ok && verdict.connectionIntact && verdict.memoryIntact);
    assert.equal(verdict.liveCopies, 1);
  });
  test("each thing that can be wrong makes it not ok, in words", () => {
    const cases: [Partial<typeof good>, RegExp][] = [
      [{ samples: [sample(1, 0), sample(4, 1)] }, /2 values never/],
      [{ samples: [sample(1, 0), sample(2, 1), sample(2, 2)] }, /1 values came twice/],
      [{ samples: [] }, /no answer/],
      [{ connections: 2 }, /2 connections/],
      [{ breaks: 1 }, /broke 1 times/],
      [{ errors: 1 }, /1 error/],
      [{ digests: ["d", "e", "d"] }, /digest/],
      [{ digests: [] }, /digest/],
      [{ copies: [1, 2] }, /2 copies/],
      [{ copies: [0, 1] }, /0 copies/],
      [{ moves: [move()] }, /only 1 of 2/],
      [{ moves: [move(), move({ outcome: "rolled-back" })] }, /rolled-back/],
    ];
    for (const [change, words] of cases) {
      const verdict = judge({ ...good, ...change });
      assert.equal(verdict.ok, false);
      assert.match(verdict.problems.join("; "), words);
    }
  });
  test("missing and duplicates are counted apart", () => {
    assert.deepEqual(countSequence([5, 6, 9, 8, 9, 10].map((value) => sample(value, 0))), {
      missing: 2,
      duplicates: 2,
    });
  });
  test("the gap is the longest request that overlaps the move", () => {
    const samples = [sample(1, 0, 900), sample(2, 1000, 5), sample(3, 1500, 300), sample(4, 3000, 700)];
    assert.equal(longestLatency(samples, 1000, 2000), 300);
    assert.equal(longestLatency(samples, 1700, 1750), 300);
    assert.equal(longestLatency([], 0, 1), 0);
  });
  test("a torn last line is left out, anything else odd is refused", () => {
    assert.equal(parseSamples("1\t2.5\t0.1\n2\t3.5\t0.2\n3\t4.").length, 2);
    assert.equal(parseSamples("").length, 0);
    assert.throws(() => parseSamples("1\t2\t3\nx\t1\t1\n4\t5\t6\n"), /line 2/);
  });
});

describe("the picture", () => {
  const samples = Array.from({ length: 500 }, (_, i) => sample(i, 1000 + i * 10, i === 250 ? 412 : 0.3));
  const picture = latencyPicture(samples, [move({ clientGapMs: 412, from: 3000, to: 4500, mode: "<cold>" })]);
  test("is well-formed SVG with escaped words", () => {
    const svg = toSvg(picture);
    assert.match(svg, /^<svg xmlns/);
    assert.match(svg, /client gap 412 ms, blackout 200 ms/);
    assert.match(svg, /&lt;cold&gt;/);
    assert.doesNotMatch(svg, /NaN|Infinity|undefined/);
  });
  test("is a PNG that a strict reader takes", (t) => {
    const png = toPng(picture);
    assert.equal(png.subarray(1, 4).toString(), "PNG");
    const dir = mkdtempSync(join(tmpdir(), "ferry-png-"));
    try {
      const file = join(dir, "a.png");
      writeFileSync(file, png);
      const script =
        "import sys,zlib,struct\nd=open(sys.argv[1],'rb').read();p=8;z=b''\nwhile p<len(d):\n n,=struct.unpack('>I',d[p:p+4]);b=d[p+4:p+8+n];c,=struct.unpack('>I',d[p+8+n:p+12+n]);assert zlib.crc32(b)==c\n if b[:4]==b'IHDR': w,h=struct.unpack('>II',b[4:12])\n if b[:4]==b'IDAT': z+=b[4:]\n p+=12+n\nassert len(zlib.decompress(z))==h*(1+3*w)\nprint(w,h)";
      const python = spawnSync("python3", ["-c", script, file], { encoding: "utf8" });
      if (python.error !== undefined) return t.skip("no python3 to read it with");
      assert.equal(python.stdout.trim(), "1920 800", python.stderr);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
  test("says so when there were no answers", () => {
    assert.match(toSvg(latencyPicture([], [])), /no answer/);
  });
});

describe("redis' protocol", () => {
  test("replies cut at every byte", () => {
    const stream = Buffer.from(":42\r\n+OK\r\n$5\r\na\r\nbc\r\n$-1\r\n-ERR no\r\n");
    for (let cut = 0; cut <= stream.length; cut += 1) {
      const reader = new ReplyReader();
      const replies = [...reader.feed(stream.subarray(0, cut)), ...reader.feed(stream.subarray(cut))];
      assert.deepEqual(
        replies.map((reply) => (reply instanceof Error ? reply.message : reply)),
        [42, "OK", "a\r\nbc", null, "ERR no"],
      );
    }
  });
  test("requests are arrays of bulk strings with byte lengths", () => {
    assert.equal(encode(["SET", "k", "é"]).toString(), "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\né\r\n");
  });
});

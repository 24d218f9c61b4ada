/** Logs are read in chunks: put together they are what was written, wherever the chunks were cut. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { tornStart, wholeEnd } from "../../src/agent/letters.js";

test("text read in chunks of any size is the text", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.integer({ min: 4, max: 40 }), (text, size) => {
      const bytes = Buffer.from(text);
      let read = "";
      for (let from = 0; from < bytes.length;) {
        const chunk = bytes.subarray(from, from + size);
        const end = wholeEnd(chunk, from + chunk.length === bytes.length);
        assert.ok(end > 0, "it gets on");
        read += chunk.subarray(0, end).toString("utf8");
        from += end;
      }
      assert.equal(read, bytes.toString("utf8"));
    }),
  );
});

test("the tail of a text begins with a whole letter", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", minLength: 1 }), fc.nat(), (text, at) => {
      const bytes = Buffer.from(text);
      const tail = bytes.subarray(at % bytes.length);
      const shown = tail.subarray(tornStart(tail)).toString("utf8");
      assert.ok(bytes.toString("utf8").endsWith(shown));
    }),
  );
});

test("a reader gets on over any bytes, and waits at the end for the rest of a letter", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1 }), (bytes) => {
      assert.ok(wholeEnd(bytes, false) > 0);
      assert.ok(bytes.length - wholeEnd(bytes, true) < 4);
    }),
  );
  assert.equal(wholeEnd(Buffer.from("é").subarray(0, 1), true), 0);
  assert.equal(wholeEnd(Buffer.from("aé").subarray(0, 2), false), 1);
  assert.equal(tornStart(Buffer.from([0x80, 0x80, 0x80, 0x80])), 0);
});

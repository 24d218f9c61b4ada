/** Areas that criu was told are empty get their pages into its pagemaps, as if it had written them itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { parsePagemap } from "../../src/transfer/images/criu.js";
import { addLazyPages, parseLeftOut, without, type PageRange } from "../../src/transfer/images/left-out.js";
import { pagemap } from "../support/criu-images.js";

const P = 4096;
const LAZY = 2;
const PRESENT = 4;
const BASE = 0x7f0000000000;
const at = (page: number): number => BASE + page * P;

/** Ranges in order, without overlaps, as pages from BASE on. */
const ranges = fc
  .array(fc.tuple(fc.integer({ min: 0, max: 5 }), fc.integer({ min: 1, max: 6 })), { maxLength: 12 })
  .map((gaps) => {
    let next = 0;
    return gaps.map(([gap, pages]): PageRange => {
      const start = at(next + gap);
      next += gap + pages;
      return { start, pages };
    });
  });
const pagesOf = (list: readonly PageRange[]): number[] =>
  list.flatMap(({ start, pages }) => Array.from({ length: pages }, (_, i) => start + i * P));

test("what is left of ranges without others is what is left of single pages", () => {
  fc.assert(
    fc.property(ranges, ranges, (some, others) => {
      const taken = new Set(pagesOf(others));
      assert.deepEqual(
        pagesOf(without(some, others)),
        pagesOf(some).filter((page) => !taken.has(page)),
      );
    }),
  );
});

test("a pagemap is completed: every page once, in order, what criu listed stays; again changes nothing", () => {
  fc.assert(
    fc.property(ranges, ranges, (stacks, present) => {
      // the area is pages 0 to 199; criu has listed the stacks in it, and lazy pages before and behind it
      const area = { start: at(0), pages: 200 };
      const before = { start: BASE - 8 * P, pages: 3, flags: LAZY };
      const behind = { start: at(300), pages: 5, flags: LAZY };
      const image = pagemap(7, [before, ...stacks.map((range) => ({ ...range, flags: PRESENT })), behind]);
      const whole = addLazyPages("pagemap-1.img", image, [area], present);
      const { pagesId, entries } = parsePagemap("pagemap-1.img", whole);
      assert.equal(pagesId, 7);
      assert.deepEqual(
        pagesOf(entries.filter((entry) => entry.present)),
        pagesOf(stacks),
        "the pages in the image stay as they are",
      );
      const lazy = entries.filter((entry) => entry.lazy);
      assert.deepEqual(pagesOf(lazy), pagesOf([before, ...without(present, stacks), behind]));
      assert.deepEqual(addLazyPages("pagemap-1.img", whole, [area], present), whole);
    }),
  );
});

test("a list that is cut or odd is refused in words", () => {
  assert.deepEqual(parseLeftOut(""), []);
  assert.deepEqual(parseLeftOut("12 7f0000000000 7f0000002000\n"), [{ hostPid: 12, start: BASE, end: BASE + 2 * P }]);
  for (const text of [
    "12 7f0000000000 7f0000002000",
    "12 7f0000000000\n",
    "12 7f0000000001 7f0000002000\n",
    "12 7f0000002000 7f0000000000\n",
    "-1 7f0000000000 7f0000002000\n",
    "12 7F0000000000 7f0000002000\n",
    "12 7f0000000000 7f0000002000 \n",
    "12 17f0000000000000 7f0000002000\n",
    "\n",
  ]) {
    assert.throws(() => parseLeftOut(text), { code: "E_PAGES" }, JSON.stringify(text));
  }
});

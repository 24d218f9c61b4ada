/** What the kernel counts as a task's own pages, against which criu's list is held. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseSmaps } from "../../src/transfer/pages/source.js";

const area = (head: string, anonymousKb: number, flags: string): string =>
  `${head}\nSize: 8 kB\nAnonymous:      ${anonymousKb} kB\nSwap:           4 kB\nVmFlags: ${flags} \n`;

test("pages in memory and in swap count, those of the kernel's own areas do not", () => {
  const text =
    area("7f6c12ec8000-7f6c12eca000 rw-p 00000000 00:00 0 ", 4, "rd wr mr mw me ac") +
    area("7f6c12eca000-7f6c12ecc000 rw-s 00000000 00:01 7  /dev/zero (deleted)", 0, "rd wr sh mr mw me ms") +
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\nAnonymous: 4 kB\n";
  assert.deepEqual(parseSmaps(text), [
    { start: 0x7f6c12ec8000, end: 0x7f6c12eca000, private: true, pages: 2 },
    { start: 0x7f6c12eca000, end: 0x7f6c12ecc000, private: false, pages: 1 },
  ]);
});

test("what the kernel may drop at any time is not lost with a move: glibc's state of getrandom()", () => {
  const [droppable] = parseSmaps(
    area("7f6c12ec9000-7f6c12eca000 rw-p 00000000 00:00 0 ", 4, "rd wr mr me nr wf dd dp"),
  );
  assert.equal(droppable?.pages, 0);
  // wiped on fork and left out of core dumps, but kept otherwise
  const [kept] = parseSmaps(area("7f6c12ec9000-7f6c12eca000 rw-p 00000000 00:00 0 ", 4, "rd wr mr me nr wf dd"));
  assert.equal(kept?.pages, 2);
});

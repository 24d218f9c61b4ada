import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { JOURNAL_FILE, openJournal } from "../../src/agent/journal.js";
import { FerryError } from "../../src/model/failure.js";

const root = mkdtempSync(join(tmpdir(), "ferry-journal-"));
after(() => rmSync(root, { recursive: true, force: true }));
let count = 0;
const fresh = (): string => join(root, `j${count++}`);

function written(entries: number): string {
  const dir = fresh();
  const { journal } = openJournal(dir);
  for (let i = 0; i < entries; i++) journal.append({ kind: "note", i, text: "päge ⛴" });
  journal.close();
  return dir;
}
const code = (expected: string) => (error: unknown) => error instanceof FerryError && error.code === expected;

test("what was appended is read back in order, and the chain goes on", () => {
  const dir = written(3);
  const { journal, entries, torn } = openJournal(dir);
  assert.equal(torn, false);
  assert.deepEqual(
    entries.map((e) => e.body["i"]),
    [0, 1, 2],
  );
  journal.append({ kind: "note", i: 3 });
  journal.close();
  const again = openJournal(dir);
  assert.equal(again.entries.length, 4);
  again.journal.close();
});

test("cut at every byte of its last line, it opens with exactly the entries before", () => {
  const dir = written(3);
  const file = join(dir, JOURNAL_FILE);
  const whole = readFileSync(file);
  const start = whole.lastIndexOf(10, whole.length - 2) + 1;
  for (let cut = start; cut < whole.length; cut++) {
    const copy = fresh();
    openJournal(copy).journal.close();
    writeFileSync(join(copy, JOURNAL_FILE), whole.subarray(0, cut));
    const { journal, entries, torn } = openJournal(copy);
    assert.equal(entries.length, 2, `cut at ${cut}`);
    assert.equal(torn, cut > start);
    journal.append({ kind: "after" });
    journal.close();
    const reopened = openJournal(copy);
    assert.equal(reopened.entries.length, 3);
    reopened.journal.close();
  }
});

test("a flipped bit anywhere in a whole line is damage, and the line is named", () => {
  const dir = written(3);
  const file = join(dir, JOURNAL_FILE);
  const whole = readFileSync(file);
  const firstEnd = whole.indexOf(10);
  for (let at = 0; at < whole.length - 1; at += 7) {
    const bad = Buffer.from(whole);
    bad[at] = (bad[at] ?? 0) ^ 1;
    if (bad[at] === 10 || whole[at] === 10) continue;
    writeFileSync(file, bad);
    assert.throws(
      () => openJournal(dir),
      (error) =>
        error instanceof FerryError &&
        error.code === "E_JOURNAL_CORRUPT" &&
        (at >= firstEnd || error.message.includes("line 1")),
      `byte ${at}`,
    );
  }
});

test("a line that was removed, repeated or put in from elsewhere breaks the chain", () => {
  const dir = written(4);
  const file = join(dir, JOURNAL_FILE);
  const lines = readFileSync(file, "utf8").trimEnd().split("\n");
  const variants = [
    [lines[0], lines[2], lines[3]],
    [lines[0], lines[0], lines[1]],
    [lines[0], lines[2], lines[1], lines[3]],
    [lines[1]],
    [...lines, "not json"],
    [...lines, "{}"],
  ];
  for (const variant of variants) {
    writeFileSync(file, `${variant.join("\n")}\n`);
    assert.throws(() => openJournal(dir), code("E_JOURNAL_CORRUPT"));
  }
});

test("a second agent is refused while the first lives", () => {
  const dir = fresh();
  const { journal } = openJournal(dir);
  assert.throws(() => openJournal(dir), code("E_JOURNAL_LOCKED"));
  journal.close();
  openJournal(dir).journal.close();
});

test("an empty file and a missing file are an empty journal", () => {
  const dir = fresh();
  openJournal(dir).journal.close();
  truncateSync(join(dir, JOURNAL_FILE), 0);
  const { journal, entries } = openJournal(dir);
  assert.equal(entries.length, 0);
  journal.close();
  appendFileSync(join(dir, JOURNAL_FILE), "\n");
  assert.throws(() => openJournal(dir), code("E_JOURNAL_CORRUPT"));
});

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { JOURNAL_FILE, RESERVE_BYTES, openJournal } from "../../src/agent/journal.js";
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

test("whole lines that are cut off at the end leave a sound chain: by itself the file does not say so", () => {
  const dir = written(4);
  const file = join(dir, JOURNAL_FILE);
  const lines = readFileSync(file, "utf8").trimEnd().split("\n");
  writeFileSync(file, `${lines.slice(0, 2).join("\n")}\n`);
  const { journal, entries, torn } = openJournal(dir);
  // What it does not know and runs here is found by its absence: see e2e/rest, "lacks later ones".
  assert.deepEqual([entries.length, torn], [2, false]);
  journal.close();
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

// --- a full disk ----------------------------------------------------------------------------------------------------

/** A small file system of a kind, mounted; undefined when this machine can't. */
function smallDisk(kind: "tmpfs" | "ext4"): { dir: string; fill(): void; free(): void; gone(): void } | undefined {
  const dir = fresh();
  mkdirSync(dir);
  let source = "tmpfs";
  if (kind === "ext4") {
    source = `${dir}.img`;
    writeFileSync(source, "");
    truncateSync(source, 16 * 2 ** 20);
    if (spawnSync("mkfs.ext4", ["-q", "-m", "0", source]).status !== 0) return undefined;
  }
  const options = kind === "ext4" ? "loop" : "size=8m";
  if (spawnSync("mount", ["-t", kind, "-o", options, source, dir]).status !== 0) return undefined;
  const file = join(dir, "filler");
  return {
    dir,
    fill: () => {
      for (const size of ["64k", "1k", "1"]) spawnSync("dd", ["if=/dev/zero", `of=${file}.${size}`, `bs=${size}`]);
    },
    free: () => {
      for (const size of ["64k", "1k", "1"]) rmSync(`${file}.${size}`, { force: true });
    },
    gone: () => {
      spawnSync("umount", [dir]);
    },
  };
}

for (const kind of ["tmpfs", "ext4"] as const) {
  test(`on a full ${kind} the closing entries still fit, and nothing new is begun until there is room`, (t) => {
    const disk = smallDisk(kind);
    if (disk === undefined) {
      t.skip(`a small ${kind} can't be mounted here`);
      return;
    }
    try {
      const { journal } = openJournal(disk.dir);
      journal.append({ kind: "note", i: 0 });
      journal.demandRoom();
      disk.fill();
      assert.throws(() => journal.demandRoom(), code("E_NO_SPACE"));
      const before = journal.length;
      const text = "x".repeat(2000);
      // Half of the reserve and more: beyond the point where it is topped up.
      const entries = Math.floor((RESERVE_BYTES * 0.9) / 2300);
      for (let i = 0; i < entries; i++) journal.append({ kind: "note", i, text });
      assert.equal(journal.length, before + entries);
      assert.throws(() => {
        for (let i = 0; i < 1000; i++) journal.append({ kind: "note", i, text });
      }, code("E_NO_SPACE"));
      const { length } = journal;
      disk.free();
      journal.demandRoom();
      journal.append({ kind: "note", again: true });
      journal.close();
      const again = openJournal(disk.dir);
      assert.equal(again.entries.length, length + 1, "nothing is lost, nothing is torn");
      assert.equal(again.torn, false);
      again.journal.close();
    } finally {
      disk.gone();
    }
  });
}

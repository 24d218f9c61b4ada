/** What is at an address may change without a write to it: page tables that are moved, pages that are given back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { PageEntries } from "../../../src/transfer/trackers/entries.js";
import { PAGE, presentPages, Program, Shadow, skipWithout, WAYS } from "./kit.js";

for (const { name, kind, make } of WAYS) {
  const skip = await skipWithout(kind);
  test(`${name}: page tables that are moved about are seen`, { skip, timeout: 60_000 }, async () => {
    const program = await Program.start("moves");
    const [tracker, shadow] = [make(), new Shadow()];
    try {
      const look = async (): Promise<void> => shadow.apply(await tracker.scan(program.pids), tracker);
      await look();
      await look();
      for (let turn = 0; turn < 3; turn++) {
        await program.ask("swap");
        if (turn === 1) await look();
      }
      await program.freeze();
      const present = presentPages(program.pids);
      await look();
      shadow.check(present);
    } finally {
      await tracker.end();
      await program.end();
    }
  });

  // With PAGEMAP_SCAN criu takes a page of the huge zero page for one that is not there, as Ferry does.
  const reads = name === "soft-dirty" || name === "compare without PAGEMAP_SCAN";
  if (!reads) continue;
  test(`${name}: a huge page that was given back and reads as zero is seen`, { skip, timeout: 60_000 }, async () => {
    const program = await Program.start("moves");
    const [tracker, shadow] = [make(), new Shadow()];
    try {
      const look = async (): Promise<void> => shadow.apply(await tracker.scan(program.pids), tracker);
      await look();
      await look();
      await program.ask("zero");
      await program.freeze();
      const present = presentPages(program.pids);
      await look();
      shadow.check(present);
    } finally {
      await tracker.end();
      await program.end();
    }
  });
}

const [PRESENT, SWAPPED, SOFT_DIRTY] = [2 ** 31, 2 ** 30, 2 ** 23];
const ZERO_FRAME = 77;
/** Words of entries: the frame, and bits of the upper word. */
const words = (...entries: [frame: number, bits: number][]): Uint32Array =>
  Uint32Array.from(entries.flatMap(([frame, bits]) => [frame % 2 ** 32, Math.floor(frame / 2 ** 32) + bits]));

function entriesAt(...parts: [start: number, words: Uint32Array][]): PageEntries {
  const entries = new PageEntries();
  for (const [start, part] of parts) entries.add(start, part);
  return entries;
}

function changes(now: PageEntries, before?: PageEntries): [number, number][] {
  const found: [number, number][] = [];
  now.changed(before, ZERO_FRAME, (start, pages) => found.push([start / PAGE, pages]));
  return found;
}

test("a page is clean when its soft-dirty bit is clear and its frame is the same", () => {
  const at = 1000 * PAGE;
  const before = entriesAt([at, words([5, PRESENT], [6, PRESENT], [7, SWAPPED], [0, 0], [2 ** 40, PRESENT])]);
  assert.deepEqual(changes(before), [
    [1000, 3],
    [1004, 1],
  ]);
  assert.deepEqual(changes(before, before), []);
  const cases: [string, [number, number][], [number, number][]][] = [
    ["written", [[5, PRESENT + SOFT_DIRTY]], [[1000, 1]]],
    ["moved", [[9, PRESENT]], [[1000, 1]]],
    ["swapped out", [[5, SWAPPED]], [[1000, 1]]],
    ["the zero page", [[ZERO_FRAME, PRESENT + SOFT_DIRTY]], []],
    ["given back", [[0, SOFT_DIRTY]], []],
    ["other bits", [[5, PRESENT + 2 ** 29 + 2 ** 24]], []],
  ];
  for (const [name, now, expected] of cases)
    assert.deepEqual(changes(entriesAt([at, words(...now)]), before), expected, name);
});

test("entries of areas that share a page table, or lie across two, stay apart", () => {
  const one: [number, number] = [5, PRESENT];
  const before = entriesAt([510 * PAGE, words(one, one, one)], [520 * PAGE, words(one)]);
  assert.deepEqual(changes(before), [
    [510, 2],
    [512, 1],
    [520, 1],
  ]);
  assert.deepEqual(changes(entriesAt([511 * PAGE, words(one)], [520 * PAGE, words(one, one)]), before), [[521, 1]]);
});

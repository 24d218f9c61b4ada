import assert from "node:assert/strict";
import { createCipheriv, randomBytes } from "node:crypto";
import { test } from "node:test";
import { pageDigest } from "../../../src/host/page-digest.js";
import { pagesOfEntries } from "../../../src/host/pagemap.js";
import { hasPendingSignal } from "../../../src/host/ptrace-procfs.js";
import { mapAnonymous } from "../../../src/host/syscall.js";
import { lazyAreas } from "../../../src/transfer/trackers/areas.js";

test("areas that criu restores lazily are those of private anonymous memory", () => {
  const maps = [
    "55d0c0000000-55d0c0001000 r-xp 00000000 fe:01 123                        /usr/bin/redis-server",
    "55d0c1000000-55d0c1002000 rw-p 00000000 00:00 0                          [heap]",
    "7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ",
    "7f0000001000-7f0000003000 ---p 00000000 00:00 0                          [anon:jit]",
    "7f0000003000-7f0000004000 rw-s 00000000 00:01 77                         /dev/zero (deleted)",
    "7f0000004000-7f0000005000 rw-p 00000000 00:05 9                          /dev/zero",
    "7f0000200000-7f0000400000 rw-p 00000000 00:0f 5                          /anon_hugepage (deleted)",
    "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]",
    "7ffd00022000-7ffd00026000 r--p 00000000 00:00 0                          [vvar]",
    "7ffd00026000-7ffd00028000 r--p 00000000 00:00 0                          [vvar_vclock]",
    "7ffd00028000-7ffd0002a000 r-xp 00000000 00:00 0                          [vdso]",
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
    "",
  ].join("\n");
  const names = lazyAreas(maps).map(({ start, end }) => `${start.toString(16)}-${end.toString(16)}`);
  assert.deepEqual(names, [
    "55d0c1000000-55d0c1002000",
    "7f0000000000-7f0000001000",
    "7f0000001000-7f0000003000",
    "7ffd00000000-7ffd00021000",
  ]);
});

test("entries of pagemap: present or swapped, not the zero page, soft-dirty where asked for", () => {
  const [present, swapped, soft] = [1n << 63n, 1n << 62n, 1n << 55n];
  const values = [
    0n,
    present | 5n,
    present | soft | 6n,
    swapped | soft,
    present | soft | 99n,
    soft,
    present | 7n,
    present,
  ];
  const entries = Buffer.alloc(values.length * 8);
  for (const [index, value] of values.entries()) entries.writeBigUInt64LE(value, index * 8);
  const pages = (softDirtyOnly: boolean): number[][] => {
    const found: number[][] = [];
    pagesOfEntries(entries, 0x10000, 99, softDirtyOnly, (start, count) => found.push([start, count]));
    return found;
  };
  assert.deepEqual(pages(false), [
    [0x11000, 3],
    [0x16000, 2],
  ]);
  assert.deepEqual(pages(true), [[0x12000, 2]]);
});

test("the digest of a page is a GMAC, as node makes one too", () => {
  const memory = mapAnonymous(3 * 4096);
  randomBytes(2 * 4096).copy(memory.bytes, 4096);
  const key = randomBytes(16);
  const digest = pageDigest(memory, key);
  assert.equal(digest.name, "gmac", "slower without, and nobody noticed");
  for (const offset of [0, 4096, 8192, 4096]) {
    const { words } = digest;
    digest.digest(offset, 4096);
    const cipher = createCipheriv("aes-128-gcm", key, Buffer.alloc(12));
    cipher.setAAD(memory.bytes.subarray(offset, offset + 4096));
    cipher.final();
    assert.deepEqual(Buffer.from(words.buffer, words.byteOffset, 16), cipher.getAuthTag());
  }
});

test("a pending signal that is not blocked is seen", () => {
  const status = (pending: string, shared: string, blocked: string): string =>
    `Name:\tx\nSigPnd:\t${pending}\nShdPnd:\t${shared}\nSigBlk:\t${blocked}\n`;
  assert.equal(hasPendingSignal(status("0000000000000000", "0000000000000200", "0000000000000000")), true);
  assert.equal(hasPendingSignal(status("0000000000000200", "0000000000000000", "fffffffe7ffbfeff")), false);
  assert.equal(hasPendingSignal(status("0000000000000000", "0000000000000000", "0000000000000000")), false);
});

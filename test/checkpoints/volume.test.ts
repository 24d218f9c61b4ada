/** A volume directory into a store and back, with everything that a file system can hold. Needs root. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { appendFile, open } from "node:fs/promises";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { restoreVolume, saveVolume } from "../../src/checkpoints/volume.js";
import type { FerryError } from "../../src/model/failure.js";
import type { Manifest, Store } from "../../src/store/index.js";
import { begin, facts, openLocal, storedBytes, tempDir } from "../store/kit.js";

const MIB = 1024 * 1024;
const run = (file: string, ...args: string[]): string => execFileSync(file, args, { encoding: "latin1" });
const has = (file: string): boolean => ["/usr/bin", "/bin", "/usr/sbin"].some((dir) => existsSync(join(dir, file)));
const root = process.getuid?.() === 0 ? {} : { skip: "needs root" };

async function save(store: Store, dir: string): Promise<Manifest> {
  const writer = await begin(store, "files");
  await saveVolume(dir, writer);
  return writer.commit(facts("files"));
}

async function restore(store: Store, manifest: Manifest, dir: string): Promise<void> {
  const reader = await store.read(manifest.workload, manifest.id);
  try {
    await restoreVolume(reader, dir);
  } finally {
    await reader.close();
  }
}

/** Everything that is to come back, in words. */
function listing(dir: string): string {
  const found = run("find", dir, "-mindepth", "0", "-printf", String.raw`%P %y %m %U %G %s %T@ %n %l\0`);
  const devices = run("find", dir, "-type", "b,c", "-exec", "stat", "-c", "%n %t %T", "{}", "+").replaceAll(dir, "");
  const attributes = has("getfattr") ? run("getfattr", "-R", "-h", "-d", "-m", "-", "--absolute-names", dir) : "";
  const sums = run("find", dir, "-type", "f", "-exec", "sha256sum", "{}", "+").replaceAll(dir, "");
  const sorted = (text: string, by: string): string => text.split(by).sort().join("\n");
  return [
    // a directory's size is the file system's matter
    sorted(found.replaceAll(/( d \d+ \d+ \d+) \d+/g, "$1"), "\0"),
    sorted(devices, "\n"),
    sorted(attributes.replaceAll(dir, ""), "\n\n"),
    sorted(sums, "\n"),
  ].join("\n");
}

async function odd(t: TestContext): Promise<{ dir: string; store: Store }> {
  const base = await tempDir(t);
  const dir = join(base, "volume");
  mkdirSync(join(dir, "data", "deep", "deeper"), { recursive: true, mode: 0o711 });
  writeFileSync(join(dir, "data", "small"), "small");
  writeFileSync(join(dir, "data", "empty"), "");
  writeFileSync(join(dir, "data", "big"), randomBytes(5 * MIB + 17));
  writeFileSync(join(dir, "data", "setuid"), "x", { mode: 0o755 });
  run("chown", "1234:4321", join(dir, "data", "setuid"));
  run("chmod", "4755", join(dir, "data", "setuid"));
  run("chmod", "1777", join(dir, "data", "deep"));
  run("ln", join(dir, "data", "big"), join(dir, "data", "deep", "the-same"));
  run("ln", "-s", "/etc/shadow", join(dir, "data", "absolute"));
  run("ln", "-s", "../../..", join(dir, "data", "out"));
  run("ln", "-s", "small", join(dir, "data", "within"));
  run("ln", "-s", "x".repeat(300), join(dir, "data", "far"));
  run("mkfifo", join(dir, "data", "pipe"));
  run("mknod", join(dir, "whiteout"), "c", "0", "0");
  run("mknod", join(dir, "null"), "c", "1", "3");
  for (const name of [
    "with space",
    "two\nlines",
    "*?[a]",
    "-rf",
    "--checkpoint-action=exec=false",
    "\\back",
    "a=b",
    "ä€😀",
  ])
    writeFileSync(join(dir, "data", name), name);
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/data/`), Buffer.from([0xff, 0xfe, 0x80])]), "no UTF-8");
  writeFileSync(join(dir, "data", "n".repeat(255)), "long");
  const far = join(dir, ...Array.from({ length: 12 }, (_, i) => `${"d".repeat(60)}${i}`));
  mkdirSync(far, { recursive: true });
  writeFileSync(join(far, "end"), "far away");
  const sparse = await open(join(dir, "data", "sparse"), "w");
  await sparse.write(randomBytes(8192), 0, 8192, 3 * MIB);
  await sparse.write(Buffer.from("end"), 0, 3, 700 * MIB);
  await sparse.truncate(1024 * MIB);
  await sparse.close();
  writeFileSync(join(dir, "data", "GNUSparseFile.0"), "a name of tar's own");
  if (has("setfattr")) {
    run("setfattr", "-n", "user.note", "-v", "0x00ff0a3d", join(dir, "data", "small"));
    run("setfattr", "-n", "trusted.overlay.opaque", "-v", "y", join(dir, "data", "deep"));
  }
  if (has("setfacl")) {
    run("setfacl", "-m", "u:1234:rwx", join(dir, "data", "small"));
    run("setfacl", "-d", "-m", "g:4321:rx", join(dir, "data", "deep"));
  }
  run("touch", "-d", "1960-01-01 00:00:00.123456789", join(dir, "data", "small"));
  run("touch", "-h", "-d", "2001-02-03 04:05:06.7", join(dir, "data", "within"));
  run("touch", "-d", "2040-01-01", dir);
  run("chmod", "750", dir);
  const store = await openLocal(join(base, "store"));
  t.after(() => store.close());
  return { dir, store };
}

describe("a volume in a checkpoint", root, () => {
  it("comes back with everything that a file system holds", async (t) => {
    const { dir, store } = await odd(t);
    const manifest = await save(store, dir);
    const back = `${dir}-back`;
    await restore(store, manifest, back);
    assert.equal(listing(back), listing(dir));
    assert.ok(statSync(join(back, "data", "sparse")).blocks < 200, "holes are holes");
    assert.equal(statSync(join(back, "data", "big")).ino, statSync(join(back, "data", "deep", "the-same")).ino);
    // Again, over what is there: the same, and nothing beside it.
    writeFileSync(join(back, "data", "later"), "x");
    await restore(store, manifest, back);
    assert.equal(listing(back), listing(dir));
    assert.deepEqual(
      readdirSync(join(dir, "..")).sort(),
      ["store", "volume", "volume-back"],
      "nothing is left beside it",
    );
  });

  it("costs what changed, even if something grew before it", async (t) => {
    const { dir, store } = await odd(t);
    await save(store, dir);
    const first = await storedBytes(store, "packs/");
    readFileSync(join(dir, "data", "big"));
    await save(store, dir);
    const second = await storedBytes(store, "packs/");
    assert.ok(second - first < 16_384, `nothing changed, and ${second - first} bytes were added`);
    await appendFile(join(dir, "data", "a=b"), randomBytes(100_000));
    writeFileSync(join(dir, "data", "anew"), randomBytes(10));
    const manifest = await save(store, dir);
    const third = await storedBytes(store, "packs/");
    assert.ok(third - second < 180_000, `100 KB changed, and ${third - second} bytes were added`);
    await restore(store, manifest, `${dir}-back`);
    assert.equal(listing(`${dir}-back`), listing(dir));
  });

  it("that is empty comes back, too", async (t) => {
    const base = await tempDir(t);
    const store = await openLocal(join(base, "store"));
    t.after(() => store.close());
    mkdirSync(join(base, "nothing"));
    await restore(store, await save(store, join(base, "nothing")), join(base, "back"));
    assert.deepEqual(readdirSync(join(base, "back")), []);
  });

  it("fails in words, and what is there stays", async (t) => {
    const base = await tempDir(t);
    const store = await openLocal(join(base, "store"));
    t.after(() => store.close());
    await assert.rejects(save(store, join(base, "none")), (error: FerryError) => error.code === "E_VOLUME");
    const dir = join(base, "volume");
    mkdirSync(dir);
    writeFileSync(join(dir, "big"), randomBytes(3 * MIB));
    const manifest = await save(store, dir);
    const packs = run("find", join(base, "store", "packs"), "-type", "f", "-size", "+1000k")
      .trim()
      .split("\n");
    const pack = await open(packs[0] ?? "", "r+");
    await pack.write(Buffer.from([1, 2, 3, 4]), 0, 4, 500_000);
    await pack.close();
    writeFileSync(join(dir, "later"), "still here");
    await assert.rejects(restore(store, manifest, dir), (error: FerryError) => error.code === "E_STORE_CORRUPT");
    assert.deepEqual(readdirSync(dir).sort(), ["big", "later"]);
    assert.deepEqual(readdirSync(base).sort(), ["store", "volume"]);
    rmSync(dir, { recursive: true });
  });
});

/** One checkpoint as one file: whatever is wrong with it, nothing of it comes into a store; what is right mends one. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, type KeyObject } from "node:crypto";
import { chmod, mkdir, readFile, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import type { FailureCode, FerryError } from "../../src/model/failure.js";
import { collect, exportCheckpoint, fsck, importCheckpoint, type Manifest, type Store } from "../../src/store/index.js";
import { packKey } from "../../src/store/pack-format.js";
import { archiveOf, entriesOf, type ArchiveEntry } from "./archive-kit.js";
import { assertPages, begin, checkpoint, facts, keysOf, MASTER, newSigner, openLocal, OTHER_MASTER } from "./kit.js";
import { page, PAGE, range, tempDir } from "./kit.js";

const SEEDS = range(1, 400);

interface Made {
  store: Store;
  dir: string;
  manifest: Manifest;
  /** The exported bytes. */
  whole: Buffer;
}

async function exported(store: Store, workload: string, id: string): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of exportCheckpoint(store, workload, id)) parts.push(part);
  return Buffer.concat(parts);
}

async function make(t: TestContext, signer?: KeyObject): Promise<Made> {
  const dir = await tempDir(t);
  const store = await openLocal(dir, signer === undefined ? {} : { signer });
  await checkpoint(store, "web", range(100, 300));
  const writer = await begin(store, "web");
  await writer.file("inventory.img", { kind: "image" }, Buffer.from("image of web"));
  const memory = writer.stream("memory/1", { kind: "memory" });
  for (const [at, seed] of SEEDS.entries()) await memory.write(at * PAGE, page(seed));
  // Scattered, so that a leaf lies in a pack of its own.
  const far = writer.stream("memory/2", { kind: "memory" });
  for (let at = 0; at < 200; at += 1) await far.write(((at * 37) % 401) * PAGE, page(at + 1));
  const manifest = await writer.commit(facts("web"));
  return { store, dir, manifest, whole: await exported(store, "web", manifest.id) };
}

const everything = async (store: Store): Promise<string[]> => keysOf(store, "");

async function refuses(t: TestContext, body: Buffer, code: FailureCode | undefined, words?: RegExp): Promise<void> {
  const file = join(await tempDir(t), "x.ferry");
  await writeFile(file, body);
  const store = await openLocal(await tempDir(t));
  const before = await everything(store);
  await assert.rejects(importCheckpoint(store, file), (error: FerryError) => {
    if (code !== undefined) assert.equal(error.code, code, error.message);
    if (words !== undefined) assert.match(error.message, words);
    assert.match(error.code, /^E_(STORE_CORRUPT|STORE_SIGNATURE|STORE_KEY)$/);
    return true;
  });
  assert.deepEqual(await everything(store), before, "nothing was added");
}

describe("an exported checkpoint that is not whole", () => {
  it("is refused wherever a bit is flipped, and nothing is stored", async (t) => {
    const { whole } = await make(t);
    const places = new Set([
      0,
      7,
      8,
      12,
      60,
      whole.length - 1,
      whole.length - 33,
      whole.length - 36,
      whole.length - 200,
    ]);
    let at = 8;
    // Into every kind of entry: its head, its name, its middle.
    for (const { name, body } of entriesOf(whole)) {
      for (const place of [0, 5, 4 + name.length + 2]) places.add(at + place);
      at += 4 + name.length + 8;
      places.add(at + Math.floor(body.length / 2)).add(at + body.length - 1);
      at += body.length;
    }
    for (const place of places) {
      const bad = Buffer.from(whole);
      bad[place] = (bad[place] ?? 0) ^ (1 << (place % 8));
      await refuses(t, bad, undefined);
    }
    assert.ok(places.size > 20);
  });

  it("is refused where it is cut or goes on", async (t) => {
    const { whole } = await make(t);
    for (const cut of [0, 5, 8, 11, 40, 1000, whole.length - 33, whole.length - 1]) {
      await refuses(t, whole.subarray(0, cut), "E_STORE_CORRUPT", /is cut/);
    }
    await refuses(t, Buffer.concat([whole, Buffer.from("x")]), "E_STORE_CORRUPT", /something follows/);
    await refuses(t, Buffer.from("FERRYAR1 of another time"), "E_STORE_CORRUPT", /format "1" is not known/);
    await refuses(t, Buffer.from("#!/bin/sh\n"), "E_STORE_CORRUPT", /does not begin as one/);
  });

  it("is refused with its own digest put right: each block has one that was signed", async (t) => {
    const { whole } = await make(t);
    const entries = entriesOf(whole);
    for (const [index, { name, body }] of entries.entries()) {
      for (const at of new Set([0, 30, Math.floor(body.length / 2), body.length - 100, body.length - 1])) {
        if (at < 0 || at >= body.length) continue;
        const bad = Buffer.from(body);
        bad[at] = (bad[at] ?? 0) ^ 4;
        const changed = entries.map((entry, i) => (i === index ? { name, body: bad } : entry));
        await refuses(t, archiveOf(changed), undefined);
      }
    }
  });
});

describe("a hostile file", () => {
  const change = async (
    t: TestContext,
    words: RegExp,
    how: (entries: ArchiveEntry[], made: Made) => ArchiveEntry[],
  ): Promise<void> => {
    const made = await make(t);
    await refuses(t, archiveOf(how(entriesOf(made.whole), made)), "E_STORE_CORRUPT", words);
  };

  it("that names what is no object is refused", async (t) => {
    for (const name of [
      "../../etc/shadow",
      "/etc/shadow",
      "packs/../../../etc/shadow",
      "store.json",
      "pins/web/x",
      "a\0b",
    ]) {
      await change(t, /is no object of a checkpoint/, (entries) => [...entries, { name, body: Buffer.from("root") }]);
    }
  });

  it("with too much, too little or in disorder is refused", async (t) => {
    const strange = "ab".repeat(16);
    await change(t, /nothing in it needs packs/, (entries) => [
      ...entries,
      { name: packKey(strange), body: entries.at(-1)?.body ?? Buffer.alloc(0) },
    ]);
    await change(t, /is in it twice/, (entries) => [...entries, ...entries.slice(-1)]);
    await change(t, /is missing in/, (entries) => entries.slice(0, -1));
    await change(t, /does not begin with a manifest/, (entries) => entries.slice(1));
    await change(t, /is not where it belongs/, (entries) => [...entries, ...entries.slice(0, 1)]);
    await change(t, /is not where it belongs/, (entries) => [...entries.slice(0, 1), ...entries.slice(1).toReversed()]);
    await change(t, /is not where it belongs/, ([first, ...rest]) => [
      first!,
      { ...first!, name: first!.name.replace("web", "wab") },
      ...rest,
    ]);
    await change(t, /is the manifest of web/, ([first, ...rest]) => [
      { ...first!, name: first!.name.replace("web", "wab") },
      ...rest,
    ]);
  });

  it("that promises more than there is takes no memory for it", async (t) => {
    const { whole } = await make(t);
    const huge = Buffer.from(whole);
    // The manifest's size.
    const at = 8 + 4 + huge.readUInt32LE(8);
    for (const [bytes, words] of [
      [2n ** 63n, /which none has/],
      [2n ** 40n, /which none has/],
      [900_000n, /is cut|is no object|too long/],
    ] as const) {
      huge.writeBigUInt64LE(bytes, at);
      await refuses(t, huge, "E_STORE_CORRUPT", words);
    }
    const name = Buffer.alloc(12);
    name.write("FERRYAR2", "latin1");
    name.writeUInt32LE(2 ** 31, 8);
    await refuses(t, name, "E_STORE_CORRUPT", /too long/);
  });

  it("that is no plain file, or can't be read, is refused in words", async (t) => {
    const dir = await tempDir(t);
    const store = await openLocal(await tempDir(t));
    await mkdir(join(dir, "directory"));
    await symlink("/dev/zero", join(dir, "endless"));
    execFileSync("mkfifo", [join(dir, "pipe")]);
    for (const name of ["directory", "endless", "pipe", "none"]) {
      await assert.rejects(importCheckpoint(store, join(dir, name)), { code: "E_REQUEST" });
    }
    // As large as one may be, of nothing: read through, in little memory.
    await writeFile(join(dir, "sparse"), "FERRYAR2");
    await truncate(join(dir, "sparse"), 2 ** 33);
    await chmod(join(dir, "sparse"), 0o600);
    await assert.rejects(importCheckpoint(store, join(dir, "sparse")), { code: "E_STORE_CORRUPT" });
  });
});

describe("who may bring a checkpoint", () => {
  it("signed by somebody who is not trusted: refused before anything of it is unpacked", async (t) => {
    const stranger = newSigner();
    const { whole, manifest } = await make(t, stranger);
    await refuses(t, whole, "E_STORE_SIGNATURE", /is not trusted/);
    const file = join(await tempDir(t), "x.ferry");
    await writeFile(file, whole);
    const friend = await openLocal(await tempDir(t), { trusted: [stranger] });
    await importCheckpoint(friend, file);
    await assertPages(friend, manifest, SEEDS);
  });

  it("encrypted with another key: refused, unless that key is given; then it is wrapped with the store's own", async (t) => {
    const { whole, manifest, store } = await make(t);
    const file = join(await tempDir(t), "x.ferry");
    await writeFile(file, whole);
    const dir = await tempDir(t);
    const other = await openLocal(dir, { masterKeys: [OTHER_MASTER] });
    const before = await everything(other);
    await assert.rejects(importCheckpoint(other, file), (error: FerryError) => {
      return error.code === "E_STORE_KEY" && error.message.includes(MASTER.id);
    });
    assert.deepEqual(await everything(other), before);
    await importCheckpoint(other, file, { keys: [MASTER] });
    // Opened by its own key alone.
    const again = await openLocal(dir, { masterKeys: [OTHER_MASTER] });
    await assertPages(again, manifest, SEEDS);
    assert.deepEqual((await fsck(again)).problems, []);
    // What is written there is not written with a key that came from outside.
    assert.equal(again.ring.current, other.ring.current);

    // Or it is exported for the other's key from the start.
    const parts: Buffer[] = [];
    for await (const part of exportCheckpoint(store, "web", manifest.id, { forKey: OTHER_MASTER })) parts.push(part);
    await writeFile(file, Buffer.concat(parts));
    const third = await openLocal(await tempDir(t), { masterKeys: [OTHER_MASTER] });
    await importCheckpoint(third, file);
    await assertPages(third, manifest, SEEDS);
    await refuses(t, Buffer.concat(parts), "E_STORE_KEY");
  });

  it("encrypted for a store that is not, or the other way round: refused", async (t) => {
    const { whole } = await make(t);
    const file = join(await tempDir(t), "x.ferry");
    await writeFile(file, whole);
    const plain = await openLocal(await tempDir(t), { masterKeys: [] });
    await assert.rejects(importCheckpoint(plain, file), { code: "E_STORE_KEY" });
    const { id } = await checkpoint(plain, "plain", range(1, 40));
    await refuses(t, await exported(plain, "plain", id), "E_STORE_KEY", /the other way round/);
    await writeFile(file, await exported(plain, "plain", id));
    const another = await openLocal(await tempDir(t), { masterKeys: [] });
    assert.equal((await importCheckpoint(another, file)).checkpoint, id);
  });
});

describe("an import", () => {
  it("mends what is damaged or missing in the store, and nothing else", async (t) => {
    const { store, dir, manifest, whole } = await make(t);
    const file = join(await tempDir(t), "x.ferry");
    await writeFile(file, whole);
    const [first, second] = (await store.tree(manifest)).packs.map(({ id }) => packKey(id));
    assert.ok(first !== undefined && second !== undefined);
    const body = await readFile(join(dir, first));
    body[Math.floor(body.length / 2)] = (body[Math.floor(body.length / 2)] ?? 0) ^ 1;
    await writeFile(join(dir, first), body);
    await store.backend.delete(second);
    await writeFile(join(dir, `checkpoints/web/${manifest.id}.json`), "{}");
    const broken = await openLocal(dir);
    assert.ok((await fsck(broken)).problems.length > 0);
    const { mended, newPacks, already } = await importCheckpoint(broken, file);
    assert.deepEqual([mended, newPacks, already], [2, 1, false]);
    const after = await openLocal(dir);
    assert.deepEqual((await fsck(after)).problems, []);
    await assertPages(after, manifest, SEEDS);
    assert.equal((await importCheckpoint(after, file)).already, true);
  });

  it("never takes the place of another checkpoint that is whole", async (t) => {
    const signer = newSigner();
    const { store, manifest, whole } = await make(t, signer);
    const file = join(await tempDir(t), "x.ferry");
    await writeFile(file, whole);
    const { signManifest } = await import("../../src/store/manifest.js");
    const key = `checkpoints/web/${manifest.id}.json`;
    await store.backend.replace(key, signManifest({ ...manifest, reason: "another" }, signer));
    await assert.rejects(importCheckpoint(store, file), { code: "E_STATE" });
    assert.equal((await store.manifest("web", manifest.id)).reason, "another");
  });

  it("beside two others, a writer and the collector: everything is whole", async (t) => {
    const { whole, manifest } = await make(t);
    const file = join(await tempDir(t), "x.ferry");
    await writeFile(file, whole);
    const dir = await tempDir(t);
    const [one, two, three] = await Promise.all([openLocal(dir), openLocal(dir), openLocal(dir)]);
    const imports = [importCheckpoint(one, file), importCheckpoint(two, file)];
    const made = checkpoint(three, "web", range(5, 300));
    const collecting = (async () => {
      for (let i = 0; i < 5; i += 1) await collect(three, { graceMs: 0, leaseMs: 60_000 });
    })();
    await Promise.all([...imports, made, collecting]);
    const store = await openLocal(dir);
    assert.deepEqual((await fsck(store)).problems, []);
    await assertPages(store, manifest, SEEDS);
  });

  it("waits for the collector where that is about to take packs of it", async (t) => {
    const { store, manifest, whole } = await make(t);
    const file = join(await tempDir(t), "x.ferry");
    await writeFile(file, whole);
    for (const id of await store.ids("web")) await store.delete("web", id);
    // Marked, and the grace period goes on.
    await collect(store, { graceMs: 0, leaseMs: 60_000 });
    await collect(store, { graceMs: 3_600_000, leaseMs: 60_000 });
    assert.ok((await keysOf(store, "condemned/")).length > 0);
    await assert.rejects(importCheckpoint(store, file), { code: "E_BUSY" });
    for (let run = 0; run < 3; run += 1) await collect(store, { graceMs: 0, leaseMs: 60_000 });
    await importCheckpoint(store, file);
    await assertPages(store, manifest, SEEDS);
    assert.equal(
      createHash("sha256")
        .update(await exported(store, "web", manifest.id))
        .digest().length,
      32,
    );
  });
});

describe("an export", () => {
  it("of what is damaged fails, and says so, before it is whole", async (t) => {
    const { store, dir, manifest } = await make(t);
    const pack = (await store.tree(manifest)).packs[0]?.id ?? "";
    const body = await readFile(join(dir, packKey(pack)));
    body[100] = (body[100] ?? 0) ^ 1;
    await writeFile(join(dir, packKey(pack)), body);
    await assert.rejects(exported(await openLocal(dir), "web", manifest.id), { code: "E_STORE_CORRUPT" });
    assert.deepEqual(await keysOf(store, "leases/"), []);
  });
});

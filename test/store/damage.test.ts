/** What is not as it was written is never handed on: flipped bits, wrong keys, strangers' signatures, hostile names. */
import assert from "node:assert/strict";
import { chmod, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import type { FerryError, FailureCode } from "../../src/model/failure.js";
import { toFailure } from "../../src/model/failure.js";
import { fsck, loadKey, type Store } from "../../src/store/index.js";
import { masterKey } from "../../src/store/keys.js";
import { signManifest, manifestKey } from "../../src/store/manifest.js";
import { decodeLeaf, encodeLeaf } from "../../src/store/extents.js";
import { decodeTree, encodeTree } from "../../src/store/tree.js";
import { assertPages, begin, checkpoint, facts, keysOf, MASTER, newSigner, openLocal, OTHER_MASTER } from "./kit.js";
import { page, PAGE, range, tempDir } from "./kit.js";

const refused = (code: FailureCode) => (error: FerryError) => error.code === code;

/** Everything that a restore and fsck would do, with a store that remembers nothing. @returns the failures */
async function lookAtAll(dir: string): Promise<FailureCode[]> {
  const failures: FailureCode[] = [];
  let store: Store | undefined;
  try {
    store = await openLocal(dir);
    for (const workload of await store.workloads()) {
      for (const listed of await store.list(workload)) if ("failure" in listed) failures.push(listed.failure.code);
    }
    for (const { failure } of (await fsck(store)).problems) failures.push(failure.code);
  } catch (error) {
    failures.push(toFailure(error).code);
  }
  return failures;
}

describe("damage", () => {
  it("is found for a flipped bit in any object, wherever it lies", async (t) => {
    const dir = await tempDir(t);
    const store = await openLocal(dir);
    const writer = await begin(store, "web");
    await writer.file("core-1.img", { kind: "image" }, Buffer.from("registers"));
    // Scattered, so that a leaf lies in a pack of its own.
    const memory = writer.stream("memory/1", { kind: "memory" });
    for (let at = 0; at < 200; at += 1) await memory.write(((at * 37) % 401) * PAGE, page(at + 1));
    await writer.commit(facts("web"));
    const { length: before } = await lookAtAll(dir);
    assert.equal(before, 0);
    let flips = 0;
    for (const prefix of ["store.json", "keys/", "packs/", "checkpoints/"]) {
      const keys = await keysOf(store, prefix);
      assert.ok(keys.length > 0, prefix);
      for (const key of keys) {
        const path = join(dir, key);
        const good = await readFile(path);
        const places = new Set([0, 9, 30, good.length - 1, good.length - 60, good.length - 100, good.length - 130]);
        for (let i = 0; i < 6; i += 1) places.add(Math.floor(Math.random() * good.length));
        for (const at of [...places].filter((place) => place >= 0 && place < good.length)) {
          const bad = Buffer.from(good);
          bad[at] = (bad[at] ?? 0) ^ (1 << Math.floor(Math.random() * 8));
          await writeFile(path, bad);
          assert.ok((await lookAtAll(dir)).length > 0, `byte ${at} of ${key} (${good.length} bytes) was not missed`);
          flips += 1;
        }
        await writeFile(path, good);
      }
    }
    assert.ok(flips > 40);
    assert.deepEqual(await lookAtAll(dir), []);
  });

  it("is found before a byte of it is read", async (t) => {
    const dir = await tempDir(t);
    const store = await openLocal(dir);
    const manifest = await checkpoint(store, "web", range(1, 64));
    const reader = await store.read("web", manifest.id);
    const pack = reader.tree.packs[0];
    const path = join(dir, "packs", pack?.id.slice(0, 2) ?? "", pack?.id ?? "");
    const body = await readFile(path);
    body[100] = (body[100] ?? 0) ^ 1;
    await writeFile(path, body);
    await assert.rejects(reader.read("memory/1", 0, PAGE), refused("E_STORE_CORRUPT"));
    await reader.close();
  });

  it("of one checkpoint's packs is reported with every checkpoint that needs them", async (t) => {
    const dir = await tempDir(t);
    const store = await openLocal(dir);
    const first = await checkpoint(store, "web", range(1, 64));
    const second = await checkpoint(store, "web", range(2, 64));
    const pack = (await store.tree(first)).packs[0]?.id ?? "";
    await store.backend.delete(`packs/${pack.slice(0, 2)}/${pack}`);
    const { problems } = await fsck(await openLocal(dir), { deep: false });
    assert.ok(problems.length > 0 && problems.every(({ failure }) => failure.code === "E_STORE_CORRUPT"));
    const named = new Set(problems.flatMap(({ checkpoints }) => checkpoints));
    assert.deepEqual([...named].sort(), [`web/${first.id}`, `web/${second.id}`].sort());
  });
});

describe("keys", () => {
  it("open nothing when they are the wrong ones, or none, or when none is needed", async (t) => {
    const dir = await tempDir(t);
    await checkpoint(await openLocal(dir), "web", range(1, 4));
    await assert.rejects(openLocal(dir, { masterKeys: [OTHER_MASTER] }), (error: FerryError) => {
      return (
        error.code === "E_STORE_KEY" && error.message.includes(MASTER.id) && error.message.includes(OTHER_MASTER.id)
      );
    });
    await assert.rejects(openLocal(dir, { masterKeys: [] }), refused("E_STORE_KEY"));
    const plain = await tempDir(t);
    const manifest = await checkpoint(await openLocal(plain, { masterKeys: [] }), "web", range(1, 40));
    await assertPages(await openLocal(plain, { masterKeys: [] }), manifest, range(1, 40));
    await assert.rejects(openLocal(plain), refused("E_STORE_KEY"));
  });

  it("rotate: the new one reads everything, the old one nothing, blocks are shared on", async (t) => {
    const dir = await tempDir(t);
    const before = await checkpoint(await openLocal(dir), "web", range(1, 300));
    const both = await openLocal(dir, { masterKeys: [OTHER_MASTER, MASTER] });
    const rotation = await both.ring.rotate(false);
    assert.deepEqual([rotation.wrapped, rotation.forgotten, rotation.left], [1, 1, []]);
    // Again, as after an interruption: there is nothing left to do.
    const again = await (await openLocal(dir, { masterKeys: [OTHER_MASTER, MASTER] })).ring.rotate(false);
    assert.deepEqual([again.wrapped, again.forgotten], [0, 0]);
    await assert.rejects(openLocal(dir), refused("E_STORE_KEY"));
    const store = await openLocal(dir, { masterKeys: [OTHER_MASTER] });
    await assertPages(store, before, range(1, 300));
    const after = await checkpoint(store, "web", range(1, 301));
    assert.ok(after.newBytes < before.newBytes / 20);
    await assertPages(store, after, range(1, 301));
    const { problems, keys } = await fsck(store);
    assert.deepEqual(problems, []);
    assert.deepEqual(
      keys.map(({ masterKeys, opened, current }) => ({ masterKeys, opened, current })),
      [{ masterKeys: [OTHER_MASTER.id], opened: true, current: true }],
    );
  });

  it("rotate with a new data key: the next checkpoint is whole, and the old key goes with the old ones", async (t) => {
    const dir = await tempDir(t);
    const store = await openLocal(dir);
    const before = await checkpoint(store, "web", range(1, 300));
    const old = store.ring.current;
    const { fresh } = await store.ring.rotate(true);
    assert.ok(fresh !== undefined);
    // Whoever opens it from now on writes with the new one; who opened it before goes on.
    await assertPages(store, before, range(1, 300));
    const later = await openLocal(dir);
    assert.equal(later.ring.current, fresh);
    const after = await checkpoint(later, "web", range(1, 300));
    assert.ok(after.newBytes > before.newBytes * 0.9, "nothing is shared with what lies under the old key");
    const third = await checkpoint(later, "web", range(1, 301));
    assert.ok(third.newBytes < before.newBytes / 20, "but with what lies under the new one");
    await later.delete("web", before.id);
    const { problems, keys } = await fsck(later);
    assert.deepEqual(problems, []);
    assert.deepEqual(
      new Map(keys.map(({ dataKey, packs }) => [dataKey, packs > 0])),
      new Map([
        [old, false],
        [fresh, true],
      ]),
    );
    await assertPages(later, third, range(1, 301));
  });

  it("rotate never gives up the last wrapping that is good", async (t) => {
    const dir = await tempDir(t);
    const manifest = await checkpoint(await openLocal(dir), "web", range(1, 40));
    const store = await openLocal(dir, { masterKeys: [OTHER_MASTER, MASTER] });
    const [old = ""] = await keysOf(store, "keys/");
    // A wrapping with the new key is there already, and damaged.
    const damaged = old.replace(MASTER.id, OTHER_MASTER.id);
    const body = await readFile(join(dir, old));
    body[60] = (body[60] ?? 0) ^ 1;
    await writeFile(join(dir, damaged), body, { mode: 0o600 });
    assert.ok((await fsck(store)).problems.length > 0);
    await store.ring.rotate(false);
    assert.deepEqual(await keysOf(store, "keys/"), [damaged]);
    await assertPages(await openLocal(dir, { masterKeys: [OTHER_MASTER] }), manifest, range(1, 40));

    // Two who rotate to different keys at once: one of them at least opens it then.
    const third = masterKey(Buffer.alloc(32, 9));
    const [one, two] = await Promise.all([
      openLocal(dir, { masterKeys: [MASTER, OTHER_MASTER] }),
      openLocal(dir, { masterKeys: [third, OTHER_MASTER] }),
    ]);
    await Promise.all([one.ring.rotate(false), two.ring.rotate(false)]);
    await assertPages(await openLocal(dir, { masterKeys: [third, MASTER] }), manifest, range(1, 40));
    await assert.rejects(openLocal(dir, { masterKeys: [OTHER_MASTER] }), refused("E_STORE_KEY"));

    // What no given key opens stays, and is said.
    const key = (await keysOf(two, "keys/"))[0] ?? "";
    const strange = `keys/${"7".repeat(32)}/${MASTER.id.split("").toReversed().join("")}`;
    await two.backend.put(strange, await readFile(join(dir, key)));
    const opened = await openLocal(dir, { masterKeys: [third, MASTER] });
    const { left } = await opened.ring.rotate(false);
    assert.deepEqual(left, [{ dataKey: "7".repeat(32), masterKey: strange.split("/")[2] }]);
    assert.ok((await keysOf(opened, "keys/")).includes(strange));
  });

  it("come from a file, the environment or a command, and errors never show them", async (t) => {
    const dir = await tempDir(t);
    const hex = "ab".repeat(32);
    const path = join(dir, "key");
    await writeFile(path, `${hex}\n`, { mode: 0o600 });
    const { id } = await loadKey({ from: "file", path });
    process.env["FERRY_TEST_STORE_KEY"] = Buffer.from(hex, "hex").toString("base64");
    t.after(() => delete process.env["FERRY_TEST_STORE_KEY"]);
    assert.equal((await loadKey({ from: "environment", variable: "FERRY_TEST_STORE_KEY" })).id, id);
    assert.equal((await loadKey({ from: "command", command: ["cat", path] })).id, id);
    await chmod(path, 0o644);
    await assert.rejects(loadKey({ from: "file", path }), /can be read by others/);
    for (const source of [
      { from: "file", path: join(dir, "none") },
      { from: "environment", variable: "FERRY_TEST_NO_KEY" },
      { from: "command", command: ["sh", "-c", `echo ${hex.slice(2)}`] },
      { from: "command", command: ["false"] },
    ] as const) {
      await assert.rejects(loadKey(source), (error: FerryError) => {
        return error.code === "E_STORE_KEY" && !JSON.stringify(error.data.message).includes("abab");
      });
    }
  });
});

describe("signatures and names", () => {
  it("of a stranger are not believed, neither is a manifest under another name", async (t) => {
    const dir = await tempDir(t);
    const stranger = newSigner();
    const theirs = await checkpoint(await openLocal(dir, { signer: stranger }), "web", range(1, 8));
    const store = await openLocal(dir);
    await assert.rejects(store.read("web", theirs.id), refused("E_STORE_SIGNATURE"));
    await assertPages(await openLocal(dir, { trusted: [stranger] }), theirs, range(1, 8));
    const ours = await checkpoint(store, "web", range(1, 8));
    const body = await readFile(join(dir, manifestKey("web", ours.id)));
    await store.backend.put(manifestKey("other", ours.id), body);
    await assert.rejects(store.read("other", ours.id), refused("E_STORE_CORRUPT"));
    // Signed, but what it says was put in place of what it said.
    const changed = String(body).replace("node-a", "node-b");
    await store.backend.replace(manifestKey("web", ours.id), Buffer.from(changed));
    await assert.rejects(store.read("web", ours.id), refused("E_STORE_SIGNATURE"));
    await store.backend.replace(manifestKey("web", ours.id), signManifest({ ...ours, epoch: 4 }, stranger));
    await assert.rejects(store.read("web", ours.id), refused("E_STORE_SIGNATURE"));
  });

  it("that lead out of a directory are refused when written and when read", async (t) => {
    const store = await openLocal(await tempDir(t));
    const writer = await begin(store, "web");
    const stream = { kind: "file" as const, bytes: 0, dataBytes: 0, windows: [] };
    for (const name of ["../../etc/shadow", "/etc/shadow", "a/../../b", "a//b", "", "a/.", "a\nb", "x".repeat(5000)]) {
      assert.throws(() => writer.stream(name, { kind: "file" }), refused("E_REQUEST"));
      const tree = encodeTree({ format: 1, streams: [{ ...stream, name }], packs: [] });
      assert.throws(() => decodeTree(tree, "x"), refused("E_STORE_CORRUPT"));
    }
    await writer.abort();
    await assert.rejects(store.begin({ workload: "../web" }), refused("E_NAME"));
    await assert.rejects(store.read("../web", "20260101T000000000Z-0000000000000000"), refused("E_CHECKPOINT_UNKNOWN"));
  });

  it("maps are parsed strictly", () => {
    const leaf = { packs: ["00".repeat(16)], runs: [{ at: 3, blocks: 5, pack: 0, block: 70 }] };
    const good = encodeLeaf(leaf);
    assert.deepEqual(decodeLeaf(good), leaf);
    const bad = [
      good.subarray(0, -1),
      Buffer.concat([good, Buffer.alloc(1)]),
      Buffer.from([2, 0, 0]),
      encodeLeaf({ ...leaf, runs: [{ at: 8190, blocks: 5, pack: 0, block: 0 }] }),
      encodeLeaf({ ...leaf, runs: [{ at: 0, blocks: 5, pack: 1, block: 0 }] }),
      Buffer.from([1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
    ];
    for (const body of bad) assert.throws(() => decodeLeaf(body), refused("E_STORE_CORRUPT"));
  });
});

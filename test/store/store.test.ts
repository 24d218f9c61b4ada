/** Checkpoints in a store: what comes back, what it costs, what is shared. The same list for both places. */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import type { FerryError } from "../../src/model/failure.js";
import { diffCheckpoints, exportCheckpoint, fsck, importCheckpoint } from "../../src/store/index.js";
import { s3Backend, Store, localBackend, type Backend, type StreamDiff } from "../../src/store/index.js";
import { NO_S3, S3Server } from "../support/s3-server.js";
import { assertPages, begin, checkpoint, facts, MASTER, openLocal, page, PAGE, pages } from "./kit.js";
import { range, SIGNER, storedBytes, tempDir } from "./kit.js";

async function collectAll<T>(source: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of source) all.push(item);
  return all;
}

function list(open: () => Promise<Backend>): void {
  let store: Store;
  before(async () => {
    store = await Store.open({
      backend: await open(),
      masterKeys: [MASTER],
      trusted: [],
      signer: SIGNER,
      packBlocks: 256,
    });
  });
  after(() => store.close());

  it("gives back streams whole, in chunks and by the page", async () => {
    const writer = await begin(store, "whole");
    const odd = Buffer.concat([pages(1, 3), Buffer.from("and some more")]);
    await writer.file("upper/etc/passwd", { kind: "file", meta: { mode: 0o644, uid: 0 } }, odd);
    await writer.file("empty", { kind: "file" }, Buffer.alloc(0));
    const memory = writer.stream("memory/7", { kind: "memory" });
    // Addresses as a process has them: high, and far from each other.
    const high = 0x7f12_3456_7000;
    await memory.write(high, pages(100, 40));
    await memory.write(0x40_0000, pages(200, 20));
    const manifest = await writer.commit(facts("whole"));
    assert.equal(manifest.streams, 3);
    const reader = await store.read("whole", manifest.id);
    assert.deepEqual(await reader.content("upper/etc/passwd"), odd);
    assert.equal((await reader.content("empty")).length, 0);
    assert.deepEqual(reader.stream("upper/etc/passwd").meta, { mode: 0o644, uid: 0 });
    assert.deepEqual(await reader.read("memory/7", high + 5 * PAGE, PAGE), page(105));
    assert.deepEqual(
      await reader.read("memory/7", high - PAGE, 2 * PAGE),
      Buffer.concat([Buffer.alloc(PAGE), page(100)]),
    );
    assert.deepEqual(await reader.read("memory/7", high + 10, 5), page(100).subarray(10, 15));
    await reader.prefetch([{ stream: "memory/7", offset: 0x40_0000, bytes: 20 * PAGE }]);
    const chunks = await collectAll(reader.chunks("memory/7"));
    assert.deepEqual(
      chunks.map(({ offset, data }) => [offset, data.length]),
      [
        [0x40_0000, 20 * PAGE],
        [high, 40 * PAGE],
      ],
    );
    assert.deepEqual(chunks[1]?.data, pages(100, 40));
    await reader.close();
  });

  it("stores zero pages for nothing", async () => {
    const writer = await begin(store, "zeros");
    const memory = writer.stream("memory/1", { kind: "memory" });
    for (let at = 0; at < 16; at += 1) await memory.write(at * 1024 * PAGE, Buffer.alloc(1024 * PAGE));
    const manifest = await writer.commit(facts("zeros"));
    assert.equal(manifest.dataBytes, 0);
    assert.ok(manifest.newBytes < 2000, `${manifest.newBytes} bytes for 64 MiB of zeros`);
    const reader = await store.read("zeros", manifest.id);
    assert.ok((await reader.read("memory/1", 5 * PAGE, PAGE)).equals(Buffer.alloc(PAGE)));
    await reader.close();
  });

  it("takes a checkpoint with 1 % changed for about 1 % of the bytes, scattered pages included", async () => {
    const seeds = range(1, 2048);
    const first = await checkpoint(store, "cheap", seeds);
    const changed = seeds.map((seed, at) => (at % 100 === 7 ? seed + 100_000 : seed));
    const second = await checkpoint(store, "cheap", changed);
    assert.equal(second.parent, first.id);
    const ratio = second.newBytes / first.newBytes;
    assert.ok(ratio < 0.02, `the second checkpoint costs ${ratio} of the first`);
    await assertPages(store, first, seeds);
    await assertPages(store, second, changed);
  });

  it("begins with the parent's stream, so that only what changed is written", async () => {
    const first = await checkpoint(store, "inherit", range(1, 600));
    const writer = await begin(store, "inherit");
    const memory = writer.stream("memory/1", { kind: "memory", fromParent: true });
    await memory.write(5 * PAGE, page(9000));
    await memory.clear(6 * PAGE, PAGE);
    const second = await writer.commit(facts("inherit"));
    const reader = await store.read("inherit", second.id);
    const got = await reader.read("memory/1", 4 * PAGE, 4 * PAGE);
    assert.deepEqual(got, Buffer.concat([page(5), page(9000), Buffer.alloc(PAGE), page(8)]));
    const before = await store.read("inherit", first.id);
    const diffs: StreamDiff[] = await collectAll(diffCheckpoints(before, reader, store.packs));
    assert.deepEqual(
      diffs.map(({ stream, change, changedBytes, ranges }) => ({ stream, change, changedBytes, ranges })),
      [
        { stream: "inventory.img", change: "removed", changedBytes: PAGE, ranges: [{ offset: 0, bytes: PAGE }] },
        {
          stream: "memory/1",
          change: "changed",
          changedBytes: 2 * PAGE,
          ranges: [{ offset: 5 * PAGE, bytes: 2 * PAGE }],
        },
      ],
    );
    await reader.close();
    await before.close();
  });

  it("keeps the last of what rounds wrote over each other", async () => {
    const writer = await begin(store, "rounds");
    const memory = writer.stream("memory/1", { kind: "memory" });
    await memory.write(0, pages(1, 64));
    await memory.write(0x1000_0000, pages(1000, 8));
    await memory.write(3 * PAGE, pages(500, 2));
    const manifest = await writer.commit(facts("rounds"));
    await assertPages(store, manifest, [1, 2, 3, 500, 501, ...range(6, 59)]);
  });

  it("lets two writers of one workload work at once", async () => {
    const [a, b] = await Promise.all([begin(store, "two"), begin(store, "two")]);
    for (const [writer, seed] of [
      [a, 1],
      [b, 300],
    ] as const) {
      const memory = writer.stream("memory/1", { kind: "memory" });
      await memory.write(0, pages(seed, 300));
    }
    const [one, other] = await Promise.all([a.commit(facts("two")), b.commit(facts("two"))]);
    assert.deepEqual(await store.ids("two"), [one.id, other.id].sort());
    await assertPages(store, one, range(1, 300));
    await assertPages(store, other, range(300, 300));
  });

  it("makes one checkpoint of one operation, however often it is asked for", async () => {
    const [a, b] = await Promise.all([
      begin(store, "once", "once.checkpoint.1"),
      begin(store, "once", "once.checkpoint.1"),
    ]);
    for (const writer of [a, b]) await writer.file("x", { kind: "file" }, page(1));
    const [one, other] = await Promise.all([a.commit(facts("once")), b.commit(facts("once"))]);
    assert.deepEqual(one, other);
    const again = await store.begin({ workload: "once", operation: "once.checkpoint.1" });
    assert.deepEqual("done" in again && again.done, one);
    assert.deepEqual(await store.ids("once"), [one.id]);
  });

  it("exports a checkpoint as one file, and takes it in elsewhere", async (t) => {
    await checkpoint(store, "moved", range(1, 300));
    const manifest = await checkpoint(store, "moved", range(100, 600));
    const file = join(await tempDir(t), "moved.ferry");
    await writeFile(file, await collectAll(exportCheckpoint(store, "moved", manifest.id)));
    const other = await openLocal(await tempDir(t));
    const imported = await importCheckpoint(other, file);
    assert.deepEqual([imported.checkpoint, imported.already, imported.mended], [manifest.id, false, 0]);
    assert.deepEqual(await other.manifest("moved", manifest.id), manifest);
    await assertPages(other, manifest, range(100, 600));
    assert.deepEqual((await fsck(other)).problems, []);
    // Again, and into the store that it is of.
    for (const again of [other, store]) assert.equal((await importCheckpoint(again, file)).already, true);
    // What came with it is for reading: new checkpoints are written with the store's own key.
    const made = await checkpoint(other, "moved", range(1, 10));
    const reader = await other.read("moved", made.id);
    assert.equal((await other.packs.index(reader.tree.packs[0]!)).dataKeyId, other.ring.current);
    await reader.close();
  });

  it("deletes at once, keeps what is pinned, and no other checkpoint suffers", async () => {
    const first = await checkpoint(store, "gone", range(1, 300));
    const second = await checkpoint(store, "gone", range(2, 300));
    await store.pin("gone", first.id);
    await assert.rejects(store.delete("gone", first.id), (error: FerryError) => error.code === "E_STATE");
    await store.unpin("gone", first.id);
    await store.delete("gone", first.id);
    assert.deepEqual(await store.ids("gone"), [second.id]);
    await assert.rejects(store.read("gone", first.id), (error: FerryError) => error.code === "E_CHECKPOINT_UNKNOWN");
    await assertPages(store, second, range(2, 300));
  });

  it("is sound after all of that", async () => {
    const report = await fsck(store);
    assert.deepEqual(report.problems, []);
    assert.ok(report.checkpoints > 8 && report.packs > 8 && report.unusedPacks >= 0);
    assert.ok((await storedBytes(store, "packs/")) > 0);
  });
}

describe("checkpoints in a local directory", () => {
  let dir = "";
  before(async () => (dir = await mkdtemp(join(tmpdir(), "ferry-store-"))));
  after(() => rm(dir, { recursive: true, force: true }));
  list(() => localBackend(dir));
});

describe("checkpoints in a bucket of a real S3 server", { skip: NO_S3 }, () => {
  let server: S3Server;
  before(async () => (server = await S3Server.start()));
  after(() => server.stop());
  list(() => s3Backend(server.options("store")));

  it("are finished when the server was killed and started again in the middle", async () => {
    const backend = await s3Backend(server.options("restarted"));
    const options = { backend, masterKeys: [MASTER], trusted: [], signer: SIGNER, packBlocks: 64 };
    const store = await Store.open(options);
    const writer = await begin(store, "web");
    const memory = writer.stream("memory/1", { kind: "memory" });
    await memory.write(0, pages(1, 500));
    await server.kill();
    const writing = memory.write(500 * PAGE, pages(501, 500)).then(() => writer.commit(facts("web")));
    await server.up();
    await assertPages(await Store.open(options), await writing, range(1, 1000));
    store.close();
  });

  it("are read on when the server was killed and started again in the middle", async () => {
    const backend = await s3Backend(server.options("read-on"));
    const options = { backend, masterKeys: [MASTER], trusted: [], signer: SIGNER, packBlocks: 32 };
    const manifest = await checkpoint(await Store.open(options), "web", range(1, 3000));
    // Nothing of it is kept from before.
    const store = await Store.open({ ...options, cacheBytes: 0 });
    const reader = await store.read("web", manifest.id);
    let pagesRead = 0;
    let restarted: Promise<void> | undefined;
    for await (const { offset, data } of reader.chunks("memory/1")) {
      if (restarted === undefined) {
        await server.kill();
        restarted = server.up();
      }
      for (let at = 0; at < data.length; at += PAGE, pagesRead += 1) {
        assert.ok(data.subarray(at, at + PAGE).equals(page((offset + at) / PAGE + 1)), `page at ${offset + at}`);
      }
    }
    await restarted;
    assert.equal(pagesRead, 3000);
    await reader.close();
    store.close();
  });
});

/** Writers that are killed, collectors beside writers, disks that are full: what is there is whole, and nothing is lost. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { FerryError } from "../../src/model/failure.js";
import { ferryError } from "../../src/model/failure.js";
import { collect, fsck, localBackend } from "../../src/store/index.js";
import { assertPages, begin, checkpoint, facts, keysOf, openLocal, page, PAGE, pages, range } from "./kit.js";
import { SIGNER, storedBytes, tempDir } from "./kit.js";

const PAGES = 3000;

/** @returns what it printed last; undefined when it was killed before it was done */
async function write(dir: string, killAfterMs?: number): Promise<string | undefined> {
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, "writer-child.js"), dir, "web", "web.save.1", String(PAGES)],
    {
      stdio: ["ignore", "pipe", "inherit"],
      env: { ...process.env, FERRY_TEST_SIGNER: SIGNER.export({ type: "pkcs8", format: "pem" }).toString() },
    },
  );
  let said = "";
  child.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const ended = once(child, "close");
  if (killAfterMs !== undefined) {
    await Promise.race([once(child.stdout, "data"), ended]);
    await sleep(killAfterMs);
    child.kill("SIGKILL");
  }
  await ended;
  return /done .*/.exec(said)?.[0];
}

describe("a writer that is killed", () => {
  it("leaves no checkpoint, and the next run stores only what is missing", async (t) => {
    const dir = await tempDir(t);
    const store = await openLocal(dir);
    let said: string | undefined;
    let left = 0;
    for (let attempt = 0; attempt < 3 && said === undefined; attempt += 1) {
      const before = await storedBytes(store, "packs/");
      said = await write(dir, 5 + Math.random() * 100);
      // Quick machines finish before they are killed.
      if (said !== undefined) left = before;
      else assert.deepEqual(await store.ids("web"), []);
      assert.deepEqual((await fsck(store)).problems, []);
    }
    if (said === undefined) {
      left = await storedBytes(store, "packs/");
      said = await write(dir);
    }
    const ids = await store.ids("web");
    assert.equal(ids.length, 1);
    const manifest = await store.manifest("web", ids[0] ?? "");
    await assertPages(store, manifest, range(1, PAGES));
    assert.deepEqual((await fsck(store)).problems, []);
    const newBytes = Number(said?.split(" ")[1]);
    // Half of each page can't be compressed; nothing of it is stored twice.
    assert.ok(left + newBytes < 0.55 * PAGES * PAGE, `${newBytes} new bytes beside ${left}`);
    t.diagnostic(`${left} bytes were left behind, ${newBytes} were stored by the last run`);
  });
});

const soon = { graceMs: 0, leaseMs: 60_000 };

describe("the collector", () => {
  it("frees what a deleted checkpoint alone needed, and nothing else", async (t) => {
    const store = await openLocal(await tempDir(t));
    const first = await checkpoint(store, "web", range(1, 512));
    const second = await checkpoint(store, "web", range(257, 512));
    await store.delete("web", first.id);
    // In the trash, then forgotten, then condemned, then deleted: each by a run of its own.
    const runs = [];
    for (let run = 0; run < 4; run += 1) runs.push(await collect(store, soon));
    assert.ok(runs.some(({ bytes }) => bytes > 0));
    assert.equal((await collect(store, soon)).bytes, 0);
    await assertPages(store, second, range(257, 512));
    assert.deepEqual((await fsck(store)).problems, []);
    assert.equal((await fsck(store)).unusedPacks, 0);
    assert.deepEqual(await keysOf(store, "condemned/"), []);
  });

  it("takes nothing from a writer at work, nor from the checkpoint that it shares blocks with", async (t) => {
    const store = await openLocal(await tempDir(t));
    const first = await checkpoint(store, "web", range(1, 512));
    const writer = await begin(store, "web");
    await store.delete("web", first.id);
    const memory = writer.stream("memory/1", { kind: "memory" });
    for (let at = 0; at < 8; at += 1) {
      await memory.write(at * 100 * PAGE, pages(1 + at * 100, 100));
      await collect(store, soon);
    }
    const second = await writer.commit(facts("web"));
    for (let run = 0; run < 4; run += 1) await collect(store, soon);
    await assertPages(store, second, range(1, 800));
    assert.deepEqual((await fsck(store)).problems, []);
  });

  it("leaves a deleted checkpoint to who reads it", async (t) => {
    const store = await openLocal(await tempDir(t), { cacheBytes: 0 });
    const manifest = await checkpoint(store, "web", range(1, 300));
    const reader = await store.read("web", manifest.id);
    await store.delete("web", manifest.id);
    for (let run = 0; run < 4; run += 1) await collect(store, soon);
    assert.deepEqual(await reader.read("memory/1", 250 * PAGE, PAGE), page(251));
    await reader.close();
    for (let run = 0; run < 4; run += 1) await collect(store, soon);
    assert.equal((await keysOf(store, "packs/")).length, 0);
  });

  it("collects what a dead writer left, after its lease; a writer that comes back then stores it anew", async (t) => {
    const dir = await tempDir(t);
    const store = await openLocal(dir);
    const dead = await begin(store, "web", "web.save.9");
    await dead.stream("memory/1", { kind: "memory" }).write(0, pages(1, 600));
    await dead.abort();
    assert.ok((await keysOf(store, "packs/")).length > 0);
    // Condemned by this run: the writer that comes back now must not rely on them.
    await collect(store, { graceMs: 3_600_000, leaseMs: 0 });
    const back = await begin(store, "web", "web.save.9");
    await collect(store, { graceMs: 0, leaseMs: 60_000 });
    await back.stream("memory/1", { kind: "memory" }).write(0, pages(1, 600));
    const manifest = await back.commit(facts("web"));
    assert.ok(manifest.newBytes > 600 * PAGE * 0.4);
    for (let run = 0; run < 4; run += 1) await collect(store, soon);
    await assertPages(store, manifest, range(1, 600));
    assert.equal((await fsck(store)).unusedPacks, 0);
  });

  it("deletes nothing when a checkpoint can't be read", async (t) => {
    const store = await openLocal(await tempDir(t));
    const manifest = await checkpoint(store, "web", range(1, 10));
    await store.backend.replace(`checkpoints/web/${manifest.id}.json`, Buffer.from("{}"));
    await assert.rejects(collect(store, soon), (error: FerryError) => error.code === "E_STORE_CORRUPT");
    assert.ok((await keysOf(store, "packs/")).length > 0);
  });
});

describe("a broken checkpoint", () => {
  it("that was removed does not keep the collector from its work for ever", async (t) => {
    const store = await openLocal(await tempDir(t));
    const manifest = await checkpoint(store, "web", range(1, 10));
    await store.backend.replace(`checkpoints/web/${manifest.id}.json`, Buffer.from("{}"));
    await assert.rejects(collect(store, soon), (error: FerryError) => error.code === "E_STORE_CORRUPT");
    await store.delete("web", manifest.id);
    // Not at once: somebody may be reading it.
    await assert.rejects(collect(store, { ...soon, graceMs: 60_000 }), { code: "E_STORE_CORRUPT" });
    for (let run = 0; run < 4; run += 1) await collect(store, soon);
    assert.deepEqual(await keysOf(store, "packs/"), []);
    assert.deepEqual(await keysOf(store, "trash/"), []);
  });
});

describe("a full disk", () => {
  it("fails the writer with what to do; what was stored is used when it is tried again", async (t) => {
    const dir = await tempDir(t);
    const backend = await localBackend(dir);
    let room = 4;
    const put: typeof backend.put = async (key, body) => {
      if (key.startsWith("packs/") && room-- <= 0) {
        throw ferryError("E_NO_SPACE", `storing ${key} failed`, { remedy: "free space" });
      }
      return backend.put(key, body);
    };
    const full = await openLocal(dir, { backend: { ...backend, put }, packBlocks: 64 });
    const writer = await begin(full, "web", "web.save.2");
    const writing = writer.stream("memory/1", { kind: "memory" }).write(0, pages(1, 1000));
    await assert.rejects(
      writing.then(() => writer.commit(facts("web"))),
      (error: FerryError) => error.code === "E_NO_SPACE",
    );
    await writer.abort();
    const store = await openLocal(dir);
    assert.deepEqual(await store.ids("web"), []);
    const left = await storedBytes(store, "packs/");
    const again = await begin(store, "web", "web.save.2");
    await again.stream("memory/1", { kind: "memory" }).write(0, pages(1, 1000));
    const manifest = await again.commit(facts("web"));
    assert.ok(left > 0 && manifest.newBytes < 1000 * PAGE * 0.6 - left / 2);
    await assertPages(store, manifest, range(1, 1000));
  });
});

describe("memory", () => {
  it("stays bounded while much more goes through", async (t) => {
    const store = await openLocal(await tempDir(t), { packBlocks: 512, knownBlocks: 4096, cacheBytes: 8 << 20 });
    const writer = await begin(store, "web");
    const memory = writer.stream("memory/1", { kind: "memory" });
    const data = pages(1, 1024);
    // What is held, not what nobody has collected yet.
    setFlagsFromString("--expose-gc");
    const collectGarbage = runInNewContext("gc") as () => void;
    const held = (): number => {
      collectGarbage();
      return process.memoryUsage().arrayBuffers;
    };
    let most = 0;
    const start = held();
    for (let at = 0; at < 32; at += 1) {
      for (let i = 0; i < 1024; i += 1) data.writeUInt32LE(at * 1024 + i, i * PAGE);
      await memory.write(at * data.length, data);
      most = Math.max(most, held() - start);
    }
    const manifest = await writer.commit(facts("web"));
    const reader = await store.read("web", manifest.id);
    for await (const chunk of reader.chunks("memory/1")) {
      assert.ok(chunk.data.length > 0);
      most = Math.max(most, held() - start);
    }
    await reader.close();
    t.diagnostic(`${Math.round(most / 1024 / 1024)} MiB at most for 128 MiB`);
    assert.ok(most < 64 * 1024 * 1024, `${most} bytes of buffers`);
  });
});

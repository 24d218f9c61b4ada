/** A sink as a real process behind a real source's mover: what it puts into the store is the memory of a stopped process. */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, readSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { openStore, readStoreConfig } from "../../src/checkpoints/store-config.js";
import { fsck, type Store } from "../../src/store/index.js";
import { killMover } from "../../src/transfer/mover/client.js";
import { isImageName } from "../../src/transfer/images/names.js";
import { imageProcess } from "../support/criu-images.js";
import { startMemoryTarget } from "../support/memory-target.js";
import { cleanUp, isRoot, makeIdentities, PAGE, pair } from "../transfer/mover-kit.js";
import { facts, gather, spec, startSink } from "./sink-kit.js";

const skip = isRoot ? false : "needs root: reads another process's memory";
const MIB = 24;
const dir = mkdtempSync(join(tmpdir(), "ferry-sink-"));
const storeFile = join(dir, "store.json");
let target: ChildProcess;

before(async () => {
  if (!isRoot) return;
  await makeIdentities();
  target = await startMemoryTarget(MIB);
  const signer = join(dir, "signer.key");
  const key = join(dir, "master.key");
  writeFileSync(signer, generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }), {
    mode: 0o600,
  });
  writeFileSync(key, `${randomBytes(32).toString("hex")}\n`, { mode: 0o600 });
  writeFileSync(storeFile, JSON.stringify({ local: join(dir, "store"), key: { file: key }, signer }));
});
after(async () => {
  target?.kill("SIGKILL");
  await cleanUp();
  rmSync(dir, { recursive: true, force: true });
});

const storeOf = async (): Promise<Store> => openStore(await readStoreConfig(storeFile));

test("images and every page of memory are in the checkpoint, byte for byte", { skip, timeout: 90_000 }, async () => {
  const both = pair("store");
  const { lazy } = imageProcess(target.pid!, both.source.config.imagesDir);
  const sink = await startSink(both, storeFile);
  const early = sink.request({ verb: "store", session: "app.checkpoint.1 a", facts, spec });
  await assert.rejects(early, { code: "E_STATE" });
  await gather(both, sink, target.pid!);
  const stored = await sink.request({ verb: "store", session: "app.checkpoint.1 a", facts, spec });
  assert.deepEqual([stored.stored?.done, stored.stored?.bytes], [true, stored.stored?.total]);
  await sink.request({ verb: "exit" });

  const store = await storeOf();
  const manifest = await store.made("app", "app.checkpoint.1 a");
  assert.ok(manifest);
  assert.equal(manifest.takenAt, new Date(1_790_000_000_000).toISOString());
  const reader = await store.read("app", manifest.id);
  assert.deepEqual(JSON.parse((await reader.content("spec")).toString()), { format: 1, spec });
  const { imagesDir } = both.source.config;
  for (const name of readdirSync(imagesDir).filter(isImageName)) {
    assert.ok((await reader.content(`images/${name}`)).equals(readFileSync(join(imagesDir, name))), name);
  }
  const memory = openSync(`/proc/${target.pid}/mem`, "r");
  let pages = 0;
  for (const { start, pages: count } of lazy) {
    for (let at = 0; at < count; at += 256) {
      const bytes = Math.min(256, count - at) * PAGE;
      const there = Buffer.alloc(bytes);
      readSync(memory, there, 0, bytes, start + BigInt(at * PAGE));
      const kept = await reader.read(`memory/${target.pid}`, Number(start) + at * PAGE, bytes);
      assert.ok(kept.equals(there), `${start.toString(16)} page ${at}`);
    }
    pages += count;
  }
  closeSync(memory);
  assert.ok(pages * PAGE >= MIB << 20);
  await reader.close();
  assert.deepEqual((await fsck(store)).problems, []);
  store.close();
});

test("a sink that is killed goes on with what it has, and stores it once", { skip, timeout: 90_000 }, async () => {
  const both = pair("killed-sink");
  imageProcess(target.pid!, both.source.config.imagesDir);
  await gather(both, await startSink(both, storeFile), target.pid!);
  await killMover(both.destination.dir);
  let sink = await startSink(both, storeFile);
  assert.equal(sink.status().complete, true);
  const request = { verb: "store", session: "app.checkpoint.2 b", facts, spec } as const;
  await sink.request(request);
  await killMover(both.destination.dir);
  sink = await startSink(both, storeFile);
  await sink.request(request);
  await sink.request({ verb: "exit" });
  const store = await storeOf();
  const made = (await store.ids("app")).length;
  const { newBytes } = (await store.made("app", "app.checkpoint.2 b"))!;
  assert.equal(made, 2);
  assert.ok(newBytes < 200_000, `the memory was there already: ${newBytes}`);
  store.close();
});

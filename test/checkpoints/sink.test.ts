/** A sink as a real process behind a real source's mover: what it puts into the store is the memory of a stopped process. */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, readSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { openStore, readStoreConfig } from "../../src/checkpoints/store-config.js";
import type { CheckpointSaid, SinkStatus } from "../../src/model/mover.js";
import type { WorkloadSpec } from "../../src/model/workload.js";
import { fsck, type Store } from "../../src/store/index.js";
import { connectMover, killMover, startMover, type MoverClient } from "../../src/transfer/mover/client.js";
import { isImageName } from "../../src/transfer/images/names.js";
import { imageProcess } from "../support/criu-images.js";
import { startMemoryTarget } from "../support/memory-target.js";
import { cleanUp, isRoot, makeIdentities, PAGE, pair, type Pair } from "../transfer/mover-kit.js";

const skip = isRoot ? false : "needs root: reads another process's memory";
const MAIN = fileURLToPath(new URL("../../src/checkpoints/sink/main.js", import.meta.url));
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

const facts: CheckpointSaid = {
  workload: "app",
  epoch: 1,
  runtime: "process",
  node: "node-a",
  criuVersion: "4.2.1",
  kernel: "6.18.0",
  cpu: "a cpu",
  arch: "x64",
  reason: "test",
  requestedBy: "tests",
  labels: { tier: "one" },
  takenAt: 1_790_000_000_000,
};
const spec: WorkloadSpec = {
  name: "app",
  runtime: "process",
  command: ["sleep", "1"],
  env: {},
  dir: "/",
  user: "0:0",
  limits: {},
  network: { ip: "10.0.0.5/24", mac: "02:00:00:00:00:05" },
};
const storeOf = async (): Promise<Store> => openStore(await readStoreConfig(storeFile));

/** The pair's destination is a sink. */
async function startSink({ destination }: Pair): Promise<MoverClient<SinkStatus>> {
  const config = { ...destination.config, storeFile };
  writeFileSync(destination.file, JSON.stringify(config), { mode: 0o600 });
  await startMover(config, destination.file, { main: MAIN });
  return connectMover<SinkStatus>(config.controlSocket);
}

async function gather(both: Pair, sink: MoverClient<SinkStatus>): Promise<void> {
  const source = await both.source.start();
  await source.request({ verb: "connect", host: "127.0.0.1", port: sink.status().port });
  const pids = { [String(target.pid)]: target.pid! };
  await source.request({ verb: "finalSync", pids: [] });
  await source.request({ verb: "sendImages", pids });
  await sink.wait((status) => status.complete, 30_000);
  await source.request({ verb: "exit" });
}

test("images and every page of memory are in the checkpoint, byte for byte", { skip, timeout: 90_000 }, async () => {
  const both = pair("store");
  const { lazy } = imageProcess(target.pid!, both.source.config.imagesDir);
  const sink = await startSink(both);
  const early = sink.request({ verb: "store", session: "app.checkpoint.1 a", facts, spec });
  await assert.rejects(early, { code: "E_STATE" });
  await gather(both, sink);
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
  await gather(both, await startSink(both));
  await killMover(both.destination.dir);
  let sink = await startSink(both);
  assert.equal(sink.status().complete, true);
  const request = { verb: "store", session: "app.checkpoint.2 b", facts, spec } as const;
  await sink.request(request);
  await killMover(both.destination.dir);
  sink = await startSink(both);
  await sink.request(request);
  await sink.request({ verb: "exit" });
  const store = await storeOf();
  const made = (await store.ids("app")).length;
  const { newBytes } = (await store.made("app", "app.checkpoint.2 b"))!;
  assert.equal(made, 2);
  assert.ok(newBytes < 200_000, `the memory was there already: ${newBytes}`);
  store.close();
});

/** Stores that fail in the middle: a disk that is full, an S3 server that is killed and started again. Real sinks and feeds. */
import assert from "node:assert/strict";
import { execFileSync, type ChildProcess } from "node:child_process";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { openStore, readStoreConfig } from "../../src/checkpoints/store-config.js";
import type { SourceMoverStatus } from "../../src/model/mover.js";
import { fsck, type Store } from "../../src/store/index.js";
import { connectMover, startMover } from "../../src/transfer/mover/client.js";
import { imageProcess } from "../support/criu-images.js";
import { startMemoryTarget } from "../support/memory-target.js";
import { NO_S3, S3Server } from "../support/s3-server.js";
import { cleanUp, compareStore, isRoot, makeIdentities, pair } from "../transfer/mover-kit.js";
import { facts, gather, spec, startSink } from "./sink-kit.js";

const FEED = fileURLToPath(new URL("../../src/checkpoints/feed/main.js", import.meta.url));
const MIB = 48;
const skip = isRoot ? false : "needs root: reads another process's memory, mounts a small disk";
const dir = mkdtempSync(join(tmpdir(), "ferry-away-"));
let target: ChildProcess;

before(async () => {
  if (!isRoot) return;
  await makeIdentities();
  target = await startMemoryTarget(MIB, "noise");
});
after(async () => {
  target?.kill("SIGKILL");
  await cleanUp();
  rmSync(dir, { recursive: true, force: true });
});

/** @returns the file that says where the store is */
function configOf(name: string, place: object): string {
  const own = join(dir, name);
  mkdirSync(own);
  const put = (file: string, text: string): string => {
    writeFileSync(join(own, file), text, { mode: 0o600 });
    return join(own, file);
  };
  const { privateKey } = generateKeyPairSync("ed25519");
  const signer = put("signer.pem", privateKey.export({ type: "pkcs8", format: "pem" }).toString());
  const key = put("master", `${randomBytes(32).toString("hex")}\n`);
  return put("store.json", JSON.stringify({ ...place, key: { file: key }, signer }));
}
const storeOf = async (file: string): Promise<Store> => openStore(await readStoreConfig(file));
const request = (session: string) => ({ verb: "store", session, facts, spec }) as const;

test(
  "a disk that is full: no checkpoint, and with room the same sink makes it",
  { skip, timeout: 90_000 },
  async (t) => {
    const disk = join(dir, "disk");
    mkdirSync(disk);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", disk]);
    t.after(() => execFileSync("umount", [disk]));
    const file = configOf("small", { local: join(disk, "store") });
    const both = pair("full-disk");
    imageProcess(target.pid!, both.source.config.imagesDir);
    const sink = await startSink(both, file);
    await gather(both, sink, target.pid!);
    await assert.rejects(
      sink.request(request("app.checkpoint.1 full")),
      (error: { code?: string; data?: { remedy?: string } }) => {
        assert.equal(error.code, "E_NO_SPACE");
        assert.match(error.data?.remedy ?? "", /free space/);
        return true;
      },
    );
    execFileSync("mount", ["-o", "remount,size=128m", disk]);
    const store = await storeOf(file);
    assert.deepEqual(await store.ids("app"), []);
    assert.deepEqual(readdirSync(join(disk, "store", ".aside")), [], "nothing half is left");
    const kept = (await fsck(store)).unusedPacks;
    assert.ok(kept > 0);
    await sink.request(request("app.checkpoint.1 full"));
    const report = await fsck(store);
    assert.deepEqual(report.problems, []);
    assert.deepEqual([report.checkpoints, report.unusedPacks], [1, 0], "what was stored before is used");
    await sink.request({ verb: "exit" });
    store.close();
  },
);

test(
  "an S3 server is killed and started again in the middle of a checkpoint, and of a restore",
  { skip: skip || NO_S3, timeout: 180_000 },
  async (t) => {
    const server = await S3Server.start();
    t.after(() => server.stop());
    const { s3, env } = server.config("away");
    const file = configOf("s3", { s3 });
    Object.assign(process.env, env);
    t.after(() => {
      for (const name of Object.keys(env)) delete process.env[name];
    });
    const both = pair("s3-sink");
    imageProcess(target.pid!, both.source.config.imagesDir);
    const sink = await startSink(both, file, env);
    await gather(both, sink, target.pid!);
    const storing = sink.request(request("app.checkpoint.1 s3"));
    storing.catch(() => undefined);
    // It is at it: the server has something of it.
    const packs = (): number => {
      try {
        return readdirSync(server.path("away", "packs")).length;
      } catch {
        return 0;
      }
    };
    for (const end = Date.now() + 30_000; packs() === 0 && Date.now() < end;) await sleep(5);
    await server.kill();
    await server.up();
    await storing;
    await sink.request({ verb: "exit" });
    const store = await storeOf(file);
    assert.deepEqual((await fsck(store)).problems, []);
    const [id = ""] = await store.ids("app");
    store.close();

    // Slow enough that it is in the middle of it for some seconds.
    const back = pair("s3-feed", { bandwidthBytesPerSec: 8e6 });
    const config = { ...back.source.config, storeFile: file, checkpoint: { workload: "app", id } };
    writeFileSync(back.source.file, JSON.stringify(config), { mode: 0o600 });
    mkdirSync(config.imagesDir);
    await startMover(config, back.source.file, { main: FEED, env });
    const feed = await connectMover<SourceMoverStatus>(config.controlSocket);
    const destination = await back.destination.start();
    await feed.request({ verb: "connect", host: "127.0.0.1", port: destination.status().port });
    await feed.request({ verb: "sendImages", pids: {} });
    await destination.wait(({ pages }) => pages.received > 0, 30_000);
    await server.kill();
    assert.ok(!destination.status().pages.allReceived, "it is not over yet");
    await sleep(500);
    await server.up();
    await destination.wait(({ pages }) => pages.allReceived, 90_000);
    compareStore(back.destination.config.storeDir, { [String(target.pid)]: target.pid! });
    await Promise.all([feed.request({ verb: "exit" }), destination.request({ verb: "exit" })]);
  },
);

/** Both movers as real processes on loopback, moving the memory of a stopped process and a volume. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { DestinationMoverStatus } from "../../src/model/mover.js";
import { BOUNDING_SETS } from "../../src/model/privileges.js";
import { connectMover, killMover, moverPid } from "../../src/transfer/mover/client.js";
import { keptBy, privilegesOf } from "../support/capabilities.js";
import { imageProcess } from "../support/criu-images.js";
import { startMemoryTarget } from "../support/memory-target.js";
import { cleanUp, compareStore, isRoot, makeIdentities, PAGE, pair } from "./mover-kit.js";

const skip = isRoot ? false : "needs root: reads another process's memory";
let target: ChildProcess;

const MIB = Number(process.env["FERRY_TEST_MIB"] ?? 48);
before(async () => {
  if (!isRoot) return;
  await makeIdentities();
  target = await startMemoryTarget(MIB);
});
after(async () => {
  target?.kill("SIGKILL");
  await cleanUp();
});

test("images and all pages of a stopped process arrive", { skip, timeout: 60_000 }, async () => {
  const { source, destination } = pair("plain");
  imageProcess(target.pid!, source.config.imagesDir);
  const [s, d] = await Promise.all([source.start(), destination.start()]);
  await s.request({ verb: "connect", host: "127.0.0.1", port: d.status().port });
  const start = performance.now();
  const sent = await s.request({ verb: "sendImages", pids: { [String(target.pid)]: target.pid! } });
  const images = performance.now();
  assert.equal(sent.images.sent, true);
  const got = await d.wait((status) => status.pages.allReceived, 30_000);
  const pages = performance.now();
  assert.equal(got.images.digest, sent.images.digest);
  assert.equal(got.pages.received, got.pages.total);
  const done = await s.wait((status) => status.pages.allAcked, 5000);
  assert.equal(done.pages.sent, done.pages.total);
  assert.ok(done.pages.bytesSent < done.pages.total * PAGE, "zero pages must not be sent");
  const slots = compareStore(destination.config.storeDir, { [String(target.pid)]: target.pid! });
  assert.ok(slots * PAGE >= MIB << 20);
  const { bounding } = privilegesOf(readFileSync("/proc/self/status", "utf8"));
  for (const { pid } of [s.status(), d.status()]) {
    const { effective, noNewPrivs } = privilegesOf(readFileSync(`/proc/${pid}/status`, "utf8"));
    assert.deepEqual([effective, noNewPrivs], [keptBy(BOUNDING_SETS.mover, bounding), true]);
  }
  const cpu = [s.status().pid, d.status().pid].map((pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]!.split(" ");
    return `${Number(fields[11]) * 10}+${Number(fields[12]) * 10}`;
  });
  console.log(
    `cpu (user+system) source ${cpu[0]} ms, destination ${cpu[1]} ms; images ${(images - start).toFixed(0)} ms, ${slots} pages ${(pages - images).toFixed(0)} ms, ` +
      `${((slots * PAGE) / 1e6 / ((pages - start) / 1000)).toFixed(0)} MB/s of memory, ` +
      `${(done.pages.bytesSent / 1e6 / ((pages - start) / 1000)).toFixed(0)} MB/s sent`,
  );
  await Promise.all([s.request({ verb: "exit" }), d.request({ verb: "exit" })]);
});

test("either mover is killed in the middle and goes on", { skip, timeout: 90_000 }, async () => {
  const { source, destination } = pair("killed", { bandwidthBytesPerSec: 20e6 });
  imageProcess(target.pid!, source.config.imagesDir);
  let [s, d] = await Promise.all([source.start(), destination.start()]);
  const port = d.status().port;
  const pids = { [String(target.pid)]: target.pid! };
  await s.request({ verb: "connect", host: "127.0.0.1", port });
  await s.request({ verb: "sendImages", pids });
  await d.wait((status) => status.pages.received > 1000, 20_000);

  await killMover(destination.dir);
  d = await destination.start();
  assert.equal(d.status().port, port);
  assert.equal(d.status().images.received, true);
  const kept = d.status().pages.received;
  assert.ok(kept > 1000, `kept ${kept}`);
  await d.wait((status) => status.pages.received > kept + 500, 20_000);

  await killMover(source.dir);
  assert.equal(moverPid(source.dir), undefined);
  s = await source.start();
  await s.request({ verb: "connect", host: "127.0.0.1", port });
  await s.request({ verb: "sendImages", pids });
  await s.request({ verb: "limit", bandwidthBytesPerSec: null });
  await d.wait((status) => status.pages.allReceived, 20_000);
  await s.wait((status) => status.pages.allAcked, 5000);
  compareStore(destination.config.storeDir, { [String(target.pid)]: target.pid! });
  await Promise.all([s.request({ verb: "exit" }), d.request({ verb: "exit" })]);
});

test("the agent may go and come back; the status is whole", { skip, timeout: 30_000 }, async () => {
  const { destination } = pair("agent");
  const first = await destination.start();
  const port = first.status().port;
  first.close();
  const second = await connectMover<DestinationMoverStatus>(destination.config.controlSocket);
  assert.equal(second.status().port, port);
  assert.equal(second.status().pid, moverPid(destination.dir));
  await second.request({ verb: "exit" });
});

test("a second mover gives way, and one whose operation is over ends", { skip, timeout: 30_000 }, async () => {
  const { destination } = pair("alone");
  const first = await destination.start();
  const { pid } = first.status();
  const main = new URL("../../src/transfer/mover/destination-main.js", import.meta.url).pathname;
  const second = spawn(process.execPath, [main, destination.file], { stdio: "ignore" });
  const [code] = (await once(second, "exit")) as [number];
  assert.equal(code, 3);
  assert.equal(moverPid(destination.dir), pid);
  const gone = new Promise<void>((resolve) => first.onClose(resolve));
  rmSync(destination.dir, { recursive: true });
  await gone;
});

test("another peer, operation or epoch gets no session", { skip, timeout: 30_000 }, async () => {
  const { source, destination } = pair("wrong");
  const d = await destination.start();
  writeFileSync(source.file, JSON.stringify({ ...source.config, operation: "app.migrate.2" }));
  const s = await source.start();
  await assert.rejects(
    s.request({ verb: "connect", host: "127.0.0.1", port: d.status().port }),
    /works on app.migrate.1|refused/,
  );
  await Promise.all([s.request({ verb: "exit" }), d.request({ verb: "exit" })]);
});

test("images that lack a page of memory are refused by the source", { skip, timeout: 30_000 }, async () => {
  const { source, destination } = pair("short");
  const { imagesDir } = source.config;
  imageProcess(target.pid!, imagesDir);
  // drop the last entry of the pagemap
  const file = join(imagesDir, `pagemap-${target.pid}.img`);
  const bytes = readFileSync(file);
  let at = 8;
  let last = at;
  while (at < bytes.length) {
    last = at;
    at += 4 + bytes.readUInt32LE(at);
  }
  writeFileSync(file, bytes.subarray(0, last));
  const [s, d] = await Promise.all([source.start(), destination.start()]);
  await s.request({ verb: "connect", host: "127.0.0.1", port: d.status().port });
  const pids = { [String(target.pid)]: target.pid! };
  await assert.rejects(s.request({ verb: "sendImages", pids }), { code: "E_PAGES" });
  // The count is made beside the restore: the destination may have the images, the source's agent never gets the answer
  // without which nothing is released.
  await assert.rejects(s.request({ verb: "sendImages", pids }), { code: "E_PAGES" });
  await Promise.all([s.request({ verb: "exit" }), d.request({ verb: "exit" })]);
});

/** Both movers as real processes on loopback, moving the memory of a stopped process and a volume. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync, closeSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { createAuthority, issueNodeCertificate } from "../../src/host/pki.js";
import type { DestinationMoverStatus, MoverConfig, SourceMoverStatus } from "../../src/model/mover.js";
import { connectMover, killMover, moverPid, startMover, type MoverClient } from "../../src/transfer/mover/client.js";
import { openStore } from "../../src/transfer/pages/index.js";
import { imageProcess } from "../support/criu-images.js";

const PAGE = 4096;
const isRoot = process.getuid?.() === 0;
const skip = isRoot ? false : "needs root: reads another process's memory";
const root = mkdtempSync("/dev/shm/ferry-mover-");
let identity: Record<"node-a" | "node-b", MoverConfig["tls"]>;
let target: ChildProcess;
const running: string[] = [];

const MIB = Number(process.env["FERRY_TEST_MIB"] ?? 48);
const PROGRAM = `
import mmap, os, sys, time
n = ${MIB} << 20
m = mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
step = 1 << 20
for i in range(0, n, step):
    if (i // step) % 8 == 3: m[i:i+step] = bytes(step)
    else: m[i:i+step] = (i.to_bytes(8, "little") + os.urandom(56)) * (step // 64)
print("ready", flush=True)
time.sleep(10000)
`;

before(async () => {
  if (!isRoot) return;
  await createAuthority(join(root, "ca"));
  const entries = await Promise.all(
    (["node-a", "node-b"] as const).map(async (node) => {
      const outDir = join(root, "pki", node);
      await issueNodeCertificate({ authorityDir: join(root, "ca"), node, outDir });
      const file = (name: string): string => join(outDir, name);
      return [node, { caFile: file("ca.crt"), certFile: file("node.crt"), keyFile: file("node.key") }] as const;
    }),
  );
  identity = Object.fromEntries(entries) as typeof identity;
  target = spawn("python3", ["-c", PROGRAM], { stdio: ["ignore", "pipe", "inherit"] });
  await once(target.stdout!, "data");
  target.kill("SIGSTOP");
});
after(async () => {
  target?.kill("SIGKILL");
  for (const dir of running) await killMover(dir);
  if (process.env["FERRY_KEEP"] === undefined) rmSync(root, { recursive: true, force: true });
});

interface Side<Status extends SourceMoverStatus | DestinationMoverStatus> {
  config: MoverConfig;
  file: string;
  dir: string;
  start(): Promise<MoverClient<Status>>;
}

function side<Status extends SourceMoverStatus | DestinationMoverStatus>(
  name: string,
  which: "source" | "destination",
  more: Partial<MoverConfig> = {},
): Side<Status> {
  const dir = join(root, name, which);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const here = which === "source" ? "node-a" : "node-b";
  const config: MoverConfig = {
    operation: "app.migrate.1",
    workload: "app",
    node: here,
    peer: which === "source" ? "node-b" : "node-a",
    side: which,
    controlSocket: join(dir, "mover.sock"),
    imagesDir: join(dir, "images"),
    storeDir: join(dir, "store"),
    volumeDir: join(dir, "volume"),
    tls: identity[here],
    logFile: join(dir, "mover.log"),
    ...(which === "destination" ? { listenHost: "127.0.0.1" } : {}),
    ...more,
  };
  mkdirSync(config.volumeDir, { recursive: true });
  const file = join(dir, "mover.json");
  writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
  running.push(dir);
  return {
    config,
    file,
    dir,
    async start() {
      await startMover(config, file);
      return connectMover<Status>(config.controlSocket);
    },
  };
}

interface Pair {
  source: Side<SourceMoverStatus>;
  destination: Side<DestinationMoverStatus>;
}
const pair = (name: string, more: Partial<MoverConfig> = {}): Pair => ({
  source: side<SourceMoverStatus>(name, "source", more),
  destination: side<DestinationMoverStatus>(name, "destination"),
});

/** Every lazy page of the stopped process is in the store, byte for byte. */
function compareStore(storeDir: string, pid: number): number {
  const store = openStore(storeDir);
  const mem = openSync(`/proc/${pid}/mem`, "r");
  const pages = openSync(join(storeDir, "pages"), "r");
  const [a, b] = [Buffer.alloc(256 * PAGE), Buffer.alloc(256 * PAGE)];
  for (const area of store.table.areas) {
    for (let page = 0; page < area.pages; page += 256) {
      const length = Math.min(256, area.pages - page) * PAGE;
      readSync(mem, a, 0, length, area.start + BigInt(page * PAGE));
      readSync(pages, b, 0, length, (area.slot + page) * PAGE);
      assert.ok(a.compare(b, 0, length, 0, length) === 0, `area ${area.start.toString(16)} page ${page} differs`);
    }
  }
  for (const fd of [mem, pages]) closeSync(fd);
  assert.equal(store.received, store.table.slots);
  store.close();
  return store.table.slots;
}

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
  const slots = compareStore(destination.config.storeDir, target.pid!);
  assert.ok(slots * PAGE >= MIB << 20);
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
  compareStore(destination.config.storeDir, target.pid!);
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
  assert.equal(d.status().images.received, false);
  await Promise.all([s.request({ verb: "exit" }), d.request({ verb: "exit" })]);
});

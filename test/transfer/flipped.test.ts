/**
 * One flipped bit anywhere between the dump and the restore: on the wire between two real movers, and in what lies on the
 * destination's tmpfs. Also what the movers leave there: modes, and nothing of keys or memory in their logs.
 */
import assert from "node:assert/strict";
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import type { ChildProcess } from "node:child_process";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { manifestDigest, type ManifestEntry } from "../../src/transfer/images/send.js";
import { ImageReceiver } from "../../src/transfer/images/receive.js";
import { verifyImages } from "../../src/transfer/images/verify.js";
import { killMover, startMover } from "../../src/transfer/mover/client.js";
import { createHash } from "node:crypto";
import { imageProcess } from "../support/criu-images.js";
import { startMemoryTarget } from "../support/memory-target.js";
import { cleanUp, compareStore, isRoot, makeIdentities, pair } from "./mover-kit.js";

const skip = isRoot ? false : "needs root: reads another process's memory";
const root = "/dev/shm/ferry-flipped-" + String(process.pid);
let target: ChildProcess & { pid: number };
before(async () => {
  mkdirSync(root, { mode: 0o700 });
  if (!isRoot) return;
  await makeIdentities();
  target = await startMemoryTarget(8);
});
after(async () => {
  rmSync(root, { recursive: true, force: true });
  target?.kill("SIGKILL");
  await cleanUp();
});

const flip = (file: string, bit: number): void => {
  const bytes = readFileSync(file);
  bytes[bit >> 3]! ^= 1 << (bit & 7);
  writeFileSync(file, bytes);
};

/** One file of each kind that criu 4.2 writes, each with content of its own. */
const KINDS =
  "inventory pstree core-1 mm-1 pagemap-1 pagemap-shmem-9 pages-1 files ids-1 fs-1 creds-1 timens-0 cgroup seccomp mountpoints-12 netns-9 ifaddr-9 route-9 iptables-9 ip6tables-9 nftables-9 netdev-9 utsns-11 ipcns-var-10 tcp-stream-1f fdinfo-2 ghost-file-1f remap-fpath tmpfs-4.tar.gz tmpfs-dev-5.tar.gz sk-queues pipes-data fifo-data inetsk tty-info apparmor bpfmap-data memfd itimers-1";

test("a bit that is flipped in any image of any kind, or in the set, is found before criu reads it", async () => {
  const dir = join(root, "images");
  mkdirSync(dir, { mode: 0o700 });
  const files = KINDS.split(" ").map((kind, i) => ({
    name: `${kind}.img`,
    data: Buffer.from(`${kind} ${"x".repeat(i)}`),
  }));
  const sha256 = (data: Buffer): string => createHash("sha256").update(data).digest("hex");
  const manifest = files.map(({ name, data }): ManifestEntry => ({ name, size: data.length, sha256: sha256(data) }));
  const receiver = new ImageReceiver(dir);
  receiver.begin({ files: files.length, bytes: files.reduce((sum, { data }) => sum + data.length, 0) });
  for (const { name, data } of files) receiver.piece({ name, size: data.length, offset: 0 }, data);
  const digest = receiver.finish(manifest);
  assert.equal(digest, manifestDigest(manifest));
  await verifyImages(dir, digest);
  const found = { code: "E_IMAGE_DIGEST" };
  for (const { name, data } of files) {
    const file = join(dir, name);
    for (const bit of [0, data.length * 4 + (data.length % 8), data.length * 8 - 1]) {
      flip(file, bit);
      await assert.rejects(verifyImages(dir, digest), found, `${name} bit ${bit}`);
      flip(file, bit);
    }
    for (const other of [data.subarray(1), Buffer.concat([data, Buffer.alloc(1)]), Buffer.alloc(0)]) {
      writeFileSync(file, other);
      await assert.rejects(verifyImages(dir, digest), found, `${name}, ${other.length} bytes`);
    }
    rmSync(file);
    await assert.rejects(verifyImages(dir, digest), found, `without ${name}`);
    writeFileSync(file, data);
  }
  writeFileSync(join(dir, "core-2.img"), "");
  await assert.rejects(verifyImages(dir, digest), found, "one more");
  rmSync(join(dir, "core-2.img"));
  await verifyImages(dir, digest);

  // and in the manifest, wherever it still is one
  const text = JSON.stringify(manifest.slice(0, 5));
  let parsed = 0;
  for (let bit = 0; bit < text.length * 8; bit += 1) {
    const bytes = Buffer.from(text);
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    let changed: ManifestEntry[];
    try {
      changed = JSON.parse(bytes.toString("latin1")) as ManifestEntry[];
    } catch {
      continue;
    }
    parsed += 1;
    assert.throws(() => receiver.finish([...changed, ...manifest.slice(5)]), `bit ${bit}`);
  }
  assert.ok(parsed > 1000);
});

/** Passes bytes on; while `flips` are left, one bit of each connection's stream is turned once `after` bytes have gone. */
async function noisyLine(
  port: number,
  flips: number,
  everyBytes: number,
): Promise<{ server: Server; port: number; left: () => number }> {
  let left = flips;
  let passed = 0;
  const server = createServer((near) => {
    const far = connect({ host: "127.0.0.1", port });
    const pass = (from: Socket, to: Socket): void => {
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroy());
      from.on("data", (chunk: Buffer) => {
        passed += chunk.length;
        if (passed >= everyBytes && left > 0) {
          passed = 0;
          left -= 1;
          const bit = (left * 7919 + 13) % (chunk.length * 8);
          chunk[bit >> 3]! ^= 1 << (bit & 7);
        }
        to.write(chunk);
      });
    };
    pass(near, far);
    pass(far, near);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  return { server, port: (server.address() as AddressInfo).port, left: () => left };
}

function* walk(dir: string): Generator<string> {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    yield path;
    if (entry.isDirectory()) yield* walk(path);
  }
}

test(
  "bits that flip between two movers cost connections, never a page; files are private, logs have no secrets; a table that changed is refused",
  { skip, timeout: 60_000 },
  async () => {
    const { source, destination } = pair("flipped");
    imageProcess(target.pid, source.config.imagesDir);
    const [s, d] = await Promise.all([source.start(), destination.start()]);
    const line = await noisyLine(d.status().port, 6, 400_000);
    await s.request({ verb: "connect", host: "127.0.0.1", port: line.port });
    await s.request({ verb: "sendImages", pids: { [String(target.pid)]: target.pid } });
    await d.wait((status) => status.pages.allReceived, 30_000);
    assert.equal(line.left(), 0, "every flip has happened");
    compareStore(destination.config.storeDir, { [String(target.pid)]: target.pid });

    const { digest } = d.status().images;
    assert.equal(digest, s.status().images.digest);
    await verifyImages(destination.config.imagesDir, digest!);

    // what the movers made; the source's images are this test's own, and volumes are the workload's
    const ours = [...walk(destination.dir), ...walk(source.dir)].filter(
      (path) => !path.startsWith(source.config.imagesDir) && !path.includes("/volume"),
    );
    for (const path of ours) {
      const stat = statSync(path);
      const kind = stat.isDirectory() ? 0o700 : 0o600;
      assert.equal(stat.mode & 0o777, kind, `${path} has mode ${(stat.mode & 0o777).toString(8)}`);
    }
    assert.ok(ours.length > 10);

    const logs = [source, destination].map(({ config }) => readFileSync(config.logFile, "latin1")).join("\n");
    assert.match(logs, /altered on the way|link lost/);
    for (const { config } of [source, destination]) {
      for (const part of readFileSync(config.tls.keyFile, "utf8").split("\n")) {
        if (part.length > 20) assert.ok(!logs.includes(part), "part of a private key was logged");
      }
    }
    const memory = openSync(`/proc/${target.pid}/mem`, "r");
    const map = readFileSync(`/proc/${target.pid}/maps`, "latin1")
      .split("\n")
      .find((at) => at.includes("-"));
    const piece = Buffer.alloc(24);
    readSync(memory, piece, 0, piece.length, BigInt(`0x${map!.split("-")[0]!}`));
    closeSync(memory);
    for (const encoding of ["latin1", "hex", "base64"] as const) {
      assert.ok(!logs.includes(piece.toString(encoding)), "memory was logged");
    }

    // a successor does not go on with another table
    await killMover(destination.dir);
    const table = join(destination.config.storeDir, "areas");
    const size = statSync(table).size;
    flip(table, size * 8 - 80);
    await assert.rejects(startMover(destination.config, destination.file));
    flip(table, size * 8 - 80);
    const again = await destination.start();
    assert.equal(again.status().pages.allReceived, true);
    await Promise.all([s.request({ verb: "exit" }), again.request({ verb: "exit" })]);
    line.server.close();
  },
);

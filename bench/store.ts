/**
 * The checkpoint store by itself: throughput against a plain copy, what segments of which size and which compression
 * cost, and how long one page takes. `npm run bench:store [-- --mib N] [-- --s3]`; figures in docs/decisions/0020-store.md.
 *
 * Content: half the pages of the node program (code and tables), half records as a key-value store keeps them.
 */
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { open, mkdtemp, rm } from "node:fs/promises";
import { openSync, readSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { masterKey } from "../src/store/keys.js";
import { localBackend, s3Backend, Store, type Backend, type Manifest, type StoreOptions } from "../src/store/index.js";
import { S3Server, NO_S3 } from "../test/support/s3-server.js";

const PAGE = 4096;
const MIB = 1024 * 1024;
const PIECE = MIB;
const RANDOM_READS = 200;

const { values } = parseArgs({ options: { mib: { type: "string", default: "128" }, s3: { type: "boolean" } } });
const BYTES = Number(values.mib) * MIB;

function content(): Buffer {
  const data = Buffer.alloc(BYTES);
  readSync(openSync(process.execPath, "r"), data, 0, BYTES / 2, 4 * MIB);
  let at = BYTES / 2;
  for (let i = 0; at < BYTES; i += 1) {
    const record = `user:${i}\0{"name":"customer ${i * 7919}","seen":${1_700_000_000 + i},"token":"${randomBytes(12).toString("hex")}"}\0`;
    at += data.write(record, at, "latin1");
  }
  return data;
}

const signer = generateKeyPairSync("ed25519").privateKey;
const facts = {
  workload: "bench",
  epoch: 1,
  runtime: "process",
  node: "here",
  criuVersion: "none",
  kernel: "any",
  cpu: "any",
  arch: process.arch,
  reason: "bench",
  requestedBy: "bench",
  labels: {},
};

const mbPerSec = (bytes: number, ms: number): string => (bytes / 1e6 / (ms / 1000)).toFixed(0);

async function timed<T>(work: () => Promise<T>): Promise<{ ms: number; cpuMs: number; result: T }> {
  const cpu = process.cpuUsage();
  const started = performance.now();
  const result = await work();
  const { user, system } = process.cpuUsage(cpu);
  return { ms: performance.now() - started, cpuMs: (user + system) / 1000, result };
}

async function save(store: Store, data: Buffer): Promise<Manifest> {
  const begun = await store.begin({ workload: "bench" });
  if ("done" in begun) throw new Error("made already");
  const memory = begun.writer.stream("memory/1", { kind: "memory" });
  for (let at = 0; at < data.length; at += PIECE) await memory.write(at, data.subarray(at, at + PIECE));
  return begun.writer.commit(facts);
}

async function one(name: string, backend: Backend, data: Buffer, more: Partial<StoreOptions>): Promise<void> {
  const options = { backend, masterKeys: [masterKey(Buffer.alloc(32, 1))], trusted: [], signer, ...more };
  const store = await Store.open(options);
  const first = await timed(() => save(store, data));
  const changed = Buffer.from(data);
  for (let page = 50; page < BYTES / PAGE; page += 100) changed.writeUInt32LE(page, page * PAGE + 8);
  const second = await timed(() => save(store, changed));
  // Opened anew: nothing is in any cache of ours.
  const again = await Store.open(options);
  const read = await timed(async () => {
    const reader = await again.read("bench", first.result.id);
    for await (const chunk of reader.chunks("memory/1")) void chunk;
    await reader.close();
  });
  const reader = await again.read("bench", second.result.id);
  const times: number[] = [];
  for (let i = 0; i < RANDOM_READS; i += 1) {
    const at = Math.floor(Math.random() * (BYTES / PAGE)) * PAGE;
    times.push((await timed(() => reader.read("memory/1", at, PAGE))).ms);
  }
  await reader.close();
  times.sort((a, b) => a - b);
  const at = (part: number): string => (times[Math.floor(times.length * part)] ?? 0).toFixed(2);
  const cells = [
    name,
    mbPerSec(BYTES, first.ms),
    (first.cpuMs / 1000 / (BYTES / 1e9)).toFixed(1),
    (BYTES / first.result.newBytes).toFixed(2),
    `${((100 * second.result.newBytes) / first.result.newBytes).toFixed(1)} %`,
    `${((100 * second.ms) / first.ms).toFixed(0)} %`,
    mbPerSec(BYTES, read.ms),
    `${at(0.5)} / ${at(0.95)}`,
  ];
  console.log(`| ${cells.join(" | ")} |`);
}

const dir = await mkdtemp(join(tmpdir(), "ferry-bench-store-"));
try {
  const data = content();
  const plain = await timed(async () => {
    const handle = await open(join(dir, "plain"), "w");
    await handle.writeFile(data);
    await handle.sync();
    await handle.close();
  });
  console.log(`plain write and sync of ${values.mib} MiB: ${mbPerSec(BYTES, plain.ms)} MB/s\n`);
  console.log(
    "| what | write MB/s | CPU s/GB | ratio | second, bytes | second, time | read MB/s | page ms, median / 95 % |",
  );
  console.log("| --- | --- | --- | --- | --- | --- | --- | --- |");
  let count = 0;
  const local = async (name: string, more: Partial<StoreOptions>): Promise<void> => {
    const place = join(dir, `store-${count++}`);
    await one(name, await localBackend(place), data, more);
    await rm(place, { recursive: true });
  };
  const zstd = { codec: "zstd", level: 1 } as const;
  for (const segmentBlocks of [1, 4, 16, 64]) {
    await local(`local, zstd 1, segments of ${segmentBlocks * 4} KiB`, { compression: zstd, segmentBlocks });
  }
  await local("local, zstd 3", { compression: { codec: "zstd", level: 3 } });
  await local("local, deflate 1", { compression: { codec: "deflate", level: 1 } });
  await local("local, not compressed", { compression: { codec: "raw", level: 0 } });
  await local("local, not encrypted", { masterKeys: [] });
  for (const packBlocks of [1024, 16384]) await local(`local, packs of ${packBlocks / 256} MiB`, { packBlocks });
  if (values.s3 && NO_S3) console.log(`S3 left out: ${NO_S3}`);
  if (values.s3 && !NO_S3) {
    const server = await S3Server.start();
    try {
      for (const packBlocks of [1024, 4096, 16384]) {
        const backend = await s3Backend(server.options(`packs-${packBlocks}`));
        await one(`S3, packs of ${packBlocks / 256} MiB`, backend, data, { packBlocks });
        backend.close();
      }
    } finally {
      await server.stop();
    }
  }
} finally {
  await rm(dir, { recursive: true, force: true });
}

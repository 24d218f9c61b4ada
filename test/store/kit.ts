/** What the tests of the store share: keys, content that can be made again from a number, a store in a directory. */
import { createPrivateKey, generateKeyPairSync } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { masterKey } from "../../src/store/keys.js";
import { localBackend, Store, type CheckpointFacts, type Manifest, type StoreOptions } from "../../src/store/index.js";
import type { CheckpointWriter } from "../../src/store/index.js";

export const PAGE = 4096;
export const MASTER = masterKey(Buffer.alloc(32, 7));
export const OTHER_MASTER = masterKey(Buffer.alloc(32, 8));
export const SIGNER = generateKeyPairSync("ed25519").privateKey;
export const newSigner = () =>
  createPrivateKey(generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }));

export const facts = (workload: string): CheckpointFacts => ({
  workload,
  epoch: 3,
  runtime: "process",
  node: "node-a",
  criuVersion: "4.2.1",
  kernel: "6.18.0",
  cpu: "a cpu",
  arch: "x64",
  reason: "test",
  requestedBy: "tests",
  labels: {},
});

/** A page that is like no other: half of it can be compressed away. */
export function page(seed: number): Buffer {
  const data = Buffer.alloc(PAGE, 0x61);
  let state = (seed * 2654435761 + 12345) >>> 0;
  for (let at = 0; at < PAGE / 2; at += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data.writeUInt32LE(state, at);
  }
  data.writeUInt32LE(seed >>> 0, 0);
  return data;
}

export const pages = (first: number, count: number): Buffer =>
  Buffer.concat(Array.from({ length: count }, (_, i) => page(first + i)));

export async function tempDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "ferry-store-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

export async function openLocal(dir: string, more: Partial<StoreOptions> = {}): Promise<Store> {
  const backend = await localBackend(dir);
  return Store.open({ backend, masterKeys: [MASTER], trusted: [], signer: SIGNER, packBlocks: 256, ...more });
}

export async function begin(store: Store, workload: string, operation?: string): Promise<CheckpointWriter> {
  const begun = await store.begin({ workload, ...(operation === undefined ? {} : { operation }) });
  if ("done" in begun) throw new Error("it was made already");
  return begun.writer;
}

/** A checkpoint with one memory stream of these pages, one after the other, and a small image. */
export async function checkpoint(store: Store, workload: string, seeds: readonly number[]): Promise<Manifest> {
  const writer = await begin(store, workload);
  await writer.file("inventory.img", { kind: "image" }, Buffer.from(`image of ${workload}`));
  const memory = writer.stream("memory/1", { kind: "memory" });
  for (const [at, seed] of seeds.entries()) await memory.write(at * PAGE, page(seed));
  return writer.commit(facts(workload));
}

export const range = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i);

/** Bytes of all objects under a prefix. */
export async function storedBytes(store: Store, prefix: string): Promise<number> {
  let sum = 0;
  for await (const { bytes } of store.backend.list(prefix)) sum += bytes;
  return sum;
}

export async function keysOf(store: Store, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.backend.list(prefix)) keys.push(key);
  return keys;
}

/** Every page of a memory stream must be the one of its seed. */
export async function assertPages(store: Store, manifest: Manifest, seeds: readonly number[]): Promise<void> {
  const reader = await store.read(manifest.workload, manifest.id);
  try {
    const got = await reader.read("memory/1", 0, seeds.length * PAGE);
    for (const [at, seed] of seeds.entries()) {
      if (!got.subarray(at * PAGE, (at + 1) * PAGE).equals(page(seed))) throw new Error(`page ${at} is not as written`);
    }
  } finally {
    await reader.close();
  }
}

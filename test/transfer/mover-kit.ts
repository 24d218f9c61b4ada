/** What the tests of the movers share: certificates, both sides of an operation as real processes, and the comparison. */
import assert from "node:assert/strict";
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createAuthority, issueNodeCertificate } from "../../src/host/pki.js";
import type { DestinationMoverStatus, MoverConfig, SourceMoverStatus } from "../../src/model/mover.js";
import { connectMover, killMover, startMover, type MoverClient } from "../../src/transfer/mover/client.js";
import { destroyFaultService, openStore } from "../../src/transfer/pages/index.js";
import { ZERO } from "../../src/transfer/pages/store.js";

export const PAGE = 4096;
export const isRoot = process.getuid?.() === 0;
const root = mkdtempSync("/dev/shm/ferry-mover-");
export let identity: Record<"node-a" | "node-b", MoverConfig["tls"]>;
const running: string[] = [];

/** Call it before the first test. */
export async function makeIdentities(): Promise<void> {
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
}

/** Call it after the last: movers that are left are killed. */
export async function cleanUp(): Promise<void> {
  for (const dir of running) {
    await killMover(dir);
    // of a test that failed: its page daemon would wait for a restore
    await destroyFaultService(join(dir, "store"));
  }
  if (process.env["FERRY_KEEP"] === undefined) rmSync(root, { recursive: true, force: true });
}

export interface Side<Status extends SourceMoverStatus | DestinationMoverStatus> {
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

export interface Pair {
  source: Side<SourceMoverStatus>;
  destination: Side<DestinationMoverStatus>;
}
export const pair = (name: string, more: Partial<MoverConfig> = {}): Pair => ({
  source: side<SourceMoverStatus>(name, "source", more),
  destination: side<DestinationMoverStatus>(name, "destination"),
});

/** Every lazy page of the stopped processes is in the store, byte for byte. Returns how many there are. */
export function compareStore(storeDir: string, pids: Readonly<Record<string, number>>): number {
  const store = openStore(storeDir);
  const mems = new Map(Object.entries(pids).map(([vpid, pid]) => [Number(vpid), openSync(`/proc/${pid}/mem`, "r")]));
  const pages = openSync(join(storeDir, "pages"), "r");
  const states = readFileSync(join(storeDir, "states"));
  const [a, b] = [Buffer.alloc(256 * PAGE), Buffer.alloc(256 * PAGE)];
  for (const area of store.table.areas) {
    for (let page = 0; page < area.pages; page += 256) {
      const length = Math.min(256, area.pages - page) * PAGE;
      readSync(mems.get(area.vpid)!, a, 0, length, area.start + BigInt(page * PAGE));
      readSync(pages, b, 0, length, (area.slot + page) * PAGE);
      // what the file has of a page that is zero does not count
      for (let at = 0; at < length; at += PAGE) {
        if (states[area.slot + page + at / PAGE] === ZERO) b.fill(0, at, at + PAGE);
      }
      assert.ok(a.compare(b, 0, length, 0, length) === 0, `area ${area.start.toString(16)} page ${page} differs`);
    }
  }
  for (const fd of [...mems.values(), pages]) closeSync(fd);
  assert.equal(store.received, store.total);
  store.close();
  return store.total;
}

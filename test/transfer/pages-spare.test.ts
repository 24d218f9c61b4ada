import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { strays } from "../../src/transfer/pages/identity.js";
import { createStore, destroyFaultService, SpareDaemon, startFaultService } from "../../src/transfer/pages/index.js";
import { SCRIPT } from "../../src/transfer/pages/spare.js";
import { scratchDir, skipReason, until } from "./pages-kit.js";

const skip = skipReason();
const TABLE = { areas: [{ vpid: 1, start: 0x10000n, pages: 4, slot: 0 }], slots: 4 };
const daemons = (dir: string): number[] => strays(dir, SCRIPT).map(({ pid }) => pid);
const holder = (dir: string): number =>
  (JSON.parse(readFileSync(join(dir, "holder.json"), "utf8")) as { daemon: { pid: number } }).daemon.pid;

test("a spare daemon serves the store that is made after it", { skip }, async () => {
  const dir = scratchDir();
  const socketPath = join(dir, "lazy-pages.socket");
  try {
    const spare = new SpareDaemon(dir, socketPath);
    await until(() => daemons(dir).length === 1);
    const [pid] = daemons(dir);
    const store = createStore(dir, TABLE);
    const service = await startFaultService({ store, storeDir: dir, socketPath, log: () => undefined, spare });
    assert.equal(holder(dir), pid);
    assert.equal(spare.begin(), undefined, "it is given away once");
    spare.end();
    assert.ok(daemons(dir).includes(pid ?? 0), "and not ended by its former owner");
    await service.close();
    store.close();
  } finally {
    await destroyFaultService(dir);
    rmSync(dir, { recursive: true });
  }
});

test("a spare that died is replaced; one that nobody needs ends", { skip }, async () => {
  const dir = scratchDir();
  const socketPath = join(dir, "lazy-pages.socket");
  try {
    const spare = new SpareDaemon(dir, socketPath);
    await until(() => daemons(dir).length === 1);
    const [pid = 0] = daemons(dir);
    process.kill(pid, "SIGKILL");
    await until(() => daemons(dir).length === 0);
    await delay(20);
    const store = createStore(dir, TABLE);
    const service = await startFaultService({ store, storeDir: dir, socketPath, log: () => undefined, spare });
    assert.notEqual(holder(dir), pid);
    await service.close();
    store.close();
    const other = new SpareDaemon(dir, socketPath);
    await until(() => daemons(dir).length === 1);
    other.end();
    await until(() => daemons(dir).length === 0);
  } finally {
    await destroyFaultService(dir);
    rmSync(dir, { recursive: true });
  }
});

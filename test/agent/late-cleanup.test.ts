/**
 * A node that was cut off is told to clean up after a hand-over when the workload is back already, or on its way: the files that
 * are there now are not those that it handed over.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Book } from "../../src/agent/book.js";
import { HandOvers } from "../../src/agent/operations/hand-overs.js";
import { sweepSpent } from "../../src/agent/operations/node-context.js";
import { Settling } from "../../src/agent/operations/settling.js";
import type { Hold, HoldState } from "../../src/model/ownership.js";
import { specOf } from "../workflows/support.js";
import { bareContext, MIGRATION, withKeys } from "./bare-context.js";

const workload = "web";
const first = MIGRATION;
const keys = withKeys("late-cleanup");

/** node-a handed epoch 1 over; since then `states` came to pass for epoch 3. */
async function handedOver(...states: HoldState[]) {
  const dir = mkdtempSync(join(keys.root, "n"));
  const book = new Book(join(dir, "state"));
  const runtime = {
    observe: () => Promise.resolve({ processes: 0, memoryBytes: 0 }),
    throttle: () => Promise.resolve(),
    destroy: () => Promise.resolve(),
  };
  const context = await bareContext("node-a", dir, { book, runtime, pki: keys.pki });
  book.recordSpec(specOf(workload));
  const { operation } = first;
  const release = { to: 2, peer: "node-b", digest: "d".repeat(64) };
  book.record({ workload, epoch: 1, state: "OWNER", operation: "web.start.1" });
  book.record({ workload, epoch: 1, state: "FROZEN", operation, to: 2 });
  book.record({ workload, epoch: 1, state: "RELEASED", operation, ...release });
  book.record({ workload, epoch: 1, state: "GONE", operation, ...release });
  for (const state of states) {
    const back: Hold = {
      workload,
      epoch: 3,
      state,
      operation: "web.migrate.3",
      peer: "node-b",
      digest: "e".repeat(64),
    };
    book.record(state === "FROZEN" ? { ...back, to: 4 } : state === "RELEASED" ? { ...back, to: 4 } : back);
  }
  const files = join(dir, "state", "volumes", workload);
  mkdirSync(join(files, "data"), { recursive: true });
  writeFileSync(join(files, "data", "only-copy"), "of it");
  return { book, context, files, settling: new Settling(context, new HandOvers(context)) };
}

const OWNER: HoldState[] = ["RESERVED", "RECEIVED", "PREPARED", "ACTIVE", "RUNNING", "OWNER"];
for (const states of [
  ["RESERVED"],
  ["RESERVED", "RECEIVED"],
  ["RESERVED", "RECEIVED", "PREPARED"],
  [...OWNER],
  [...OWNER, "FROZEN"],
  [...OWNER, "FROZEN", "RELEASED"],
  [...OWNER, "STOPPED"],
  [...OWNER, "SUPERSEDED"],
] as HoldState[][]) {
  test(`it is back, ${states.at(-1)}: its files stay`, async () => {
    const { book, files, settling } = await handedOver(...states);
    await settling.cleanup(first);
    assert.ok(existsSync(join(files, "data", "only-copy")));
    book.close();
  });
}

test("nothing of it came back: what was handed over goes, and boot sweeps what an agent that died was removing", async () => {
  const { book, context, files, settling } = await handedOver();
  await settling.cleanup(first);
  assert.ok(!existsSync(files));
  const volumes = join(files, "..");
  assert.deepEqual(readdirSync(volumes), []);
  mkdirSync(join(volumes, ".spent-web-1", "data"), { recursive: true });
  mkdirSync(join(volumes, "other"));
  await sweepSpent(context);
  assert.deepEqual(readdirSync(volumes), ["other"]);
  book.close();
});

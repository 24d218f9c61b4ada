/**
 * Who names an operation and does not mean it: a clean-up removes nothing that a hand-over, a restore or a checkpoint lives on, and
 * nothing is handed over, or taken over, by another ref than the one that it was begun by.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Book } from "../../src/agent/book.js";
import { HandOvers } from "../../src/agent/operations/hand-overs.js";
import { Settling } from "../../src/agent/operations/settling.js";
import { refSchema } from "../../src/agent/schemas.js";
import type { OperationRef } from "../../src/model/contract.js";
import { FerryError, type FailureCode, type Side } from "../../src/model/failure.js";
import { specOf } from "../workflows/support.js";
import { bareContext, MIGRATION, withKeys } from "./bare-context.js";

const workload = "web";
const ref = MIGRATION;
const keys = withKeys("forged-ref");

const failsWith = (code: FailureCode) => (error: unknown) => error instanceof FerryError && error.code === code;

/** A node in the middle of `web.migrate.2`, with what it lives on there. */
async function inTheMiddle(side: Side) {
  const dir = mkdtempSync(join(keys.root, side));
  const node = ref[side];
  const book = new Book(join(dir, "state"));
  const done: string[] = [];
  const runtime = {
    observe: () => Promise.resolve({ processes: 1, memoryBytes: 0 }),
    throttle: () => Promise.resolve(),
    destroy: ({ epoch }: { epoch: number }) => Promise.resolve(void done.push(`killed ${epoch}`)),
  };
  const context = await bareContext(node, dir, { book, runtime, pki: keys.pki });
  const options = { mode: "postcopy" as const, dryRun: false, maxBlackoutMs: 1000 };
  const place = { host: "127.0.0.1", port: 1 };
  book.recordSpec(specOf(workload));
  const own = { workload, operation: ref.operation };
  if (side === "source") {
    book.record({ workload, epoch: 1, state: "OWNER", operation: "web.start.1" });
    book.recordOperation({ side, input: { ref, options, reservation: { agent: place, mover: place } } });
    book.record({ ...own, epoch: 1, state: "FROZEN", to: 2, peer: ref.destination });
  } else {
    const input = { ref, options, spec: specOf(workload), memoryBytes: 0, volumeBytes: 0 };
    book.recordOperation({ side, input });
    book.record({ ...own, epoch: 2, state: "RESERVED", peer: ref.source });
  }
  const things = join(context.config.runDir, "ops", ref.operation);
  mkdirSync(things, { recursive: true });
  const handOvers = new HandOvers(context);
  const { runDir } = context.config;
  return { book, done, things, runDir, handOvers, settling: new Settling(context, handOvers), options, place };
}

for (const side of ["source", "destination"] as const) {
  test(`at the ${side} of a hand-over under way: refused, whatever epochs it names`, async () => {
    const { book, done, things, settling } = await inTheMiddle(side);
    for (const [epoch, to] of [
      [7, 8],
      [1, 9],
      [0, 2],
    ] as const) {
      await assert.rejects(settling.cleanup({ ...ref, epoch, to }), failsWith("E_REQUEST"));
    }
    const elsewhere = side === "source" ? { destination: "node-c" } : { source: "node-c" };
    await assert.rejects(settling.cleanup({ ...ref, ...elsewhere }), failsWith("E_REQUEST"));
    // Well meant, and too early.
    await assert.rejects(settling.cleanup(ref), failsWith("E_STATE"));
    assert.ok(existsSync(things));
    assert.deepEqual(done, []);
    book.close();
  });
}

test("what is no migration, and a node that has no part in it: refused", async () => {
  const { book, runDir, settling } = await inTheMiddle("source");
  for (const operation of ["web.restore.3", "web.feed.3", "web.checkpoint.4", "web.start.1"]) {
    mkdirSync(join(runDir, "ops", operation), { recursive: true });
    await assert.rejects(settling.cleanup({ ...ref, operation, epoch: 7, to: 8 }), failsWith("E_REQUEST"));
    assert.ok(existsSync(join(runDir, "ops", operation)));
  }
  const others = { ...ref, operation: "web.migrate.9", source: "node-c", destination: "node-d" };
  await assert.rejects(settling.cleanup(others), failsWith("E_REQUEST"));
  book.close();
});

test("an operation of one workload in the name of another is no reference at all", () => {
  assert.equal(refSchema.safeParse(ref).success, true);
  assert.equal(refSchema.safeParse({ ...ref, operation: "webb.migrate.2" }).success, false);
});

const OTHERS: Partial<OperationRef>[] = [{ to: 9 }, { destination: "node-c" }];
for (const state of ["FROZEN", "RELEASED"] as const) {
  test(`${state} for one node and epoch: not handed over to another one`, async () => {
    const { book, handOvers, options, place } = await inTheMiddle("source");
    const own = { workload, operation: ref.operation, epoch: 1, to: 2, peer: ref.destination };
    if (state === "RELEASED") book.record({ ...own, state, digest: "d" });
    const before = book.entries;
    for (const other of OTHERS) {
      const input = { ref: { ...ref, ...other }, options, reservation: { agent: place, mover: place } };
      await assert.rejects(handOvers.handOver(input, 0), failsWith("E_REQUEST"));
    }
    assert.equal(handOvers.has(ref.operation), false);
    assert.equal(book.entries, before);
    book.close();
  });
}

test("restored on the source itself it goes on as that, whoever asks by the first ref, and no token is given for it", async () => {
  const { book, handOvers, options, place } = await inTheMiddle("source");
  const reservation = { agent: place, mover: place };
  const { operation } = ref;
  const local = { ...ref, to: 3, destination: ref.source };
  book.record({ workload, operation, epoch: 2, state: "BURNED", peer: ref.destination });
  book.recordOperation({ side: "source", input: { ref: local, options, reservation }, local: true });
  book.record({ workload, operation, epoch: 1, state: "RELEASED", to: 3, peer: ref.source, digest: "d" });
  const before = book.entries;
  for (const other of OTHERS) {
    const input = { ref: { ...ref, ...other }, options, reservation };
    await assert.rejects(handOvers.handOver(input, 0), failsWith("E_REQUEST"));
  }
  assert.equal(handOvers.has(operation), false);
  // There is no engine here to go on with.
  await handOvers.handOver({ ref, options, reservation }, 100).catch((error: unknown) => {
    assert.ok(!failsWith("E_REQUEST")(error), String(error));
  });
  assert.equal(book.token(operation, 2), undefined);
  assert.deepEqual(book.operation("source", operation)?.input.ref, local);
  assert.equal(book.entries, before);
  book.close();
});

test("reserved for one source and epoch: not taken over from another one", async () => {
  const { book, handOvers, options } = await inTheMiddle("destination");
  for (const other of [{ source: "node-c" }, { epoch: 0 }, { epoch: 7, to: 2 }]) {
    const input = { ref: { ...ref, ...other }, options, spec: specOf(workload) };
    await assert.rejects(handOvers.takeOver(input, 0), failsWith("E_REQUEST"));
  }
  // What this node does to itself is nobody else's.
  const local = { ...ref, source: ref.destination };
  const reserved = { ref: local, options, spec: specOf(workload), memoryBytes: 0, volumeBytes: 0 };
  book.recordOperation({ side: "destination", input: reserved, local: true });
  await assert.rejects(handOvers.takeOver({ ref, options, spec: specOf(workload) }, 0), failsWith("E_REQUEST"));
  assert.equal(handOvers.has(ref.operation), false);
  book.close();
});

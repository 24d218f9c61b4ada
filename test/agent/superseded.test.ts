/**
 * A node that comes back, told by the new owner's signed word: what it runs is killed, also what nobody knew of, and what it was
 * asked for and never heard is refused for ever. And that word: given by whoever has run it from a checkpoint, whatever has had
 * it in hands since.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Beginnings } from "../../src/agent/beginnings.js";
import { Book } from "../../src/agent/book.js";
import type { Endings } from "../../src/agent/endings.js";
import { HandOvers } from "../../src/agent/operations/hand-overs.js";
import { Settling } from "../../src/agent/operations/settling.js";
import type { OperationRef } from "../../src/model/contract.js";
import { FerryError } from "../../src/model/failure.js";
import { bareContext, withKeys } from "./bare-context.js";
import { specOf } from "../workflows/support.js";

const WORKLOAD = "web";
const keys = withKeys("superseded");
let count = 0;

async function node(name: string, again?: string) {
  const dir = again ?? join(keys.root, `n${count++}`);
  const done: string[] = [];
  const book = new Book(join(dir, "state"));
  const runtime = {
    observe: () => Promise.resolve({ processes: 1, pid: 7, memoryBytes: 0 }),
    destroy: ({ epoch }: { epoch: number }) => Promise.resolve(void done.push(`killed ${epoch}`)),
  };
  const context = await bareContext(name, dir, { book, runtime, pki: keys.pki });
  const ends = { begun: () => undefined } as unknown as Endings;
  const beginnings = new Beginnings(context, ends, (_, work) => work());
  const ask = (operation: string, epoch: number) =>
    beginnings.begin(
      { workload: WORKLOAD, epoch, state: "OWNER", operation, digest: "c" },
      specOf(WORKLOAD),
      () => Promise.resolve({ pid: done.push(`ran ${epoch}`) }),
      true,
    );
  return { dir, book, done, ask, settling: new Settling(context, new HandOvers(context)) };
}
const ref = (operation: string, epoch: number, to: number, source = "node-a"): OperationRef => ({
  schema: 1,
  operation,
  workload: WORKLOAD,
  epoch,
  to,
  source,
  destination: "node-b",
});
const owner = (operation: string, epoch: number) =>
  ({ workload: WORKLOAD, epoch, state: "OWNER", operation, digest: "c" }) as const;

/** The word of node-b that it owns that epoch. */
async function wordOf(asked: OperationRef) {
  const { book, settling } = await node("node-b");
  book.record(owner(asked.operation, asked.to));
  const { receipt } = await settling.inquire(asked);
  assert.ok(receipt !== undefined);
  book.close();
  return receipt;
}
const failsWith = (code: string) => (error: unknown) => error instanceof FerryError && error.code === code;

test("superseded before it arrived: the request that comes late is refused, also by the next agent", async () => {
  const stale = ref("web.restore.5", 4, 5);
  const receipt = await wordOf(stale);
  const { dir, book, done, settling } = await node("node-a");
  await assert.rejects(settling.supersede({ ref: stale, receipt: { ...receipt, epoch: 6 } }), failsWith("E_TOKEN"));
  assert.equal(book.hold(WORKLOAD, 4), undefined);
  // Of files that it knows nothing of (a journal that was lost) none is removed.
  const data = (place: string) => join(dir, "state", place, "data");
  mkdirSync(data("volumes/web"), { recursive: true });
  const told = await settling.supersede({ ref: stale, receipt });
  assert.deepEqual([existsSync(data("volumes/web")), existsSync(data("superseded/web-4"))], [false, true]);
  assert.equal(told.holds.find(({ epoch }) => epoch === 4)?.state, "TOMBSTONE");
  book.close();
  const later = await node("node-a", dir);
  await assert.rejects(later.ask("web.restore.4", 4), failsWith("E_TOMBSTONED"));
  assert.deepEqual([done, later.done], [[], []]);
  // Told again: nothing more.
  await later.settling.supersede({ ref: stale, receipt });
  later.book.close();
});

test("it runs another epoch than was known, older than the one that owns it: that is stale, too", async () => {
  const stale = ref("web.restore.5", 1, 5);
  const receipt = await wordOf(stale);
  const { book, done, settling } = await node("node-a");
  book.record(owner("web.start.1", 1));
  book.record({ ...owner("web.start.1", 1), state: "STOPPED" });
  book.record(owner("web.start.3", 3));
  await settling.supersede({ ref: stale, receipt });
  assert.deepEqual([book.hold(WORKLOAD, 1)?.state, book.hold(WORKLOAD, 3)?.state], ["STOPPED", "SUPERSEDED"]);
  assert.deepEqual(done, ["killed 3"]);
  // What is later than that is none of its business.
  book.record(owner("web.start.7", 7));
  await settling.supersede({ ref: stale, receipt });
  assert.equal(book.hold(WORKLOAD, 7)?.state, "OWNER");
  book.close();
});

test("its word is given for the operation that has begun it, whoever had it in hands since, and after a restart", async () => {
  const asked = ref("web.recover.3", 1, 2);
  const first = await node("node-b");
  first.book.record(owner(asked.operation, 2));
  first.book.recordStarted(WORKLOAD, 2);
  const saved = { workload: WORKLOAD, epoch: 2, operation: "web.checkpoint.4", peer: "node-b" };
  first.book.record({ ...saved, state: "FROZEN", to: 2 });
  first.book.record({ ...saved, state: "OWNER" });
  assert.equal((await first.settling.inquire(asked)).receipt?.operation, asked.operation);
  first.book.close();
  const { book, settling } = await node("node-b", first.dir);
  assert.equal((await settling.inquire(asked)).receipt?.epoch, 2);
  // Not for one that has not begun it.
  for (const other of ["web.checkpoint.4", "web.recover.4", "web.migrate.3"]) {
    assert.equal((await settling.inquire(ref(other, 1, 2))).receipt, undefined, other);
  }
  book.record({ ...saved, state: "STOPPED" });
  assert.equal((await settling.inquire(asked)).receipt?.epoch, 2, "it has owned it");
  book.close();
});

test("a restore that is asked for again after a checkpoint of it: it runs, and is neither killed nor restored once more", async () => {
  const { book, done, ask } = await node("node-b");
  book.record(owner("web.restore.3", 2));
  book.recordSpec(specOf(WORKLOAD));
  book.recordStarted(WORKLOAD, 2);
  const saved = { workload: WORKLOAD, epoch: 2, operation: "web.checkpoint.4", peer: "node-b" };
  book.record({ ...saved, state: "FROZEN", to: 2 });
  book.record({ ...saved, state: "OWNER" });
  assert.deepEqual(await ask("web.restore.3", 2), { pid: 7, epoch: 2 });
  await assert.rejects(ask("web.restore.5", 2), failsWith("E_STALE_EPOCH"));
  assert.deepEqual([done, book.hold(WORKLOAD, 2)?.operation], [[], "web.checkpoint.4"]);
  book.close();
});

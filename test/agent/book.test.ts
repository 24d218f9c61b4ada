import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Book } from "../../src/agent/book.js";
import { JOURNAL_FILE } from "../../src/agent/journal.js";
import { FerryError } from "../../src/model/failure.js";

const root = mkdtempSync(join(tmpdir(), "ferry-book-"));
after(() => rmSync(root, { recursive: true, force: true }));
let count = 0;
const fresh = (): string => join(root, `b${count++}`);
const code = (expected: string) => (error: unknown) => error instanceof FerryError && error.code === expected;
const hold = (
  epoch: number,
  state: "OWNER" | "FROZEN" | "BURNED" | "RELEASED" | "TOMBSTONE" | "RESERVED" | "STOPPED",
  more = {},
) => ({
  workload: "redis",
  epoch,
  state,
  operation: "redis.migrate.1",
  ...more,
});

test("holds survive a restart", () => {
  const dir = fresh();
  let book = new Book(dir);
  book.record(hold(1, "OWNER"));
  book.record(hold(1, "FROZEN", { to: 2, peer: "node-b" }));
  book.close();
  book = new Book(dir);
  assert.equal(book.hold("redis", 1)?.state, "FROZEN");
  assert.equal(book.hold("redis", 1)?.peer, "node-b");
  book.close();
});

test("an illegal move is refused and nothing is written", () => {
  const dir = fresh();
  const book = new Book(dir);
  book.record(hold(1, "OWNER"));
  book.record(hold(1, "FROZEN", { to: 2 }));
  const before = book.entries;
  assert.throws(() => book.record(hold(1, "OWNER")), code("E_STATE"), "frozen goes back only after a burn");
  book.record(hold(2, "BURNED"));
  assert.throws(
    () => book.record(hold(1, "RELEASED", { to: 2, digest: "d" })),
    FerryError,
    "a burned epoch is never released",
  );
  book.record(hold(1, "OWNER"));
  assert.throws(() => book.record(hold(2, "RESERVED")), code("E_BURNED"));
  assert.equal(book.entries, before + 2);
  book.close();
});

test("a new owner is refused while an older epoch is frozen, released, reserved or prepared, over restarts", () => {
  for (const path of [
    [hold(1, "OWNER"), hold(1, "FROZEN", { to: 2 })],
    [hold(1, "OWNER"), hold(1, "FROZEN", { to: 2 }), hold(1, "RELEASED", { to: 2, digest: "d" })],
    [hold(1, "RESERVED")],
  ]) {
    const dir = fresh();
    let book = new Book(dir);
    for (const next of path) book.record(next);
    book.close();
    book = new Book(dir);
    assert.throws(() => book.record(hold(3, "OWNER", { operation: "redis.start.9" })), code("E_STALE_EPOCH"));
    assert.equal(book.entries, path.length);
    book.close();
  }
});

test("a tombstone is for ever, over restarts", () => {
  const dir = fresh();
  let book = new Book(dir);
  book.record(hold(5, "TOMBSTONE"));
  book.close();
  book = new Book(dir);
  assert.throws(() => book.record(hold(5, "RESERVED")), code("E_TOMBSTONED"));
  assert.throws(() => book.record(hold(4, "RESERVED")), code("E_STALE_EPOCH"));
  book.record(hold(6, "RESERVED"));
  book.close();
});

test("after rm the highest epoch stays known, so that it is never used again", () => {
  const dir = fresh();
  const book = new Book(dir);
  book.record(hold(1, "OWNER"));
  book.record(hold(1, "STOPPED"));
  book.recordForget("redis");
  assert.equal(book.highest("redis"), 1);
  assert.throws(() => book.record(hold(1, "OWNER")), FerryError);
  book.record(hold(2, "OWNER"));
  book.close();
});

test("the same record twice is written once", () => {
  const book = new Book(fresh());
  book.record(hold(1, "OWNER"));
  const { entries } = book;
  book.record(hold(1, "OWNER"));
  assert.equal(book.entries, entries);
  book.close();
});

test("an entry of an unknown kind, in a sound chain, is damage and not ignored", () => {
  const dir = fresh();
  const book = new Book(dir);
  book.record(hold(1, "OWNER"));
  book.close();
  const file = join(dir, JOURNAL_FILE);
  const text = readFileSync(file, "utf8");
  writeFileSync(file, text.replace('"kind":"hold"', '"kind":"hole"'));
  assert.throws(() => new Book(dir), code("E_JOURNAL_CORRUPT"));
  writeFileSync(file, text);
  appendFileSync(file, '{"seq":2');
  const again = new Book(dir);
  assert.equal(again.torn, true);
  again.close();
});

test("what a person said to a hand-over survives a restart, and goes with the workload", () => {
  const dir = fresh();
  let book = new Book(dir);
  const ref = {
    schema: 1,
    operation: "redis.migrate.1",
    workload: "redis",
    epoch: 1,
    to: 2,
    source: "a",
    destination: "b",
  };
  const endpoint = { host: "192.0.2.1", port: 1 };
  book.record(hold(1, "OWNER"));
  book.recordOperation({
    side: "source",
    input: {
      ref,
      options: { mode: "precopy", dryRun: false, maxBlackoutMs: 30_000 },
      reservation: { agent: endpoint, mover: endpoint },
    },
  });
  const course = { maxDowntimeMs: 77, paused: true, heldUntil: null, now: false, resumeFirst: false };
  book.recordCourse("redis.migrate.1", { ...course, paused: false });
  book.recordCourse("redis.migrate.1", course);
  book.close();
  book = new Book(dir);
  assert.deepEqual(book.course("redis.migrate.1"), course);
  book.record(hold(1, "STOPPED"));
  book.recordForget("redis");
  assert.equal(book.course("redis.migrate.1"), undefined);
  book.close();
});

test("what the destination has said is known after a restart; a journal without such lines is read as before", () => {
  const dir = fresh();
  let book = new Book(dir);
  book.record(hold(1, "OWNER"));
  assert.equal(book.heard("redis.migrate.1", 2), undefined);
  book.recordHeard("redis.migrate.1", 2, "runs");
  const { entries } = book;
  book.recordHeard("redis.migrate.1", 2, "runs");
  assert.equal(book.entries, entries, "said once, written once");
  book.close();
  book = new Book(dir);
  assert.equal(book.heard("redis.migrate.1", 2), "runs");
  assert.equal(book.heard("redis.migrate.1", 3), undefined);
  book.recordHeard("redis.migrate.1", 2, "owns");
  book.recordHeard("redis.migrate.1", 2, "runs");
  assert.equal(book.heard("redis.migrate.1", 2), "owns", "never less than before");
  book.close();
});

test("asleep: one entry with the stop; over with a start, by word, or with the workload; not with a restore that failed", () => {
  const dir = fresh();
  let book = new Book(dir);
  const again = (): void => {
    book.close();
    book = new Book(dir);
  };
  const asleep = (): unknown => book.sleepers();
  book.record(hold(1, "OWNER"));
  book.record(hold(1, "FROZEN", { to: 1 }));
  const before = book.entries;
  book.recordAsleep("redis", 1, "c-1");
  book.recordAsleep("redis", 1, "c-1");
  assert.equal(book.entries, before + 1);
  again();
  assert.equal(book.hold("redis", 1)?.digest, "c-1");
  assert.equal(book.hold("redis", 1)?.state, "STOPPED");
  assert.deepEqual(asleep(), [{ workload: "redis", epoch: 1 }]);
  book.record(hold(3, "OWNER", { operation: "redis.restore.2" }));
  book.record(hold(3, "STOPPED", { operation: "redis.restore.2" }));
  again();
  assert.deepEqual(asleep(), [{ workload: "redis", epoch: 1 }], "the restore came to nothing");
  book.record(hold(4, "OWNER", { operation: "redis.restore.3" }));
  book.recordStarted("redis", 4);
  again();
  assert.deepEqual(asleep(), []);
  book.record(hold(4, "FROZEN", { to: 4 }));
  book.recordAsleep("redis", 4);
  book.recordAwake("redis", 3);
  assert.deepEqual(asleep(), [{ workload: "redis", epoch: 4 }], "a word about another epoch");
  book.recordAwake("redis", 4);
  again();
  assert.deepEqual(asleep(), []);
  book.record(hold(5, "OWNER"));
  book.record(hold(5, "FROZEN", { to: 5 }));
  book.recordAsleep("redis", 5);
  book.recordForget("redis");
  again();
  assert.deepEqual(asleep(), []);
  book.close();
});

test("what is stopped by a person does not sleep, whatever it was saved for before", () => {
  const book = new Book(fresh());
  book.record(hold(1, "OWNER"));
  book.record(hold(1, "STOPPED"));
  book.recordAsleep("redis", 1);
  assert.deepEqual(book.sleepers(), []);
  book.close();
});

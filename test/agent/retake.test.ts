/**
 * A source that has released and is asked to take back, by an agent that was restarted meanwhile: what the destination had
 * said before is in the journal, so a person's consent is asked for as before.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { Book, type Word } from "../../src/agent/book.js";
import { HandOvers } from "../../src/agent/operations/hand-overs.js";
import { Settling } from "../../src/agent/operations/settling.js";
import type { HandOverInput } from "../../src/model/contract.js";
import { FerryError } from "../../src/model/failure.js";
import { bareContext, withKeys } from "./bare-context.js";
import { specOf } from "../workflows/support.js";

const WORKLOAD = "redis";
const keys = withKeys("retake");
let count = 0;

const ref = {
  schema: 1,
  operation: "redis.migrate.1",
  workload: WORKLOAD,
  epoch: 1,
  to: 2,
  source: "node-a",
  destination: "node-b",
};
const input: HandOverInput = {
  ref,
  options: { mode: "postcopy", dryRun: false, maxBlackoutMs: 30_000 },
  // Nobody listens there: the destination is off.
  reservation: { agent: { host: "127.0.0.1", port: 1 }, mover: { host: "127.0.0.1", port: 1 } },
};

/** An agent's parts as after its restart: RELEASED in the journal, and the destination had said `word` before. */
async function restarted(word: Word | undefined) {
  const dir = join(keys.root, `n${count++}`);
  const done: string[] = [];
  const book = new Book(join(dir, "state"));
  book.record({ workload: WORKLOAD, epoch: 1, state: "OWNER", operation: "redis.start.1" });
  book.recordSpec(specOf(WORKLOAD));
  const line = { workload: WORKLOAD, epoch: 1, operation: ref.operation, peer: "node-b", to: 2 };
  book.recordOperation({ side: "source", input });
  book.record({ ...line, state: "FROZEN" });
  book.record({ ...line, state: "RELEASED", digest: "d" });
  if (word !== undefined) book.recordHeard(ref.operation, 2, word);
  book.close();
  const runtime = {
    adoptFreeze: () => undefined,
    takeBack: () => Promise.resolve(void done.push("taken back")),
    destroy: () => Promise.resolve(void done.push("killed")),
    observe: () => Promise.resolve({ processes: 1, frozen: true, memoryBytes: 0 }),
  };
  const again = new Book(join(dir, "state"));
  const context = await bareContext("node-a", dir, { book: again, runtime, pki: keys.pki });
  const handOvers = new HandOvers(context);
  const settling = new Settling(context, handOvers);
  return { book: again, done, handOvers, settling };
}
const retake = (settling: Settling, acceptRollback: boolean) =>
  settling.retake({ ref, evidence: "the plug is in my hand", acceptRollback });

for (const [word, first] of [
  [undefined, "taken back at once"],
  ["runs", "refused without consent"],
] as const) {
  test(`the destination had said ${word ?? "nothing"}: ${first}`, async () => {
    const { book, done, settling } = await restarted(word);
    if (word !== undefined) {
      await assert.rejects(retake(settling, false), (error: unknown) => {
        assert.ok(error instanceof FerryError && error.code === "E_PAST_COMMIT", String(error));
        assert.match(error.data.remedy ?? "", /--keep source --accept-rollback/);
        return true;
      });
      assert.equal(book.hold(WORKLOAD, 1)?.state, "RELEASED");
    }
    await retake(settling, word !== undefined);
    assert.deepEqual([book.hold(WORKLOAD, 1)?.state, book.hold(WORKLOAD, 2)?.state], ["OWNER", "FENCED"]);
    assert.deepEqual(done, ["taken back"]);
    book.close();
  });
}

test("the destination had said that it needs nothing more: the copy is let go, consent or not", async () => {
  const { book, done, handOvers, settling } = await restarted("owns");
  handOvers.goOn();
  await assert.rejects(
    retake(settling, true),
    (error: unknown) => error instanceof FerryError && error.code === "E_PAST_COMMIT",
  );
  await handOvers.source(ref.operation)?.result;
  assert.equal(book.hold(WORKLOAD, 1)?.state, "GONE");
  assert.deepEqual(done, ["killed"]);
  book.close();
});

/**
 * Calls that come late, and checkpoints that break off: what another operation holds frozen is never let go, nothing is begun
 * that nobody waits for, and what is frozen does not wait until somebody asks.
 */
import assert from "node:assert/strict";
import { rmSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Book } from "../../src/agent/book.js";
import { Checkpoints } from "../../src/agent/operations/checkpoints.js";
import { HandOvers } from "../../src/agent/operations/hand-overs.js";
import { Settling } from "../../src/agent/operations/settling.js";
import type { SaveInput } from "../../src/model/contract.js";
import { FerryError, ferryError } from "../../src/model/failure.js";
import { bareContext, withKeys } from "./bare-context.js";
import { begin, facts, openLocal, PAGE, page, range, tempDir } from "../store/kit.js";
import { specOf } from "../workflows/support.js";

const WORKLOAD = "web";
const keys = withKeys("late-checkpoint");
let count = 0;

const save = (sequence: number, stop = false): SaveInput => ({
  ref: {
    schema: 1,
    operation: `web.checkpoint.${sequence}`,
    workload: WORKLOAD,
    epoch: 1,
    to: sequence,
    source: "node-a",
    destination: "node-a",
  },
  options: { stop, reason: "", requestedBy: "me", labels: {}, maxBlackoutMs: 1000 },
  request: `r${sequence}`,
});

/** A node that has owned epoch 1 of it since `operation`; or one whose agent is started again. */
async function node(operation = "web.start.1", again?: string) {
  const dir = again ?? join(keys.root, `n${count++}`);
  const done: string[] = [];
  const book = new Book(join(dir, "state"));
  if (again === undefined) {
    book.record({ workload: WORKLOAD, epoch: 1, state: "OWNER", operation });
    book.recordSpec(specOf(WORKLOAD));
  }
  const taken = { lost: 0, processes: 1, frozen: true };
  const runtime = {
    adoptFreeze: () => undefined,
    takeBack: () => {
      done.push("taken back");
      taken.lost -= 1;
      return taken.lost >= 0
        ? Promise.reject(ferryError("E_DUMP", "criu was lost", { phase: "dump" }))
        : Promise.resolve();
    },
    pids: () => {
      done.push("looked at");
      return Promise.reject(ferryError("E_NO_SPACE", "no room for it"));
    },
    throttle: () => Promise.resolve(),
    observe: () => Promise.resolve({ processes: taken.processes, frozen: taken.frozen, memoryBytes: 0 }),
    destroy: () => Promise.resolve(void done.push("killed")),
  };
  const context = await bareContext("node-a", dir, { book, runtime, pki: keys.pki });
  const frozenFor = (operation: string, to: number): void =>
    book.record({ workload: WORKLOAD, epoch: 1, state: "FROZEN", operation, peer: "node-a", to });
  return { dir, book, context, done, taken, frozenFor };
}

test("a call to save that comes when the workload has gone on with a later operation begins nothing", async () => {
  const { context, book } = await node("web.checkpoint.4");
  const checkpoints = new Checkpoints(context, new HandOvers(context));
  await assert.rejects(
    checkpoints.save(save(3, true), 0),
    (error: unknown) =>
      error instanceof FerryError && error.code === "E_STATE" && /web.checkpoint.3 is over/.test(error.message),
  );
  assert.equal(book.save(WORKLOAD), undefined);
  // One that is of now fails for its own reasons.
  await assert.rejects(
    checkpoints.save(save(5), 0),
    (error: unknown) => error instanceof FerryError && error.code === "E_NO_CHECKPOINT",
  );
});

test("a migration that was called off long ago is burned once more: what a checkpoint holds stays frozen", async () => {
  const { context, book, done, frozenFor } = await node();
  const ref = { ...save(2).ref, operation: "web.migrate.2", destination: "node-b" };
  const link = { host: "127.0.0.1", port: 1 };
  const options = { mode: "cold" as const, dryRun: false, maxBlackoutMs: 1000 };
  book.recordOperation({ side: "source", input: { ref, options, reservation: { agent: link, mover: link } } });
  book.record({ workload: WORKLOAD, epoch: 2, state: "BURNED", operation: ref.operation, peer: "node-b" });
  frozenFor("web.checkpoint.3", 1);
  await new Settling(context, new HandOvers(context)).burn(ref);
  assert.deepEqual([book.hold(WORKLOAD, 1)?.state, done], ["FROZEN", []]);
});

test("a checkpoint that was begun before does not let go what another operation has frozen", async () => {
  const { context, book, done, frozenFor } = await node();
  book.recordSave({ input: save(3) });
  frozenFor("web.migrate.4", 4);
  const checkpoints = new Checkpoints(context, new HandOvers(context));
  const answer = await checkpoints.save(save(3), 5000);
  assert.ok(answer.done);
  assert.deepEqual([answer.result.state, answer.result.failure?.code], ["FROZEN", "E_STATE"]);
  assert.deepEqual([book.hold(WORKLOAD, 1)?.state, done], ["FROZEN", []]);
});

test("it broke off while it was frozen: begun again by itself until it runs", async () => {
  const { context, book, done, taken, frozenFor } = await node();
  book.recordSave({ input: save(3) });
  frozenFor("web.checkpoint.3", 1);
  taken.lost = 2;
  const stuck = {
    source: () => undefined,
    has: () => false,
    busy: () => false,
    drop: () => undefined,
    restoreLocally: () => Promise.reject(ferryError("E_NO_SPACE", "no room to restore it locally")),
  } as unknown as HandOvers;
  const checkpoints = new Checkpoints(context, stuck, 50);
  await checkpoints.goOn();
  assert.equal(book.hold(WORKLOAD, 1)?.state, "FROZEN");
  const end = performance.now() + 5000;
  while (book.hold(WORKLOAD, 1)?.state !== "OWNER") {
    assert.ok(performance.now() < end, "it is still frozen");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(done.length, 3);
  // Asked again when all is over: it is not frozen once more.
  const answer = await checkpoints.save(save(3), 5000);
  assert.ok(answer.done);
  assert.deepEqual([answer.result.state, answer.result.failure?.code], ["OWNER", "E_AGENT_DOWN"]);
  const later = await new Checkpoints(context, stuck).save(save(3), 5000);
  assert.ok(later.done);
  assert.deepEqual([later.result.state, book.hold(WORKLOAD, 1)?.state], ["OWNER", "OWNER"]);
});

test("the agent died while it took back what was to be let go: it has run since, and runs on", async () => {
  const { context, book, done, taken, frozenFor } = await node();
  book.recordSave({ input: save(3, true) });
  frozenFor("web.checkpoint.3", 1);
  taken.frozen = false;
  const checkpoints = new Checkpoints(context, new HandOvers(context));
  // Whatever is in the store meanwhile.
  Object.assign(context.store, { open: () => Promise.reject(new Error("the store was asked")) });
  const answer = await checkpoints.save(save(3, true), 5000);
  assert.ok(answer.done);
  assert.deepEqual([answer.result.state, answer.result.failure?.code, done], ["OWNER", "E_AGENT_DOWN", ["taken back"]]);
  assert.equal(book.hold(WORKLOAD, 1)?.state, "OWNER");
});

test("the machine lost its power while it was frozen: nothing is left to take back, and it is said to be down", async () => {
  const { context, book, done, taken, frozenFor } = await node();
  book.recordSave({ input: save(3) });
  frozenFor("web.checkpoint.3", 1);
  taken.processes = 0;
  const answer = await new Checkpoints(context, new HandOvers(context)).save(save(3), 5000);
  assert.ok(answer.done);
  assert.deepEqual([answer.result.state, answer.result.failure?.code, done], ["STOPPED", "E_STATE", ["killed"]]);
  assert.equal(book.hold(WORKLOAD, 1)?.state, "STOPPED");
});

test("it came to nothing before it was frozen, and the agent was restarted: a late call hears so, and stops nothing", async () => {
  const first = await node();
  const empty = { backend: { name: "s" }, made: () => Promise.resolve(undefined) };
  const store = { environment: () => Promise.resolve({}), open: () => Promise.resolve(empty) };
  Object.assign(first.context.store, store);
  const said = await new Checkpoints(first.context, new HandOvers(first.context)).save(save(3, true), 5000);
  assert.ok(said.done);
  assert.deepEqual([said.result.state, said.result.failure?.code], ["OWNER", "E_NO_SPACE"]);
  first.book.close();

  const later = await node(undefined, first.dir);
  Object.assign(later.context.store, store);
  const checkpoints = new Checkpoints(later.context, new HandOvers(later.context));
  await checkpoints.goOn();
  const answer = await checkpoints.save(save(3, true), 5000);
  assert.ok(answer.done);
  assert.deepEqual([answer.result.state, answer.result.epoch], ["OWNER", 1]);
  assert.deepEqual(
    [answer.result.failure?.code, answer.result.failure?.message],
    [said.result.failure?.code, said.result.failure?.message],
  );
  assert.deepEqual([later.done, checkpoints.busy(WORKLOAD)], [[], false]);
  // The next one is begun.
  await checkpoints.save(save(4), 5000);
  assert.deepEqual(later.done, ["looked at"]);
  later.book.close();
});

for (const hole of ["a pack is gone", "a pack is cut", undefined] as const) {
  test(`it is to be let go, and ${hole ?? "all of it is in the store"}: ${hole === undefined ? "let go, and its journal says with what" : "it runs on"}`, async (t) => {
    const { context, book, done, frozenFor } = await node();
    const input = save(3, true);
    book.recordSave({ input });
    frozenFor("web.checkpoint.3", 1);
    const dir = await tempDir(t);
    const store = await openLocal(dir);
    const writer = await begin(store, WORKLOAD, `${input.ref.operation} ${input.request}`);
    await writer.file("inventory.img", { kind: "image" }, Buffer.from("image"));
    const memory = writer.stream("memory/1", { kind: "memory" });
    for (const [at, seed] of range(0, 40).entries()) await memory.write(at * PAGE, page(seed));
    const manifest = await writer.commit({ ...facts(WORKLOAD), epoch: 1, stopped: true });
    const { packs } = await store.tree(manifest);
    const pack = packs.find(({ id }) => id !== manifest.tree.pack) ?? packs[0];
    assert.ok(pack !== undefined);
    const path = join(dir, "packs", pack.id.slice(0, 2), pack.id);
    if (hole === "a pack is gone") rmSync(path);
    else if (hole === "a pack is cut") truncateSync(path, pack.bytes - 1);
    Object.assign(context.store, { open: () => Promise.resolve(store), environment: () => Promise.resolve({}) });
    const answer = await new Checkpoints(context, new HandOvers(context)).save(input, 5000);
    assert.ok(answer.done);
    const { state, checkpoint, failure, letGo } = answer.result;
    const held = book.hold(WORKLOAD, 1);
    if (hole === undefined) {
      assert.deepEqual([state, checkpoint?.id, letGo, failure], ["STOPPED", manifest.id, true, undefined]);
      assert.deepEqual([held?.state, held?.digest, done], ["STOPPED", manifest.id, ["killed"]]);
    } else {
      assert.deepEqual([state, checkpoint, letGo, failure?.code], ["OWNER", undefined, undefined, "E_STORE_CORRUPT"]);
      assert.match(failure?.message ?? "", /web was not let go: checkpoint .* not all of it is found there/);
      assert.deepEqual([held?.state, done], ["OWNER", ["taken back"]]);
    }
    book.close();
  });
}

test("it ran on after its checkpoint was stored, and was stopped by a person: that was not its checkpoint's doing", async (t) => {
  const { context, book } = await node();
  const input = save(3, true);
  book.recordSave({ input });
  frozenThenStopped(book);
  const store = await openLocal(await tempDir(t));
  const writer = await begin(store, WORKLOAD, `${input.ref.operation} ${input.request}`);
  await writer.file("inventory.img", { kind: "image" }, Buffer.from("image"));
  await writer.commit({ ...facts(WORKLOAD), epoch: 1, stopped: true });
  Object.assign(context.store, { open: () => Promise.resolve(store), environment: () => Promise.resolve({}) });
  const answer = await new Checkpoints(context, new HandOvers(context)).save(input, 5000);
  assert.ok(answer.done);
  assert.deepEqual([answer.result.state, answer.result.letGo], ["STOPPED", false]);
  assert.equal(book.hold(WORKLOAD, 1)?.digest, undefined);
  book.close();
});

function frozenThenStopped(book: Book): void {
  const line = { workload: WORKLOAD, epoch: 1, operation: "web.checkpoint.3", peer: "node-a" };
  book.record({ ...line, state: "FROZEN", to: 1 });
  book.record({ ...line, state: "OWNER" });
  book.record({ ...line, state: "STOPPED" });
}

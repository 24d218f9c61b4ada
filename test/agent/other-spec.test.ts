/**
 * Whoever schedules activities himself can reserve with any spec: the destination holds that one against its policy. The source
 * says over the link which spec it runs, and the destination takes over nothing else.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { Book } from "../../src/agent/book.js";
import { ControlDialer } from "../../src/agent/operations/control.js";
import { HandOvers } from "../../src/agent/operations/hand-overs.js";
import { specDigest } from "../../src/keys/spec-signing.js";
import type { ReserveInput } from "../../src/model/contract.js";
import { FerryError } from "../../src/model/failure.js";
import { specOf, until } from "../workflows/support.js";
import { bareContext, MIGRATION, withKeys } from "./bare-context.js";

const workload = "web";
const ref = MIGRATION;
const runs = { ...specOf(workload), user: "root" };
const said = { ...runs, user: "daemon" };
const input: ReserveInput = {
  ref,
  options: { mode: "cold", dryRun: false, maxBlackoutMs: 30_000 },
  spec: said,
  memoryBytes: 0,
  volumeBytes: 0,
};

const keys = withKeys("other-spec");

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** node-b with `said` reserved, and what makes node-a's end of the control link. */
async function reserved() {
  const dir = mkdtempSync(join(keys.root, "b"));
  const book = new Book(join(dir, "state"));
  let prepared: () => void = () => undefined;
  const runtime = {
    prepare: () => new Promise<void>((resolve) => (prepared = resolve)),
    destroy: () => Promise.resolve(),
  };
  const bare = await bareContext("node-b", dir, { book, runtime, pki: keys.pki });
  const context = { ...bare, config: { ...bare.config, linkPort: await freePort() } };
  const handOvers = new HandOvers(context);
  await handOvers.hub.listen();
  book.recordOperation({ side: "destination", input });
  book.record({ workload, operation: ref.operation, epoch: 2, state: "RESERVED", peer: ref.source });
  book.recordSpec(said);
  const source = mkdtempSync(join(keys.root, "a"));
  const near = await bareContext("node-a", source, {
    book: new Book(join(source, "state")),
    runtime: {},
    pki: keys.pki,
  });
  const dial = (digest: string): ControlDialer =>
    new ControlDialer(near, ref, "node-b", { host: "127.0.0.1", port: context.config.linkPort }, digest);
  return { book, handOvers, dial, prepared: () => prepared() };
}

for (const first of ["before", "after"] as const) {
  test(`said ${first} the take-over begins: refused for ever, and the source is told why`, async () => {
    const { book, handOvers, dial, prepared } = await reserved();
    const dialer = dial(specDigest(runs));
    try {
      if (first === "before") {
        dialer.start();
        await until(
          () => dialer.level.value.connected,
          (connected) => connected,
          5000,
        );
      }
      const takeOver = handOvers.ensureTakeOver(input, false);
      dialer.start();
      await until(
        () => dialer.level.value.destination?.hold,
        (hold) => hold === "TOMBSTONE",
        5000,
      );
      prepared();
      const { state, failure } = await takeOver.result;
      assert.equal(state, "TOMBSTONE");
      assert.equal(failure?.code, "E_SPEC");
      assert.match(failure.message, /another spec of web than the one that runs on node node-a/);
      assert.equal(dialer.level.value.destination?.failure?.code, "E_SPEC");
      assert.equal(book.hold(workload, 2)?.state, "TOMBSTONE");
    } finally {
      await dialer.stop();
      await handOvers.hub.close();
    }
  });
}

test("the same spec, whoever signed it, and an older source that does not say it: nothing is refused", async () => {
  for (const word of [specDigest({ ...said }), undefined]) {
    const { handOvers, prepared } = await reserved();
    const takeOver = handOvers.ensureTakeOver(input, false);
    takeOver.onSpec(word);
    // What comes after that has no say.
    takeOver.onSpec(specDigest(runs));
    takeOver.refuse(new FerryError({ code: "E_CANCELLED", message: "enough" }).data);
    prepared();
    assert.equal((await takeOver.result).failure?.code, "E_CANCELLED");
    await handOvers.hub.close();
  }
});

test("reserved again, or where another epoch of it is held, with another spec: refused, the journal's spec stays", async () => {
  const { book, handOvers } = await reserved();
  try {
    await assert.rejects(
      handOvers.reserve({ ...input, spec: runs }),
      (error: unknown) => error instanceof FerryError && error.code === "E_SPEC" && /epoch 2/.test(error.message),
    );
    assert.deepEqual(book.spec(workload), said);
  } finally {
    await handOvers.hub.close();
  }
});

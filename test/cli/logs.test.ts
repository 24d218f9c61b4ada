/** What `ferry logs -f` prints and when it ends, with a log that we hold in the hand. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { follow } from "../../src/cli/commands/logs.js";
import type { Interrupt } from "../../src/cli/interrupt.js";
import { createContext } from "../../src/cli/io.js";
import { FerryError } from "../../src/model/failure.js";
import type { WorkloadState, WorkloadStatus } from "../../src/model/workload.js";

/** An interrupt that a test makes happen. */
function interruptOnDemand(): Interrupt & { happen(): void } {
  let happened = false;
  let resolve: (value: "interrupt") => void = () => undefined;
  return {
    asked: new Promise((done) => (resolve = done)),
    happened: () => happened,
    release: () => undefined,
    happen() {
      happened = true;
      resolve("interrupt");
    },
  };
}

/** A workload of which `read` answers every look into the log with the piece that is there from `offset` on. */
function logOf(
  read: (offset: number) => { text: string; sizeBytes: number },
  state: () => WorkloadState = () => "running",
) {
  return {
    name: "writer",
    status: () => Promise.resolve({ state: state(), exitCode: 0 } as WorkloadStatus),
    logs: async ({ offset = 0 }: { offset?: number }) => {
      const { text, sizeBytes } = await Promise.resolve(read(offset));
      return { text, offset, nextOffset: offset + Buffer.byteLength(text), sizeBytes };
    },
  };
}

function printed() {
  const said = { out: "", err: "" };
  const context = createContext({
    stdout: { write: (text: string) => (said.out += text) },
    stderr: { write: (text: string) => (said.err += text) },
    env: {},
  });
  return { said, context };
}

test("Ctrl-C ends a follower that has never yet caught up with what is written", async () => {
  const interrupt = interruptOnDemand();
  const { said, context } = printed();
  let looks = 0;
  const workload = logOf((offset) => {
    if (++looks === 5) interrupt.happen();
    assert.ok(looks < 50, "it does not end");
    return { text: `line ${looks}\n`, sizeBytes: offset + 1000 };
  });
  await follow(workload, 0, context, interrupt);
  assert.deepEqual(said, { out: "line 1\nline 2\nline 3\nline 4\n", err: "" });
});

test("a piece that was printed before the node went away is not printed again", async () => {
  const { said, context } = printed();
  const text = "0123456789";
  let looks = 0;
  let state: WorkloadState = "running";
  const workload = logOf(
    (offset) => {
      looks += 1;
      // The first look has it all as it is then; of the second one only the first piece arrives.
      if (looks === 3) throw new FerryError({ code: "E_NODE_UNREACHABLE", message: "node-a does not answer" });
      if (looks === 4) state = "exited";
      return { text: text.slice(offset, offset + 2), sizeBytes: looks === 1 ? 2 : text.length };
    },
    () => state,
  );
  await follow(workload, 0, context, interruptOnDemand());
  assert.equal(said.out, text);
  assert.match(said.err, /^ferry: node-a does not answer; going on when it answers\nferry: writer has ended/);
});

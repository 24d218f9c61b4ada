/** A restore where it was has the same node on both sides. Asked whether it began, that node says so, or refuses it for ever. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Book } from "../../src/agent/book.js";
import { HandOvers } from "../../src/agent/operations/hand-overs.js";
import { Settling } from "../../src/agent/operations/settling.js";
import { FerryError } from "../../src/model/failure.js";
import { bareContext } from "./bare-context.js";
import { makePki } from "../transfer/link-support.js";

const both = { workload: "web", source: "node-a", destination: "node-a" };
const ref = { schema: 1, operation: "web.restore.2", epoch: 1, to: 2, ...both };

test("it has not begun: refused for ever; it runs: said; of another node: an error", async () => {
  const root = mkdtempSync(join(tmpdir(), "ferry-refuse-"));
  const pki = await makePki();
  try {
    const book = new Book(join(root, "state"));
    const observe = () => Promise.resolve({ processes: 1, memoryBytes: 0 });
    const context = await bareContext("node-a", root, { book, runtime: { observe }, pki });
    const settling = new Settling(context, new HandOvers(context));
    book.record({ workload: "web", epoch: 1, state: "OWNER", operation: "web.start.1" });
    book.record({ workload: "web", epoch: 1, state: "STOPPED" });
    const refused = await settling.refuse(ref);
    assert.equal(refused.holds.find(({ epoch }) => epoch === 2)?.state, "TOMBSTONE");

    book.record({ workload: "web", epoch: 3, state: "OWNER", operation: "web.restore.3" });
    const runs = await settling.refuse({ ...ref, operation: "web.restore.3", to: 3 });
    assert.equal(runs.holds.find(({ epoch }) => epoch === 3)?.state, "OWNER");

    await assert.rejects(
      settling.refuse({ ...ref, source: "node-b", destination: "node-b" }),
      (error: unknown) => error instanceof FerryError && error.code === "E_REQUEST",
    );
    // What has two nodes still has two.
    await assert.rejects(
      settling.burn({ ...ref, to: 4 }),
      (error: unknown) => error instanceof FerryError && error.code === "E_SAME_NODE",
    );
    book.close();
  } finally {
    pki.remove();
    rmSync(root, { recursive: true, force: true });
  }
});

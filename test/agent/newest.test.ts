/** What a node takes for the newest checkpoint of a workload: that of the latest epoch, whenever it was stored. */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { NodeStore } from "../../src/agent/checkpoints.js";
import { FerryError, ferryError } from "../../src/model/failure.js";
import { begin, facts, openLocal, tempDir } from "../store/kit.js";

test("one of an earlier epoch that was stored later, by a wrong clock or a node that was given up, is not the newest", async (t) => {
  const dir = await tempDir(t);
  const store = await openLocal(dir);
  const nodes = new NodeStore({ node: "node-a", file: undefined, log: () => undefined });
  Object.assign(nodes, { open: () => Promise.resolve(store) });
  assert.equal(await nodes.newest("web"), undefined);
  const save = async (epoch: number, takenAt: string) => {
    const writer = await begin(store, "web");
    await writer.file("inventory.img", { kind: "image" }, Buffer.from(`epoch ${epoch}`));
    return writer.commit({ ...facts("web"), epoch, takenAt });
  };
  const first = await save(5, "2026-03-01T10:00:00.000Z");
  const second = await save(6, "2026-03-01T10:05:00.000Z");
  await save(5, "2026-03-01T11:00:00.000Z");
  await store.pin("web", second.id);
  const newest = await nodes.newest("web");
  assert.deepEqual([newest?.id, newest?.epoch, newest?.pinned], [second.id, 6, true]);
  // One that can't be believed does not stand in the way; a store that is away does.
  rmSync(join(dir, "checkpoints", "web", `${second.id}.json`));
  await store.backend.replace(`checkpoints/web/${second.id}.json`, Buffer.from("{}"));
  assert.equal((await nodes.newest("web"))?.epoch, 5);
  assert.notEqual((await nodes.newest("web"))?.id, first.id);
  const away = ferryError("E_STORE", "it can't be reached");
  Object.assign(store, { list: () => Promise.resolve([{ id: first.id, failure: away.data }]) });
  await assert.rejects(
    nodes.newest("web"),
    (error: unknown) => error instanceof FerryError && error.code === "E_STORE",
  );
});

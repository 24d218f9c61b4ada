/** Property of exported checkpoints: whatever has become of one, it is taken in as it was, or nothing of it is. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after } from "node:test";
import * as fc from "fast-check";
import { exportCheckpoint, importCheckpoint } from "../../src/store/index.js";
import { archiveOf, entriesOf } from "../store/archive-kit.js";
import { checkpoint, keysOf, openLocal, range } from "../store/kit.js";
import { demandAnswer, fuzz, mutatedBytes } from "./mutate.js";

const root = mkdtempSync("/dev/shm/ferry-fuzz-store-");
after(() => rmSync(root, { recursive: true, force: true }));

const store = await openLocal(join(root, "store"));
const { id } = await checkpoint(store, "web", range(1, 40));
const parts: Buffer[] = [];
for await (const part of exportCheckpoint(store, "web", id)) parts.push(part);
const WHOLE = Buffer.concat(parts);
const ENTRIES = entriesOf(WHOLE);
const empty = await openLocal(join(root, "empty"));
const before = await keysOf(empty, "");

async function takeIn(body: Buffer): Promise<void> {
  const file = join(root, "x.ferry");
  writeFileSync(file, body);
  try {
    await importCheckpoint(empty, file);
  } catch (error) {
    demandAnswer(error);
    assert.deepEqual(await keysOf(empty, ""), before, "something was stored");
    return;
  }
  // Nothing that counts was changed: then it is that checkpoint.
  assert.deepEqual(await empty.ids("web"), [id]);
  assert.equal((await importCheckpoint(store, file)).already, true);
  for (const key of await keysOf(empty, "")) if (!before.includes(key)) await empty.backend.delete(key);
}

fuzz("an exported checkpoint", mutatedBytes([WHOLE]), takeIn, undefined, { share: 0.3 });
/** With a digest of the whole that is right: what is signed has to hold alone. */
const changedEntry = fc.nat(ENTRIES.length - 1).chain((at) => {
  const { name, body } = ENTRIES[at] ?? { name: "", body: Buffer.alloc(0) };
  return mutatedBytes([body]).map((changed) =>
    archiveOf(ENTRIES.map((entry, i) => (i === at ? { name, body: changed } : entry))),
  );
});
fuzz("an object of an exported checkpoint", changedEntry, takeIn, undefined, { share: 0.5 });
const order = fc
  .shuffledSubarray([...ENTRIES.keys(), ...ENTRIES.keys()])
  .map((chosen) => archiveOf(chosen.flatMap((at) => ENTRIES[at] ?? [])));
fuzz("objects of an exported checkpoint, in any order and number", order, takeIn, undefined, { share: 0.3 });

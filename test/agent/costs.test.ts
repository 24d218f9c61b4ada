/** What a node learns of its own migrations: per workload, per peer, and what is not known of the node at large. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { CostBook, fixedBlackoutMs } from "../../src/agent/costs.js";
import { frozenBytesOf } from "../../src/agent/preflight/memory.js";

const dir = mkdtempSync(join(tmpdir(), "ferry-costs-"));
after(() => rmSync(dir, { recursive: true, force: true }));
const MIB = 2 ** 20;

test("one workload's experience does not spoil another's, nor one peer's", () => {
  const costs = new CostBook(dir);
  const model = fixedBlackoutMs(1, 100 * MIB, 1);
  assert.equal(costs.fixedMs("redis", 100 * MIB, 1), model);
  costs.learn({ workload: "redis", peer: "node-b" }, { fixedMs: model, bandwidthBytesPerSec: 1e9 }, 100 * MIB, 1);
  for (let i = 0; i < 10; i += 1) {
    const heavy = 10 * fixedBlackoutMs(1, 100 * MIB, 1);
    costs.learn({ workload: "postgres", peer: "node-c" }, { fixedMs: heavy, bandwidthBytesPerSec: 1e7 }, 100 * MIB, 1);
  }
  for (const book of [costs, new CostBook(dir)]) {
    assert.ok(Math.abs(book.fixedMs("redis", 100 * MIB, 1) - model) < 1);
    assert.ok(book.fixedMs("postgres", 100 * MIB, 1) > 9 * model);
    assert.ok(book.fixedMs("new", 100 * MIB, 1) > 5 * model, "of one that never moved the node's experience tells");
    assert.equal(book.bandwidthTo("node-b"), 1e9);
    assert.equal(book.bandwidthTo("node-c"), 1e7);
    assert.ok((book.bandwidthTo("node-z") ?? 0) < 1e8);
  }
});

test("a file of before is read, rubbish is not; many names don't grow it for ever", () => {
  writeFileSync(join(dir, "costs.json"), JSON.stringify({ scale: 2, bandwidthBytesPerSec: 5e8 }));
  const costs = new CostBook(dir);
  assert.equal(costs.fixedMs("redis", 0, 0), fixedBlackoutMs(2, 0, 0));
  assert.equal(costs.bandwidthTo("node-b"), 5e8);
  const measured = { fixedMs: 400 };
  for (let i = 0; i < 300; i += 1) costs.learn({ workload: `w${i}`, peer: "node-b" }, measured, 0, 0);
  costs.learn({ workload: "w299", peer: "node-b" }, { fixedMs: 4000 }, 0, 0);
  assert.notEqual(costs.fixedMs("w299", 0, 0), costs.fixedMs("w0", 0, 0));
  writeFileSync(join(dir, "costs.json"), "{");
  assert.equal(new CostBook(dir).fixedMs("redis", 0, 0), fixedBlackoutMs(1, 0, 0));
});

test("what only moves frozen: huge pages of all tasks, and the largest task's shared memory", () => {
  const status = (huge: number, shared: number): Map<string, string> =>
    new Map([
      ["HugetlbPages", `${huge} kB`],
      ["RssShmem", `${shared} kB`],
    ]);
  assert.equal(frozenBytesOf([status(1024, 10), status(1024, 3000), new Map()]), (2048 + 3000) * 1024);
  assert.equal(frozenBytesOf([]), 0);
});

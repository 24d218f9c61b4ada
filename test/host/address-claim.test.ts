/** An address is taken by one node at a time, also while nothing of the kernel answers for it yet. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { run } from "../../src/host/exec.js";
import type { Seen } from "./address-claim-main.js";

test(
  "two nodes that want one address at once, later, after it was given back, and when somebody takes it by force",
  { skip: process.getuid?.() === 0 ? false : "needs root" },
  async () => {
    const program = fileURLToPath(new URL("address-claim-main.js", import.meta.url));
    const { stdout } = await run("unshare", ["--net", "--mount", process.execPath, program], { timeoutMs: 60_000 });
    const seen = JSON.parse(stdout) as Seen;
    const [a, b] = seen.macs;
    for (const [first, second] of seen.atOnce) {
      assert.ok(first !== null || second !== null, "both were given it");
      assert.ok(first === null || first === b, first ?? "");
      assert.ok(second === null || second === a, second ?? "");
    }
    assert.deepEqual(seen.held, { first: null, second: a, firstThen: null });
    assert.deepEqual(seen.free, { second: null });
    assert.deepEqual(seen.forced, { before: null, after: "02:fe:00:00:00:99" });
    assert.deepEqual(seen.own, { first: "this node" });
  },
);

/** The address of what does not run: asked for, it is there; what comes for it is kept, and delivered when it runs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { run } from "../../src/host/exec.js";

test(
  "a client that connects while nothing runs is neither refused nor lost: its first SYN is answered when it runs",
  { skip: process.getuid?.() === 0 ? false : "needs root" },
  async () => {
    const program = fileURLToPath(new URL("address-holder-main.js", import.meta.url));
    const { stdout } = await run("unshare", ["--net", "--mount", process.execPath, program], { timeoutMs: 90_000 });
    const seen = JSON.parse(stdout) as Record<string, unknown> & { neighbours: string; kept: number; said: unknown[] };
    assert.deepEqual([seen["free"], seen["ownProbe"], seen["before"], seen["quiet"]], [null, null, false, true]);
    assert.match(seen.neighbours, /lladdr 02:fe:00:00:00:07/);
    assert.ok(seen.kept > 0);
    assert.equal(seen["claimedBefore"], false);
    assert.match(JSON.stringify(seen.said), /you said hello/);
  },
);

/** The scripts of examples/, as a reader runs them. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { packageRoot } from "../../src/host/package-root.js";
import { startLab, type E2eLab } from "./support.js";

let e2e: E2eLab;
before(async () => {
  e2e = await startLab();
});
after(() => e2e?.down());

const dir = join(packageRoot(), "examples");
/** What it ends with when all went well. */
const LAST: Record<string, RegExp> = {
  "workspace.sh": /half way through\n+the same million numbers, on node-b\n$/,
  "speculate.sh": /try-3: slope 3, error [\d.]+\n[^]*kept: slope [23] with its 100000 points\n$/,
};

test("every script is tried", () => {
  const scripts = readdirSync(dir).filter((name) => name.endsWith(".sh") && name !== "common.sh");
  assert.deepEqual(scripts.toSorted(), Object.keys(LAST).toSorted());
});

for (const [name, last] of Object.entries(LAST)) {
  test(`examples/${name}`, { timeout: 180_000 }, async () => {
    const child = spawn("sh", [join(dir, name)], { env: { ...process.env, FERRY_EXAMPLE_LAB: e2e.state } });
    let stdout = "";
    let all = "";
    child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()) && (all += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (all += chunk.toString()));
    const [code] = (await once(child, "close")) as [number | null];
    assert.equal(code, 0, all);
    assert.match(stdout, last, all);
    assert.deepEqual(await e2e.client.workloads.list(), [], "nothing stays behind");
  });
}

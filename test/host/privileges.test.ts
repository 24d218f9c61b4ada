/** Each of Ferry's processes has what the table in docs/security.md says, and no more: asked of the kernel. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { packageRoot } from "../../src/host/package-root.js";
import { withCapabilitiesOf } from "../../src/host/privileges.js";
import { BOUNDING_SETS, SETPRIV } from "../../src/model/privileges.js";
import { keptBy, privilegesOf } from "../support/capabilities.js";

const skip =
  process.getuid?.() !== 0
    ? "needs root: others have nothing to drop"
    : existsSync(SETPRIV)
      ? false
      : "setpriv is missing: apt install util-linux";
const own = privilegesOf(readFileSync("/proc/self/status", "utf8")).bounding;

for (const [part, boundingSet] of Object.entries(BOUNDING_SETS)) {
  test(`${part}: its capabilities, also after another exec, and no way to get more`, { skip }, () => {
    const command = ["/bin/sh", "-c", "exec cat /proc/self/status"];
    const [file, args] = withCapabilitiesOf(part as keyof typeof BOUNDING_SETS, command);
    const { stdout, stderr } = spawnSync(file, args, { encoding: "utf8" });
    assert.equal(stderr, "");
    const { effective, bounding, noNewPrivs } = privilegesOf(stdout);
    const kept = keptBy(boundingSet, own);
    assert.deepEqual(bounding, kept);
    assert.deepEqual(effective, kept);
    assert.ok(noNewPrivs);
    for (const never of ["sys_module", "sys_rawio", "sys_boot", "bpf"]) assert.ok(!bounding.includes(never));
  });
}

test("docs/security.md has the sets as they are", () => {
  const text = readFileSync(join(packageRoot(), "docs", "security.md"), "utf8");
  for (const [part, boundingSet] of Object.entries(BOUNDING_SETS)) {
    const row = text.split("\n").find((line) => line.startsWith(`| \`${part}\``));
    assert.ok(row !== undefined, `no row of ${part}`);
    for (const word of boundingSet.split(",").filter((one) => one !== "-all")) {
      assert.ok(row.includes(word.slice(1)), `${part}: ${word} is not in its row`);
    }
  }
});

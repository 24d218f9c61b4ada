/** The threats' table of docs/security.md: each threat has tests, which are there, and have the words that are cited. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { packageRoot } from "../../src/host/package-root.js";

const root = packageRoot();
const WHERE = /^`([a-z0-9/-]+)`(?: \("([^"]+)"\))?$/;

/** Number, threat, what is done, tests. */
function threats(): string[][] {
  const text = readFileSync(join(root, "docs", "security.md"), "utf8");
  const [, section = ""] = /^## Threats\n([\s\S]*?)^## /m.exec(text) ?? [];
  const rows = section.split("\n").filter((line) => line.startsWith("|"));
  return rows.slice(2).map((row) =>
    row
      .replaceAll(/^\||\|$/g, "")
      .split(" | ")
      .map((cell) => cell.trim()),
  );
}

test("each threat cites tests that are there", () => {
  const all = threats();
  assert.ok(all.length >= 22, "the table is found");
  assert.deepEqual(
    all.map(([number]) => number).slice(0, -1),
    all.slice(0, -1).map((_, i) => String(i + 1)),
  );
  for (const [number, threat, done, shown, ...more] of all) {
    const name = `${number} ${threat}`;
    assert.deepEqual(more, [], `${name}: four columns`);
    assert.ok(done, name);
    for (const cited of (shown ?? "").split(", ")) {
      const [, path = "", words] = WHERE.exec(cited) ?? [];
      assert.notEqual(path, "", `${name}: cites ${cited || "no test"}`);
      const file = join(root, "test", `${path}.test.ts`);
      assert.ok(existsSync(file) || existsSync(join(root, "test", path)), `${name}: there is no ${path}`);
      if (words !== undefined)
        assert.ok(readFileSync(file, "utf8").includes(words), `${name}: ${path} has no "${words}"`);
    }
  }
});

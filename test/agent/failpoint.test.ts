/** The failpoints: what tests name is one of them, and each has a test that stops there, or lets something die. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { demandFailpoint, FAILPOINTS } from "../../src/agent/failpoint.js";
import { packageRoot } from "../../src/host/package-root.js";

const NAME = /"((?:source|destination|checkpoint)\.[a-z]+)"/g;

function named(...under: string[]): Set<string> {
  const files = under.flatMap((dir) =>
    readdirSync(join(packageRoot(), dir), { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts"))
      .map((file) => join(packageRoot(), dir, file)),
  );
  return new Set(files.flatMap((file) => [...readFileSync(file, "utf8").matchAll(NAME)].map(([, name = ""]) => name)));
}

test("each is named, in full, by a test of its own; and none that is not there", () => {
  const names = named("test/e2e", "test/faults", "test/lab");
  assert.deepEqual([...names].sort(), [...FAILPOINTS].sort());
});

test("one that is not there can't be armed", () => {
  for (const point of FAILPOINTS) demandFailpoint(point);
  for (const name of ["source.resume", "checkpoint.switch", "destination.commit", "source", "", "source.arm.hit"]) {
    assert.throws(() => demandFailpoint(name), /there is no failpoint .*: choose one of source\.arm, /);
  }
});

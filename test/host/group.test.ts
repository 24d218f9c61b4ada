/** A command of the configuration never outlives its time-out, nor does what it has started. */
import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { runInGroup } from "../../src/host/group.js";
import { FerryError } from "../../src/model/failure.js";

const root = mkdtempSync(join(tmpdir(), "ferry-group-"));
after(() => rmSync(root, { recursive: true, force: true }));
const script = (name: string, body: string): string => {
  const file = join(root, name);
  writeFileSync(file, `#!/bin/sh\n${body}\n`);
  chmodSync(file, 0o755);
  return file;
};
const options = { timeoutMs: 20_000, doing: "switch node-b off", remedy: "look" };
const caught = async (run: Promise<void>): Promise<FerryError> => {
  const error = await run.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof FerryError, String(error));
  return error;
};
/** A zombie is nobody any more: its parent was killed, and init reaps it. */
const lives = (pid: number): boolean => {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
};
const gone = async (file: string): Promise<void> => {
  const pid = Number(readFileSync(file, "utf8"));
  assert.ok(pid > 1);
  for (let i = 0; i < 200 && lives(pid); i++) await new Promise((resolve) => setTimeout(resolve, 25));
  assert.equal(lives(pid), false, `process ${pid} is still there`);
};

test("one that ends well leaves no helper behind, even one that holds its output open", async () => {
  const pid = join(root, "well.pid");
  await runInGroup(script("well", `sleep 300 & echo $! >${pid}; exit 0`), [], options);
  await gone(pid);
});

test("one that takes too long is ended with its helpers, also when they do not listen", async () => {
  const pid = join(root, "late.pid");
  const late = script("late", `trap '' TERM; (trap '' TERM; sleep 300) & echo $! >${pid}; echo on my way; sleep 300`);
  const { code, message, data } = await caught(runInGroup(late, ["x"], { ...options, timeoutMs: 500 }));
  assert.equal(code, "E_TOOL");
  assert.match(
    message,
    /switch node-b off: .*late did not finish in 500 ms, and was ended with all that it had started/,
  );
  assert.deepEqual([data.evidence?.lines, data.remedy], [["on my way"], "look"]);
  await gone(pid);
});

test("one that fails, or can't be started, says so", async () => {
  const failed = await caught(runInGroup(script("bad", "echo no such host >&2; exit 3"), [], options));
  assert.match(failed.message, /bad failed$/);
  assert.deepEqual([failed.data.evidence?.exitCode, failed.data.evidence?.lines], [3, ["no such host"]]);
  const missing = await caught(runInGroup(join(root, "nobody"), [], options));
  assert.match(missing.message, /could not be started: .*ENOENT/);
});

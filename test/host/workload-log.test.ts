/** A workload's root may put anything in its log's place: none of it leads the agent, who is root on the node, elsewhere. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { makeWorkloadLog, openWorkloadLog, readWorkloadLog, workloadLogSize } from "../../src/host/workload-log.js";

let dir: string;
let log: string;
let secret: string;
const me = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ferry-log-"));
  log = join(dir, "output.log");
  secret = join(dir, "node.key");
  writeFileSync(secret, "SECRET", { mode: 0o600 });
});
afterEach(() => rmSync(dir, { recursive: true }));

const traps: [string, () => void][] = [
  ["a link to a key of the node", () => symlinkSync(secret, log)],
  ["a link to nowhere", () => symlinkSync(join(dir, "made-elsewhere"), log)],
  ["a pipe that nobody writes to", () => void execFileSync("mkfifo", [log])],
  ["a directory", () => mkdirSync(join(log, "x"), { recursive: true })],
];

for (const [what, set] of traps) {
  test(`${what} is no log, and is replaced at the next start`, async () => {
    set();
    assert.equal(await openWorkloadLog(log), undefined);
    assert.equal(await readWorkloadLog(log, 0), "");
    assert.equal(workloadLogSize(log), 0);
    makeWorkloadLog(log, me);
    assert.ok(lstatSync(log).isFile());
    assert.equal(readFileSync(secret, "utf8"), "SECRET");
    assert.equal(statSync(secret).mode & 0o777, 0o600);
    assert.ok(!existsSync(join(dir, "made-elsewhere")));
  });
}

test("a log that is one is kept, and read from where it is asked", async () => {
  writeFileSync(log, "one\ntwo\n");
  makeWorkloadLog(log, me);
  assert.equal(await readWorkloadLog(log, 4), "two\n");
  assert.equal(workloadLogSize(log), 8);
});

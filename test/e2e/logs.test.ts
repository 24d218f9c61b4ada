/** The log of a workload moves with it: no line lost, doubled or torn, also for who follows it over the moves. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { packageRoot } from "../../src/host/package-root.js";
import { ferry, startFerry } from "./ferry.js";
import { andRemove, moveAbout } from "./on-the-move.js";
import { startLab, until, type E2eLab } from "./support.js";

let e2e: E2eLab;
before(async () => {
  e2e = await startLab();
});
after(() => e2e?.down());

const WRITER = ["python3", "-c", readFileSync(join(packageRoot(), "test", "e2e", "programs", "writer.py"), "utf8")];

const expected = (n: number): string => `${n} ${"äé→𝄞x".repeat((n * 7919) % 90)} ${n}`;
/** Every line as it was written, from the first on; answers how many. */
function assertLines(text: string): number {
  const lines = text.split("\n");
  assert.equal(lines.pop(), "", "the last line is whole");
  if (lines.at(-1) === "the end") lines.pop();
  for (const [index, line] of lines.entries()) {
    if (line !== expected(index + 1))
      assert.fail(
        `line ${index + 1} is ${JSON.stringify(line.slice(0, 80))}, not ${JSON.stringify(expected(index + 1).slice(0, 80))}`,
      );
  }
  return lines.length;
}

test("a follower sees every line once over cold and post-copy moves, and ends when the workload is stopped", async () => {
  const workload = await e2e.client.workloads.run({ name: "writer", node: "node-a", command: WRITER });
  await andRemove(workload, async () => {
    const follower = startFerry(e2e, ["logs", "writer", "--follow"]);
    const interrupted = startFerry(e2e, ["logs", "writer", "--follow"]);
    try {
      let seen = 0;
      await moveAbout(workload, ["cold", "postcopy", "cold"], async () => {
        // What the follower has seen reaches what is in the log now.
        const { sizeBytes } = await workload.logs({ maxBytes: 1 });
        assert.ok(sizeBytes > seen, "it writes on after the move");
        seen = sizeBytes;
        await until("the follower is up to date", 10_000, () => Buffer.byteLength(follower.said().stdout) > seen);
      });
      interrupted.child.kill("SIGINT");
      const early = await interrupted.end;
      assert.equal(early.stderr, "", "Ctrl-C ends it quietly");
      assert.ok(early.code === 0 || early.code === 130, `exit code ${early.code}`);
      await workload.stop();
      const { sizeBytes } = await workload.logs({ maxBytes: 1 });
      await until("the follower has the end", 10_000, () => Buffer.byteLength(follower.said().stdout) >= sizeBytes);
      const end = await follower.end;
      assert.deepEqual([end.code, end.stderr], [0, "ferry: writer was stopped\n"]);
      const count = assertLines(end.stdout);
      assert.ok(end.stdout.startsWith(early.stdout));
      assert.ok(end.stdout.endsWith("\nthe end\n"));
      assert.ok(count > 500, `${count} lines`);

      const whole = await ferry(e2e, ["logs", "writer"]);
      assert.equal(whole.code, 0, whole.stderr);
      assert.equal(whole.stdout, end.stdout);
      const tail = await ferry(e2e, ["logs", "writer", "--tail", "20"]);
      assert.ok(whole.stdout.endsWith(tail.stdout) && tail.stdout.length > 0, "the tail is not torn inside a letter");
    } finally {
      follower.child.kill("SIGKILL");
      interrupted.child.kill("SIGKILL");
    }
  });
});

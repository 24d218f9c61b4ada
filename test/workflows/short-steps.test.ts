/** Workers that die in the middle of a step that is over soon, and workers of before, which did not beat for those. */
import assert from "node:assert/strict";
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { after, before, describe, test } from "node:test";
import { UPDATE } from "../../src/model/messages.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { startOldWorker } from "./old-worker.js";
import { Stage, Subject } from "./support.js";

/** Half of what a short step may take (DEFAULT_TUNING), and four times what beats need. */
const SOON_MS = 45_000;

describe("short steps", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up(["node-a"]);
  });
  after(() => stage.down());

  test("a worker is killed in the middle of one: the next worker gets it, long before its time is over", async () => {
    await stage.workers.stopNode("node-a");
    const program = fileURLToPath(new URL("stuck-worker-main.js", import.meta.url));
    const child: ChildProcess = fork(program, [stage.server.address, "node-a"]);
    const exit = once(child, "exit");
    try {
      const taken = once(child, "message");
      // With the time-outs that are Ferry's own.
      const started = new Subject(stage, "bereft").start("node-a", {});
      await taken;
      child.kill("SIGKILL");
      await exit;
      await stage.startNode("node-a");
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error(`nobody has it after ${SOON_MS} ms`)), SOON_MS);
      });
      const { state } = await Promise.race([started, late]).finally(() => clearTimeout(timer));
      assert.equal(state, "running");
    } finally {
      child.kill("SIGKILL");
    }
  });

  test("a worker of before does not beat: what takes longer than beats may stay away is answered all the same", async () => {
    const old = await startOldWorker(stage, "node-old");
    try {
      assert.deepEqual(await old.node.executeUpdate(UPDATE.ask, { args: [{ ask: "checkpoints" }] }), []);
      assert.equal(old.asked(), 2);
    } finally {
      await old.stop();
    }
  });
});

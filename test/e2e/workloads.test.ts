/**
 * Workloads of other kinds than redis move cold and post-copy while they work and while clients talk to them; each knows
 * by itself what it must be, and says so.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { RunRequest } from "../../src/client/types.js";
import type { Mode } from "../../src/model/plan.js";
import { andRemove, moveAbout } from "./on-the-move.js";
import { keepBusy, program, type Busy } from "./programs.js";
import { startLab, type E2eLab } from "./support.js";

let e2e: E2eLab;
before(async () => {
  e2e = await startLab();
});
after(() => e2e?.down());

/** Runs a workload, moves it once per mode with `each` after every move, and removes it. */
async function onTheMove(
  request: Omit<RunRequest, "node">,
  options: { modes: Mode[]; connections?: number },
  each: (busy: Busy, name: string) => Promise<void>,
): Promise<void> {
  const workload = await e2e.client.workloads.run({ ...request, node: "node-a" });
  await andRemove(workload, async () => {
    const busy = await keepBusy(e2e, workload, options);
    try {
      await moveAbout(workload, options.modes, () => each(busy, request.name));
      await busy.assertIntact();
    } finally {
      busy.kill();
    }
  });
}

test("a server of several threads with four connections, as a user of its own", async () => {
  await onTheMove(
    {
      name: "server",
      command: program("server"),
      user: "1234:2345",
      env: { COLOR: "grün und blau" },
      dir: "/data",
      limits: { memoryBytes: 256 * 2 ** 20, cpus: 1.5 },
    },
    { modes: ["precopy", "postcopy"], connections: 4 },
    async (busy) => {
      const { work, who } = await busy.check();
      assert.ok(Number(work?.["checked"]) > 0);
      assert.deepEqual(
        { ...who, threads: undefined },
        { uid: 1234, gid: 2345, cwd: "/data", color: "grün und blau", threads: undefined },
      );
    },
  );
});

test("memory of every kind, changed by several processes and threads", async () => {
  let before = 0;
  await onTheMove(
    { name: "memory", command: program("memory", 3, 2, 1500, 2000, 0) },
    { modes: ["precopy", "hybrid", "postcopy", "precopy"] },
    async (busy) => {
      const { memory } = await busy.check();
      const count = Number(memory?.["counts"]);
      assert.ok(count > before, "it works on");
      before = count;
    },
  );
});

test("300 MB of memory, and a program that grows while it moves", async () => {
  await onTheMove(
    { name: "large", command: program("memory", 2, 1, 1000, 38_000, 40) },
    { modes: ["hybrid", "cold"] },
    async (busy) => {
      const { memory } = await busy.check();
      assert.ok(Number(memory?.["pages"]) > 76_000);
    },
  );
});

test("files of every kind, in /data and in the root's own layer", async () => {
  await onTheMove({ name: "files", command: program("files") }, { modes: ["cold", "postcopy"] }, async (busy) => {
    const { files } = await busy.check();
    assert.ok(Number(files?.["files"]) > 20);
  });
});

test("sockets, timers, watches, locks, pipes, zombies and shells", async () => {
  let before: Record<string, number | string> = {};
  await onTheMove({ name: "odd", command: program("odd") }, { modes: ["cold", "postcopy"] }, async (busy, name) => {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const { counts = {}, umask } = await busy.check();
    assert.equal(umask, "0027", name);
    for (const [part, count] of Object.entries(counts)) assert.ok(Number(count) > Number(before[part] ?? 0), part);
    before = counts;
  });
});

/** A program that ends the moment it is resumed has run there: its operation succeeds, and nothing of it is held anywhere. */
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { labRun } from "../../deploy/lab/index.js";
import type { WorkloadHandle } from "../../src/client/types.js";
import { program } from "./programs.js";
import {
  armFailpoint,
  assertMoved,
  cancelHeard,
  clearFailpoints,
  copies,
  describeReport,
  fired,
  goOn,
  killOn,
  reached,
  signalService,
  startLab,
  until,
  type E2eLab,
} from "./support.js";

const LIMIT = { timeout: 120_000 };
/** Its clocks jump by more than it takes. */
const FROZEN_MS = 1_500;
let e2e: E2eLab;
before(async () => {
  e2e = await startLab();
});
after(() => e2e?.down());
afterEach(() => clearFailpoints(e2e));

async function run(name: string, megabytes = 1, children = 0): Promise<WorkloadHandle> {
  const command = program("jump", megabytes, children);
  const workload = await e2e.client.workloads.run({ name, node: "node-a", command });
  await until("it has begun", 20_000, async () => (await workload.logs()).text.includes("began"));
  return workload;
}
const passes = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const find = async (node: string, command: string[]): Promise<string> =>
  (await labRun(e2e.state, node, command, { allow: [0, 1] })).stdout.trim();

/**
 * What stands before it lets the copy on `node` go is done in its place, so that it ends before anybody has looked at it. Then
 * its agent goes on, or is killed.
 */
async function endsAsItIsResumed({ name }: WorkloadHandle, node: string, then: "goes on" | "is killed"): Promise<void> {
  await reached(e2e, node, "destination.resume");
  const held = (await copies(e2e, "python3"))[node] ?? 0;
  const gate = await find(node, ["find", "/run/ferry/ops", "-path", `*/${name}.*/restore/gate`]);
  await labRun(e2e.state, node, ["timeout", "20", "sh", "-c", 'echo 0 >"$1"', "sh", gate], {});
  await until("it has ended", 20_000, async () => ((await copies(e2e, "python3"))[node] ?? 0) < held);
  const over = async (): Promise<boolean> => (await find(node, ["find", gate.replace(/gate$/, "rc")])) !== "";
  await until("criu is done", 20_000, over);
  if (then === "is killed") await signalService(e2e, node, "agent", "SIGKILL");
  else await goOn(e2e, node, "destination.resume");
}

/** Nobody could wait for it: its exit code is not known. */
async function hasEnded(workload: WorkloadHandle, node: string): Promise<void> {
  await until("it is exited", 20_000, async () => (await workload.status()).state === "exited");
  const status = await workload.status();
  assert.deepEqual([status.node, status.exitCode], [node, undefined]);
  for (const each of ["node-a", "node-b"]) {
    let left = "";
    await until("nothing is left", 20_000, async () => {
      const words = "^python3|criu (dump|restore)|ferry-mover|ferry-feed|pages/daemon";
      const found = [
        await find(each, ["find", "/run/ferry/ops", "/run/netns", "-mindepth", "1"]),
        await find(each, ["pgrep", "-a", "-f", words]),
      ];
      left = found.join(" ").trim();
      return left === "";
    }).catch((error: unknown) => {
      throw new Error(`${each}: ${left}`, { cause: error });
    });
  }
  await workload.remove();
}

async function frozen(workload: WorkloadHandle, options: Parameters<WorkloadHandle["migrate"]>[0]) {
  await armFailpoint(e2e, "node-a", "source.transfer", "pause");
  const handle = await workload.migrate({ maxBlackoutMs: 60_000, ...options });
  const ended = handle.result();
  ended.catch(() => undefined);
  await reached(e2e, "node-a", "source.transfer", ended);
  await passes(FROZEN_MS);
  return { handle, ended, go: () => goOn(e2e, "node-a", "source.transfer") };
}

for (const [name, options, megabytes, children, then] of [
  ["cold", { mode: "cold" }, 1, 0, "goes on"],
  ["tree", { mode: "cold" }, 1, 20, "is killed"],
  ["later", { mode: "postcopy", bandwidthBytesPerSec: 8 * 2 ** 20 }, 24, 0, "goes on"],
] as const) {
  test(`a migration (${name}), and the agent ${then}: moved, and exited there`, LIMIT, async () => {
    const workload = await run(name, megabytes, children);
    await armFailpoint(e2e, "node-b", "destination.resume", "pause");
    const { ended, go } = await frozen(workload, { to: "node-b", ...options });
    await go();
    await endsAsItIsResumed(workload, "node-b", then);
    assertMoved(await ended);
    await hasEnded(workload, "node-b");
  });
}

test("by itself, while nobody stands in between: moved, and exited there", LIMIT, async () => {
  const workload = await run("itself");
  const { ended, go } = await frozen(workload, { to: "node-b", mode: "cold" });
  await go();
  assertMoved(await ended);
  await hasEnded(workload, "node-b");
});

test("criu is killed in the hold, and it ends as it is restored locally: rolled back, and exited", LIMIT, async () => {
  const workload = await run("local");
  await armFailpoint(e2e, "node-a", "destination.resume", "pause");
  const { handle, ended, go } = await frozen(workload, { to: "node-b", mode: "cold" });
  assert.ok((await killOn(e2e, "node-a", "criu dump")) > 0);
  await cancelHeard(e2e, handle, "node-a");
  await go();
  await endsAsItIsResumed(workload, "node-a", "goes on");
  const report = await ended;
  assert.equal(report.outcome, "rolled-back", describeReport(report));
  await hasEnded(workload, "node-a");
});

for (const [name, lazy, then] of [
  ["kept", false, "goes on"],
  ["once", false, "is killed"],
  ["lazy", true, "goes on"],
] as const) {
  test(`a restore from a checkpoint (${name}), and the agent ${then}: restored once, and exited`, LIMIT, async () => {
    const workload = await run(name, 24);
    await (await workload.checkpoint({ stop: true })).result();
    await passes(FROZEN_MS);
    await armFailpoint(e2e, "node-b", "destination.resume", "pause");
    const restoring = workload.restore({ node: "node-b", lazy });
    restoring.catch(() => undefined);
    await endsAsItIsResumed(workload, "node-b", then);
    assert.equal((await restoring).node, "node-b");
    await hasEnded(workload, "node-b");
  });
}

test(
  "the agent is killed in the middle of a restore, and away for three seconds: it goes on, nobody asks again",
  LIMIT,
  async () => {
    const command = ["sh", "-c", "while :; do sleep 1; done"];
    const workload = await e2e.client.workloads.run({ name: "away", node: "node-a", command });
    await (await workload.checkpoint({ stop: true })).result();
    await armFailpoint(e2e, "node-b", "destination.restore", "kill");
    const restoring = workload.restore({ node: "node-b" });
    restoring.catch(() => undefined);
    await until("it is killed", 30_000, () => fired(e2e, "node-b", "destination.restore"));
    // Whatever comes up in its place goes as well.
    for (const back = performance.now() + 3_000; performance.now() < back; await passes(50)) {
      await signalService(e2e, "node-b", "agent", "SIGKILL").catch(() => undefined);
    }
    assert.equal((await restoring).node, "node-b");
    const { state, node } = await workload.status();
    assert.deepEqual([state, node], ["running", "node-b"]);
    await workload.remove({ force: true });
  },
);

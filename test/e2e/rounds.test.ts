/**
 * Pre-copy under a counting client: steering, and things that die while rounds are made. After each exactly one live copy,
 * the keyspace as before, and no trace of a tracker in the workload's memory.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, Connection } from "@temporalio/client";
import { labRun, labServicePid } from "../../deploy/lab/index.js";
import type { FerryError, MigrationReport } from "../../src/client/index.js";
import type { MigrationHandle, MigrationProgress } from "../../src/client/types.js";
import type { MigrateOptions } from "../../src/model/plan.js";
import type { Steered } from "../../src/model/steering.js";
import { withRedis } from "./scene.js";
import { assertLives, cutLink, describeReport as why, other, until } from "./support.js";

const LIMIT = { timeout: 90_000 };

const scene = withRedis(30);
/** Makes rounds, and does not freeze before `go`. */
class Held {
  readonly node: string;
  readonly handle: MigrationHandle;
  readonly result: Promise<MigrationReport>;
  seen: MigrationProgress | undefined;

  private constructor(node: string, handle: MigrationHandle) {
    this.node = node;
    this.handle = handle;
    this.result = handle.result();
    this.result.catch(() => undefined);
    void this.watch().catch(() => undefined);
  }

  static async start(options: Partial<MigrateOptions> = {}, rounds = 3): Promise<Held> {
    const { node } = await scene.witness.workload.status();
    const handle = await scene.witness.workload.migrate({ to: other(node), mode: "precopy", hold: true, ...options });
    const held = new Held(node, handle);
    await held.rounds(rounds);
    return held;
  }

  private async watch(): Promise<void> {
    for await (const progress of this.handle.progress({ everyMs: 100 })) this.seen = progress;
  }

  /** Until so many rounds were made. */
  async rounds(count: number): Promise<void> {
    let ended: string | undefined;
    this.result.then(
      (report) => (ended = why(report)),
      (error: unknown) => (ended = String(error)),
    );
    await until(`${count} rounds`, 30_000, () => {
      assert.equal(ended, undefined);
      return (this.seen?.precopy?.round ?? 0) >= count;
    });
  }
}

/** What a tracker leaves while it is at work: areas that are write-protected through a userfaultfd. */
async function tracked(node: string): Promise<boolean> {
  const { stdout } = await labRun(scene.e2e.state, node, ["sh", "-c", "cat /proc/$(pgrep -x redis-server)/smaps"]);
  return /^VmFlags:.* uw\b/m.test(stdout);
}

async function assertOneCopy(report: MigrationReport): Promise<void> {
  await assertLives(scene.e2e, scene.witness, scene.digest, report.node, 10_000);
  assert.equal(await tracked(report.node), false, "a tracker is still on it");
  await until("the workload at rest", 20_000, async () => (await scene.witness.workload.status()).state === "running");
}

test("held, paused, limited and let go: it does what it is told, and says so", LIMIT, async () => {
  const held = await Held.start();
  assert.equal(await tracked(held.node), true);
  const { handle } = held;
  assert.equal(held.seen?.phase, "precopy");
  assert.equal(held.seen?.precopy?.held, true);
  assert.equal((await handle.steer({ do: "bandwidth", bytesPerSec: 20_000_000 })).bandwidthBytesPerSec, 20_000_000);
  assert.equal((await handle.steer({ do: "max-downtime", ms: 5000 })).maxDowntimeMs, 5000);
  assert.equal((await handle.steer({ do: "pause" })).paused, true);
  await until("a pause that is seen", 10_000, () => held.seen?.precopy?.paused === true);
  const { round } = held.seen?.precopy ?? { round: 0 };
  await new Promise((resolve) => setTimeout(resolve, 1500));
  assert.ok((held.seen?.precopy?.round ?? 0) <= round + 1, "rounds go on in a pause");
  await handle.steer({ do: "resume" });
  await held.rounds(round + 2);
  await assert.rejects(handle.steer({ do: "fly" } as never), (error: FerryError) => error.code === "E_REQUEST");
  await handle.steer({ do: "go" });
  const report = await held.result;
  assert.equal(report.outcome, "moved", why(report));
  assert.ok(report.rounds > round);
  assert.ok((report.predictedDowntimeMs ?? 0) > 0);
  await assertOneCopy(report);
  await assert.rejects(handle.steer({ do: "pause" }), (error: FerryError) => error.code === "E_STATE");
});

test(
  "a slow round shows how far it is; switch-now ends it, and what it left goes while criu dumps",
  LIMIT,
  async () => {
    const held = await Held.start({ bandwidthBytesPerSec: 10_000_000 }, 1);
    const sent = new Set<number>();
    const amounts = new Set<number>();
    await until("progress within the first round", 15_000, () => {
      const { precopy, phase, bytesSent = 0, bytesTotal = 0 } = held.seen ?? {};
      if (precopy?.round === 1 && phase === "precopy" && precopy.roundSentPages > 0) {
        assert.ok(precopy.roundSentPages <= precopy.roundPages);
        assert.ok(bytesSent <= bytesTotal);
        sent.add(precopy.roundSentBytes);
        amounts.add(bytesSent);
      }
      return sent.size >= 2 && amounts.size >= 2;
    });
    await held.handle.steer({ do: "switch-now" });
    const report = await held.result;
    assert.equal(report.outcome, "moved", why(report));
    const last = report.precopy?.rounds.at(-1);
    assert.ok(last !== undefined && last.remainingBytes > 1_000_000, "nothing was left for the last round");
    assert.equal(last.sentPages * 4096, last.remainingBytes, "the last round was cut");
    await assertOneCopy(report);
  },
);

test("the source's agent is killed after it was steered: it is still held, and by the new limits", LIMIT, async () => {
  const held = await Held.start({ hold: false, bandwidthBytesPerSec: 8_000_000 }, 1);
  await held.handle.steer({ do: "hold" });
  await held.handle.steer({ do: "max-downtime", ms: 4321 });
  await held.handle.steer({ do: "bandwidth", bytesPerSec: 60_000_000 });
  const pid = await labServicePid(scene.e2e.state, held.node, "agent");
  assert.ok(pid !== undefined);
  process.kill(pid, "SIGKILL");
  let steered: Steered | undefined;
  await until("an agent that is asked again", 60_000, async () => {
    // Means nothing: it is not paused. The answer says how it stands.
    steered = await held.handle.steer({ do: "resume" }).catch(() => undefined);
    return steered !== undefined;
  });
  assert.deepEqual(
    [steered?.held, steered?.maxDowntimeMs, steered?.bandwidthBytesPerSec],
    [true, 4321, 60_000_000],
    "what a person said was forgotten",
  );
  await held.rounds(3);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  assert.equal(held.seen?.phase, "precopy", "it froze without go");
  await held.handle.steer({ do: "go" });
  const report = await held.result;
  assert.equal(report.outcome, "moved", why(report));
  const first = report.precopy?.rounds[0];
  assert.ok(first !== undefined && (first.sentBytes * 1000) / first.sendMs > 12_000_000, "the first limit holds again");
  await assertOneCopy(report);
});

/** Is the CPU time of a copy on this node limited? By the kernel's own files. */
async function throttled(node: string): Promise<boolean> {
  const find = `find /sys/fs/cgroup -path "*/redis.*" \\( -name cpu.max -o -name cpu.cfs_quota_us \\) -exec cat {} +`;
  const { stdout } = await labRun(scene.e2e.state, node, ["sh", "-c", find], { allow: [1] });
  return stdout.split("\n").some((line) => line !== "" && line !== "-1" && !line.startsWith("max "));
}

for (const how of ["a cancel", "giving up", "a kill of the agent"] as const) {
  test(`throttled, and lifted after ${how}`, LIMIT, async () => {
    const { node } = await scene.witness.workload.status();
    const options = { mode: "precopy", maxDowntimeMs: 1, onStall: "throttle" } as const;
    const handle = await scene.witness.workload.migrate({ to: other(node), ...options });
    const result = handle.result();
    await until("a throttle", 30_000, () => throttled(node));
    if (how === "a cancel") await handle.cancel();
    if (how === "a kill of the agent") {
      const pid = await labServicePid(scene.e2e.state, node, "agent");
      assert.ok(pid !== undefined);
      process.kill(pid, "SIGKILL");
      await until("a lift by the next agent", 20_000, async () => !(await throttled(node)));
    }
    const report = await result;
    assert.equal(report.outcome, "rolled-back", why(report));
    if (how === "giving up") assert.equal(report.failure?.code, "E_CONVERGENCE", why(report));
    assert.equal(await throttled(node), false);
    await assertOneCopy(report);
  });
}

test("post-copy-now: it resumes first, the rest follows", LIMIT, async () => {
  const held = await Held.start();
  await held.handle.steer({ do: "post-copy-now" });
  const report = await held.result;
  assert.equal(report.outcome, "moved", why(report));
  assert.equal(report.resumedFirst, true);
  await assertOneCopy(report);
});

test("a hold that runs out by itself", LIMIT, async () => {
  const held = await Held.start();
  await held.handle.steer({ do: "hold", forMs: 300 });
  const report = await held.result;
  assert.equal(report.outcome, "moved", why(report));
  await assertOneCopy(report);
});

test("a downtime that can't be reached: given up before anything was frozen, in words", LIMIT, async () => {
  const { node } = await scene.witness.workload.status();
  const handle = await scene.witness.workload.migrate({ to: other(node), maxDowntimeMs: 1, onStall: "give-up" });
  const report = await handle.result();
  assert.equal(report.outcome, "rolled-back", why(report));
  assert.equal(report.failure?.code, "E_CONVERGENCE", why(report));
  assert.equal(
    report.phases.some((phase) => phase.name === "freeze"),
    false,
  );
  await assertOneCopy(report);
});

test(
  "auto: precopy when the rounds get there, hybrid when they don't and it is allowed; three pairs in the report",
  LIMIT,
  async () => {
    const { node } = await scene.witness.workload.status();
    const calm = await (await scene.witness.workload.migrate({ to: other(node) })).result();
    assert.deepEqual([calm.outcome, calm.mode], ["moved", "precopy"], why(calm));
    assert.match(calm.reasons.join("\n"), /mode precopy: in a look of \d+ ms .* within the limit of 1000 ms/);
    for (const { predicted, measured } of Object.values(calm.forecast ?? {})) assert.ok(predicted > 0 && measured > 0);
    assert.equal(calm.forecast?.downtimeMs.measured, calm.blackoutMs);
    assert.equal(calm.forecast?.bytes.measured, calm.bytesSent);
    const { bytes } = calm.forecast;
    assert.ok(bytes.predicted > bytes.measured / 3 && bytes.predicted < bytes.measured * 3, JSON.stringify(bytes));
    const limits = { maxDowntimeMs: 1, onStall: "hybrid" } as const;
    const short = await (await scene.witness.workload.migrate({ to: node, ...limits })).result();
    assert.deepEqual([short.outcome, short.mode], ["moved", "hybrid"], why(short));
    assert.match(
      short.reasons.join("\n"),
      /mode hybrid: in a look of .* above the limit of 1 ms, and --on-stall hybrid allows/,
    );
    await assertOneCopy(short);
  },
);

test(
  "its workers are replaced and its workflow goes on in a new run: rounds go on, and it does what it is told",
  LIMIT,
  async () => {
    const held = await Held.start();
    const old = await Promise.all(["node-a", "node-b"].map((node) => labServicePid(scene.e2e.state, node, "worker")));
    for (const pid of old) process.kill(pid ?? assert.fail("no worker"), "SIGTERM");
    await until("workers that answer", 60_000, async () => {
      const answer = await held.handle.steer({ do: "max-downtime", ms: 1 }).catch(() => undefined);
      return answer !== undefined;
    });
    const { round } = held.seen?.precopy ?? { round: 0 };
    await held.rounds(round + 2);
    const connection = await Connection.connect({ address: scene.e2e.lab.address ?? "" });
    let told = 1;
    try {
      const migration = new Client({ connection }).workflow.getHandle(held.handle.workflowId);
      await until("more words than one run takes", 30_000, async () => {
        told += 5;
        await Promise.all([4, 3, 2, 1, 0].map((less) => held.handle.steer({ do: "max-downtime", ms: told - less })));
        const { firstRunId, execution } = (await migration.describe()).raw.workflowExecutionInfo ?? {};
        return firstRunId !== execution?.runId;
      });
    } finally {
      await connection.close();
    }
    await held.handle.steer({ do: "max-downtime", ms: told });
    await held.rounds((held.seen?.precopy?.round ?? 0) + 2);
    const steered = await held.handle.steer({ do: "go" });
    assert.equal(steered.maxDowntimeMs, told, "what it was told before is forgotten");
    const report = await held.result;
    assert.equal(report.outcome, "moved", why(report));
    assert.ok(report.rounds > round, "rounds were begun anew");
    await assertOneCopy(report);
  },
);

test("cancelled in the rounds, it runs on untouched", LIMIT, async () => {
  const held = await Held.start();
  await held.handle.cancel();
  const report = await held.result;
  assert.equal(report.outcome, "rolled-back", why(report));
  assert.equal(report.node, held.node);
  await assertOneCopy(report);
});

for (const side of ["source", "destination"] as const) {
  test(`the ${side}'s mover is killed in the rounds: it runs on at the source, or moves`, LIMIT, async () => {
    const held = await Held.start();
    const at = side === "source" ? held.node : other(held.node);
    const { stdout } = await labRun(scene.e2e.state, at, ["pgrep", "-f", `ferry-mover-${side}`]);
    await labRun(scene.e2e.state, at, ["kill", "-9", ...stdout.trim().split("\n")]);
    await held.handle.steer({ do: "go" }).catch(() => undefined);
    const report = await held.result;
    assert.ok(report.outcome === "rolled-back" || report.outcome === "moved", why(report));
    await assertOneCopy(report);
  });

  test(`the ${side}'s agent is killed in the rounds: one copy, and the next migration moves it`, LIMIT, async () => {
    const held = await Held.start();
    const pid = await labServicePid(scene.e2e.state, side === "source" ? held.node : other(held.node), "agent");
    assert.ok(pid !== undefined);
    process.kill(pid, "SIGKILL");
    let report: MigrationReport | undefined;
    void held.result.then((ended) => (report = ended));
    // The source begins anew (and is held again), or has gone back because its destination has.
    await until("its end", 60_000, async () => {
      if (report !== undefined) return true;
      await held.handle.steer({ do: "go" }).catch(() => undefined);
      return false;
    });
    assert.ok(report?.outcome === "rolled-back" || report?.outcome === "moved", report && why(report));
    await assertOneCopy(report);
    const next = await (await scene.witness.workload.migrate({ to: other(report.node) })).result();
    assert.equal(next.outcome, "moved", why(next));
    await assertOneCopy(next);
  });
}

test("the link is away for two seconds in the rounds: they go on", LIMIT, async () => {
  const held = await Held.start();
  await cutLink(scene.e2e, "add", held.node, other(held.node));
  await new Promise((resolve) => setTimeout(resolve, 2000));
  await cutLink(scene.e2e, "delete", held.node, other(held.node));
  await held.rounds((held.seen?.precopy?.round ?? 0) + 2);
  await held.handle.steer({ do: "go" });
  const report = await held.result;
  assert.equal(report.outcome, "moved", why(report));
  await assertOneCopy(report);
});

test("the client saw one connection, every number once", async () => {
  await scene.witness.assertIntact();
});

/**
 * Pre-copy under a counting client: steering, and things that die while rounds are made. After each exactly one live copy,
 * the keyspace as before, and no trace of a tracker in the workload's memory.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { labRun, labServicePid } from "../../deploy/lab/index.js";
import type { FerryError, MigrationReport } from "../../src/client/index.js";
import type { MigrationHandle, MigrationProgress } from "../../src/client/types.js";
import type { MigrateOptions } from "../../src/model/plan.js";
import {
  assertLives,
  cutLink,
  describeReport as why,
  other,
  startLab,
  startWitness,
  until,
  type E2eLab,
  type Witness,
} from "./support.js";

const LIMIT = { timeout: 90_000 };

let e2e: E2eLab;
let witness: Witness;
let digest: string;
before(async () => {
  e2e = await startLab();
  witness = await startWitness(e2e, "redis", "node-a", 30);
  digest = await witness.digest();
});
after(async () => {
  witness?.counter.kill();
  await e2e?.down();
});

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

  static async start(options: Partial<MigrateOptions> = {}): Promise<Held> {
    const { node } = await witness.workload.status();
    const handle = await witness.workload.migrate({ to: other(node), mode: "precopy", hold: true, ...options });
    const held = new Held(node, handle);
    await held.rounds(3);
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
  const { stdout } = await labRun(e2e.state, node, ["sh", "-c", "cat /proc/$(pgrep -x redis-server)/smaps"]);
  return /^VmFlags:.* uw\b/m.test(stdout);
}

async function assertOneCopy(report: MigrationReport): Promise<void> {
  await assertLives(e2e, witness, digest, report.node, 10_000);
  assert.equal(await tracked(report.node), false, "a tracker is still on it");
  await until("the workload at rest", 20_000, async () => (await witness.workload.status()).state === "running");
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
  const { node } = await witness.workload.status();
  const handle = await witness.workload.migrate({ to: other(node), maxDowntimeMs: 1, onStall: "give-up" });
  const report = await handle.result();
  assert.equal(report.outcome, "rolled-back", why(report));
  assert.equal(report.failure?.code, "E_CONVERGENCE", why(report));
  assert.equal(
    report.phases.some((phase) => phase.name === "freeze"),
    false,
  );
  await assertOneCopy(report);
});

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
    const { stdout } = await labRun(e2e.state, at, ["pgrep", "-f", `ferry-mover-${side}`]);
    await labRun(e2e.state, at, ["kill", "-9", ...stdout.trim().split("\n")]);
    await held.handle.steer({ do: "go" }).catch(() => undefined);
    const report = await held.result;
    assert.ok(report.outcome === "rolled-back" || report.outcome === "moved", why(report));
    await assertOneCopy(report);
  });

  test(`the ${side}'s agent is killed in the rounds: one copy, and the next migration moves it`, LIMIT, async () => {
    const held = await Held.start();
    const pid = await labServicePid(e2e.state, side === "source" ? held.node : other(held.node), "agent");
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
    const next = await (await witness.workload.migrate({ to: other(report.node) })).result();
    assert.equal(next.outcome, "moved", why(next));
    await assertOneCopy(next);
  });
}

test("the link is away for two seconds in the rounds: they go on", LIMIT, async () => {
  const held = await Held.start();
  await cutLink(e2e, "add", held.node, other(held.node));
  await new Promise((resolve) => setTimeout(resolve, 2000));
  await cutLink(e2e, "delete", held.node, other(held.node));
  await held.rounds((held.seen?.precopy?.round ?? 0) + 2);
  await held.handle.steer({ do: "go" });
  const report = await held.result;
  assert.equal(report.outcome, "moved", why(report));
  await assertOneCopy(report);
});

test("the client saw one connection, every number once", async () => {
  await witness.assertIntact();
});

/**
 * Whole machines, the arbiter and pairs of daemons die: what faults.test.ts, which kills one part at a time, does not
 * show. After each, one live copy, the connection and the sequence as promised, and the next migration goes through.
 */
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { Client, Connection } from "@temporalio/client";
import { labKillNode, labRun, labServicePid, labStartNode } from "../../deploy/lab/index.js";
import type { MigrationHandle } from "../../src/client/types.js";
import {
  armFailpoint,
  assertLives,
  assertMoved,
  clearFailpoints,
  copies,
  cutLink,
  describeReport as why,
  goOn,
  journalSays,
  migrate,
  other,
  reached,
  startLab,
  startWitness,
  until,
  type E2eLab,
  type Witness,
} from "./support.js";

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
afterEach(() => clearFailpoints(e2e));

/** It runs once, whole, where its entity says. */
async function assertOneCopy(node: string): Promise<void> {
  await until("its entity is at rest", 30_000, async () => (await witness.workload.status()).operation === undefined);
  await assertLives(e2e, witness, digest, node, 20_000);
  const status = await witness.workload.status();
  assert.equal(status.state, "running");
  assert.equal(status.node, node);
}

async function pausedAt(
  point: `${"source" | "destination"}.${string}`,
  mode: "cold" | "postcopy",
  more: { bandwidthBytesPerSec?: number } = {},
) {
  const { node } = await witness.workload.status();
  const side = point.startsWith("source") ? node : other(node);
  await armFailpoint(e2e, side, point, "pause");
  const handle: MigrationHandle = await witness.workload.migrate({ to: other(node), mode, ...more });
  await reached(e2e, side, point);
  return { source: node, destination: other(node), handle, go: () => goOn(e2e, side, point) };
}

async function signal(node: string, service: "agent" | "temporal", name: NodeJS.Signals): Promise<void> {
  const pid = await labServicePid(e2e.state, node, service);
  assert.ok(pid, `${service} of ${node} runs`);
  process.kill(pid, name);
}

test("Temporal's server is killed in the blackout: it moves, and the command hears of it", async () => {
  const { destination, handle, go } = await pausedAt("source.transfer", "cold");
  await signal("switch", "temporal", "SIGKILL");
  await go();
  assertMoved(await handle.result());
  await assertOneCopy(destination);
});

test("its workflow is terminated in the blackout: the journals decide, and the next migration goes through", async () => {
  const { handle, go } = await pausedAt("source.transfer", "cold");
  const connection = await Connection.connect({ address: e2e.lab.address ?? "" });
  try {
    await new Client({ connection }).workflow.getHandle(handle.workflowId).terminate("by a person");
  } finally {
    await connection.close();
  }
  await go();
  await until("it is settled", 60_000, async () => {
    const { state, operation } = await witness.workload.status();
    return state === "running" && operation === undefined;
  });
  const { node } = await witness.workload.status();
  await assertOneCopy(node);
  assertMoved(await migrate(witness.workload, other(node), "cold"));
  await assertOneCopy(other(node));
});

test("both agents are killed in the blackout", async () => {
  const { source, destination, handle } = await pausedAt("source.transfer", "cold");
  await Promise.all([signal(source, "agent", "SIGKILL"), signal(destination, "agent", "SIGKILL")]);
  const report = await handle.result();
  assert.ok(report.outcome === "moved" || report.outcome === "rolled-back", why(report));
  await assertOneCopy(report.node);
});

for (const side of ["source", "destination"] as const) {
  test(`the ${side}'s agent stands still for ten seconds in the blackout`, async () => {
    const { source, destination, handle, go } = await pausedAt("source.transfer", "cold");
    const node = side === "source" ? source : destination;
    await signal(node, "agent", "SIGSTOP");
    await go();
    await new Promise((resolve) => setTimeout(resolve, 10_000));
    await signal(node, "agent", "SIGCONT");
    const report = await handle.result();
    assert.ok(report.outcome === "moved" || report.outcome === "rolled-back", why(report));
    await assertOneCopy(report.node);
  });
}

/** The page daemon and its guard have the same command line: the guard is the daemon's child. */
async function pageDaemon(node: string): Promise<{ daemon: string; guard: string }> {
  const { stdout } = await labRun(e2e.state, node, ["pgrep", "-f", "pages/daemon"], { allow: [1] });
  const pids = stdout.trim().split("\n").filter(Boolean);
  for (const guard of pids) {
    const parent = (await labRun(e2e.state, node, ["ps", "-o", "ppid=", "-p", guard], { allow: [1] })).stdout.trim();
    if (pids.includes(parent)) return { daemon: parent, guard };
  }
  throw new Error(`no page daemon with its guard on ${node}: ${pids.join(" ")}`);
}

const LIMIT_BYTES_PER_SEC = 6 * 2 ** 20;

/** `npm run test:faults` has all of them. */
const alone = process.env["FERRY_FAULTS"] === "all" ? ([["guard"], ["daemon"]] as const) : [];
for (const order of [...alone, ["guard", "daemon"], ["daemon", "guard"]] as const) {
  test(`post-copy under way: the ${order.join(", then the ")} is killed, and nothing is lost`, async () => {
    const { node } = await witness.workload.status();
    const destination = other(node);
    // Slow enough that most pages are still on the source when they die.
    const handle = await witness.workload.migrate({
      to: destination,
      mode: "postcopy",
      bandwidthBytesPerSec: LIMIT_BYTES_PER_SEC,
    });
    for await (const { phase } of handle.progress({ everyMs: 100 })) if (phase === "drain") break;
    for (const who of order) {
      let pids: { daemon: string; guard: string } | undefined;
      await until(`page daemon and guard on ${destination}`, 10_000, async () => {
        pids = await pageDaemon(destination).catch(() => undefined);
        return pids !== undefined;
      });
      assert.ok(pids);
      await labRun(e2e.state, destination, ["kill", "-9", pids[who]], {});
    }
    const report = await handle.result();
    assertMoved(report);
    // The rate of pages while they flowed: the limit, but for what its bucket (0.05 s) and faults may send at once.
    const { bandwidthBytesPerSec } = report;
    assert.ok(
      bandwidthBytesPerSec > LIMIT_BYTES_PER_SEC / 2 && bandwidthBytesPerSec <= LIMIT_BYTES_PER_SEC * 1.03,
      `${bandwidthBytesPerSec} bytes a second at ${LIMIT_BYTES_PER_SEC}`,
    );
    await assertOneCopy(destination);
  });
}

test("the link is cut for good as the source releases: the workflow carries token and receipt, one copy is left", async () => {
  const { source, destination, handle, go } = await pausedAt("source.switch", "cold");
  await cutLink(e2e, "add", source, destination);
  try {
    await go();
    assertMoved(await handle.result());
    // Still cut: the frozen copy on the source has gone all the same.
    await assertOneCopy(destination);
  } finally {
    await cutLink(e2e, "delete", source, destination);
  }
});

test("post-copy, and the link is cut as the source releases: it keeps the pages until the link is back", async () => {
  const { source, destination, handle, go } = await pausedAt("source.switch", "postcopy", {
    // So slow that most pages are still on the source when the link goes.
    bandwidthBytesPerSec: 2 * 2 ** 20,
  });
  await cutLink(e2e, "add", source, destination);
  try {
    await go();
    await until("it runs at the destination", 40_000, () => journalSays(e2e, destination, handle.operation, "RUNNING"));
    // Longer than the workflow's looks: nobody may tell the source to let go.
    await new Promise((resolve) => setTimeout(resolve, 8_000));
    assert.equal(await journalSays(e2e, destination, handle.operation, "OWNER"), false, "pages are still missing");
    assert.deepEqual(await copies(e2e), { [source]: 1, [destination]: 1 }, "the frozen copy is still there");
  } finally {
    await cutLink(e2e, "delete", source, destination);
  }
  assertMoved(await handle.result());
  await assertOneCopy(destination);
});

test("the destination's machine dies before the commit point: it runs on at the source", async () => {
  const { source, destination, handle, go } = await pausedAt("source.transfer", "cold");
  await labKillNode(e2e.state, destination);
  await go();
  const report = await handle.result();
  await labStartNode(e2e.state, destination);
  assert.equal(report.outcome, "rolled-back", why(report));
  await assertOneCopy(source);
  assertMoved(await migrate(witness.workload, destination, "cold"));
  await assertOneCopy(destination);
});

test("the source's machine dies after it has handed over: it runs on at the destination", async () => {
  const { source, destination, handle } = await pausedAt("source.release", "cold");
  await labKillNode(e2e.state, source);
  await until("it runs on the destination", 20_000, async () => {
    const { stdout } = await labRun(e2e.state, destination, ["pgrep", "-x", "-c", "redis-server"], { allow: [1] });
    return stdout.trim() === "1";
  });
  await labStartNode(e2e.state, source);
  assertMoved(await handle.result());
  await assertOneCopy(destination);
  assertMoved(await migrate(witness.workload, source, "cold"));
  await assertOneCopy(source);
});

for (const point of ["destination.switch", "destination.resume"] as const) {
  test(`the destination's machine loses power at ${point}, after the commit point: it comes back and takes over`, async () => {
    const { source, destination, handle } = await pausedAt(point, "cold");
    await until("the source has released", 10_000, async () => {
      const { stdout } = await labRun(
        e2e.state,
        source,
        ["grep", "-c", '"state":"RELEASED"', "/var/lib/ferry/journal.jsonl"],
        { allow: [1] },
      );
      return Number(stdout) > 0;
    });
    await new Promise((resolve) => setTimeout(resolve, 500));
    await labKillNode(e2e.state, destination);
    await labStartNode(e2e.state, destination);
    assertMoved(await handle.result());
    await assertOneCopy(destination);
  });
}

test("through all of it the client saw one connection, every number once", async () => {
  await witness.assertIntact();
});

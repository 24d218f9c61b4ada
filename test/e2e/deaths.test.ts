/**
 * Whole machines, the arbiter and pairs of daemons die: what faults.test.ts, which kills one part at a time, does not
 * show. After each, one live copy, the connection and the sequence as promised, and the next migration goes through.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, Connection } from "@temporalio/client";
import { labKillNode, labRun, labStartNode } from "../../deploy/lab/index.js";
import { withRedis } from "./scene.js";
import {
  assertMoved,
  copies,
  cutLink,
  describeReport as why,
  journalSays,
  migrate,
  other,
  signalService,
  until,
  type Service,
} from "./support.js";

const scene = withRedis(30);
const signal = (node: string, service: Service, name: NodeJS.Signals): Promise<void> =>
  signalService(scene.e2e, node, service, name);

test("Temporal's server is killed in the blackout: it moves, and the command hears of it", async () => {
  const { destination, handle, go } = await scene.pausedAt("source.transfer", { mode: "cold" });
  await signal("switch", "temporal", "SIGKILL");
  await go();
  assertMoved(await handle.result());
  await scene.assertOneCopy(destination);
});

test("its workflow is terminated in the blackout: the journals decide, and the next migration goes through", async () => {
  const { handle, go } = await scene.pausedAt("source.transfer", { mode: "cold" });
  const connection = await Connection.connect({ address: scene.e2e.lab.address ?? "" });
  try {
    await new Client({ connection }).workflow.getHandle(handle.workflowId).terminate("by a person");
  } finally {
    await connection.close();
  }
  await go();
  await until("it is settled", 60_000, async () => {
    const { state, operation } = await scene.witness.workload.status();
    return state === "running" && operation === undefined;
  });
  const { node } = await scene.witness.workload.status();
  await scene.assertOneCopy(node);
  assertMoved(await migrate(scene.witness.workload, other(node), "cold"));
  await scene.assertOneCopy(other(node));
});

test("both agents are killed in the blackout", async () => {
  const { source, destination, handle } = await scene.pausedAt("source.transfer", { mode: "cold" });
  await Promise.all([signal(source, "agent", "SIGKILL"), signal(destination, "agent", "SIGKILL")]);
  const report = await handle.result();
  assert.ok(report.outcome === "moved" || report.outcome === "rolled-back", why(report));
  await scene.assertOneCopy(report.node);
});

for (const side of ["source", "destination"] as const) {
  test(`the ${side}'s agent stands still for ten seconds in the blackout`, async () => {
    const { source, destination, handle, go } = await scene.pausedAt("source.transfer", { mode: "cold" });
    const node = side === "source" ? source : destination;
    await signal(node, "agent", "SIGSTOP");
    await go();
    await new Promise((resolve) => setTimeout(resolve, 10_000));
    await signal(node, "agent", "SIGCONT");
    const report = await handle.result();
    assert.ok(report.outcome === "moved" || report.outcome === "rolled-back", why(report));
    await scene.assertOneCopy(report.node);
  });
}

/** The page daemon and its guard have the same command line: the guard is the daemon's child. */
async function pageDaemon(node: string): Promise<{ daemon: string; guard: string }> {
  const { stdout } = await labRun(scene.e2e.state, node, ["pgrep", "-f", "pages/daemon"], { allow: [1] });
  const pids = stdout.trim().split("\n").filter(Boolean);
  for (const guard of pids) {
    const parent = (
      await labRun(scene.e2e.state, node, ["ps", "-o", "ppid=", "-p", guard], { allow: [1] })
    ).stdout.trim();
    if (pids.includes(parent)) return { daemon: parent, guard };
  }
  throw new Error(`no page daemon with its guard on ${node}: ${pids.join(" ")}`);
}

const LIMIT_BYTES_PER_SEC = 6 * 2 ** 20;

/** `npm run test:faults` has all of them. */
const alone = process.env["FERRY_FAULTS"] === "all" ? ([["guard"], ["daemon"]] as const) : [];
for (const order of [...alone, ["guard", "daemon"], ["daemon", "guard"]] as const) {
  test(`post-copy under way: the ${order.join(", then the ")} is killed, and nothing is lost`, async () => {
    const { node } = await scene.witness.workload.status();
    const destination = other(node);
    // Slow enough that most pages are still on the source when they die.
    const handle = await scene.witness.workload.migrate({
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
      await labRun(scene.e2e.state, destination, ["kill", "-9", pids[who]], {});
    }
    const report = await handle.result();
    assertMoved(report);
    // The rate of pages while they flowed: the limit, but for what its bucket (0.05 s) and faults may send at once.
    const { bandwidthBytesPerSec } = report;
    assert.ok(
      bandwidthBytesPerSec > LIMIT_BYTES_PER_SEC / 2 && bandwidthBytesPerSec <= LIMIT_BYTES_PER_SEC * 1.03,
      `${bandwidthBytesPerSec} bytes a second at ${LIMIT_BYTES_PER_SEC}`,
    );
    await scene.assertOneCopy(destination);
  });
}

test("the link is cut for good as the source releases: the workflow carries token and receipt, one copy is left", async () => {
  const { source, destination, handle, go } = await scene.pausedAt("source.switch", { mode: "cold" });
  await cutLink(scene.e2e, "add", source, destination);
  try {
    await go();
    assertMoved(await handle.result());
    // Still cut: the frozen copy on the source has gone all the same.
    await scene.assertOneCopy(destination);
  } finally {
    await cutLink(scene.e2e, "delete", source, destination);
  }
});

test("post-copy, and the link is cut as the source releases: it keeps the pages until the link is back", async () => {
  const { source, destination, handle, go } = await scene.pausedAt("source.switch", {
    mode: "postcopy",
    // So slow that most pages are still on the source when the link goes.
    bandwidthBytesPerSec: 2 * 2 ** 20,
  });
  await cutLink(scene.e2e, "add", source, destination);
  try {
    await go();
    await until("it runs at the destination", 40_000, () =>
      journalSays(scene.e2e, destination, handle.operation, "RUNNING"),
    );
    // Longer than the workflow's looks: nobody may tell the source to let go.
    await new Promise((resolve) => setTimeout(resolve, 8_000));
    assert.equal(
      await journalSays(scene.e2e, destination, handle.operation, "OWNER"),
      false,
      "pages are still missing",
    );
    assert.deepEqual(await copies(scene.e2e), { [source]: 1, [destination]: 1 }, "the frozen copy is still there");
  } finally {
    await cutLink(scene.e2e, "delete", source, destination);
  }
  assertMoved(await handle.result());
  await scene.assertOneCopy(destination);
});

test("the destination's machine dies before the commit point: it runs on at the source", async () => {
  const { source, destination, handle, go } = await scene.pausedAt("source.transfer", { mode: "cold" });
  await labKillNode(scene.e2e.state, destination);
  await go();
  const report = await handle.result();
  await labStartNode(scene.e2e.state, destination);
  assert.equal(report.outcome, "rolled-back", why(report));
  await scene.assertOneCopy(source);
  assertMoved(await migrate(scene.witness.workload, destination, "cold"));
  await scene.assertOneCopy(destination);
});

test("the source's machine dies after it has handed over: it runs on at the destination", async () => {
  const { source, destination, handle } = await scene.pausedAt("source.release", { mode: "cold" });
  await labKillNode(scene.e2e.state, source);
  await until("it runs on the destination", 20_000, async () => {
    const { stdout } = await labRun(scene.e2e.state, destination, ["pgrep", "-x", "-c", "redis-server"], {
      allow: [1],
    });
    return stdout.trim() === "1";
  });
  await labStartNode(scene.e2e.state, source);
  assertMoved(await handle.result());
  await scene.assertOneCopy(destination);
  assertMoved(await migrate(scene.witness.workload, source, "cold"));
  await scene.assertOneCopy(source);
});

// At the other points: the fault matrix.
test("the destination's machine loses power as it resumes, after the commit point: it comes back and takes over", async () => {
  const { source, destination, handle } = await scene.pausedAt("destination.resume", { mode: "cold" });
  await until("the source has released", 10_000, async () => {
    const { stdout } = await labRun(
      scene.e2e.state,
      source,
      ["grep", "-c", '"state":"RELEASED"', "/var/lib/ferry/journal.jsonl"],
      { allow: [1] },
    );
    return Number(stdout) > 0;
  });
  await new Promise((resolve) => setTimeout(resolve, 500));
  await labKillNode(scene.e2e.state, destination);
  await labStartNode(scene.e2e.state, destination);
  assertMoved(await handle.result());
  await scene.assertOneCopy(destination);
});

test("through all of it the client saw one connection, every number once", async () => {
  await scene.witness.assertIntact();
});

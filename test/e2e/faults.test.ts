/**
 * Things die in every phase, for real: agents, workers, criu, movers, the page daemon, the link. After each: exactly one
 * live copy, the client's connection and sequence intact, the keyspace as before, and the migration has moved or rolled
 * back by itself.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, test } from "node:test";
import { labLink, labNode, labRun, labServicePid } from "../../deploy/lab/index.js";
import { FAILPOINTS } from "../../src/agent/failpoint.js";
import type { MigrationReport } from "../../src/client/index.js";
import type { Mode } from "../../src/model/plan.js";
import { withRedis } from "./scene.js";
import {
  armFailpoint,
  assertLives,
  cancelHeard,
  clearFailpoints,
  copies,
  cutLink,
  describeReport,
  fired,
  goOn,
  killOn,
  migrate,
  other,
  reached,
  setClock,
  until,
  withClocks,
} from "./support.js";

/** Whoever hangs longer has hung. */
const LIMIT = { timeout: 90_000 };

withClocks();
const scene = withRedis(30);
afterEach(async () => {
  // A test that failed must not take the others with it.
  await until("the workload at rest", 60_000, async () => (await scene.witness.workload.status()).state === "running");
});

const why = describeReport;

/** Where it is now, and that it is there once, whole, and answering. */
async function assertOneCopy(report: MigrationReport): Promise<void> {
  assert.ok(report.outcome === "moved" || report.outcome === "rolled-back", why(report));
  await assertLives(scene.e2e, scene.witness, scene.digest, report.node, 10_000);
  const status = await scene.witness.workload.status();
  assert.equal(status.state, "running");
  assert.equal(status.node, report.node);
  await scene.assertNothingLeft(report.node);
}

const BEFORE_COMMIT = [
  "source.arm",
  "source.presync",
  "source.precopy",
  "source.freeze",
  "source.dump",
  "source.transfer",
  "source.switch",
  "destination.restore",
  "destination.transfer",
];

const points: readonly string[] = FAILPOINTS.filter((point) => !point.startsWith("checkpoint."));
/** `agent`: pages that were sent ahead are there when it dies; the others begin with nothing. */
const modeOf = (point: string, agent = false): Mode => {
  if (point === "source.drain" || point === "destination.drain") return "postcopy";
  return agent || point === "source.precopy" ? "precopy" : "cold";
};

/** Pages must still be missing when the source hears that it runs there: else nothing is drained. */
const SLOWLY = { bandwidthBytesPerSec: 10 * 2 ** 20 };
const slowly = (point: string): { bandwidthBytesPerSec?: number } => (point.endsWith(".drain") ? SLOWLY : {});

/** `npm run test:faults` has every fault at every point; the default run those where the sides' duties differ. */
const everywhere = process.env["FERRY_FAULTS"] === "all";
const those = <T extends string>(all: readonly T[], some: readonly T[]): readonly T[] => (everywhere ? all : some);

const agentsDieAt = those(points, [
  "source.precopy",
  "source.freeze",
  "source.transfer",
  "source.release",
  "destination.restore",
  "destination.switch",
  "destination.resume",
  "source.drain",
]);
for (const point of agentsDieAt) {
  test(`the ${point.split(".")[0]}'s agent is killed at ${point}`, LIMIT, async () => {
    const { node } = await scene.witness.workload.status();
    const side = point.startsWith("source") ? node : other(node);
    await armFailpoint(scene.e2e, side, point, "kill");
    const report = await migrate(scene.witness.workload, other(node), modeOf(point, true), slowly(point));
    assert.ok(await fired(scene.e2e, side, point), `${point} was not reached: ${why(report)}`);
    await assertOneCopy(report);
  });
}

test("every failpoint of a migration is come by", LIMIT, async () => {
  let missing = points;
  // Drained is what the destination of a post-copy lacks when it runs.
  for (const mode of ["precopy", "postcopy"] as const) {
    const { node } = await scene.witness.workload.status();
    const at = (point: string): string => (point.startsWith("source") ? node : other(node));
    for (const point of missing) await armFailpoint(scene.e2e, at(point), point, "note");
    const report = await migrate(scene.witness.workload, other(node), mode, mode === "postcopy" ? SLOWLY : {});
    assert.equal(report.outcome, "moved", why(report));
    const fires = await Promise.all(missing.map((point) => fired(scene.e2e, at(point), point)));
    missing = missing.filter((_, i) => fires[i] !== true);
    await clearFailpoints(scene.e2e);
  }
  assert.deepEqual(missing, []);
});

test(
  "the source's agent is killed after the commit point, when an older migration was rolled back: none goes on but the last",
  LIMIT,
  async () => {
    const { node } = await scene.witness.workload.status();
    for (const [point, outcome] of [
      ["source.transfer", "rolled-back"],
      ["source.release", "moved"],
    ] as const) {
      await armFailpoint(scene.e2e, node, point, "kill");
      const report = await migrate(scene.witness.workload, other(node), "cold");
      assert.ok(await fired(scene.e2e, node, point), `${point} was not reached: ${why(report)}`);
      assert.equal(report.outcome, outcome, why(report));
      await assertOneCopy(report);
    }
    // The first node gives it away again: its agent, restarted once more above, is not busy with what was long over.
    for (const to of [node, other(node)]) {
      const report = await migrate(scene.witness.workload, to, "cold");
      assert.equal(report.outcome, "moved", why(report));
      await assertOneCopy(report);
    }
  },
);

test("a call to hand over that comes when its migration is over begins nothing", LIMIT, async () => {
  const { node, epoch } = await scene.witness.workload.status();
  // The destination refuses before the source has heard of it: then settling needs no word of the source.

  const to = epoch + 900;
  const ref = {
    schema: 1,
    operation: "redis.migrate.900",
    workload: "redis",
    epoch,
    to,
    source: node,
    destination: other(node),
  };
  const options = { mode: "cold", dryRun: false, maxBlackoutMs: 30_000 };
  const nobody = { host: "127.0.0.1", port: 9 };
  const calls = [
    ["cleanup", ref],
    ["handOver", { input: { ref, options, reservation: { agent: nobody, mover: nobody } }, waitMs: 200 }],
  ];
  const program = `import { callAgent } from "/opt/ferry/dist/src/agent/client.js";
    for (const [verb, input] of ${JSON.stringify(calls)})
      console.log(JSON.stringify((await callAgent("/run/ferry/agent.sock", verb, input)) ?? null));`;
  const said = await labRun(scene.e2e.state, node, ["node", "--input-type=module", "-e", program], {});
  const [, late] = said.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { done?: boolean; result?: { state: string } } | null);
  assert.equal(late?.done, true, said.stdout);
  assert.equal(late?.result?.state, "OWNER");
  // and the node is not busy with it
  const report = await migrate(scene.witness.workload, other(node), "cold");
  assert.equal(report.outcome, "moved", why(report));
  await assertOneCopy(report);
});

const workersDieAt = those(points, ["source.transfer", "source.release", "destination.restore"]);
for (const point of workersDieAt) {
  test(`both workers are killed at ${point}, and the migration completes`, LIMIT, async () => {
    const { node } = await scene.witness.workload.status();
    const side = point.startsWith("source") ? node : other(node);
    await armFailpoint(scene.e2e, side, point, "pause");
    const running = migrate(scene.witness.workload, other(node), modeOf(point), slowly(point));
    await reached(scene.e2e, side, point, running);
    for (const name of ["node-a", "node-b"]) {
      const pid = await labServicePid(scene.e2e.state, name, "worker");
      if (pid !== undefined) process.kill(pid, "SIGKILL");
    }
    await goOn(scene.e2e, side, point);
    const report = await running;
    assert.equal(report.outcome, "moved", why(report));
    await assertOneCopy(report);
  });
}

const cancelledAt = those(BEFORE_COMMIT, ["source.presync", "source.freeze", "source.transfer", "destination.restore"]);
for (const point of cancelledAt) {
  test(`cancelled by the user at ${point}, it runs on at the source`, LIMIT, async () => {
    const { node } = await scene.witness.workload.status();
    const side = point.startsWith("source") ? node : other(node);
    await armFailpoint(scene.e2e, side, point, "pause");
    const handle = await scene.witness.workload.migrate({ to: other(node), mode: modeOf(point) });
    const ended = handle.result();
    await reached(scene.e2e, side, point, ended);
    await cancelHeard(scene.e2e, handle, node);
    await goOn(scene.e2e, side, point);
    const report = await ended;
    assert.equal(report.outcome, "rolled-back", why(report));
    assert.equal(report.node, node);
    await assertOneCopy(report);
  });
}

test("cancelled after the commit point, it goes forward", LIMIT, async () => {
  const { handle, ended, go } = await scene.pausedAt("source.release", { mode: "cold" });
  await handle.cancel();
  await go();
  const report = await ended;
  assert.equal(report.outcome, "moved", why(report));
  await assertOneCopy(report);
});

test("criu is killed in the hold: restored locally, with the connection", LIMIT, async () => {
  const { source: node, handle, ended, go } = await scene.pausedAt("source.transfer", { mode: "cold" });
  assert.ok((await killOn(scene.e2e, node, "criu dump")) > 0);
  await cancelHeard(scene.e2e, handle, node);
  await go();
  const report = await ended;
  assert.equal(report.outcome, "rolled-back", why(report));
  assert.equal(report.node, node);
  await assertOneCopy(report);
});

for (const point of ["destination.arm", "destination.restore", "destination.switch"]) {
  test(
    `criu is killed in the hold, and the agent at ${point} of the local restore: restored once more`,
    LIMIT,
    async () => {
      const { source: node, handle, ended, go } = await scene.pausedAt("source.transfer", { mode: "cold" });
      assert.ok((await killOn(scene.e2e, node, "criu dump")) > 0);
      // The local restore is a take-over of this node's own.
      await armFailpoint(scene.e2e, node, point, "kill");
      await cancelHeard(scene.e2e, handle, node);
      await go();
      const report = await ended;
      assert.ok(await fired(scene.e2e, node, point));
      assert.equal(report.outcome, "rolled-back", why(report));
      assert.equal(report.node, node);
      await assertOneCopy(report);
    },
  );
}

test("the destination's criu dies while it restores: rolled back", LIMIT, async () => {
  const { source: node, ended, go } = await scene.pausedAt("destination.restore", { mode: "cold" });
  // The one that stands by is replaced.
  const kill = ["pkill", "-9", "-f", "^criu restore"];
  await labRun(scene.e2e.state, other(node), kill, {});
  // A restore is over soon: whoever waits there for criu kills it as it begins.
  const loop = `until ${kill.slice(0, 3).join(" ")} '${kill[3]}'; do :; done`;
  const killed = labRun(scene.e2e.state, other(node), ["timeout", "30", "sh", "-c", loop], {});
  await go();
  await killed;
  const report = await ended;
  assert.equal(report.outcome, "rolled-back", why(report));
  assert.equal(report.failure?.code, "E_RESTORE", why(report));
  assert.equal(report.node, node);
  await assertOneCopy(report);
});

test(
  "the destination's criu dies when it holds what it has restored: it is restored again, and moves",
  LIMIT,
  async () => {
    const { source: node, ended, go } = await scene.pausedAt("destination.transfer", { mode: "cold" });
    assert.ok((await killOn(scene.e2e, other(node), "criu restore")) > 0);
    await go();
    const report = await ended;
    assert.equal(report.outcome, "moved", why(report));
    await assertOneCopy(report);
  },
);

test(
  "the destination's criu refuses by itself, of something that changed after the checks: rolled back, with its words",
  LIMIT,
  async () => {
    const { source: node, ended, go } = await scene.pausedAt("source.presync", { mode: "cold" });
    // Preflight has compared the programs of both nodes. criu looks at their size once more.
    const program = 'f=$(readlink -f "$(command -v redis-server)")';
    await labRun(
      scene.e2e.state,
      other(node),
      ["sh", "-c", `${program}; cp -a "$f" /root/kept && printf x >> "$f"`],
      {},
    );
    try {
      await go();
      const report = await ended;
      assert.equal(report.outcome, "rolled-back", why(report));
      assert.equal(report.failure?.code, "E_RESTORE", why(report));
      assert.equal(report.failure?.side, "destination", why(report));
      assert.match((report.failure?.evidence?.lines ?? []).join("\n"), /bad size/, why(report));
      await assertOneCopy(report);
    } finally {
      await labRun(scene.e2e.state, other(node), ["sh", "-c", `${program}; cp -a /root/kept "$f"; rm /root/kept`], {});
    }
  },
);

/** The promise: heartbeats are short enough that a cancel works within this. */
const CANCEL_MS = 2_000;
/** For what is no part of it: an fsync of the journal, our look every 25 ms, and both nodes, the server and redis on two cores. */
const CANCEL_MARGIN_MS = 500;

test("a cancel reaches the source's agent within two seconds, in the middle of the files", LIMIT, async (t) => {
  const { node } = await scene.witness.workload.status();
  const inside = ["nsenter", "--target", String(await redisPid(node)), "--mount"];
  await labRun(scene.e2e.state, node, [...inside, "dd", "if=/dev/urandom", "of=/data/large", "bs=1M", "count=24"], {});
  try {
    // So slow that it would take twelve seconds.
    const handle = await scene.witness.workload.migrate({
      to: other(node),
      mode: "cold",
      bandwidthBytesPerSec: 2 * 2 ** 20,
    });
    for await (const { phase } of handle.progress({ everyMs: 50 })) if (phase === "presync") break;
    // In the middle of it: bytes are under way.
    await new Promise((resolve) => setTimeout(resolve, 500));
    const { pid } = await labNode(scene.e2e.state, node);
    const journal = `/proc/${pid}/root/var/lib/ferry/journal.jsonl`;
    const burned = (): boolean =>
      readFileSync(journal, "utf8")
        .split("\n")
        .some((line) => line.includes(`"operation":"${handle.operation}"`) && line.includes('"state":"BURNED"'));
    assert.equal(burned(), false);
    const asked = performance.now();
    await handle.cancel();
    await until("the source's agent has burned the epoch", 20_000, burned);
    const reachedMs = performance.now() - asked;
    const report = await handle.result();
    t.diagnostic(
      `the agent after ${reachedMs.toFixed(0)} ms, the report after ${(performance.now() - asked).toFixed(0)} ms`,
    );
    assert.ok(reachedMs < CANCEL_MS + CANCEL_MARGIN_MS, `it took ${reachedMs.toFixed(0)} ms`);
    assert.equal(report.outcome, "rolled-back", why(report));
    assert.equal(report.failure?.code, "E_CANCELLED", why(report));
    assert.equal(report.node, node);
    await assertOneCopy(report);
  } finally {
    await labRun(scene.e2e.state, node, [...inside, "rm", "-f", "/data/large"], {});
  }
});

test("while it moves only agents and a mover listen, and they have no word for a stranger", LIMIT, async () => {
  const { source, destination, ended, go } = await scene.pausedAt("destination.transfer", { mode: "cold" });
  const listening = async (node: string): Promise<string[]> => {
    const { stdout } = await labRun(scene.e2e.state, node, ["ss", "-Hltnp"], {});
    return stdout.trim().split("\n");
  };
  assert.match((await listening(source)).join("\n"), /^\S+ +\d+ +\d+ +\S+:7400 .*"node".*$/);
  const [mover, agent, ...others] = (await listening(destination)).toSorted();
  assert.match(agent ?? "", /:7400 .*"node"/);
  assert.match(mover ?? "", /"ferry-mover-des"/);
  assert.deepEqual(others, []);
  for (const line of [mover, agent]) {
    const address = /(\d+\.\d+\.\d+\.\d+:\d+)/.exec(line ?? "")?.[1] ?? "";
    const { stdout, exitCode } = await labRun(
      scene.e2e.state,
      "client",
      ["curl", "-sS", "-m", "5", `http://${address}/`],
      {
        allow: [1, 52, 56],
      },
    );
    assert.equal(stdout, "", `${address} answered a stranger`);
    assert.notEqual(exitCode, 0);
  }
  await go();
  await assertOneCopy(await ended);
});

test("the source's mover is killed when it has been told where to send to, and nothing else", LIMIT, async () => {
  const { source, handle, go } = await scene.pausedAt("source.presync", { mode: "cold" });
  assert.ok((await killOn(scene.e2e, source, "ferry-mover-source")) > 0);
  await go();
  await assertOneCopy(await handle.result());
});

for (const side of ["source", "destination"] as const) {
  test(`the ${side}'s mover is killed in the blackout`, LIMIT, async () => {
    const { node } = await scene.witness.workload.status();
    const at = side === "source" ? node : other(node);
    const point = side === "source" ? "source.transfer" : "destination.restore";
    await armFailpoint(scene.e2e, at, point, "pause");
    const handle = await scene.witness.workload.migrate({ to: other(node), mode: "cold" });
    const ended = handle.result();
    await reached(scene.e2e, at, point, ended);
    assert.ok((await killOn(scene.e2e, at, `ferry-mover-${side}`)) > 0);
    await goOn(scene.e2e, at, point);
    const report = await ended;
    // Another one fetches the page that criu itself waits for: long before the deadline.
    if (side === "destination") assert.equal(report.outcome, "moved", why(report));
    await assertOneCopy(report);
  });

  test(`the ${side}'s mover is killed while post-copy drains: it goes on`, LIMIT, async () => {
    const { node } = await scene.witness.workload.status();
    const at = side === "source" ? node : other(node);
    await armFailpoint(scene.e2e, other(node), "destination.drain", "pause");
    const handle = await scene.witness.workload.migrate({ to: other(node), mode: "postcopy" });
    const ended = handle.result();
    await reached(scene.e2e, other(node), "destination.drain", ended);
    assert.ok((await killOn(scene.e2e, at, `ferry-mover-${side}`)) > 0);
    await goOn(scene.e2e, other(node), "destination.drain");
    const report = await ended;
    assert.equal(report.outcome, "moved", why(report));
    await assertOneCopy(report);
  });
}

test("the page daemon is killed while post-copy drains: the workload waits and goes on", LIMIT, async () => {
  const { source: node, ended, go } = await scene.pausedAt("destination.drain", { mode: "postcopy" });
  assert.ok((await killOn(scene.e2e, other(node), "pages/daemon")) > 0);
  await go();
  const report = await ended;
  assert.equal(report.outcome, "moved", why(report));
  await assertOneCopy(report);
});

for (const point of those(["source.presync", "source.transfer"], ["source.transfer"])) {
  test(`the link is cut at ${point} for good: it runs on at the source`, LIMIT, async () => {
    const { node } = await scene.witness.workload.status();
    await armFailpoint(scene.e2e, node, point, "pause");
    const handle = await scene.witness.workload.migrate({ to: other(node), mode: "cold" });
    const ended = handle.result();
    await reached(scene.e2e, node, point, ended);
    await cutLink(scene.e2e, "add", node, other(node));
    try {
      await goOn(scene.e2e, node, point);
      const report = await ended;
      assert.equal(report.outcome, "rolled-back", why(report));
      assert.equal(report.node, node);
      await assertOneCopy(report);
    } finally {
      await cutLink(scene.e2e, "delete", node, other(node));
    }
  });
}

for (const [point, mode, seconds] of [
  ["source.freeze", "precopy", 3_600],
  ["source.drain", "postcopy", -3_600],
  ["destination.restore", "cold", -3_600],
  ["destination.drain", "postcopy", 3_600],
] as const) {
  test(
    `at ${point} a clock is set ${seconds < 0 ? "back" : "ahead"} by an hour: it moves, and the report says so`,
    LIMIT,
    async (t) => {
      const { ended, go, source, destination } = await scene.pausedAt(point, { mode, ...slowly(point) });
      const node = point.startsWith("source") ? source : destination;
      t.after(() => setClock(scene.e2e, node, 0));
      await setClock(scene.e2e, node, seconds);
      await go();
      if (seconds < 0) {
        // The lab's certificates are minutes old: by that clock they are not valid yet, and nothing is believed until it is right.
        await new Promise((resolve) => setTimeout(resolve, 4_000));
        await setClock(scene.e2e, node, 0);
      }
      const report = await ended;
      assert.equal(report.outcome, "moved", why(report));
      assert.equal(report.blackoutMs, null);
      const word = new RegExp(`the clock of ${node} was set ${seconds < 0 ? "back" : "ahead"} by 3(599|600)`);
      assert.ok(
        report.reasons.some((reason) => word.test(reason)),
        why(report),
      );
      await setClock(scene.e2e, node, 0);
      await assertOneCopy(report);
    },
  );
}

test("the destination's cable is out for a second in the middle of it: it moves or rolls back", LIMIT, async () => {
  const { source: node, ended, go } = await scene.pausedAt("source.presync", { mode: "cold" });
  await labLink(scene.e2e.state, other(node), "down");
  await go();
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await labLink(scene.e2e.state, other(node), "up");
  await assertOneCopy(await ended);
});

// /run is the node's tmpfs, where images and pages go.
const runSize = (node: string, size: string): Promise<unknown> =>
  labRun(scene.e2e.state, node, ["mount", "-o", `remount,size=${size}`, "/run"], {});

test("the destination has no room: refused by preflight, in words", LIMIT, async () => {
  const { node } = await scene.witness.workload.status();
  await runSize(other(node), "8m");
  try {
    const report = await migrate(scene.witness.workload, other(node), "cold");
    assert.equal(report.outcome, "refused", why(report));
    assert.match(why(report), /need .* free/);
    assert.equal((await copies(scene.e2e))[node], 1);
  } finally {
    await runSize(other(node), "50%");
  }
});

for (const point of ["source.presync", "source.transfer"]) {
  test(`the destination's memory file system is full from ${point} on: rolled back, in words`, LIMIT, async () => {
    const { node } = await scene.witness.workload.status();
    await armFailpoint(scene.e2e, node, point, "pause");
    const handle = await scene.witness.workload.migrate({ to: other(node), mode: "cold" });
    const ended = handle.result();
    await reached(scene.e2e, node, point, ended);
    await runSize(other(node), "8m");
    try {
      await goOn(scene.e2e, node, point);
      const report = await ended;
      assert.equal(report.outcome, "rolled-back", why(report));
      assert.match(why(report), /E_NO_SPACE/);
      await assertOneCopy(report);
    } finally {
      await runSize(other(node), "50%");
    }
  });
}

test("the destination's disk is full: rolled back, in words", LIMIT, async () => {
  const { node } = await scene.witness.workload.status();
  await armFailpoint(scene.e2e, node, "source.presync", "pause");
  await labRun(
    scene.e2e.state,
    node,
    [
      "nsenter",
      "--target",
      String(await redisPid(node)),
      "--mount",
      "dd",
      "if=/dev/urandom",
      "of=/data/file",
      "bs=1M",
      "count=24",
    ],
    {},
  );
  const handle = await scene.witness.workload.migrate({ to: other(node), mode: "cold" });
  const ended = handle.result();
  await reached(scene.e2e, node, "source.presync", ended);
  // A small file system in the place of the volumes: as good as a disk that is full.
  await labRun(
    scene.e2e.state,
    other(node),
    ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", "/var/lib/ferry/volumes"],
    {},
  );
  try {
    await goOn(scene.e2e, node, "source.presync");
    const report = await ended;
    assert.equal(report.outcome, "rolled-back", why(report));
    assert.match(why(report), /E_NO_SPACE|[Nn]o space/);
    await assertOneCopy(report);
  } finally {
    await labRun(scene.e2e.state, other(node), ["umount", "-l", "/var/lib/ferry/volumes"], {});
  }
});

async function redisPid(node: string): Promise<number> {
  const { stdout } = await labRun(scene.e2e.state, node, ["pgrep", "-x", "redis-server"], {});
  return Number(stdout.trim());
}

test("a second migration while one runs is refused", LIMIT, async () => {
  const { source: node, ended, go } = await scene.pausedAt("source.presync", { mode: "cold" });
  await assert.rejects(
    scene.witness.workload.migrate({ to: other(node), mode: "cold" }),
    /busy|running|under way|already/i,
  );
  await go();
  await assertOneCopy(await ended);
});

test("through all of it the client saw one connection, every number once", LIMIT, async () => {
  await scene.witness.assertIntact();
});

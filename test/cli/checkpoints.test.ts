/** `ferry checkpoint`, `restore`, `clone` and `checkpoints` against a real Temporal server, with simulated nodes behind it. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { CheckpointReport } from "../../src/model/checkpoint-report.js";
import type { StoredCheckpoint } from "../../src/model/checkpoints.js";
import type { Restored } from "../../src/model/messages.js";
import type { Pruned } from "../../src/model/retention.js";
import type { WorkloadStatus } from "../../src/model/workload.js";
import { broken } from "../../src/runtimes/simulated/checkpoints.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { QUICK, Stage } from "../workflows/support.js";
import { ferry as ferryAt, type Run } from "./support.js";

describe("checkpoints by command", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  const ferry = (...argv: string[]): Promise<Run> => ferryAt(argv, { FERRY_TEMPORAL_ADDRESS: stage.server.address });
  const good = async (...argv: string[]): Promise<string> => {
    const { code, stdout, stderr } = await ferry(...argv);
    assert.equal(code, 0, `ferry ${argv.join(" ")}: ${stdout}${stderr}`);
    return stdout;
  };
  const bad = async (code: number, words: RegExp, ...argv: string[]): Promise<void> => {
    const ended = await ferry(...argv);
    assert.equal(ended.code, code, `ferry ${argv.join(" ")}: ${ended.stdout}${ended.stderr}`);
    assert.match(ended.stdout + ended.stderr, words);
  };
  const save = async (name: string, ...more: string[]): Promise<StoredCheckpoint> => {
    const report = JSON.parse(await good("checkpoint", name, "--json", ...more)) as CheckpointReport;
    assert.ok(report.checkpoint !== undefined, JSON.stringify(report));
    return report.checkpoint;
  };
  const statusOf = async (name: string): Promise<WorkloadStatus> =>
    (JSON.parse(await good("inspect", name, "--json")) as { status: WorkloadStatus }).status;

  before(async () => {
    stage = await Stage.up(["node-a", "node-b", "node-c"]);
  });
  after(() => stage.down());

  test("checkpoint: plain lines and what was made; ps and inspect show where it stands", async () => {
    await good("run", "web", "--node", "node-a", "--", "true");
    const shown = await good("checkpoint", "web", "--reason", "before the upgrade", "--label", "release=7");
    assert.match(
      shown,
      /checkpoint \d{8}T\d{6}Z-\d+ of web: it runs on\n +where +node-a, epoch 1; it lies in the simulated store/,
    );
    assert.match(shown, /frozen +\d/);
    const [made] = JSON.parse(await good("checkpoints", "ls", "web", "--json")) as StoredCheckpoint[];
    assert.ok(made !== undefined);
    assert.match(made.requestedBy, /@/);
    assert.deepEqual(made.labels, { release: "7" });
    assert.match(await good("inspect", "web"), new RegExp(`saved +${made.id}, taken `));
    const stopped = await good("checkpoint", "web", "--stop");
    assert.match(stopped, /nothing of it runs; its files stay/);
    assert.match(await good("ps"), /^web +node-a +checkpointed /m);
    await bad(2, /only what runs can be saved/, "checkpoint", "web");
    await good("rm", "web");
    assert.match(await good("checkpoints", "ls", "web"), /before the upgrade/, "its checkpoints stay");
  });

  test("checkpoint --detach, refused, failed, and a node that does not answer: exit codes 0, 2, 1, 3", async () => {
    await good("run", "codes", "--node", "node-a", "--", "true");
    assert.match(await good("checkpoint", "codes", "--detach"), /^started codes\.checkpoint\.2; see: /);
    const subject = { workload: "codes", node: "node-a", verb: "saveCheckpoint", when: "before", times: 1 } as const;
    await bad(2, /there is no workload nobody/, "checkpoint", "nobody");
    // The first one may still be under way.
    for (let i = 0; i < 100 && (await statusOf("codes")).operation !== undefined; i += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    stage.world.order({
      ...subject,
      failure: { code: "E_NO_SPACE", message: "the disk is full", remedy: "free some" },
    });
    await bad(
      1,
      /no checkpoint of codes was made: it runs on[\s\S]*the disk is full[\s\S]*free some/,
      "checkpoint",
      "codes",
    );
    stage.world.node("node-a").hasStore = false;
    await bad(2, /has no store/, "checkpoint", "codes");
    stage.world.node("node-a").hasStore = true;
    const doubtful = await stage.run("doubtful", "node-c", QUICK);
    stage.world.at("save:frozen", () => stage.lose("node-c"), doubtful.name);
    await bad(3, /no answer from node-c[\s\S]*ferry recover doubtful/, "checkpoint", "doubtful");
    assert.match(await good("ps"), /^doubtful +node-c +in-doubt/m);
    stage.agent("node-c").restart();
    await stage.startNode("node-c");
    for (let i = 0; i < 200 && (await statusOf("doubtful")).state !== "running"; i += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.equal((await statusOf("doubtful")).state, "running");
  });

  test("restore: the plan, the newest, an older one, elsewhere", async () => {
    await good("run", "back", "--node", "node-a", "--", "true");
    const one = await save("back");
    const two = await save("back", "--stop");
    assert.match(await good("restore", "back", "--dry-run"), new RegExp(`^plan: back would run on node-a .*${two.id}`));
    assert.equal((await statusOf("back")).state, "checkpointed");
    // What it was let go with is all that there is of it; the other one may go.
    await bad(2, /is all that there is of back[\s\S]*ferry restore back/, "checkpoints", "rm", "back", two.id);
    assert.match(await good("restore", "back"), new RegExp(`^back\\.restore\\.\\d+: back runs on node-a .*${two.id}`));
    await bad(2, /only what does not run is restored[\s\S]*ferry stop back/, "restore", "back");
    await good("stop", "back");
    const restored = JSON.parse(
      await good("restore", "back", "--checkpoint", one.id, "--node", "node-b", "--json"),
    ) as Restored;
    assert.deepEqual([restored.node, restored.checkpoint, restored.planned], ["node-b", one.id, false]);
    await good("stop", "back");
    await bad(2, /no checkpoint of back was taken by then/, "restore", "back", "--at", "2h");
    await bad(2, /there is no node nowhere/, "restore", "back", "--node", "nowhere");
    assert.deepEqual(stage.world.violations, []);
  });

  test("clone: one and several, each with an address of its own; the first one runs on", async () => {
    await good("run", "mother", "--node", "node-a", "--", "true");
    await save("mother");
    assert.match(
      await good("clone", "mother", "--as", "child"),
      /^child runs on node-a, 10\.77\.0\.\d+\/24, as mother was/,
    );
    const all = JSON.parse(
      await good("clone", "mother", "--as", "probe", "--count", "3", "--node", "node-b", "--ip", "10.77.0.7", "--json"),
    ) as WorkloadStatus[];
    assert.deepEqual(
      all.map(({ name, node, state }) => [name, node, state]),
      [1, 2, 3].map((i) => [`probe-${i}`, "node-b", "running"]),
    );
    assert.equal(all[0]?.spec.network.ip, "10.77.0.7/24");
    const every = [...all, await statusOf("mother"), await statusOf("child")].map(({ spec }) => spec.network);
    assert.equal(new Set(every.map(({ ip }) => ip)).size, 5);
    assert.equal(new Set(every.map(({ mac }) => mac)).size, 5);
    await bad(2, /child exists already/, "clone", "mother", "--as", "child");
    await bad(2, /address of workload/, "clone", "mother", "--as", "other", "--ip", every[0]?.ip ?? "");
    await bad(2, /can't have its name/, "clone", "mother", "--as", "mother");
    const failure = { code: "E_RESTORE", message: "criu said no" } as const;
    stage.world.order({
      node: "node-a",
      verb: "restoreWorkload",
      when: "before",
      times: 1,
      workload: "few-2",
      failure,
    });
    await bad(
      1,
      /1 of 2 clones of mother do not run: few-2; these do: few-1/,
      "clone",
      "mother",
      "--as",
      "few",
      "--count",
      "2",
    );
    assert.deepEqual(stage.world.violations, []);
    assert.deepEqual(stage.world.running("mother"), ["node-a"]);
  });

  test("checkpoints: ls, show, diff, verify, pin, rm, prune", async () => {
    await good("run", "kept", "--node", "node-a", "--", "true");
    const made = [await save("kept"), await save("kept"), await save("kept"), await save("kept")];
    const [one, two, three, four] = made.map(({ id }) => id);
    assert.ok(one !== undefined && two !== undefined && three !== undefined && four !== undefined);
    stage.world.stored.push(broken("kept", "20000101T000000Z-broken"));
    const table = await good("checkpoints", "ls", "kept");
    assert.match(table, /^ID +TAKEN +AGE +NODE +EPOCH +SIZE +NEW +PINNED +REASON\n/);
    assert.match(
      table,
      new RegExp(`^${one} +20\\d\\d-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\dZ +\\d+s +node-a +1 +96.0 MiB`, "m"),
    );
    assert.match(table, /^20000101T000000Z-broken .* E_STORE_CORRUPT: /m);
    assert.match(await good("checkpoints", "ls"), /^ID +WORKLOAD /);
    assert.match(await good("checkpoints", "show", "kept", one), /taken +.* ago\n[\s\S]*pinned +no/);
    // The beginning of an id is enough where only one begins so.
    assert.match(await good("checkpoints", "show", "kept", "2000"), /E_STORE_CORRUPT/);
    await bad(2, /is the beginning of/, "checkpoints", "show", "kept", one.slice(0, 3));
    await bad(2, /there is no checkpoint "nope" of kept/, "checkpoints", "show", "kept", "nope");
    assert.match(
      await good("checkpoints", "diff", "kept", one, two),
      /memory +96.0 MiB +96.0 MiB +4.0 MiB +memory\/1\n4.0 MiB changed/,
    );
    assert.match(await good("checkpoints", "verify", "kept", one), /is whole/);
    await bad(1, /digest/, "checkpoints", "verify", "kept", "2000");
    await good("checkpoints", "pin", "kept", one);
    await bad(2, /is pinned[\s\S]*unpin/, "checkpoints", "rm", "kept", one);
    assert.match(
      await good("checkpoints", "prune", "kept", "--keep", "2", "--dry-run"),
      new RegExp(`^${two} .*newest 2[\\s\\S]*1 checkpoint would go`, "m"),
    );
    const pruned = JSON.parse(await good("checkpoints", "prune", "kept", "--keep", "2", "--json")) as Pruned[];
    assert.deepEqual(
      pruned.map(({ checkpoint }) => checkpoint.id),
      [two],
    );
    await good("checkpoints", "unpin", "kept", one);
    await good("checkpoints", "rm", "kept", one);
    assert.match(await good("checkpoints", "prune", "kept", "--max-size", "1K"), new RegExp(three));
    assert.equal(await good("checkpoints", "prune", "kept", "--keep", "1"), "nothing went\n");
    const left = JSON.parse(await good("checkpoints", "ls", "kept", "--json")) as StoredCheckpoint[];
    assert.deepEqual(
      left.map(({ id }) => id),
      [four, "20000101T000000Z-broken"],
    );
    // Its node has no store: another one is asked, unless that one was meant.
    stage.world.node("node-a").hasStore = false;
    assert.match(await good("checkpoints", "ls", "kept"), new RegExp(four));
    await bad(2, /node node-a has no store/, "checkpoints", "ls", "kept", "--node", "node-a");
    stage.world.node("node-a").hasStore = true;
    assert.match(await good("checkpoints", "ls", "nothing"), /no checkpoints of nothing; make one/);
  });
});

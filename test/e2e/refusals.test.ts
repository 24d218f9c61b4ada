/**
 * What can't move is refused before anything is touched: every reason at once, in words, exit code 2. When the workload has
 * let go of all of it, the same command moves it.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { labNode, labRun } from "../../deploy/lab/index.js";
import { packageRoot } from "../../src/host/package-root.js";
import { createAgentClient } from "../../src/agent/client.js";
import { requestOfSpec } from "../../src/cli/signed.js";
import { FerryError, signSpec, type MigrationReport, type RunRequest } from "../../src/client/index.js";
import { checkRun } from "../../src/client/requests.js";
import { specFrom } from "../../src/client/spec.js";
import { newSigningKey } from "../../src/keys/spec-signing.js";
import type { WorkloadSpec } from "../../src/model/workload.js";
import { ferry } from "./ferry.js";
import { andRemove } from "./on-the-move.js";
import { keepBusy, Lines, program } from "./programs.js";
import { assertMoved, describeReport, migrate, other, startLab, until, type E2eLab } from "./support.js";

let e2e: E2eLab;
before(async () => {
  e2e = await startLab();
});
after(() => e2e?.down());

/** Starts the helper of the program on the node, outside of the workload. */
async function tie(name: string, pid: number): Promise<Lines> {
  const { enter } = await labNode(e2e.state, "node-a");
  const source = readFileSync(join(packageRoot(), "test", "e2e", "programs", "tangled-outside.py"), "utf8");
  const door = `/var/lib/ferry/volumes/${name}/data/door.sock`;
  const [file = "sh", ...args] = enter;
  const helper = [...args, "/usr/bin/python3", "-c", source, door, String(pid)];
  const lines = new Lines(spawn(file, helper, { stdio: ["pipe", "pipe", "inherit"], cwd: "/" }));
  assert.equal(await lines.next(20_000), "tied");
  return lines;
}

test("a reservation with another spec than what runs: the destination refuses, the source runs on", async () => {
  const workload = await e2e.client.workloads.run({ name: "other", node: "node-a", command: ["sleep", "1234"] });
  await andRemove(workload, async () => {
    const agent = async (node: string) =>
      createAgentClient(`/proc/${(await labNode(e2e.state, node)).pid}/root/run/ferry/agent.sock`);
    const [a, b] = [await agent("node-a"), await agent("node-b")];
    const { spec, epoch } = await workload.status();
    const ref = {
      schema: 1 as const,
      operation: "other.migrate.77",
      workload: "other",
      epoch: epoch ?? 1,
      to: (epoch ?? 1) + 1,
      source: "node-a",
      destination: "node-b",
    };
    const options = { mode: "cold" as const, dryRun: false, maxBlackoutMs: 60_000 };
    const forged = { ...spec, user: "daemon" };
    const reservation = await b.reserve({ ref, options, spec: forged, memoryBytes: 0, volumeBytes: 0 });
    const ended = async <T>(ask: () => Promise<{ done: boolean; result?: T }>): Promise<T> => {
      for (;;) {
        const { done, result } = await ask();
        if (done && result !== undefined) return result;
      }
    };
    const [taken, given] = await Promise.all([
      ended(() => b.takeOver({ ref, options, spec: forged }, 1000)),
      ended(() => a.handOver({ ref, options, reservation }, 1000)),
    ]);
    assert.deepEqual([taken.state, taken.failure?.code], ["TOMBSTONE", "E_SPEC"]);
    assert.deepEqual([given.state, given.epoch, given.failure?.code], ["OWNER", ref.epoch, "E_SPEC"]);
    assert.match(given.failure?.message ?? "", /another spec of other than the one that runs on node node-a/);
    const { state, node } = await workload.status();
    assert.deepEqual([state, node], ["running", "node-a"]);
    assert.equal((await workload.inspect()).observation?.processes, 1);
  });
});

test("io_uring, a terminal, a pipe, a unix socket, a tracer and another file: all refused at once, then none", async (t) => {
  for (const [node, bytes] of [
    ["node-a", 8192],
    ["node-b", 12_288],
  ] as const) {
    await labRun(e2e.state, node, ["sh", "-c", `head -c ${bytes} /dev/zero >/opt/proof.bin`]);
  }
  const workload = await e2e.client.workloads.run({ name: "tangled", node: "node-a", command: program("tangled") });
  await andRemove(workload, async () => {
    const busy = await keepBusy(e2e, workload);
    let outside: Lines | undefined;
    try {
      const { observation } = await workload.inspect();
      outside = await tie("tangled", observation?.pid ?? 0);
      let state: Record<string, number | string> = {};
      await until("the workload is tied", 10_000, async () => {
        state = (await busy.check())["state"] ?? {};
        return state["tied"] === (true as unknown as string);
      });
      const uring = Number(state["ring"]) >= 0;
      if (!uring) t.diagnostic("this kernel refuses io_uring: not looked at here");
      const reasons: [subject: string, words: RegExp][] = [
        ["terminal", /terminal \/dev\/pts\/\d+ is open, and its other side is outside/],
        ["pipe", /the other end of pipe:\[\d+\] is held by .*python3.*outside/],
        ["unix socket", /connected to .*python3.* outside of the workload/],
        ["ptrace", /is traced by process \d+ of the node/],
        ["files", /\/opt\/proof\.bin has 12288 bytes instead of 8192/],
        ...(uring ? ([["io_uring", /uses io_uring/]] satisfies [string, RegExp][]) : []),
      ];

      for (const more of [[], ["--mode", "postcopy"], ["--dry-run"]]) {
        const args = ["migrate", "tangled", "--to", "node-b", ...more];
        const { code, stdout, stderr } = await ferry(e2e, args);
        assert.equal(code, 2, `${args.join(" ")}\n${stdout}${stderr}`);
        // Lines are broken at the terminal's width.
        const said = stdout.replaceAll(/\s+/g, " ");
        for (const [subject, words] of reasons) {
          assert.ok(said.includes(`, ${subject}: `), `${subject} is missing in:\n${stdout}`);
          assert.match(said, words);
        }
      }
      const json = await ferry(e2e, ["migrate", "tangled", "--to", "node-b", "--json"]);
      assert.equal(json.code, 2);
      const report = JSON.parse(json.stdout) as MigrationReport;
      assert.equal(report.outcome, "refused");
      const blocking = report.findings.filter((finding) => finding.level === "block").map(({ check }) => check);
      assert.deepEqual([...new Set(blocking)].sort(), reasons.map(([subject]) => subject).sort());
      assert.ok(report.findings.every((finding) => finding.level !== "block" || finding.remedy !== ""));

      // Untouched: the same processes, tied as before, counting on; nothing reserved on the destination.
      const before = Number((await busy.check())["state"]?.["count"]);
      const now = await workload.inspect();
      assert.equal(now.observation?.pid, observation?.pid);
      assert.deepEqual([now.status.node, now.status.state, now.status.epoch], ["node-a", "running", 1]);
      await until("it goes on counting", 5000, async () => Number((await busy.check())["state"]?.["count"]) > before);
      const ops = await labRun(e2e.state, "node-b", ["sh", "-c", "ls /run/ferry/ops /var/lib/ferry/volumes | wc -w"]);
      assert.ok(Number(ops.stdout) <= 2, ops.stdout);

      outside.child.stdin?.end();
      await labRun(e2e.state, "node-a", ["touch", "/var/lib/ferry/volumes/tangled/data/untie"]);
      await until("the workload lets go", 10_000, async () => {
        const { state: left = {} } = await busy.check();
        return left["tied"] === (false as unknown as string);
      });
      const moved = await ferry(e2e, ["migrate", "tangled", "--to", "node-b"]);
      assert.equal(moved.code, 0, moved.stdout + moved.stderr);
      await busy.check();
      await busy.assertIntact();
    } finally {
      busy.kill();
      outside?.child.kill("SIGKILL");
    }
  });
});

test("a fork bomb: each migration ends in time, moved or back, with one copy; and it can be stopped", async (t) => {
  const name = "bomb";
  const user = "nobody";
  const workload = await e2e.client.workloads.run({ name, node: "node-a", user, command: program("bomb", 80) });
  const alive = async (node: string): Promise<number> => {
    const { stdout } = await labRun(e2e.state, node, ["pgrep", "-c", "-u", user, "python3"], { allow: [1] });
    return Number(stdout.trim());
  };
  await andRemove(workload, async () => {
    await until("it has spread", 30_000, async () => (await alive("node-a")) > 40);
    for (const mode of ["cold", "precopy", "postcopy"] as const) {
      const { node } = await workload.status();
      const report = await migrate(workload, other(node), mode);
      t.diagnostic(`${mode}: ${report.outcome}, frozen for ${report.blackoutMs} ms. ${describeReport(report)}`);
      assert.ok(report.outcome === "moved" || report.outcome === "rolled-back", describeReport(report));
      await until(`it runs on ${report.node} only`, 20_000, async () => {
        const [there, elsewhere] = [await alive(report.node), await alive(other(report.node))];
        return there > 1 && elsewhere === 0;
      });
      await until("its entity is at rest", 20_000, async () => (await workload.status()).operation === undefined);
      const status = await workload.status();
      assert.deepEqual([status.state, status.node], ["running", report.node]);
    }
    const { node } = await workload.status();
    assert.equal((await workload.stop({ graceMs: 100 })).state, "stopped");
    assert.equal(await alive(node), 0);
  });
});

test("a node that wants signed specs starts nothing else and takes nothing else in; a signature goes along", async () => {
  const { publicLine, privatePem } = newSigningKey();
  const policy = {
    trustedSigners: { ci: publicLine },
    requireSignature: true,
    users: ["nobody"],
    maxMemoryBytes: 2 ** 28,
  };
  await labRun(e2e.state, "node-b", ["cp", "/etc/ferry/policy.json", "/root/policy"]);
  const setPolicy = (words: object) =>
    labRun(e2e.state, "node-b", ["sh", "-c", `echo '${JSON.stringify(words)}' >/etc/ferry/policy.json`]);
  await setPolicy(policy);
  const { workloads } = e2e.client;
  const plain: RunRequest = {
    name: "plain",
    node: "node-a",
    command: ["sleep", "1000"],
    user: "nobody",
    limits: { memoryBytes: 2 ** 27 },
    ip: "10.77.0.150/24",
  };
  try {
    await assert.rejects(
      () => workloads.run({ ...plain, name: "unsigned", node: "node-b", ip: "10.77.0.151/24" }),
      (error) => error instanceof FerryError && error.code === "E_SIGNATURE" && /is not signed/.test(error.message),
    );
    const free = await workloads.run(plain);
    await andRemove(free, async () => {
      const report = await migrate(free, "node-b", "cold");
      assert.equal(report.outcome, "refused");
      assert.match(report.failure?.message ?? "", /the spec is not signed, and this node takes signed ones only/);
    });

    const spec = specFrom(checkRun(plain), "10.77.0.150/24");
    const times = { signedAt: Date.now(), expiresAt: Date.now() + 3_600_000 };
    const signed = signSpec(spec, { signer: "ci", privatePem, ...times });
    const forged = signSpec(spec, { signer: "ci", privatePem: newSigningKey().privatePem, ...times });
    const cases: [WorkloadSpec, RegExp][] = [
      [forged, /was not made with a key of ci/],
      [{ ...signed, command: ["sleep", "2000"] }, /is of another spec/],
    ];
    for (const [subject, words] of cases) {
      await assert.rejects(
        () => workloads.run(requestOfSpec(subject, "node-b")),
        (error) => error instanceof FerryError && error.code === "E_SIGNATURE" && words.test(error.message),
      );
    }

    const workload = await workloads.run(requestOfSpec(signed, "node-a"));
    await andRemove(workload, async () => {
      assertMoved(await migrate(workload, "node-b", "precopy"));
      await workload.stop({ graceMs: 1000 });
      const again = await workloads.run(requestOfSpec(signed, "node-b"));
      assert.deepEqual((await again.inspect()).observation?.spec?.signature, signed.signature);
      await setPolicy({ ...policy, peers: { destinations: ["node-c"] } });
      const away = await migrate(again, "node-a", "cold");
      assert.equal(away.outcome, "refused");
      assert.match(away.failure?.message ?? "", /does not let workloads go to node-a \(allowed: node-c\)/);
    });
  } finally {
    await labRun(e2e.state, "node-b", ["mv", "/root/policy", "/etc/ferry/policy.json"]);
  }
});

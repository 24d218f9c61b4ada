/** The lab for real: namespaces, cgroups, a Temporal server. Needs root and set-up; says so when it must skip. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { cacheDir } from "../../deploy/setup/cache.js";
import { rootfsPath } from "../../deploy/setup/rootfs.js";
import { findTemporal } from "../../deploy/setup/temporal.js";
import { cgroupPath } from "../../deploy/lab/cgroups.js";
import {
  labAddress,
  labDown,
  labExec,
  labKillNode,
  labLink,
  labNode,
  labRun,
  labServicePid,
  labStartNode,
  labStatus,
  labUp,
  nodeName,
  readLab,
} from "../../deploy/lab/index.js";
import { labProblems } from "../../deploy/lab/requirements.js";
import { until } from "../../deploy/lab/state.js";
import { FerryError } from "../../src/model/failure.js";
import { armFailpoint, reached, startLab } from "../e2e/support.js";
import { leftovers, snapshotHost, type HostSnapshot } from "../support/leftovers.js";

const problems = await labProblems();
const skip =
  problems[0]?.problem ??
  (existsSync(rootfsPath(cacheDir())) ? undefined : "the node root file system is not there: npm run setup") ??
  ((await findTemporal(cacheDir())) === undefined ? "there is no Temporal server: npm run setup" : false);

const code = (expected: string) => (error: unknown) => error instanceof FerryError && error.code === expected;
const netnsOf = async (state: string): Promise<string[]> =>
  ((await readLab(state))?.hosts ?? []).flatMap((host) => (host.netns === undefined ? [] : [host.netns]));

test("nodes are named by letter, then by number", () => {
  assert.deepEqual([0, 1, 25, 26].map(nodeName), ["node-a", "node-b", "node-z", "node-27"]);
});

describe("the lab", { skip, timeout: 120_000 }, () => {
  let scratch = "";
  let machine: HostSnapshot;
  const dir = (name: string): string => join(scratch, name);
  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), "ferry-lab-test-"));
    machine = await snapshotHost();
  });
  after(async () => {
    for (const name of ["whole", "one", "two", "broken", "half"]) await labDown({ state: dir(name) });
    await rm(scratch, { recursive: true, force: true });
  });

  test("comes up, answers, again is harmless, and goes down without a trace", async () => {
    const state = dir("whole");
    const lab = await labUp({ state, nodes: 2, services: false });
    assert.equal(await labExec({ state, where: "client", argv: ["ping", "-c", "1", "node-b"], stdio: "ignore" }), 0);
    assert.equal(await labExec({ state, where: "node-a", argv: ["sh", "-c", "exit 7"], stdio: "ignore" }), 7);
    assert.equal(await labExec({ state, where: "node-a", argv: ["sh", "-c", "kill -9 $$"], stdio: "ignore" }), 137);
    assert.equal((await labRun(state, "node-a", ["hostname"])).stdout, "node-a");
    assert.match((await labRun(state, "node-b", ["criu", "--version"])).stdout, /Version: 4\.2/);
    assert.equal((await labRun(state, "node-b", ["node", "-p", "1+1"])).stdout, "2");
    const nodeFs = (await labRun(state, "node-a", ["stat", "-f", "-c", "%T", "/var/lib/ferry", "/run", "/"])).stdout;
    assert.deepEqual(nodeFs.split("\n").slice(1), ["tmpfs", "overlayfs"]);
    assert.notEqual(nodeFs.split("\n")[0], "overlayfs");

    const status = await labStatus({ state });
    assert.equal(status.state, "up");
    assert.deepEqual(
      status.hosts.map((host) => host.name),
      ["switch", "client", "node-a", "node-b"],
    );
    const ui = await fetch(status.uiUrl!);
    assert.equal(ui.status, 200);
    await ui.arrayBuffer();

    const again = await labUp({ state, services: false });
    assert.equal(again.id, lab.id);
    assert.deepEqual(again.hosts, lab.hosts);

    const networkNamespaces = await netnsOf(state);
    assert.equal(await labDown({ state }), true);
    assert.equal(await labDown({ state }), false);
    assert.deepEqual(await leftovers(machine, { labs: [lab.id], directories: [state], networkNamespaces }), []);
    await assert.rejects(labExec({ state, where: "client", argv: ["true"] }), code("E_STATE"));
  });

  test("two labs with the same addresses stand side by side", async () => {
    const [one, two] = await Promise.all(
      ["one", "two"].map((name) => labUp({ state: dir(name), nodes: 1, services: false, temporal: name === "one" })),
    );
    assert.notEqual(one!.id, two!.id);
    assert.equal(await labAddress(dir("two")), undefined);
    for (const name of ["one", "two"]) {
      await labRun(dir(name), "node-a", ["sh", "-c", `echo ${name} > /var/lib/ferry/who`]);
      await labRun(dir(name), "client", ["ping", "-c", "1", "10.77.0.11"]);
    }
    assert.equal((await labRun(dir("one"), "node-a", ["cat", "/var/lib/ferry/who"])).stdout, "one");
    await labDown({ state: dir("one") });
    assert.equal((await labRun(dir("two"), "node-a", ["cat", "/var/lib/ferry/who"])).stdout, "two");
    const grown = await labUp({ state: dir("two"), nodes: 2 });
    assert.equal(grown.hosts.length, 4);
    await labRun(dir("two"), "node-b", ["ping", "-c", "1", "node-a"]);
    await labDown({ state: dir("two") });
  });

  test("two whole labs at once, one taken down in the middle of a blackout: nothing is left of either", async () => {
    const started = await Promise.allSettled([startLab(2), startLab(1, "10.91.7.0/24")]);
    const labs = started.flatMap((lab) => (lab.status === "fulfilled" ? [lab.value] : []));
    const [one, two] = labs;
    if (one === undefined || two === undefined) {
      // The one that came up must not outlive the other's failure.
      for (const lab of labs) await lab.down();
      throw started.find((lab) => lab.status === "rejected")?.reason;
    }
    const networkNamespaces = (await Promise.all(labs.map(({ state }) => netnsOf(state)))).flat();
    let migration: Promise<unknown> = Promise.resolve();
    try {
      const command = ["sleep", "1000"];
      const workloads = await Promise.all(
        labs.map(({ client }) => client.workloads.run({ name: "sleeper", node: "node-a", command })),
      );
      for (const [at, workload] of workloads.entries()) {
        const { status, observation } = await workload.inspect();
        const ip = status.spec.network.ip.replace("/24", "");
        assert.match(ip, at === 0 ? /^10\.77\.0\.1\d\d$/ : /^10\.91\.7\.1\d\d$/);
        const { state } = labs[at]!;
        await labRun(state, "client", ["ping", "-c", "1", "-W", "2", ip]);
        const { stdout } = await labRun(state, "node-a", ["readlink", `/proc/${observation?.pid}/ns/net`]);
        networkNamespaces.push(/\d+/.exec(stdout)?.[0] ?? "");
      }
      await labRun(two.state, "node-a", ["nft", "add", "table", "inet", "ferry_test"]);
      await armFailpoint(one, "node-b", "destination.restore", "pause");
      const handle = await workloads[0]!.migrate({ to: "node-b", mode: "cold", maxBlackoutMs: 60_000 });
      const ending = handle.result();
      migration = ending.catch(() => undefined);
      await reached(one, "node-b", "destination.restore", ending);
      assert.equal((await labRun(one.state, "node-a", ["pgrep", "-c", "-x", "criu"])).stdout, "1", "criu holds it");
    } finally {
      await Promise.all(labs.map((lab) => lab.down()));
      await migration;
    }
    const mine = { labs: labs.map(({ lab }) => lab.id), directories: labs.map(({ state }) => state) };
    assert.deepEqual(await leftovers(machine, { ...mine, networkNamespaces }), []);
  });

  test("heals what was killed, and goes down whatever was", async () => {
    const state = dir("broken");
    const lab = await labUp({ state, nodes: 2, services: false });
    const first = await labServicePid(state, "switch", "temporal");
    process.kill(first!, "SIGKILL");
    const second = await until(async () => {
      const pid = await labServicePid(state, "switch", "temporal");
      return pid === first ? undefined : pid;
    }, 15_000);
    assert.ok(second !== undefined, "the keeper starts Temporal again");

    // A keeper that dies leaves its service running; the next `up` gives it a new one.
    process.kill((await labServicePid(state, "switch", "temporal", "keeper"))!, "SIGKILL");
    await labUp({ state, services: false });
    assert.equal(await labServicePid(state, "switch", "temporal"), second);
    assert.equal((await labStatus({ state })).state, "up");

    // a cable
    await labLink(state, "node-b", "down");
    const ping = ["ping", "-c", "1", "-W", "1", "node-b"];
    assert.equal(await labExec({ state, where: "client", argv: ping, stdio: "ignore" }), 1);
    await labLink(state, "node-b", "up");
    const pings = async (): Promise<true | undefined> =>
      (await labExec({ state, where: "client", argv: ping, stdio: "ignore" })) === 0 || undefined;
    assert.ok(await until(pings, 10_000), "plugged in again");

    // power
    const bootId = ["cat", "/proc/sys/kernel/random/boot_id"];
    const { stdout: bootBefore } = await labRun(state, "node-b", bootId);
    await labRun(state, "node-b", ["sh", "-c", "echo disk > /var/lib/ferry/kept; echo memory > /run/lost"]);
    await labKillNode(state, "node-b");
    assert.equal((await labStatus({ state })).state, "partial");
    await assert.rejects(labNode(state, "node-b"), code("E_STATE"));
    await labStartNode(state, "node-b");
    assert.notEqual((await labRun(state, "node-b", bootId)).stdout, bootBefore);
    assert.equal((await labRun(state, "node-b", ["cat", "/var/lib/ferry/kept"])).stdout, "disk");
    assert.equal(await labExec({ state, where: "node-b", argv: ["test", "-e", "/run/lost"], stdio: "ignore" }), 1);
    assert.ok(await until(pings, 10_000), "switched on again");

    // down: with a frozen workload in a nested PID namespace, keepers dead, a node's pid 1 dead
    const workload = cgroupPath(lab, "node-a", "w.1");
    await mkdir(workload);
    const program = 'echo 0 > "$1/cgroup.procs"; exec unshare --pid --net --mount --fork sleep 1000';
    const { enter } = await labNode(state, "node-a");
    void promisify(execFile)(enter[0]!, [...enter.slice(1), "sh", "-c", program, "sh", workload]).catch(
      () => undefined,
    );
    await until(
      async () => ((await readFile(join(workload, "cgroup.procs"), "utf8")).length > 3 ? true : undefined),
      3000,
    );
    await writeFile(join(workload, "cgroup.freeze"), "1");
    process.kill((await labServicePid(state, "machine", "relay", "keeper"))!, "SIGKILL");
    process.kill((await labNode(state, "node-b")).pid, "SIGKILL");
    const networkNamespaces = await netnsOf(state);
    await labDown({ state });
    assert.deepEqual(await leftovers(machine, { labs: [lab.id], directories: [state], networkNamespaces }), []);
  });

  test("a crash in the middle of up is swept by down", async () => {
    const state = dir("half");
    const script = `import { labUp } from ${JSON.stringify(new URL("../../deploy/lab/index.js", import.meta.url).href)};
      await labUp({ state: process.argv[1], nodes: 3, services: false });`;
    for (const delayMs of [250, 500, 800]) {
      const child = execFile(process.execPath, ["--input-type=module", "-e", script, state]);
      const ended = new Promise((resolve) => child.once("exit", resolve));
      await sleep(delayMs);
      child.kill("SIGKILL");
      await ended;
      const id = (await readLab(state))?.id;
      await labDown({ state });
      assert.deepEqual(await leftovers(machine, { labs: id === undefined ? [] : [id], directories: [state] }), []);
    }
  });

  test("refuses what it can't do, in words", async () => {
    await assert.rejects(labUp({ state: dir("a,b") }), code("E_REQUEST"));
    await assert.rejects(labUp({ state: dir("one"), nodes: 0 }), code("E_REQUEST"));
    await assert.rejects(labUp({ state: dir("one"), nodes: 33 }), code("E_REQUEST"));
    for (const subnet of ["10.77.0.0/16", "10.77.300.0/24", "10.077.0.0/24", "x"]) {
      await assert.rejects(labUp({ state: dir("one"), subnet, services: false }), code("E_REQUEST"));
    }
    await mkdir(dir("foreign"));
    await writeFile(join(dir("foreign"), "thesis.txt"), "do not delete");
    await assert.rejects(labUp({ state: dir("foreign") }), code("E_REQUEST"));
    await writeFile(join(dir("foreign"), "lab.json"), '{"schema": 99}');
    await assert.rejects(labDown({ state: dir("foreign") }), code("E_REQUEST"));
    assert.equal(await readFile(join(dir("foreign"), "thesis.txt"), "utf8"), "do not delete");
  });
});

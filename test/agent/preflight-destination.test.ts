/** Preflight on the destination: pure comparisons, and the whole of it in throw-away network namespaces. */
import assert from "node:assert/strict";
import { execFile, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { compareFlags } from "../../src/agent/preflight/cpu.js";
import {
  checkClock,
  checkCompatible,
  checkFiles,
  checkRoom,
  readRoom,
  type DestinationContext,
} from "../../src/agent/preflight/destination.js";
import { volumeSize } from "../../src/agent/preflight/source.js";
import { compareVersions } from "../../src/agent/preflight/engine.js";
import { checkEpoch } from "../../src/agent/preflight/epoch.js";
import {
  checkAddress,
  checkBridge,
  judgeReplies,
  parseArping,
  parseLinks,
  sameNetwork,
} from "../../src/agent/preflight/network.js";
import { checkTools, toolsFor, type ToolUse } from "../../src/agent/preflight/tools.js";
import { userIds } from "../../src/agent/preflight/users.js";
import { elfBuildId } from "../../src/host/elf.js";
import { hasSysResource } from "../../src/host/proc.js";
import type { OperationRef, SourceFacts } from "../../src/model/contract.js";
import type { NodeFacts } from "../../src/model/node.js";
import type { Hold } from "../../src/model/ownership.js";
import type { Finding } from "../../src/model/plan.js";
import { said, spec } from "./preflight-support.js";

const GIB = 2 ** 30;
const MIB = 2 ** 20;
const node = (name: string, more: Partial<NodeFacts> = {}): NodeFacts => ({
  node: name,
  version: "0.1.0",
  linkHost: "127.0.0.1",
  linkPort: 7400,
  kernel: "6.18.0",
  arch: "x64",
  criuVersion: "4.2.1",
  cpus: 2,
  memoryTotalBytes: 4 * GIB,
  memoryAvailableBytes: 2 * GIB,
  diskAvailableBytes: 10 * GIB,
  bootId: "b",
  workloads: [],
  ...more,
});
const facts = (more: Partial<SourceFacts> = {}): SourceFacts => ({
  findings: [],
  node: node("node-a"),
  spec,
  memoryBytes: 100 * 2 ** 20,
  volumeBytes: 10 * 2 ** 20,
  processes: 1,
  threads: 1,
  cpuFlags: ["sse2", "avx2"],
  files: [],
  ...more,
});
const ref: OperationRef = {
  schema: 1,
  operation: "probe.migrate.1",
  workload: "probe",
  epoch: 4,
  to: 5,
  source: "node-a",
  destination: "node-b",
};
const levels = (findings: readonly Finding[]): string[] => findings.map(({ level, check }) => `${level} ${check}`);

test("nodes that are alike have nothing against each other", () => {
  assert.deepEqual(checkCompatible(node("node-b"), facts(), ref, ["avx2", "sse2", "avx512f"]), []);
});

test("each difference that would kill or confuse the workload is named", () => {
  const own = node("node-b", { arch: "arm64", criuVersion: "4.1", kernel: "6.1.0", cpus: 1, memoryTotalBytes: GIB });
  const limited = facts({ spec: { ...spec, limits: { memoryBytes: 2 * GIB, cpus: 2 } } });
  assert.deepEqual(levels(checkCompatible(own, limited, ref, [])), [
    "block architecture",
    "block criu version",
    "warn kernel",
    "block memory limit",
    "warn cpu limit",
  ]);
  assert.deepEqual(levels(checkCompatible(node("node-a"), facts(), ref, ["sse2", "avx2"])), ["block destination"]);
  assert.deepEqual(levels(checkCompatible(node("node-c"), facts(), ref, ["sse2", "avx2"])), ["block destination"]);
});

test("a missing CPU flag blocks unless only kernels use it", () => {
  assert.deepEqual(compareFlags(["avx512f", "erms", "hypervisor", "sse2", "xsaves"], ["sse2"]), {
    missing: ["avx512f", "erms", "xsaves"],
    harmless: ["hypervisor"],
  });
  const [finding] = checkCompatible(node("node-b"), facts({ cpuFlags: ["avx512f"] }), ref, []);
  assert.match(finding?.message ?? "", /lacks avx512f, which node-a has: .*SIGILL/);
});

test("versions compare number by number", () => {
  const order = ["3.17.1", "4.1", "4.1.1", "4.2", "4.2.1", "4.10", "6.18.44-fc"];
  for (const [at, version] of order.entries()) {
    assert.equal(compareVersions(version, version), 0);
    if (at > 0) assert.ok(compareVersions(order[at - 1] ?? "", version) < 0, version);
  }
  assert.equal(compareVersions("4.2", "4.2.0"), 0);
});

test("room: memory and run space for the pages, disk for the volume, each with a margin", () => {
  const plenty = { memoryAvailableBytes: GIB, diskAvailableBytes: GIB, runAvailableBytes: GIB, runInMemory: true };
  assert.deepEqual(checkRoom(plenty, facts(), "node-b"), []);
  assert.deepEqual(levels(checkRoom(plenty, facts({ memoryBytes: 0.6 * GIB }), "node-b")), ["warn memory"]);
  const none = { memoryAvailableBytes: 1, diskAvailableBytes: 1, runAvailableBytes: 1, runInMemory: false };
  assert.deepEqual(levels(checkRoom(none, facts(), "node-b")), ["block memory", "block space for pages", "block disk"]);
});

test("clocks: what the way of the facts explains is no skew", () => {
  assert.deepEqual(checkClock(undefined, 0), []);
  assert.deepEqual(checkClock(1_000_000, 1_002_000), []);
  assert.match(checkClock(1_000_000, 970_000)[0]?.message ?? "", /about 30\.0 s behind the source's/);
  assert.match(checkClock(0, 365 * 86_400_000)[0]?.message ?? "", /525600 min ahead of/);
});

test("epochs: what the journal promised before holds", () => {
  const hold = (epoch: number, state: Hold["state"], operation = "probe.migrate.0"): Hold => ({
    workload: "probe",
    epoch,
    state,
    operation,
  });
  const checks: [Hold[], string[]][] = [
    [[], []],
    [[hold(3, "GONE")], []],
    [[hold(5, "RESERVED", ref.operation)], []],
    [[hold(5, "TOMBSTONE")], ["block epoch"]],
    [[hold(5, "BURNED")], ["block epoch"]],
    [[hold(7, "GONE")], ["block epoch"]],
    [[hold(3, "OWNER")], ["block ownership"]],
    [[hold(4, "RUNNING")], ["block ownership"]],
    [[hold(4, "RESERVED")], ["block ownership"]],
    [[hold(4, "PREPARED")], ["block ownership"]],
  ];
  for (const [holds, expected] of checks) {
    assert.deepEqual(levels(checkEpoch(ref, holds, "node-b")), expected, JSON.stringify(holds));
  }
});

test("bridge and subnet", () => {
  const link = (more: object): string => JSON.stringify([{ ifname: "br0", flags: ["UP"], addr_info: [], ...more }]);
  const inet = (local: string, prefixlen: number): object => ({ addr_info: [{ family: "inet", local, prefixlen }] });
  const judge = (json: string): string[] => levels(checkBridge(parseLinks(json), "br0", "node-b", "10.77.0.100/24"));
  assert.deepEqual(judge(link(inet("10.77.0.12", 24))), []);
  assert.deepEqual(judge(link({ ...inet("10.77.0.12", 24), linkinfo: { info_kind: "bridge" } })), []);
  assert.deepEqual(judge(link({ ...inet("10.77.0.12", 24), linkinfo: { info_kind: "vlan" } })), ["block bridge"]);
  assert.deepEqual(judge(link({ ...inet("10.77.0.12", 24), flags: [] })), ["block bridge"]);
  assert.deepEqual(judge(link(inet("10.78.0.12", 24))), ["block subnet"]);
  assert.deepEqual(judge(link(inet("10.77.0.12", 16))), ["block subnet"]);
  assert.deepEqual(judge(link({})), ["warn subnet"]);
  assert.deepEqual(judge("[]"), ["block bridge"]);
  assert.deepEqual(judge(""), ["block bridge"]);
  assert.deepEqual(judge(link(inet("10.77.0.100", 24))), ["block ip address"]);
  assert.throws(() => parseLinks('{"a":1}'));
  assert.ok(sameNetwork("10.0.0.1", "10.255.0.1", 8) && !sameNetwork("10.0.0.1", "11.0.0.1", 8));
});

test("only the workload's own MAC may answer for its address", () => {
  const own = spec.network.mac;
  const replies = `ARPING 10.77.0.100 from 10.77.0.11 br0
Unicast reply from 10.77.0.100 [02:FE:00:00:00:64]  0.597ms
Broadcast request from 10.77.0.100 [02:AA:00:00:00:01]
Unicast reply from 10.77.0.100 [02:FE:00:00:00:64]  0.597ms
Sent 2 probes (2 broadcast(s))`;
  assert.deepEqual(parseArping(replies), [own, "02:aa:00:00:00:01"]);
  assert.match(
    judgeReplies(parseArping(replies), "10.77.0.100", own, "n")[0]?.message ?? "",
    /02:aa:00:00:00:01 answers/,
  );
  assert.deepEqual(levels(judgeReplies([own], "10.77.0.100", own, "n")), ["info ip address"]);
  assert.deepEqual(levels(judgeReplies([], "10.77.0.100", own, "n")), ["warn ip address"]);
});

test("files must be there, equal in kind, mode, size and build id; odd paths from the wire are refused", async () => {
  const dir = mkdtempSync(join(tmpdir(), "ferry-files-"));
  try {
    const path = join(dir, "a file");
    writeFileSync(path, "12345", { mode: 0o644 });
    const { mode } = statSync(path);
    const shell = statSync("/bin/sh");
    const buildId = (await elfBuildId("/bin/sh")) ?? "";
    const sh = { path: "/bin/sh", sizeBytes: shell.size, mode: shell.mode, mapped: true };
    assert.match(buildId, /^[0-9a-f]{16,}$/);
    const same = { path, sizeBytes: 5, mode, mapped: false };
    assert.deepEqual(await checkFiles(facts({ files: [same, { ...sh, buildId }] })), []);
    const different = [
      { ...same, path: join(dir, "missing") },
      { ...same, sizeBytes: 6 },
      { ...same, mode: mode | 0o111 },
      { ...same, mode: statSync(dir).mode },
      { ...sh, buildId: "00" },
      { ...same, path: `${dir}/../x` },
      { ...same, path: "relative" },
    ];
    const [finding, ...more] = await checkFiles(facts({ files: different }));
    assert.deepEqual(more, []);
    assert.match(
      finding?.message ?? "",
      /^7 of 7 files .*missing is missing.*5 bytes instead of 6.*mode 644 instead of 755/,
    );
    assert.match(finding?.message ?? "", /another kind.*another build.*not a plain absolute path/);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("users by name and by number", async () => {
  assert.deepEqual(await userIds("root"), { uid: 0, gid: 0 });
  assert.deepEqual(await userIds("12"), { uid: 12, gid: 12 });
  assert.deepEqual(await userIds("12:13"), { uid: 12, gid: 13 });
  assert.equal(await userIds("nobody-has-this-name"), undefined);
});

test("each missing program blocks where it is needed, with its package", async () => {
  const without = (missing: string) => (program: string) =>
    Promise.resolve(program === missing ? undefined : `/usr/bin/${program}`);
  const cases: [ToolUse, string, RegExp][] = [
    ["destination", "arping", /install iputils-arping there/],
    ["destination", "rsync", /install rsync there/],
    ["source", "ip", /install iproute2 there/],
    ["start", "nsenter", /install util-linux there/],
  ];
  for (const [use, program, remedy] of cases) {
    const [finding, ...more] = await checkTools(use, "node-b", without(program));
    assert.deepEqual([finding?.level, finding?.message, more], ["block", `node-b lacks ${program}`, []]);
    assert.match(finding?.remedy ?? "", remedy);
    assert.deepEqual(await checkTools(use, "node-b", without("nothing")), []);
  }
  assert.equal(
    toolsFor("source").some(({ program }) => program === "perl"),
    !hasSysResource(),
  );
});

test("who has the address can't be asked: that blocks", async () => {
  const [finding] = await checkAddress("no-such-bridge", "node-b", "10.77.0.100/24", "02:fe:00:00:00:64");
  assert.equal(finding?.level, "block");
  assert.match(finding?.message ?? "", /could not be asked/);
});

const tools = ["ip", "nsenter", "arping"].filter((tool) => spawnSync("which", [tool]).status !== 0);
const skip: string | false =
  tools.length > 0
    ? `missing: ${tools.join(", ")}`
    : spawnSync("unshare", ["-n", "true"]).status !== 0
      ? "needs root and the right to make network namespaces"
      : false;

/** Two hosts on one wire: a node with bridge br0 (10.77.0.11) and a stranger. */
async function withWire(use: (node: string[], stranger: string[]) => Promise<void>): Promise<void> {
  const hosts = [1, 2].map(() => spawn("unshare", ["-n", "sleep", "60"], { stdio: "ignore" }));
  const inside = (at: number, ...args: string[]): void => {
    execFileSync("nsenter", [`--net=/proc/${hosts[at]?.pid}/ns/net`, "ip", ...args]);
  };
  try {
    await Promise.all(hosts.map((host) => once(host, "spawn")));
    const own = execFileSync("readlink", ["/proc/self/ns/net"], { encoding: "utf8" });
    for (const host of hosts) {
      while (execFileSync("readlink", [`/proc/${host.pid}/ns/net`], { encoding: "utf8" }) === own) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
    inside(0, "link", "add", "br0", "type", "bridge");
    inside(0, "link", "add", "v", "type", "veth", "peer", "name", "eth0", "netns", String(hosts[1]?.pid));
    inside(0, "link", "set", "v", "master", "br0", "up");
    inside(0, "addr", "add", "10.77.0.11/24", "dev", "br0");
    inside(0, "link", "set", "br0", "up");
    inside(1, "link", "set", "eth0", "up");
    const enter = hosts.map((host) => [`--net=/proc/${host.pid}/ns/net`]);
    await use(enter[0] ?? [], enter[1] ?? []);
  } finally {
    for (const host of hosts) {
      host.kill("SIGKILL");
      await once(host, "exit");
    }
  }
}

test("on a node: a stranger with the address blocks, the workload itself does not", { skip }, async () => {
  const dir = mkdtempSync(join(tmpdir(), "ferry-destination-"));
  const script = fileURLToPath(new URL("preflight-on-node.js", import.meta.url));
  try {
    await withWire(async (nodeNs, strangerNs) => {
      const context: DestinationContext = {
        node: node("node-b"),
        facts: facts({ cpuFlags: [] }),
        ref,
        options: { mode: "cold", dryRun: true, maxBlackoutMs: 30_000 },
        stateDir: dir,
        runDir: dir,
        bridge: "br0",
        holds: [],
      };
      const ask = async (more: Partial<DestinationContext> = {}): Promise<{ findings: Finding[]; tookMs: number }> => {
        writeFileSync(join(dir, "context.json"), JSON.stringify({ ...context, ...more }));
        const args = [...nodeNs, process.execPath, script, join(dir, "context.json")];
        const { stdout } = await promisify(execFile)("nsenter", args);
        return JSON.parse(stdout) as { findings: Finding[]; tookMs: number };
      };
      const alone = await ask();
      assert.match(said(alone.findings, "ip address").join(), /^warn: nobody answers/);
      assert.ok(alone.tookMs < 1500, `took ${alone.tookMs} ms`);
      const claim = (mac: string): void => {
        for (const args of [
          ["link", "set", "eth0", "address", mac],
          ["addr", "replace", "10.77.0.100/24", "dev", "eth0"],
        ]) {
          execFileSync("nsenter", [...strangerNs, "ip", ...args]);
        }
      };
      claim("02:aa:00:00:00:01");
      const used = await ask();
      assert.match(said(used.findings, "ip address").join(), /^block: .*02:aa:00:00:00:01 answers for it/);
      claim(spec.network.mac);
      const own = await ask();
      assert.match(said(own.findings, "ip address").join(), /^info: .*by the workload itself only/);
      const wrong = await ask({ bridge: "br9" });
      assert.match(said(wrong.findings, "bridge").join(), /^block: node-b has no bridge br9/);
      assert.deepEqual(said(wrong.findings, "ip address"), []);
      assert.deepEqual(said(wrong.findings, "userfaultfd"), []);
    });
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test(
  "a volume that could not be counted in time fits only where all of its file system would",
  { skip: process.getuid?.() === 0 ? false : "needs root: mounts" },
  async () => {
    const dir = mkdtempSync(join(tmpdir(), "ferry-room-"));
    const [from, to] = [join(dir, "from"), join(dir, "to")];
    const mount = (size: string, at: string): Buffer =>
      execFileSync("mount", ["-t", "tmpfs", "-o", `size=${size}`, "tmpfs", at]);
    try {
      for (const at of [from, to]) mkdirSync(at);
      mount("300m", from);
      mount("100m", to);
      const room = await readRoom({ node: node("node-b"), stateDir: to, runDir: "/dev/shm" });
      const judge = (size: { bytes: number; atMost: boolean }): Finding[] =>
        checkRoom(
          { ...room, runAvailableBytes: GIB, memoryAvailableBytes: GIB },
          facts({ volumeBytes: size.bytes, ...(size.atMost ? { volumeAtMost: true } : {}) }),
          "node-b",
        );
      mkdirSync(join(from, "volume"));
      writeFileSync(join(from, "volume/file"), Buffer.alloc(20 * MIB));
      writeFileSync(join(from, "other"), Buffer.alloc(100 * MIB));
      // So many that they can't be counted in the time that is given below.
      execFileSync("sh", ["-c", "mkdir many && cd many && seq 20000 | xargs touch"], { cwd: join(from, "volume") });
      const counted = await volumeSize(join(from, "volume"));
      assert.deepEqual([counted, judge(counted)], [{ bytes: 20 * MIB, atMost: false }, []]);
      const late = await volumeSize(join(from, "volume"), 1);
      assert.equal(late.atMost, true);
      assert.ok(late.bytes >= 120 * MIB && late.bytes < 125 * MIB, String(late.bytes));
      assert.deepEqual(levels(judge(late)), ["block disk"]);
      assert.match(
        judge(late)[0]?.message ?? "",
        /could not be counted in time; its file system on node-a has 120 MiB in use/,
      );
      rmSync(join(from, "other"));
      assert.deepEqual(judge(await volumeSize(join(from, "volume"), 1)), []);
      writeFileSync(join(from, "volume/more"), Buffer.alloc(60 * MIB));
      assert.deepEqual(levels(judge(await volumeSize(join(from, "volume")))), ["block disk"]);
    } finally {
      for (const at of [from, to]) spawnSync("umount", [at]);
      rmSync(dir, { recursive: true, force: true });
    }
  },
);

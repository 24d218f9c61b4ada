/** `ferry node` as docs/operating.md has it, on a machine where nothing of Ferry has run yet: no /run/ferry, a log file. */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { createAuthority, issueNodeCertificate } from "../../src/host/pki.js";
import { newPayloadKeyLine } from "../../src/keys/payload-keys.js";
import { BOUNDING_SETS } from "../../src/model/privileges.js";
import type { NodeListing } from "../../src/client/types.js";
import { SEARCH_ATTRIBUTES } from "../../src/model/names.js";
import { keptBy, privilegesOf } from "../support/capabilities.js";
import { nodesImpossible, TestNet, type TestNode } from "../support/node.js";
import { skipWithoutTemporal, temporalBinary } from "../support/temporal.js";
import { until } from "../workflows/support.js";

const ADDRESS = "10.79.0.1:7233";
const LOG = "/var/log/ferry/node.log";
const WORKER = 60_971;
/** Histories are encrypted here, as they may be anywhere. */
const KEYS = `FERRY_PAYLOAD_KEYS=${newPayloadKeyLine("test")}`;

describe("ferry node on a fresh machine", { skip: nodesImpossible() ?? skipWithoutTemporal, timeout: 120_000 }, () => {
  let net: TestNet;
  let node: TestNode;
  let temporal: ChildProcess;

  const ferry = (...args: string[]): { code: number | null; stdout: string } =>
    node.exec("env", KEYS, "/opt/node/node", "/opt/ferry/bin/ferry.js", ...args);
  const asked = (command: string, ...args: string[]): { code: number | null; stdout: string } =>
    ferry(command, "--address", ADDRESS, ...args);
  const log = (): string => (existsSync(node.outside(LOG)) ? readFileSync(node.outside(LOG), "utf8") : "");
  /** Pids, as the node sees them, of the commands whose arguments begin like this. */
  const pids = (words: string): string[] =>
    node.exec("pgrep", "-f", `^[^ ]*node /opt/ferry/bin/ferry.js ${words}`).stdout.split("\n").filter(Boolean);
  const gone = (words: string): Promise<string[]> =>
    until(
      () => pids(words),
      (left) => left.length === 0,
      10_000,
    );
  const startNode = (): ChildProcess => {
    const args = ["--name", "node-a", "--link-host", "10.79.0.11", "--cgroup-parent", node.cgroupParent];
    const command = ["env", KEYS, "/opt/node/node", "/opt/ferry/bin/ferry.js", "node", ...args];
    return node.spawn(...command, "--address", ADDRESS, "--log-file", LOG);
  };
  const reachable = async (): Promise<NodeListing | undefined> => {
    let said = "";
    const look = (): NodeListing | undefined => {
      const { code, stdout } = asked("nodes", "--json");
      said = stdout;
      return code === 0 ? (JSON.parse(stdout) as NodeListing[]).find(({ name }) => name === "node-a") : undefined;
    };
    return until(look, (seen) => seen?.reachable === true, 30_000).catch((error: unknown) =>
      assert.fail(`${String(error)}: ${said}\n${log().slice(-3000)}`),
    );
  };

  before(async () => {
    net = await TestNet.make(["a"]);
    node = net.node("a");
    assert.equal(node.exec("rmdir", "/run/ferry").code, 0);
    const authorityDir = join(net.dir, "authority");
    await createAuthority(authorityDir);
    await issueNodeCertificate({ authorityDir, node: "node-a", outDir: node.outside("/etc/ferry") });
    const attributes = SEARCH_ATTRIBUTES.flatMap((name) => ["--search-attribute", `${name}=Keyword`]);
    const server = ["server", "start-dev", "--headless", "--ip", "0.0.0.0", "--log-level", "never", ...attributes];
    temporal = net.client([temporalBinary() ?? "temporal", ...server]);
    temporal.stdout?.resume();
  });
  after(async () => {
    for (const pid of [...pids("node "), ...pids("agent "), ...pids("worker ")]) node.exec("kill", "-KILL", pid);
    const ended = new Promise((resolve) => temporal.once("exit", resolve));
    temporal.kill("SIGTERM");
    await ended;
    assert.deepEqual(await net.end(), []);
  });

  test("starts, makes its directories and its log, and runs a workload in its bridge's own network", async () => {
    startNode();
    const seen = await reachable();
    assert.match(seen?.facts?.network ?? "", /^10\.79\.0\.11\/24$/);
    const run = statSync(node.outside("/run/ferry"));
    assert.deepEqual([run.mode & 0o777, run.uid, run.gid], [0o750, 0, WORKER]);
    for (const component of ["agent", "worker"]) assert.match(log(), new RegExp(`"component":"${component}"`));
    assert.doesNotMatch(log(), /starting it again/);
    const privileges = (words: string): ReturnType<typeof privilegesOf> =>
      privilegesOf(node.exec("cat", `/proc/${pids(words)[0] ?? "none"}/status`).stdout);
    const has = privileges("node ").bounding;
    const worker = privileges("worker ");
    assert.deepEqual([worker.uid, worker.effective, worker.bounding, worker.noNewPrivs], [WORKER, [], [], true]);
    const agent = privileges("agent ");
    assert.deepEqual([agent.uid, agent.effective, agent.noNewPrivs], [0, keptBy(BOUNDING_SETS.agent, has), true]);
    // Temporal's keys are the worker's affair only.
    const environ = (words: string): string =>
      node.exec("cat", `/proc/${pids(words)[0] ?? "none"}/environ`).stdout.replaceAll("\0", "\n");
    assert.match(environ("worker "), /^FERRY_PAYLOAD_KEYS=/m);
    assert.doesNotMatch(environ("agent "), /^FERRY_PAYLOAD_KEYS=/m);

    const started = asked("run", "sleeper", "--node", "node-a", "--json", "--", "sleep", "1000");
    assert.equal(started.code, 0, started.stdout);
    assert.match(started.stdout, /"ip": "10\.79\.0\.1\d\d\/24"/);
    const lost = asked("run", "lost", "--node", "node-a", "--ip", "10.77.0.120", "--", "sleep", "1000");
    assert.equal(lost.code, 2, lost.stdout);
    assert.match(lost.stdout, /10\.77\.0\.120\/24 is not in the network of br0 on node-a \(10\.79\.0\.11\/24\)/);
    assert.match(lost.stdout, /what to do: /);
  });

  test("a second agent is told who has the journal", () => {
    const second = ferry("agent", "--node", "node-a", "--link-host", "10.79.0.11", "--socket", "/run/ferry/other.sock");
    assert.equal(second.code, 1);
    assert.match(second.stdout, new RegExp(`another agent \\(pid ${pids("agent ")[0]}\\) has the journal`));
  });

  test("what dies is started again; killed itself it takes both along, and the next one takes over", async () => {
    const workload = node.exec("pgrep", "-x", "sleep", "-f", "sleep 1000").stdout;
    const [agent = ""] = pids("agent ");
    node.exec("kill", "-KILL", agent);
    await until(
      () => pids("agent "),
      ([now]) => now !== undefined && now !== agent,
      10_000,
    );
    assert.match(log(), /the agent ended: signal SIGKILL; starting it again/);
    await reachable();

    const [supervisor = ""] = pids("node ");
    node.exec("kill", "-KILL", supervisor);
    await gone("agent ");
    await gone("worker ");
    startNode();
    await reachable();
    assert.equal(node.exec("pgrep", "-x", "sleep", "-f", "sleep 1000").stdout, workload, "the workload ran on");

    assert.equal(asked("rm", "--force", "sleeper").code, 0);
    const [next = ""] = pids("node ");
    node.exec("kill", "-TERM", next);
    for (const words of ["node ", "agent ", "worker "]) await gone(words);
    assert.doesNotMatch(log(), /has the journal/);
  });
});

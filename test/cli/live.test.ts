/** The commands against a real Temporal server, with simulated nodes behind it: what they print and how they exit. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { WorkloadListing } from "../../src/client/types.js";
import type { Check } from "../../src/host/checks.js";
import type { NodeState } from "../../src/model/messages.js";
import type { MigrationReport } from "../../src/model/report.js";
import type { WorkloadStatus } from "../../src/model/workload.js";
import { skipWithoutTemporal } from "../support/temporal.js";
import { QUICK, Stage } from "../workflows/support.js";
import { ferry as ferryAt, type Run } from "./support.js";

describe("commands on simulated nodes", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  const ferry = (...argv: string[]): Promise<Run> => ferryAt(argv, { FERRY_TEMPORAL_ADDRESS: stage.server.address });
  const good = async (...argv: string[]): Promise<string> => {
    const { code, stdout, stderr } = await ferry(...argv);
    assert.equal(code, 0, `ferry ${argv.join(" ")}: ${stdout}${stderr}`);
    return stdout;
  };
  const until = async (argv: string[], words: RegExp): Promise<string> => {
    const deadline = Date.now() + 10_000;
    for (;;) {
      const { stdout } = await ferry(...argv);
      if (words.test(stdout)) return stdout;
      if (Date.now() > deadline) assert.match(stdout, words);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  const nodeOf = async (name: string): Promise<string> =>
    (JSON.parse(await good("inspect", name, "--json")) as { status: WorkloadStatus }).status.node;

  before(async () => {
    stage = await Stage.up(["node-a", "node-b", "node-c"]);
    await until(["nodes"], /node-c/);
  });
  after(() => stage.down());

  test("run, ps, inspect, nodes, logs, stop, rm", async () => {
    const shown = await good(
      "run",
      "web",
      "--node",
      "node-a",
      "--env",
      "A=1",
      "--limit",
      "cpu=1.5",
      "--",
      "sleep",
      "--json",
    );
    assert.match(shown, /^web\n/);
    assert.match(shown, /command +sleep --json/);
    assert.match(await until(["ps"], /web/), /^web +node-a +running +process +10\.77\.0\.\d+\/24 +1 /m);
    const listed = JSON.parse(await good("ps", "--json")) as (WorkloadListing & WorkloadStatus)[];
    assert.deepEqual(listed.find(({ name }) => name === "web")?.spec.limits, { cpus: 1.5 });
    assert.match(await good("inspect", "web"), /epoch 1 +OWNER +runs here/);
    assert.match(await good("nodes"), /node-a +up/);
    assert.equal(await good("logs", "web"), "log of web on node-a\n");
    assert.equal(await good("logs", "web", "--tail", "7"), "node-a\n");
    assert.match((await ferry("rm", "web")).stderr, /web is running on node-a[\s\S]*what to do: /);
    assert.match(await good("stop", "web", "--grace", "1s"), /web is stopped on node-a/);
    assert.equal(await good("rm", "web"), "removed web\n");
    const gone = await ferry("inspect", "web", "--json");
    assert.equal(gone.code, 2);
    assert.equal((JSON.parse(gone.stdout) as { error: { code: string } }).error.code, "E_WORKLOAD_UNKNOWN");
  });

  test("protect and schedule: made, changed, listed, paused, removed", async () => {
    await good("run", "safe", "--node", "node-a", "--", "sleep");
    assert.match(
      await good("protect", "safe", "--every", "1d", "--keep", "3"),
      /protect\/safe created: every 1d; next in /,
    );
    await until(["protect", "ls"], /^protect\/safe +every 1d +3 +saved \d+s ago +in /m);
    assert.match(await good("inspect", "safe"), /protected +every 1d, keeps 3; last: saved /);
    assert.match(await good("protect", "safe", "--every", "2d", "--keep", "3"), /changed: .*\n +every: 2d, was 1d/);
    assert.match(
      await good("schedule", "scale-down", "safe", "--cron", "0 20 1 1 *"),
      /scale-down\/safe created: 0 20 1 1 \* UTC/,
    );
    assert.match(
      await good("schedule", "scale-down", "safe", "--idle", "15m", "--wake-on-traffic"),
      /idle\/safe created: idle for 15m, until traffic; next in .*\n +scale-down: none any more/,
    );
    assert.match(await good("inspect", "safe"), /when idle +idle for 15m, until traffic; last: /);
    assert.match((await ferry("schedule", "scale-down", "safe")).stderr, /one of cron and idleMs is needed/);
    assert.equal(await good("schedule", "pause", "protect/safe"), "protect/safe is paused\n");
    assert.match(await good("schedule", "ls", "safe"), /^protect\/safe +every 2d .* paused$/m);
    assert.match(await good("protect", "rm", "safe"), /^removed protect\/safe/);
    assert.equal((await ferry("protect", "rm", "safe")).code, 2);
    assert.equal((await ferry("protect", "safe", "--every", "5m")).code, 2);
    assert.match((await ferry("protect", "safe", "--every", "1s", "--keep", "1")).stderr, /from 10s to 31d/);
    await good("rm", "--force", "safe");
    const left = JSON.parse(await good("schedule", "ls", "safe", "--json")) as unknown[];
    assert.deepEqual(left, []);
  });

  test("run twice: the same is fine, another spec is refused", async () => {
    await good("run", "twice", "--node", "node-a", "--", "true");
    await good("run", "twice", "--node", "node-a", "--", "true");
    const other = await ferry("run", "twice", "--node", "node-a", "--", "false");
    assert.equal(other.code, 2);
    assert.match(other.stderr, /E_WORKLOAD_EXISTS[\s\S]*what to do: /);
  });

  test("migrate: plain lines and the report, exit code 0; --json is one document", async () => {
    await good("run", "moves", "--node", "node-a", "--", "true");
    const shown = await good("migrate", "moves", "--to", "node-b");
    assert.match(shown, /^\[.*\] preflight: /);
    assert.match(shown, /moved moves from node-a to node-b, precopy, epoch 2/);
    const report = JSON.parse(
      await good("migrate", "moves", "--to", "node-a", "--mode", "postcopy", "--json"),
    ) as MigrationReport;
    assert.deepEqual([report.outcome, report.mode, report.destination], ["moved", "postcopy", "node-a"]);
    const lines = (await good("migrate", "moves", "--to", "node-b", "--json", "--progress")).trim().split("\n");
    const parsed = lines.map((line) => JSON.parse(line) as { progress?: object; report?: MigrationReport });
    assert.ok(parsed.slice(0, -1).every(({ progress }) => progress !== undefined));
    assert.equal(parsed.at(-1)?.report?.outcome, "moved");
    assert.match((await ferry("cancel", "moves")).stderr, /no migration of moves is under way/);
  });

  test("--dry-run prints the plan and touches nothing", async () => {
    await good("run", "plan", "--node", "node-a", "--", "true");
    assert.match(
      await good("migrate", "plan", "--to", "node-b", "--dry-run"),
      /^plan: move plan from node-a to node-b, precopy[\s\S]*mode precopy: how fast the memory changes could not be looked at[\s\S]*nothing was changed/,
    );
    assert.equal(await nodeOf("plan"), "node-a");
  });

  test("a blocker refuses: every reason, exit code 2, dry or not", async () => {
    await good("run", "stays", "--node", "node-a", "--", "true");
    const { findings } = stage.agent("node-b");
    findings.push({
      level: "block",
      check: "criu version",
      side: "destination",
      message: "older than the source's",
      remedy: "upgrade it",
    });
    try {
      for (const more of [[], ["--dry-run"]]) {
        const { code, stdout } = await ferry("migrate", "stays", "--to", "node-b", ...more);
        assert.equal(code, 2);
        assert.match(stdout, /criu version: older than the source's\n +what to do: upgrade it/);
      }
    } finally {
      findings.length = 0;
    }
    assert.equal(await nodeOf("stays"), "node-a");
  });

  test("a failure before the commit: exit code 1, it runs on the source", async () => {
    await good("run", "fails", "--node", "node-a", "--", "true");
    const failure = { code: "E_NO_SPACE", message: "the disk is full", remedy: "free some" } as const;
    stage.world.order({ node: "node-b", verb: "reserve", when: "before", times: 1, workload: "fails", failure });
    const { code, stdout } = await ferry("migrate", "fails", "--to", "node-b");
    assert.equal(code, 1, stdout);
    assert.match(stdout, /fails was not moved: it runs on node-a[\s\S]*the disk is full/);
    assert.equal(await nodeOf("fails"), "node-a");
  });

  test("before anything is begun: an answer of the user's class is a refusal, all else a failure", async () => {
    await good("run", "early", "--node", "node-a", "--", "true");
    const cases = [
      ["E_POLICY", 2, /refused/],
      ["E_INTERNAL", 1, /early was not moved: it runs on node-a/],
      ["E_TOOL", 1, /early was not moved: it runs on node-a/],
      ["E_JOURNAL_CORRUPT", 1, /early was not moved: it runs on node-a/],
    ] as const;
    for (const [code, expected, words] of cases) {
      for (const verb of ["observeWorkload", "preflightDestination"] as const) {
        const failure = { code, message: "so it is" };
        stage.world.order({ node: "node-b", verb, when: "before", times: 1, workload: "early", failure });
        const ended = await ferry("migrate", "early", "--to", "node-b");
        assert.equal(ended.code, expected, `${code} of ${verb}: ${ended.stdout}${ended.stderr}`);
        assert.match(ended.stdout, words);
        assert.match(ended.stdout, /so it is/);
      }
    }
    assert.equal(await nodeOf("early"), "node-a");
  });

  test("in doubt, and stuck: exit code 3 and what to do, both go on when they can; out of reach in preflight: 1", async () => {
    const doubtful = await stage.run("doubtful", "node-a", QUICK);
    const stuck = await stage.run("stuck", "node-a", QUICK);
    await stage.run("deaf", "node-a", QUICK);
    const silence = { node: "node-b", verb: "preflightDestination", when: "hang", hangMs: 2_500 } as const;
    stage.world.order({ ...silence, times: 10, workload: "deaf" });
    stage.world.at("source:released", () => stage.world.crash("node-c"), "doubtful");
    const restore = { code: "E_RESTORE", message: "criu said no" } as const;
    const broken = { code: "E_JOURNAL_CORRUPT", message: "line 7 is damaged", remedy: "mend it" } as const;
    const first = { node: "node-b", verb: "takeOver", when: "before", times: 1, workload: "stuck" } as const;
    const fault = { node: "node-a", verb: "burn" as const, when: "before" as const, times: 1e6, workload: "stuck" };
    const burn = { ...fault, failure: broken };
    stage.world.order({ ...first, failure: restore });
    stage.world.order(burn);
    try {
      const [deaf, inDoubt, isStuck] = await Promise.all([
        ferry("migrate", "deaf", "--to", "node-b"),
        ferry("migrate", "doubtful", "--to", "node-c", "--mode", "postcopy"),
        ferry("migrate", "stuck", "--to", "node-b", "--json"),
      ]);
      assert.equal(deaf.code, 1, deaf.stdout);
      assert.match(deaf.stdout, /E_NODE_UNREACHABLE/);
      assert.equal(inDoubt.code, 3, inDoubt.stdout + inDoubt.stderr);
      assert.match(inDoubt.stdout, /in doubt[\s\S]*node-c/);
      assert.match(inDoubt.stdout, /what to do: /);
      assert.equal(isStuck.code, 3, isStuck.stdout + isStuck.stderr);
      const report = JSON.parse(isStuck.stdout) as MigrationReport;
      assert.deepEqual([report.outcome, report.failure?.code], ["stuck", "E_STUCK"]);
      assert.equal(report.failure?.remedy, "mend it");
    } finally {
      stage.agent("node-c").restart();
      burn.times = 0;
    }
    assert.equal((await doubtful.settled(30_000)).node, "node-c");
    assert.equal((await stuck.settled(30_000)).node, "node-a");
  });

  test("doctor asks the server what it is: something else that listens does not pass", async () => {
    const temporalOf = async (...args: string[]): Promise<Check | undefined> => {
      const { stdout } = await ferry("doctor", "--json", ...args);
      return (JSON.parse(stdout) as Check[]).find(({ name }) => name === "Temporal");
    };
    const good = await temporalOf();
    assert.equal(good?.status, "ok", good?.detail);
    assert.match(good?.value ?? "", /version \d+\.\d+/);
    const callers = new Set<Socket>();
    const stranger = createServer((socket) => void callers.add(socket.resume())).listen(0, "127.0.0.1");
    await once(stranger, "listening");
    try {
      const { port } = stranger.address() as { port: number };
      assert.equal((await temporalOf("--address", `127.0.0.1:${port}`))?.status, "fail");
    } finally {
      stranger.close();
      // gRPC keeps a connection that has never said anything
      for (const socket of callers) socket.destroy();
    }
    const nowhere = await ferry("doctor", "--lab", "/nonexistent/lab");
    assert.equal(nowhere.code, 2);
    assert.match(nowhere.stderr, /no lab is running \(none in \/nonexistent\/lab\)/);
  });

  test("logs -f ends when the workload has ended, was stopped or is removed", async () => {
    const over = { node: "node-a", epoch: 1, exitCode: 3 };
    for (const [name, end, words] of [
      ["over", () => stage.client.workflow.getHandle("workload/over").signal("ended", over), /with exit code 3/],
      ["halted", () => good("stop", "halted", "--grace", "10ms"), /was stopped/],
      ["dropped", () => good("rm", "--force", "dropped"), /was (stopped|removed)/],
    ] as const) {
      await good("run", name, "--node", "node-a", "--", "true");
      const following = ferry("logs", name, "-f");
      await new Promise((resolve) => setTimeout(resolve, 700));
      try {
        await end();
      } catch (error) {
        // It would be followed for ever, and keep this process.
        await ferry("rm", "--force", name);
        throw error;
      }
      const { code, stdout, stderr } = await following;
      assert.deepEqual([code, stdout], [0, `log of ${name} on node-a\n`]);
      assert.match(stderr, new RegExp(`^ferry: ${name} `));
      assert.match(stderr, words);
    }
  });

  test("what can't be: unknown node, same node, unknown workload; exit code 2", async () => {
    await good("run", "odd", "--node", "node-a", "--", "true");
    const cases: [string[], RegExp][] = [
      [["migrate", "odd", "--to", "node-z"], /node-z[\s\S]*what to do: /],
      [["migrate", "odd", "--to", "node-a"], /E_SAME_NODE/],
      [["migrate", "nobody", "--to", "node-b"], /E_WORKLOAD_UNKNOWN/],
      [["logs", "nobody"], /E_WORKLOAD_UNKNOWN/],
      [["stop", "nobody"], /E_WORKLOAD_UNKNOWN/],
      [["rm", "nobody"], /E_WORKLOAD_UNKNOWN/],
      [["cancel", "nobody"], /E_WORKLOAD_UNKNOWN/],
      [["run", "new", "--node", "node-z", "--", "true"], /node-z/],
      [["run", "new", "--node", "node-a", "--ip", "1.2.3", "--", "true"], /IPv4/],
      [["run", "new", "--node", "node-a", "--dir", "data", "--", "true"], /absolute path/],
      [["run", "new", "--node", "node-a", "--user", "../root", "--", "true"], /user/],
    ];
    for (const [argv, words] of cases) {
      const { code, stderr } = await ferry(...argv);
      assert.equal(code, 2, `${argv.join(" ")}: ${stderr}`);
      assert.match(stderr, words);
    }
  });

  test("--detach, then cancel from elsewhere", async () => {
    await good("run", "back", "--node", "node-a", "--", "true");
    stage.world.order({ node: "node-b", verb: "takeOver", when: "hang", times: 50, workload: "back", hangMs: 400 });
    const started = JSON.parse(await good("migrate", "back", "--to", "node-b", "--detach", "--json")) as {
      operation: string;
    };
    assert.match(started.operation, /^back\.migrate\.\d+$/);
    const again = await ferry("migrate", "back", "--to", "node-b");
    assert.equal(again.code, 2);
    assert.match(again.stderr, /E_BUSY/);
    const { code, stdout } = await ferry("cancel", "back");
    assert.equal(code, 0, stdout);
    assert.match(stdout, /back was not moved: it runs on node-a/);
  });

  test("Ctrl-C during migrate: says that it goes on and how to call it back, exit code 130, ends at once", async () => {
    await good("run", "detached", "--node", "node-a", "--", "true");
    stage.world.order({ node: "node-b", verb: "takeOver", when: "hang", times: 50, workload: "detached", hangMs: 400 });
    const script = `import { main } from ${JSON.stringify(new URL("../../src/cli/main.js", import.meta.url).href)}; process.exitCode = await main(process.argv.slice(1));`;
    const child = spawn(
      process.execPath,
      ["--input-type=module", "-e", script, "migrate", "detached", "--to", "node-b"],
      {
        env: { FERRY_TEMPORAL_ADDRESS: stage.server.address, PATH: process.env["PATH"] },
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    let stderr = "";
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    await once(child.stdout, "data");
    child.stdout.resume();
    const asked = performance.now();
    child.kill("SIGINT");
    const [code] = (await once(child, "exit")) as [number | null];
    assert.equal(code, 130, stderr);
    assert.ok(performance.now() - asked < 1500, "it ends at once");
    assert.match(stderr, /detached\.migrate\.\d+ goes on without us[\s\S]*ferry cancel detached/);
    await until(["inspect", "detached"], /state +running/);
  });

  test("steer: what was taken and how it stands; refused when there is nothing to steer, or the words are wrong", async () => {
    await good("run", "steered", "--node", "node-a", "--", "true");
    const early = await ferry("steer", "steered", "pause");
    assert.equal(early.code, 2);
    assert.match(early.stderr, /no migration of steered is under way[\s\S]*what to do: /);
    let go = (): void => undefined;
    const held = new Promise<void>((resolve) => (go = resolve));
    stage.world.at("source:precopy", () => held, "steered");
    await good("migrate", "steered", "--to", "node-b", "--detach");
    await until(
      ["steer", "steered", "pause"],
      /^steered\.migrate\.\d+: pause was taken\n +now: paused, downtime limit /,
    );
    assert.match(await good("steer", "steered", "bandwidth", "50MB/s"), /at most 47\.7 MiB\/s|at most 50/);
    assert.match(await good("steer", "steered", "bandwidth", "none"), /no bandwidth limit/);
    assert.match(await good("steer", "steered", "hold", "10m"), /hold was taken\n +now: held until go/);
    const limit = JSON.parse(await good("steer", "steered", "max-downtime", "300ms", "--json")) as Record<
      string,
      unknown
    >;
    assert.deepEqual([limit["maxDowntimeMs"], limit["held"]], [300, false]);
    const before = stage.world.calls.filter(({ verb }) => verb === "steer").length;
    for (const [words, why] of [
      [["bandwidth"], /needs a rate/],
      [["bandwidth", "fast"], /not a rate/],
      [["hold", "10"], /not a duration/],
      [["go", "now"], /takes no value/],
      [["fly"], /Allowed choices/],
    ] as const) {
      const { code, stderr } = await ferry("steer", "steered", ...words);
      assert.equal(code, 2, stderr);
      assert.match(stderr, why);
    }
    assert.equal(stage.world.calls.filter(({ verb }) => verb === "steer").length, before, "wrong words reach no node");
    for (const word of ["go", "switch-now"])
      assert.match(await good("steer", "steered", word), new RegExp(`${word} was taken`));
    go();
    await until(["inspect", "steered"], /state +running[\s\S]*node-b|node-b[\s\S]*state +running/);
    assert.equal((await ferry("steer", "steered", "resume")).code, 2);
  });

  test("fence by the configuration's command: run with the node's name; the node is fenced if it says 0, in time, and is silent", async (t) => {
    const dir = mkdtempSync(join(tmpdir(), "ferry-fence-"));
    t.after(() => rmSync(dir, { recursive: true }));
    const said = join(dir, "said");
    const script = join(dir, "power-off");
    writeFileSync(
      script,
      `#!/bin/sh\nprintf '%s\\n' "$@" >>${said}\ncase "$1" in fail) echo "the BMC says no"; exit 1;; hang) sleep 600 & echo $! >>${said}; wait;; esac\n`,
    );
    chmodSync(script, 0o700);
    const fence = (what: string, timeoutMs?: number): Promise<Run> => {
      const config = join(dir, "fence.json");
      const command = [script, what, "{node}-bmc", "chassis {node} off; reboot"];
      writeFileSync(config, JSON.stringify({ command, ...(timeoutMs === undefined ? {} : { timeoutMs }) }));
      rmSync(said, { force: true });
      return ferry("fence", "node-c", "--config", config);
    };
    const fenced = async (): Promise<unknown> =>
      (await stage.client.workflow.getHandle("node/node-c").query<NodeState>("status")).fence;

    // It was not off after all: whatever the command said, a node that answers is not believed to be.
    const there = await fence("off");
    assert.equal(there.code, 2, there.stdout);
    assert.match(there.stderr, /node-c answers: it is not off/);
    assert.deepEqual(readFileSync(said, "utf8").split("\n"), ["off", "node-c-bmc", "chassis node-c off; reboot", ""]);

    stage.world.crash("node-c");
    await stage.workers.stopNode("node-c");
    try {
      const failed = await fence("fail");
      assert.equal(failed.code, 1, failed.stdout);
      assert.match(
        failed.stderr,
        /switch node-c off: \S+power-off failed[\s\S]*the BMC says no[\s\S]*nothing was fenced/,
      );
      const late = await fence("hang", 500);
      assert.equal(late.code, 1, late.stdout);
      assert.match(late.stderr, /did not finish in 500 ms, and was ended with all that it had started/);
      const [, , , helper] = readFileSync(said, "utf8").split("\n");
      assert.match(helper ?? "", /^\d+$/);
      // A zombie is the machine's init's to collect.
      const stat = `/proc/${helper}/stat`;
      assert.ok(!existsSync(stat) || readFileSync(stat, "utf8").includes(") Z "), "its helper was ended, too");
      assert.equal(await fenced(), undefined);

      const off = await fence("off");
      assert.equal(off.code, 0, off.stderr);
      assert.match(
        off.stdout,
        /^node-c is fenced: \S+power-off off node-c-bmc chassis node-c off; reboot ended with 0\n/,
      );
      assert.notEqual(await fenced(), undefined);
      assert.match(await good("nodes"), /^node-c +fenced /m);
      // A name that nobody knows is found out before anything is switched off.
      rmSync(said);
      assert.equal((await ferry("fence", "node-z", "--config", join(dir, "fence.json"))).code, 2);
      assert.ok(!existsSync(said));
    } finally {
      stage.agent("node-c").restart();
      await stage.startNode("node-c");
    }
    await until(["nodes"], /^node-c +up/m);
    assert.equal(await fenced(), undefined);
  });

  test("on a terminal: frames over each other, the cursor given back, then the report", async () => {
    await good("run", "watched", "--node", "node-a", "--", "true");
    const env = { FERRY_TEMPORAL_ADDRESS: stage.server.address, LANG: "C.UTF-8", NO_COLOR: "1" };
    const { code, stdout } = await ferryAt(["migrate", "watched", "--to", "node-b"], env, { isTTY: true, columns: 60 });
    assert.equal(code, 0, stdout);
    const hide = stdout.lastIndexOf("\u001b[?25l");
    assert.ok(hide >= 0 && stdout.indexOf("\u001b[?25h", hide) > hide, "the cursor is back");
    assert.match(stdout, /migrate watched: node-a → node-b, precopy/);
    assert.match(stdout, /✓ preflight/);
    const screen = stdout.slice(stdout.indexOf("\u001b[?25h"));
    assert.match(screen, /✓ moved watched from node-a to node-b/);
    // oxlint-disable-next-line no-control-regex -- NO_COLOR: no colours
    assert.doesNotMatch(stdout, /\u001b\[[0-9;]*m/);
  });
});

import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { FerryError } from "../../../src/model/failure.js";
import { HIDDEN_PROC } from "../../../src/runtimes/process/hidden.js";
import { privilegesOf } from "../../support/capabilities.js";
import { nodesImpossible, TestNet, type TestNode } from "../../support/node.js";
import { until } from "../../workflows/support.js";
import { incarnation, SEES_OF_PROC, seesNothingOf } from "./workloads.js";

describe("process runtime: start and stop", { skip: nodesImpossible() ?? false }, () => {
  let net: TestNet;
  let a: TestNode;
  before(async () => {
    net = await TestNet.make(["a"]);
    a = net.node("a");
  });
  after(async () => assert.deepEqual(await net.end(), []));

  const fails = async (what: Parameters<typeof incarnation>[1], words: RegExp): Promise<FerryError> => {
    let seen: FerryError | undefined;
    await assert.rejects(a.call("start", incarnation("bad", what)), (error: FerryError) => {
      seen = error;
      assert.equal(error.code, "E_START");
      assert.match([error.message, ...(error.data.evidence?.lines ?? [])].join("\n"), words);
      return true;
    });
    assert.deepEqual(a.leftovers(), []);
    const volume = a.state("volumes", "bad");
    const kept = existsSync(volume) ? readdirSync(volume) : [];
    assert.ok(
      kept.every((name) => name === "log"),
      `only the log is kept: ${kept.join(" ")}`,
    );
    return seen!;
  };

  it("starts a tree with its own namespaces, user, limits, environment and log", async () => {
    const script =
      "id; pwd; env; cat /proc/self/status | grep -E 'NoNewPrivs|CapEff'; ls /proc | grep -c '^[0-9]'; ls -A /var/lib/ferry /run; touch /data/mine /tmp/x; hostname; sleep 1000 & wait";
    const i = incarnation("shell", {
      command: ["bash", "-c", script],
      env: { A: "b c", "X.Y": "$(no)" },
      user: "daemon",
      limits: { memoryBytes: 64 << 20, cpus: 0.5 },
    });
    const { pid } = await a.call<{ pid: number }>("start", i);
    await sleep(100);
    const seen = await a.call<{ processes: number; pid: number; frozen: boolean }>("observe", {
      name: "shell",
      epoch: 1,
    });
    assert.deepEqual({ ...seen, memoryBytes: 0 }, { processes: 2, pid, frozen: false, memoryBytes: 0 });
    assert.equal((await a.call<Record<string, number>>("pids", { name: "shell", epoch: 1 }))["1"], pid);
    const log = readFileSync(a.state("volumes/shell/log/output.log"), "utf8");
    assert.match(log, /uid=1\(daemon\) gid=1\(daemon\)/);
    assert.match(log, /^\/data$/m);
    assert.match(log, /^A=b c$/m);
    assert.match(log, /^X.Y=\$\(no\)$/m);
    assert.match(log, /NoNewPrivs:\t1/);
    assert.match(log, /CapEff:\t0+$/m);
    assert.match(log, /^shell$/m);
    assert.ok(!/volumes/.test(log));
    assert.ok(existsSync(a.state("volumes/shell/data/mine")));
    const group = `${a.cgroupParent}/shell.1`;
    const limit = a.exec(
      "sh",
      "-c",
      `cat /sys/fs/cgroup/${group}/memory.max /sys/fs/cgroup/memory/${group}/memory.limit_in_bytes 2>/dev/null`,
    );
    assert.equal(limit.stdout.trim(), String(64 << 20));
    const members = a.exec(
      "sh",
      "-c",
      `cat /sys/fs/cgroup/${group}/cgroup.procs /sys/fs/cgroup/cpu/${group}/cgroup.procs 2>/dev/null`,
    );
    assert.ok(members.stdout.includes(String(pid)));
    // init of the node is its parent, nothing of the launcher is left
    assert.match(a.exec("ps", "-o", "ppid=", "-p", String(pid)).stdout, /^\s*1$/m);
    assert.equal(a.exec("pgrep", "-f", "launch.sh").stdout, "");
    await a.call("stop", { name: "shell", epoch: 1 }, 200);
    assert.deepEqual(a.leftovers(), []);
    assert.ok(existsSync(a.state("volumes/shell/data/mine")));
  });

  it("root inside reads no key of the node, makes no device, and has no way to its disks", async () => {
    a.exec(
      "sh",
      "-c",
      "mkdir -p /etc/ferry /root/.ssh; for f in ferry/node.key shadow; do echo NODES-OWN >>/etc/$f; done",
    );
    a.exec("sh", "-c", "echo NODES-OWN >/root/.ssh/id_ed25519");
    const script = [
      "cat /etc/ferry/node.key /etc/shadow /root/.ssh/id_ed25519",
      "find / -xdev -newermt 2000-01-01 -name 'node.key' 2>/dev/null",
      "mknod /data/disk b 8 0; mknod /dev/disk b 8 0; mount -t tmpfs tmpfs /mnt; echo x >/proc/sys/kernel/core_pattern",
      SEES_OF_PROC,
      "grep root: /etc/passwd; stat -c %a:%u /etc /root; cat /proc/self/status; echo done; sleep 100",
    ].join("; ");
    await a.call("start", incarnation("curious", { command: ["bash", "-c", script], user: "root" }));
    const file = a.state("volumes/curious/log/output.log");
    const log = await until(
      () => readFileSync(file, "utf8"),
      (text) => text.includes("done"),
      10_000,
    );
    assert.doesNotMatch(log, /NODES-OWN/);
    for (const path of ["/etc/ferry/node.key", "/etc/shadow", "/root/.ssh/id_ed25519"]) {
      assert.ok(log.includes(`cat: ${path}: No such file or directory`), log);
    }
    assert.match(log, /mknod: \/data\/disk: Operation not permitted/);
    assert.match(log, /mknod: \/dev\/disk: Operation not permitted/);
    assert.match(log, /mount: .*(?:permission denied|must be superuser)/);
    assert.match(log, /core_pattern: Read-only file system/);
    // Such as this kernel has; the first there always is.
    const there = HIDDEN_PROC.filter((name) => existsSync(`/proc/${name}`));
    assert.ok(there.includes("fs"));
    assert.deepEqual(
      log.split("\n").filter((line) => line.startsWith("in /proc/")),
      seesNothingOf(there),
    );
    assert.match(log, /^root:x:0:0/m);
    assert.ok(log.includes(a.exec("stat", "-c", "%a:%u", "/etc", "/root").stdout.trim()), log);
    const { bounding } = privilegesOf(log);
    for (const name of ["mknod", "sys_admin", "sys_ptrace", "net_admin"]) assert.ok(!bounding.includes(name), name);
    await a.call("destroy", { name: "curious", epoch: 1 });
    assert.deepEqual(a.leftovers(), []);
  });

  it("root inside puts others in the place of its programs: at its next start none of them runs with the node's rights", async () => {
    const names = "setsid setpriv umount rmdir mkdir mount mknod env perl chmod ln hostname bash sh";
    const python = `import os, time
for f in "${names}".split():
    new = f"/usr/bin/.{f}"
    open(new, "w").write(f'#!/usr/bin/python3\\nopen("/data/{f}.ran", "w").write(open("/proc/self/status").read())\\n')
    os.chmod(new, 0o755)
    os.rename(new, f"/usr/bin/{f}")
print("done", flush=True)
time.sleep(100)`;
    await a.call("start", incarnation("planted", { command: ["python3", "-c", python], user: "root" }));
    const log = a.state("volumes/planted/log/output.log");
    await until(
      () => readFileSync(log, "utf8"),
      (text) => text.includes("done"),
      10_000,
    );
    await a.call("stop", { name: "planted", epoch: 1 }, 200);
    const status = "import time; print(open('/proc/self/status').read(), 'up', flush=True); time.sleep(100)";
    await a.call("start", incarnation("planted", { command: ["python3", "-c", status], user: "root" }, 2));
    const said = await until(
      () => readFileSync(log, "utf8"),
      (text) => text.includes("up"),
      10_000,
    );
    assert.deepEqual(
      readdirSync(a.state("volumes/planted/data")).filter((name) => name.endsWith(".ran")),
      [],
    );
    assert.match(said, /NoNewPrivs:\t1/);
    const { bounding, effective } = privilegesOf(said);
    for (const name of ["mknod", "sys_admin", "sys_ptrace", "net_admin"])
      assert.ok(!bounding.includes(name) && !effective.includes(name), name);
    await a.call("destroy", { name: "planted", epoch: 2 });
    assert.deepEqual(a.leftovers(), []);
  });

  it("says why a start failed and leaves nothing but the log", async () => {
    await fails({ command: ["no-such-program"] }, /"no-such-program" was not found/);
    await fails({ command: ["/etc/passwd"] }, /can't be executed/);
    await fails({ dir: "/nowhere" }, /"\/nowhere" can't be entered/);
    await fails({ user: "nobody-here" }, /no user "nobody-here"/);
    await fails({ command: ["sh", "-c", "echo my reason >&2; exit 3"] }, /exit code 3[^]*my reason/);
    assert.match(readFileSync(a.state("volumes/bad/log/output.log"), "utf8"), /my reason/);
    await fails({ ip: "10.79.0.11/24" }, /in use by this node/);
    await fails({ ip: "10.79.0.1/24" }, /in use by ([0-9a-f]{2}:){5}/);
  });

  it("SIGTERM first, then the whole tree is killed; a stopped one keeps its files", async () => {
    const command = ["sh", "-c", "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.05; done"];
    await a.call("start", incarnation("polite", { command }));
    await a.call("stop", { name: "polite", epoch: 1 }, 5000);
    assert.match(readFileSync(a.state("volumes/polite/log/output.log"), "utf8"), /up\nasked\n/);
    await a.call("start", incarnation("polite", { command }, 2));
    await a.call("destroy", { name: "polite", epoch: 2 });
    await a.call("destroy", { name: "polite", epoch: 2 });
    assert.deepEqual(a.leftovers(), []);
  });

  it("sweeps what is not owned and nothing else", async () => {
    await a.call("start", incarnation("keep", { ip: "10.79.0.101/24" }));
    await a.call("start", incarnation("drop", { ip: "10.79.0.102/24" }));
    await a.restartDriver();
    assert.deepEqual(await a.call("sweep", ["keep.1"]), ["drop.1"]);
    assert.equal((await a.call<{ processes: number }>("observe", { name: "keep", epoch: 1 })).processes, 1);
    assert.deepEqual(await a.call("sweep", []), ["keep.1"]);
    assert.deepEqual(a.leftovers(), []);
  });
});

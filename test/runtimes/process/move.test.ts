import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { cp, rm } from "node:fs/promises";
import { after, afterEach, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { run } from "../../../src/host/exec.js";
import { HIDDEN_PROC } from "../../../src/runtimes/process/hidden.js";
import type { FerryError } from "../../../src/model/failure.js";
import type { EngineStatus, OperationDirs } from "../../../src/runtimes/runtime.js";
import { nodesImpossible, TestNet, type TestNode } from "../../support/node.js";
import { Counter, dirs, incarnation, redisCommand, REDIS, SEES_OF_PROC, seesNothingOf, TREE } from "./workloads.js";

const NAME = { name: "redis", epoch: 1 };
const NEXT = { name: "redis", epoch: 2 };
const source = incarnation("redis", {
  command: REDIS,
  dir: "/var/lib/redis",
  user: process.env["FRT_USER"] ?? "redis",
});
const destination = { ...source, epoch: 2 };
type Seen = { processes: number; pid?: number; frozen: boolean };

describe("process runtime: freeze, hold, move", { skip: nodesImpossible() ?? false }, () => {
  let net: TestNet;
  let a: TestNode;
  let b: TestNode;
  before(async () => {
    net = await TestNet.make(["a", "b"]);
    a = net.node("a");
    b = net.node("b");
  });
  after(async () => assert.deepEqual(await net.end(), []));
  afterEach(async () => {
    for (const node of [a, b]) {
      for (const epoch of [1, 2]) await node.call("destroy", { name: "redis", epoch });
      assert.deepEqual(node.leftovers(), []);
      await rm(node.state("volumes"), { recursive: true, force: true });
      node.exec("rm", "-rf", "/run/ferry/ops");
    }
  });

  const started = async (): Promise<Counter> => {
    await a.call("start", source);
    const counter = await Counter.start(net);
    await counter.beyond(50);
    return counter;
  };
  const held = async (d: OperationDirs): Promise<EngineStatus> => {
    await a.call("freeze", source, d);
    const status = await a.call<EngineStatus>("wait", "freeze", d, "post-dump", 30_000);
    assert.ok(status.reached["post-dump"] !== undefined, JSON.stringify(await a.call("evidence", "freeze", d)));
    return status;
  };
  const appears = async (path: string): Promise<void> => {
    for (let i = 0; i < 200 && !existsSync(path); i++) await sleep(10);
  };
  /** Images and volume to the other node, as the mover does it. */
  const carry = async (d: OperationDirs): Promise<void> => {
    await cp(a.outside(d.images), b.outside(d.images), { recursive: true });
    await run("rsync", ["-aHAXS", "--numeric-ids", `${a.state("volumes")}/`, `${b.state("volumes")}/`]);
  };

  it("holds the tree frozen with its link down, and takes it back: same connection", async () => {
    const counter = await started();
    const d = dirs("redis.migrate.1");
    const status = await held(d);
    const at = status.reached;
    assert.ok(at["network-lock"]! <= at["post-dump"]!);
    assert.ok(Math.abs(Date.now() - at["post-dump"]!) < 5000);
    assert.equal((await a.call<Seen>("observe", NAME)).frozen, true);
    assert.equal((await a.call<Record<string, number>>("pids", NAME))["1"], (await a.call<Seen>("observe", NAME)).pid);
    const before = counter.value;
    await sleep(200);
    assert.ok(counter.value - before <= 1, "it went on while frozen");
    // the agent dies in the hold; another one finds everything and takes the tree back
    await a.restartDriver();
    assert.equal((await a.call<EngineStatus>("status", "freeze", d)).alive, true);
    await a.call("takeBack", source, d);
    await a.call("takeBack", source, d);
    await counter.beyond(before + 200);
    assert.equal((await a.call<Seen>("observe", NAME)).frozen, false);
    assert.equal((await a.call<EngineStatus>("status", "freeze", d)).exitCode, 255);
    assert.deepEqual(await counter.end(), { broken: false, missing: 0 });
  });

  it("says that criu was lost in the hold, and lets nothing run", async () => {
    const counter = await started();
    const d = dirs("redis.migrate.2");
    await held(d);
    a.exec("pkill", "-KILL", "-x", "criu");
    await assert.rejects(a.call("takeBack", source, d), (error: FerryError) => {
      assert.equal(error.code, "E_DUMP");
      assert.equal(error.data.phase, "dump");
      assert.match(error.message, /criu was lost.*signal 9/);
      assert.ok(error.data.evidence?.command?.includes("dump"));
      return true;
    });
    const seen = await a.call<Seen>("observe", NAME);
    assert.equal(seen.frozen, true);
    assert.equal(seen.processes, 1);
    await a.call("destroy", NAME, d);
    assert.equal((await a.call<Seen>("observe", NAME)).processes, 0);
    assert.equal((await counter.end()).broken, false, "the dead copy said so to its peer");
  });

  it("a dump that fails by itself lets the tree go on", async () => {
    const counter = await started();
    const d = dirs("redis.migrate.3");
    a.exec("mkdir", "-p", `${d.images}/core-1.img`);
    await a.call("freeze", source, d);
    const status = await a.call<EngineStatus>("wait", "freeze", d, "post-dump", 30_000);
    assert.equal(status.alive, false);
    assert.equal(status.reached["post-dump"], undefined);
    const evidence = await a.call<{ lines: string[] }>("evidence", "freeze", d);
    assert.match(evidence.lines.join("\n"), /core-1.img/);
    await a.call("takeBack", source, d);
    const before = counter.value;
    await counter.beyond(before + 100);
    assert.deepEqual(await counter.end(), { broken: false, missing: 0 });
  });

  it("destroy ends it from every state, without a word to its peers", async () => {
    const counter = await started();
    const d = dirs("redis.migrate.4");
    await a.call("freeze", source, d);
    await a.call("destroy", NAME, d); // in the middle of the dump
    assert.deepEqual(a.leftovers(), []);
    await a.call("destroy", NAME, d);
    assert.equal((await counter.end()).broken, false);
    await a.call("start", source);
    await held(dirs("redis.migrate.5"));
    await a.restartDriver();
    await a.call("destroy", NAME); // held, and without being told where the engine is
    assert.deepEqual(a.leftovers(), []);
  });

  for (const lazy of [false, true]) {
    it(`moves to another node: ${lazy ? "lazily" : "eagerly"}; same connection, keys and files`, async () => {
      await Promise.all([a, b].map((n) => n.restartDriver({ lazyDump: false, lazyRestore: lazy })));
      const counter = await started();
      await redisCommand(net, "DEBUG", "POPULATE", "20000", "key", "300");
      const digest = await redisCommand(net, "DEBUG", "DIGEST-VALUE", "key:7", "key:19999");
      const d = dirs(`redis.migrate.${lazy ? 7 : 6}`);
      await b.call("prepare", destination, d);
      await b.call("prepare", destination, d);
      assert.ok(
        !existsSync(b.outside(`${d.images}/inventory.img`)),
        "criu stands by, the name of its first image is free",
      );
      // One that dies while it stands by is replaced.
      if (!lazy) b.exec("pkill", "-KILL", "-x", "criu");
      const frozen = (await held(d)).reached["network-lock"]!;
      await carry(d);
      const pages = lazy ? b.spawn("criu", "lazy-pages", "-D", d.images, "-o", "lazy.log", "-v4") : undefined;
      const filled = new Promise((resolve) => pages?.once("exit", resolve));
      if (lazy) await appears(b.outside(`${d.images}/lazy-pages.socket`));
      await b.call("restore", destination, d);
      const status = await b.call<EngineStatus>("wait", "restore", d, "post-restore", 30_000);
      assert.ok(status.reached["post-restore"], JSON.stringify(await b.call("evidence", "restore", d)));
      assert.equal((await b.call<Seen>("observe", NEXT)).processes, 1);
      // held: the agent may die, nothing runs, nothing is heard
      await b.restartDriver();
      const before = counter.value;
      await sleep(100);
      assert.equal(counter.value, before);
      const { resumedAt } = await b.call<{ resumedAt: number }>("release", destination, d);
      await b.call("openNetwork", destination);
      await a.call("destroy", NAME, d);
      assert.ok(resumedAt > frozen);
      const again = await b.call<{ resumedAt: number }>("release", destination, d);
      assert.ok(Math.abs(again.resumedAt - resumedAt) < 1, "it has run since then, whenever it is asked");
      await counter.beyond(before + 200);
      if (lazy) {
        await redisCommand(net, "DEBUG", "DIGEST"); // touches all
        await filled;
      }
      assert.deepEqual(await redisCommand(net, "DEBUG", "DIGEST-VALUE", "key:7", "key:19999"), digest);
      // Its parent is the node's init, and it can be moved, stopped and listed like one that was started here.
      const { pid } = await b.call<Seen>("observe", NEXT);
      assert.match(b.exec("ps", "-o", "ppid=", "-p", String(pid)).stdout, /^\s*1$/m);
      assert.deepEqual(await counter.end(), { broken: false, missing: 0 });
      await b.call("stop", NEXT, 3000);
      assert.deepEqual(b.leftovers(), []);
    });
  }

  it("criu refuses a deleted open file that has another name, as preflight says, and the tree goes on", async () => {
    const code =
      "import os,time; f=open('/data/a','w'); os.link('/data/a','/data/b'); os.unlink('/data/a'); print('ready',flush=True); time.sleep(1000)";
    const linked = incarnation("redis", { command: ["python3", "-c", code] });
    await a.call("start", linked);
    const log = (): string => readFileSync(a.state("volumes/redis/log/output.log"), "utf8");
    for (let i = 0; i < 200 && !log().includes("ready"); i++) await sleep(10);
    const d = dirs("redis.migrate.10");
    await a.call("freeze", linked, d);
    const status = await a.call<EngineStatus>("wait", "freeze", d, "post-dump", 30_000);
    assert.equal(status.reached["post-dump"], undefined);
    const evidence = await a.call<{ lines: string[] }>("evidence", "freeze", d);
    assert.match(evidence.lines.join("\n"), /Can't create link remap/);
    await a.call("takeBack", linked, d);
    assert.equal((await a.call<Seen>("observe", NAME)).frozen, false);
  });

  it("moves a tree of processes with files on both layers, deleted ones, locks, sockets and pipes", async () => {
    await a.restartDriver({ lazyDump: false });
    await b.restartDriver({ lazyRestore: false });
    const tree = incarnation("redis", { command: ["python3", "-u", "-c", TREE], user: "www-data" });
    a.exec("sh", "-c", "mkdir -p /var/spool/tree && chmod 1777 /var/spool/tree && echo lower > /var/spool/tree/lower");
    b.exec("sh", "-c", "mkdir -p /var/spool/tree && chmod 1777 /var/spool/tree && echo lower > /var/spool/tree/lower");
    await a.call("start", tree);
    const log = (node: TestNode): string => readFileSync(node.state("volumes/redis/log/output.log"), "utf8");
    for (let i = 0; i < 200 && !log(a).includes("ready"); i++) await sleep(10);
    const d = dirs("redis.migrate.9");
    await b.call("prepare", { ...tree, epoch: 2 }, d);
    await held(d);
    await carry(d);
    await b.call("restore", { ...tree, epoch: 2 }, d);
    const status = await b.call<EngineStatus>("wait", "restore", d, "post-restore", 30_000);
    assert.ok(status.reached["post-restore"], JSON.stringify(await b.call("evidence", "restore", d)));
    await a.call("destroy", NAME, d);
    assert.equal((await b.call<Seen>("observe", NEXT)).processes, 3);
    await b.call("release", { ...tree, epoch: 2 }, d);
    await b.call("openNetwork", { ...tree, epoch: 2 });
    b.exec("sh", "-c", `kill -USR1 ${(await b.call<Seen>("observe", NEXT)).pid}`);
    for (let i = 0; i < 200 && !/all well|Traceback|Error/.test(log(b)); i++) await sleep(10);
    assert.match(log(b), /ready\nall well\n$/);
    const listed = b.exec("cat", "/var/lib/ferry/volumes/redis/root/var/spool/tree/upper").stdout;
    assert.equal(listed, "before\nafter\n");
  });

  it("hides what is the node's own on the node that it comes to: its state, wherever that lies, and parts of /proc", async () => {
    await a.restartDriver({ lazyDump: false });
    // On the root file system, which workloads have below their own, and at another path than on the source.
    b.exec("mkdir", "-p", "/srv/ferry");
    b.exec("mount", "--bind", "/run/ferry-layers/0/srv/ferry", "/srv/ferry");
    b.write("/srv/ferry/journal", "NODES-OWN");
    b.exec("ln", "-s", "/srv/ferry", "/srv/link");
    await b.restartDriver({ lazyRestore: false, stateDir: "/srv/link" });
    const script = `while sleep 0.05; do if mkdir /data/asked 2>/dev/null; then
      ls -ARd /srv/* /srv/ferry/* /srv/link/* /var/lib/ferry/*; cat /srv/ferry/journal; ${SEES_OF_PROC}; echo said
    fi 2>&1; done`;
    const curious = incarnation("redis", { command: ["bash", "-c", script], user: "root" });
    const names = HIDDEN_PROC.filter((name) => existsSync(`/proc/${name}`));
    const there = `${b.dir}/upper/srv/ferry`;
    const logOf = (state: string): string => readFileSync(`${state}/volumes/redis/log/output.log`, "utf8");
    const asks = async (state: string): Promise<string> => {
      const before = existsSync(`${state}/volumes/redis/log/output.log`) ? logOf(state).length : 0;
      await rm(`${state}/volumes/redis/data/asked`, { recursive: true, force: true });
      for (let i = 0; i < 200 && !logOf(state).slice(before).includes("said"); i++) await sleep(20);
      return logOf(state).slice(before);
    };
    const seesNothing = (log: string): void => {
      assert.match(log, /said/);
      assert.deepEqual(
        log.split("\n").filter((line) => line.startsWith("in /proc/")),
        seesNothingOf(names),
      );
      assert.doesNotMatch(log, /NODES-OWN|volumes/);
    };
    try {
      await a.call("start", curious);
      seesNothing(await asks(a.state()));
      const d = dirs("redis.migrate.11");
      const next = { ...curious, epoch: 2 };
      await b.call("prepare", next, d);
      await held(d);
      await cp(a.outside(d.images), b.outside(d.images), { recursive: true });
      await run("rsync", ["-aHAXS", "--numeric-ids", `${a.state("volumes")}/`, `${there}/volumes/`]);
      await b.call("restore", next, d);
      const status = await b.call<EngineStatus>("wait", "restore", d, "post-restore", 30_000);
      assert.ok(status.reached["post-restore"], JSON.stringify(await b.call("evidence", "restore", d)));
      await a.call("destroy", NAME, d);
      await b.call("release", next, d);
      const seen = await asks(there);
      seesNothing(seen);
      assert.match(seen, /^\/srv\/ferry$/m, "there, and empty: images of older versions have a mount on it");
      // It can be saved again from there.
      const again = dirs("redis.migrate.12");
      await b.restartDriver({ lazyDump: false, stateDir: "/srv/link" });
      await b.call("freeze", next, again);
      const saved = await b.call<EngineStatus>("wait", "freeze", again, "post-dump", 30_000);
      assert.ok(saved.reached["post-dump"], JSON.stringify(await b.call("evidence", "freeze", again)));
      await b.call("takeBack", next, again);
      seesNothing(await asks(there));
    } finally {
      await b.call("destroy", NEXT);
      await b.restartDriver();
      b.exec("umount", "/srv/ferry");
      b.exec("rm", "-rf", "/srv/ferry", "/srv/link");
    }
  });

  it("a restore that fails says why, runs nothing, and is swept", async () => {
    const d = dirs("redis.migrate.8");
    await a.restartDriver({ lazyDump: false });
    await b.restartDriver({ lazyRestore: false });
    await a.call("start", source);
    await b.call("prepare", destination, d);
    await held(d);
    await carry(d);
    await rm(b.outside(`${d.images}/core-1.img`));
    await b.call("restore", destination, d);
    const status = await b.call<EngineStatus>("wait", "restore", d, "post-restore", 30_000);
    assert.equal(status.alive, false);
    assert.ok((status.exitCode ?? 0) > 0);
    const evidence = await b.call<{ lines: string[]; exitCode: number }>("evidence", "restore", d);
    assert.match(evidence.lines.join("\n"), /No core-1.img image\n.*Error/);
    assert.equal((await b.call<Seen>("observe", NEXT)).processes, 0);
    await assert.rejects(b.call("release", destination, d), (e: FerryError) => e.code === "E_RESTORE");
    await b.call("destroy", NEXT, d);
    assert.deepEqual(b.leftovers(), []);
    await a.call("takeBack", source, d);
    assert.equal((await a.call<Seen>("observe", NAME)).frozen, false);
  });
});

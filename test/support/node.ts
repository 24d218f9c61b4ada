/**
 * Throw-away nodes for tests of the real thing: each has its own network, mount and PID namespaces and an overlay on the
 * node root file system; they and the test's clients share one bridge. Needs root and the root file system.
 */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join, relative } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { cacheDir } from "../../deploy/setup/cache.js";
import { rootfsPath } from "../../deploy/setup/rootfs.js";
import { run } from "../../src/host/exec.js";
import { packageRoot } from "../../src/host/package-root.js";
import type { FailureData } from "../../src/model/failure.js";
import { FerryError } from "../../src/model/failure.js";

const rootfs = (): string => process.env["FERRY_TEST_ROOTFS"] ?? rootfsPath(cacheDir());

/** Why real nodes can't be made here, for a visible skip; undefined: they can. */
export function nodesImpossible(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  if (!existsSync(join(rootfs(), "usr/sbin/criu"))) return "the node root file system is not there: npm run setup";
  return undefined;
}

/** A bridge with nodes on it: 10.79.0.1 is the clients' side, nodes are .11, .12, ... */
export class TestNet {
  readonly dir: string;
  readonly id: string;
  readonly nodes: TestNode[] = [];

  private constructor(dir: string, id: string) {
    this.dir = dir;
    this.id = id;
  }
  get netns(): string {
    return `${this.id}-sw`;
  }

  static async make(names: readonly string[]): Promise<TestNet> {
    const id = `frt${process.pid}`;
    const net = new TestNet(mkdtempSync("/var/tmp/ferry-test-"), id);
    await run("ip", ["netns", "add", net.netns]);
    await run("ip", ["-n", net.netns, "-batch", "-"], {
      input: "link set lo up\nlink add br0 type bridge\nlink set br0 up\naddr add 10.79.0.1/24 dev br0\n",
    });
    for (const name of names) net.nodes.push(await TestNode.make(net, name, 11 + net.nodes.length));
    return net;
  }

  node(name: string): TestNode {
    const node = this.nodes.find((n) => n.name === name);
    if (node === undefined) throw new Error(`no node ${name}`);
    return node;
  }

  /** A program on the clients' side. */
  client(command: readonly string[]): ChildProcess {
    return spawn("nsenter", [`--net=/run/netns/${this.netns}`, ...command], { stdio: ["pipe", "pipe", "inherit"] });
  }

  /** Its output, once it has ended. */
  async clientRun(command: readonly string[], input = ""): Promise<string> {
    return (await run("nsenter", [`--net=/run/netns/${this.netns}`, ...command], { input, timeoutMs: 60_000 })).stdout;
  }

  /** Ends everything and says what was left behind that should not have been. */
  async end(): Promise<string[]> {
    const left: string[] = [];
    for (const node of this.nodes) left.push(...(await node.end()));
    await run("ip", ["netns", "del", this.netns]);
    rmSync(this.dir, { recursive: true, force: true });
    for (const root of ["/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu"]) {
      for (const path of [...this.nodes.map((n) => join(root, this.id, n.name)), join(root, this.id)]) {
        if (!existsSync(path)) continue;
        if (readdirSync(path, { withFileTypes: true }).some((e) => e.isDirectory())) left.push(path);
        else rmdirSync(path);
      }
    }
    return left;
  }
}

export class TestNode {
  readonly name: string;
  private readonly net: TestNet;
  private readonly init: ChildProcess;
  /** Host pid of the node's pid 1. */
  private pid = 0;
  private driver: Driver | undefined;

  private constructor(net: TestNet, name: string, init: ChildProcess) {
    this.net = net;
    this.name = name;
    this.init = init;
  }

  get netns(): string {
    return `${this.net.id}-${this.name}`;
  }
  get dir(): string {
    return join(this.net.dir, this.name);
  }
  get cgroupParent(): string {
    return `${this.net.id}/${this.name}`;
  }
  /** A path under the node's /var/lib/ferry as the host sees it. */
  state(...parts: string[]): string {
    return join(this.dir, "state", ...parts);
  }

  static async make(net: TestNet, name: string, address: number): Promise<TestNode> {
    const dir = join(net.dir, name);
    for (const sub of ["upper", "work", "root", "state"]) mkdirSync(join(dir, sub), { recursive: true });
    const netns = `${net.id}-${name}`;
    await run("ip", ["netns", "add", netns]);
    await run("ip", [
      "link",
      "add",
      `up-${name}`,
      "netns",
      net.netns,
      "type",
      "veth",
      "peer",
      "name",
      "eth0",
      "netns",
      netns,
    ]);
    await run("ip", ["-n", net.netns, "link", "set", `up-${name}`, "master", "br0", "up"]);
    await run("ip", ["-n", netns, "-batch", "-"], {
      input: [
        "link set lo up",
        "link add br0 type bridge",
        "link set br0 up",
        "link set eth0 master br0 up",
        `addr add 10.79.0.${address}/24 dev br0`,
        "",
      ].join("\n"),
    });
    const root = packageRoot();
    const init = spawn(
      "nsenter",
      [
        `--net=/run/netns/${netns}`,
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--propagation=private",
        "/bin/sh",
        join(root, "test/support/node-init.sh"),
        dir,
        rootfs(),
        process.execPath,
        root,
      ],
      { stdio: ["ignore", "ignore", "inherit"] },
    );
    const node = new TestNode(net, name, init);
    for (let tries = 0; tries < 500; tries++) {
      await sleep(10);
      const child = readFileSync(`/proc/${init.pid}/task/${init.pid}/children`, "utf8").trim();
      // pivot_root is done when the node's own root has no old one any more
      if (child !== "" && existsSync(`/proc/${child}/root/opt/ferry/package.json`)) {
        if (!existsSync(`/proc/${child}/root/run/old`)) {
          node.pid = Number(child);
          break;
        }
      }
    }
    if (node.pid === 0) throw new Error(`node ${name} did not come up`);
    return node;
  }

  private enter(command: readonly string[]): [string, string[]] {
    return ["nsenter", ["-t", String(this.pid), "-m", "-n", "-p", "--root", "--wdns=/", ...command]];
  }

  /** A command on the node; its exit code and output. */
  exec(...command: string[]): { code: number | null; stdout: string } {
    const [file, args] = this.enter(command);
    const done = spawnSync(file, args, { encoding: "utf8", timeout: 30_000 });
    return { code: done.status, stdout: done.stdout + done.stderr };
  }

  /** A program on the node that goes on. */
  spawn(...command: string[]): ChildProcess {
    const [file, args] = this.enter(command);
    return spawn(file, args, { stdio: "ignore" });
  }

  /** A path of the node as the host reaches it. */
  outside(path: string): string {
    return `/proc/${this.pid}/root${path}`;
  }

  /** A file on the node, e.g. a program for a workload. */
  write(path: string, text: string): void {
    writeFileSync(`/proc/${this.pid}/root${path}`, text);
  }

  /** Calls a method of the runtime inside the node; see runtime-driver.ts. Throws the node's FerryError. */
  async call<T = unknown>(method: string, ...args: unknown[]): Promise<T> {
    this.driver ??= this.startDriver({});
    return (await this.driver.call(method, args)) as T;
  }

  /** As an agent that is killed and started again (with another configuration, if given). */
  async restartDriver(config: Record<string, unknown> = {}): Promise<void> {
    await this.driver?.kill();
    this.driver = this.startDriver(config);
  }

  private startDriver(config: Record<string, unknown>): Driver {
    const here = relative(packageRoot(), import.meta.dirname);
    const [file, args] = this.enter([
      "/opt/node/node",
      join("/opt/ferry", here, "runtime-driver.js"),
      JSON.stringify({
        stateDir: "/var/lib/ferry",
        runDir: "/run/ferry",
        cgroupParent: this.cgroupParent,
        bridge: "br0",
        ...config,
      }),
    ]);
    return new Driver(spawn(file, args, { stdio: ["pipe", "pipe", "inherit"] }));
  }

  /** What of workloads is left on the node: processes, namespaces, mounts, links, nft tables. */
  leftovers(): string[] {
    const left: string[] = [];
    const lines = (text: string): string[] => text.split("\n").filter(Boolean);
    const own = new Set(["sh", "sleep", "ps", "node"]);
    for (const line of lines(this.exec("ps", "-eo", "comm=,args=").stdout)) {
      if (!own.has(line.split(/\s+/)[0] ?? "") || line.includes("announcer")) left.push(`process ${line}`);
    }
    left.push(...lines(this.exec("ls", "/run/netns").stdout).filter((l) => l.startsWith("ferry-")));
    left.push(...lines(this.exec("ip", "-o", "link").stdout).filter((l) => / fv[0-9a-f]/.test(l)));
    const mounts = lines(this.exec("cat", "/proc/mounts").stdout);
    left.push(...mounts.filter((l) => l.includes("/run/ferry/") || l.includes("overlay-work")));
    for (const root of ["unified", "memory", "cpu"]) {
      const listed = this.exec("find", join("/sys/fs/cgroup", root, this.cgroupParent), "-mindepth", "1", "-type", "d");
      if (listed.code === 0) left.push(...lines(listed.stdout));
    }
    left.push(...lines(this.exec("ls", "/run/ferry/incarnations").stdout).filter((l) => !l.includes("No such file")));
    return left;
  }

  async end(): Promise<string[]> {
    const left = this.leftovers();
    await this.driver?.kill();
    const kill = join("/sys/fs/cgroup/unified", this.cgroupParent, "cgroup.kill");
    if (existsSync(kill)) writeFileSync(kill, "1");
    const ended = new Promise((resolve) => this.init.once("exit", resolve));
    process.kill(this.pid, "SIGKILL");
    await ended;
    await sleep(50);
    await run("ip", ["netns", "del", this.netns]);
    return left;
  }
}

/** JSON lines to a process inside the node. */
class Driver {
  private readonly child: ChildProcess;
  private readonly waiting = new Map<number, { resolve: (v: unknown) => void; reject: (e: unknown) => void }>();
  private next = 1;

  constructor(child: ChildProcess) {
    this.child = child;
    createInterface({ input: child.stdout! }).on("line", (line) => {
      const answer = JSON.parse(line) as { id: number; result?: unknown; failure?: FailureData };
      const waiter = this.waiting.get(answer.id);
      this.waiting.delete(answer.id);
      if (answer.failure === undefined) waiter?.resolve(answer.result);
      else waiter?.reject(new FerryError(answer.failure));
    });
    child.on("exit", () => {
      for (const waiter of this.waiting.values()) waiter.reject(new Error("the driver was killed"));
    });
    child.stdin!.on("error", () => undefined);
  }

  call(method: string, args: unknown[]): Promise<unknown> {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.child.stdin!.write(`${JSON.stringify({ id, method, args })}\n`);
    });
  }

  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    // nsenter waits for its child: the child itself must go
    const below = readFileSync(`/proc/${this.child.pid}/task/${this.child.pid}/children`, "utf8").trim();
    for (const pid of below === "" ? [] : below.split(" ")) process.kill(Number(pid), "SIGKILL");
    this.child.kill("SIGKILL");
    await ended;
  }
}

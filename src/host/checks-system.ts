/** Doctor's checks of the machine itself: system, rights, processor, memory, disk, namespaces, cgroups. */
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rmdir } from "node:fs/promises";
import { arch, cpus, machine, release } from "node:os";
import { dirname } from "node:path";
import { fail, ok, warn, type Finding, type Probe } from "./check.js";
import { run } from "./exec.js";
import { cpuFlags, freeBytes, memoryBytes } from "./facts.js";
import { parseMountinfo } from "./procfs.js";
import { toFailure } from "../model/failure.js";

const GIB = 2 ** 30;
const gib = (bytes: number): string => `${(bytes / GIB).toFixed(1)} GiB`;
const textOf = (path: string): Promise<string> => readFile(path, "utf8");

/** Capabilities that criu, the namespaces and the page daemon need, by their number in linux/capability.h. */
const CAPABILITIES: Record<string, number> = {
  CAP_CHOWN: 0,
  CAP_DAC_OVERRIDE: 1,
  CAP_KILL: 5,
  CAP_SETGID: 6,
  CAP_SETUID: 7,
  CAP_NET_ADMIN: 12,
  CAP_NET_RAW: 13,
  CAP_SYS_PTRACE: 19,
  CAP_SYS_ADMIN: 21,
  CAP_SYS_RESOURCE: 24,
  CAP_MKNOD: 27,
};
/** Ferry works without it; only raising limits needs it. */
const OPTIONAL_CAPABILITIES = new Set(["CAP_SYS_RESOURCE"]);

async function system(): Promise<Finding> {
  if (process.platform !== "linux") {
    return fail(process.platform, "Ferry moves Linux workloads", "use a Linux machine or virtual machine");
  }
  const name = /^PRETTY_NAME="?([^"\n]*)/m.exec(await textOf("/etc/os-release").catch(() => ""))?.[1] ?? "Linux";
  const value = `${name}, kernel ${release()}, ${machine()}`;
  const [major = 0, minor = 0] = release()
    .split(".")
    .map((part) => Number.parseInt(part, 10));
  if (arch() !== "x64" && arch() !== "arm64") {
    return fail(value, `Ferry has not been tried on ${arch()}`, "use an x86-64 or arm64 machine");
  }
  if (major < 5 || (major === 5 && minor < 14)) {
    return fail(value, "cgroup.kill came with Linux 5.14", "use a newer kernel");
  }
  if (arch() === "arm64")
    return warn(value, "arm64 has been tried less than x86-64", "try a move that does not matter first");
  return ok(value);
}

const OLDEST_NODE = [20, 19] as const;

function nodejs(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const old = major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1]);
  const value = process.versions.node;
  return old ? fail(value, "Ferry needs Node.js 20.19 or newer", "install a newer Node.js") : ok(value);
}

async function rights(): Promise<Finding> {
  const uid = process.getuid?.() ?? -1;
  if (uid !== 0) {
    return fail(`uid ${uid}`, "namespaces, mounts, cgroups and criu need root", "run the same command as root (sudo)");
  }
  const effective = /^CapEff:\s*([0-9a-f]+)/m.exec(await textOf("/proc/self/status"))?.[1] ?? "0";
  const bits = BigInt(`0x${effective}`);
  const missing = Object.entries(CAPABILITIES).flatMap(([name, bit]) => ((bits >> BigInt(bit)) & 1n ? [] : [name]));
  const needed = missing.filter((name) => !OPTIONAL_CAPABILITIES.has(name));
  if (needed.length > 0) {
    return fail(
      `root without ${needed.join(", ")}`,
      "this looks like a container with fewer rights",
      "run it on the machine itself, or in a privileged container",
    );
  }
  return ok("root", missing.length > 0 ? `without ${missing.join(", ")}, which Ferry does not need` : "");
}

async function processor(): Promise<Finding> {
  const flags = await cpuFlags();
  const notable = ["avx", "avx2", "avx512f", "amx_tile", "pku", "cet_ss", "user_shstk"].filter((f) =>
    flags.includes(f),
  );
  const list = cpus();
  return ok(
    `${list.length} x ${list[0]?.model.trim() ?? arch()}${notable.length > 0 ? ` (${notable.join(" ")})` : ""}`,
  );
}

async function memory(): Promise<Finding> {
  const { total, available } = await memoryBytes();
  const value = `${gib(available)} free of ${gib(total)}`;
  return available < GIB
    ? warn(value, "a migration keeps the moved memory twice for a while", "free some memory")
    : ok(value);
}

async function disk(options: { directory?: string }): Promise<Finding> {
  let directory = options.directory ?? "/var/lib";
  while (!existsSync(directory)) directory = dirname(directory);
  const free = await freeBytes(directory);
  const value = `${gib(free)} free on ${directory}`;
  const remedy = "free some space, or put Ferry's files on another disk (--state, FERRY_CACHE)";
  if (free < 0.5 * GIB) return fail(value, "less than 0.5 GiB", remedy);
  return free < 2 * GIB ? warn(value, "less than 2 GiB", remedy) : ok(value);
}

/** The tools of util-linux make the namespace in a child, so that nothing of this process changes. */
async function inNamespaces(flags: readonly string[], command: readonly string[]): Promise<string | undefined> {
  try {
    await run("unshare", [...flags, "--", ...command], { timeoutMs: 10_000 });
    return undefined;
  } catch (error) {
    const { message, evidence } = toFailure(error);
    return evidence?.lines?.at(-1) ?? message;
  }
}

async function namespaces(): Promise<Finding> {
  const problem = await inNamespaces(["--net", "--pid", "--mount", "--uts", "--ipc", "--fork"], ["true"]);
  return problem === undefined
    ? ok("network, PID, mount, UTS, IPC")
    : fail(
        "can't be made",
        problem,
        "run as root on the machine itself or in a privileged container; look at /proc/sys/user/max_net_namespaces",
      );
}

async function bridge(): Promise<Finding> {
  const script = ["ip", "-batch", "-"];
  try {
    await run("unshare", ["--net", "--", ...script], {
      input: "link add br0 type bridge\nlink add v0 type veth peer name v1\nlink set v0 master br0\n",
      timeoutMs: 10_000,
    });
    return ok("bridge and veth");
  } catch (error) {
    const { message, evidence } = toFailure(error);
    return fail(
      "can't be made",
      evidence?.lines?.[0] ?? message,
      "install iproute2; load the kernel modules bridge and veth (modprobe bridge veth)",
    );
  }
}

async function overlay(): Promise<Finding> {
  const problem = await inNamespaces(
    ["--mount", "--propagation", "private"],
    ["mount", "-t", "overlay", "overlay", "-o", "lowerdir=/usr:/etc", "/mnt"],
  );
  return problem === undefined
    ? ok("works")
    : fail("can't be mounted", problem, "load the module (modprobe overlay), or run where mounting is allowed");
}

/** Where the cgroup v2 tree is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified on a hybrid machine. */
export async function cgroup2Root(): Promise<string | undefined> {
  return parseMountinfo(await textOf("/proc/self/mountinfo")).find((mount) => mount.fsType === "cgroup2")?.point;
}

async function cgroup2(): Promise<Finding> {
  const remedy =
    "mount a cgroup v2 tree: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified";
  const root = await cgroup2Root();
  if (root === undefined) return fail("no tree is mounted", "freezing and killing a workload whole needs it", remedy);
  // Not the pid alone: several may look at once, two labs in one process too.
  const probe = `${root}/ferry-doctor-${process.pid}-${randomBytes(4).toString("hex")}`;
  try {
    await mkdir(probe);
  } catch (error) {
    return fail(`${root} can't be written`, toFailure(error).message, "run as root where cgroups are writable");
  }
  try {
    const missing = ["cgroup.freeze", "cgroup.kill", "cgroup.events"].filter((file) => !existsSync(`${probe}/${file}`));
    return missing.length === 0
      ? ok(`${root}: freeze, kill`)
      : fail(`${root} without ${missing.join(", ")}`, "the kernel is too old", "use Linux 5.14 or newer");
  } finally {
    await rmdir(probe);
  }
}

async function controllers(): Promise<Finding> {
  const root = await cgroup2Root();
  const v2 = root === undefined ? [] : (await textOf(`${root}/cgroup.controllers`).catch(() => "")).trim().split(" ");
  const mounts = parseMountinfo(await textOf("/proc/self/mountinfo")).filter((mount) => mount.fsType === "cgroup");
  const where = (name: string): string | undefined =>
    v2.includes(name) ? "v2" : mounts.some((m) => m.superOptions.split(",").includes(name)) ? "v1" : undefined;
  const found = ["memory", "cpu"].map((name) => [name, where(name)] as const);
  const missing = found.filter(([, version]) => version === undefined).map(([name]) => name);
  const value = found.map(([name, version]) => `${name} ${version ?? "missing"}`).join(", ");
  return missing.length === 0
    ? ok(value)
    : warn(value, "limits of workloads can't be set", "enable the controllers on the kernel's command line");
}

export const SYSTEM_CHECKS = {
  system,
  "Node.js": nodejs,
  rights,
  processor,
  memory,
  disk,
  namespaces,
  bridge,
  overlay,
  "cgroup v2": cgroup2,
  "cgroup controllers": controllers,
} satisfies Record<string, Probe>;

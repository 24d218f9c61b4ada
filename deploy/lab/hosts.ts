/**
 * The hosts of a lab (switch, client, nodes): unnamed namespaces, each held by its own pid 1, and the wires between
 * them. Nothing is named or mounted in the machine's own namespaces.
 */
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { createWriteStream, existsSync } from "node:fs";
import {
  chmod,
  copyFile,
  link,
  mkdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  symlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import { run } from "../../src/host/exec.js";
import { packageRoot } from "../../src/host/package-root.js";
import { createAuthority, issueNodeCertificate } from "../../src/host/pki.js";
import { ferryError } from "../../src/model/failure.js";
import { cgroupPath } from "./cgroups.js";
import { checkpointPlaces, makeCheckpointKeys } from "./checkpoints.js";
import {
  hostDir,
  isAlive,
  logDir,
  programsDir,
  runDir,
  startTicks,
  until,
  type LabHost,
  type LabState,
} from "./state.js";

/** The worker's user and group on the nodes. */
export const WORKER_UID = 60971;
/** Where Node.js is on a node; also first in the PATH of `lab exec`. */
export const NODE_PATH = "/opt/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MAC_PREFIX = "02:fe:7e:00:00";

export const labScript = (name: string): string => join(packageRoot(), "deploy", "lab", name);
const hex = (octet: number): string => octet.toString(16).padStart(2, "0");

export function findHost(lab: LabState, name: string): LabHost {
  const host = lab.hosts.find((candidate) => candidate.name === name);
  if (host !== undefined) return host;
  throw ferryError("E_NODE_UNKNOWN", `the lab has no host ${JSON.stringify(name)}`, {
    remedy: `use one of: ${lab.hosts.map((candidate) => candidate.name).join(", ")}`,
  });
}

/** Arguments that run a program on a host: in its namespaces and in a cgroup of the lab. */
export function enterArgs(lab: LabState, host: LabHost, service: string): [string, string[]] {
  if (host.init === undefined) {
    throw ferryError("E_STATE", `${host.name} is not running`, { remedy: "start it again: ferry lab up" });
  }
  const cgroup = cgroupPath(lab, `${host.name}.services`, service);
  const enter = ["nsenter", "--target", String(host.init.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--"];
  return ["sh", [labScript("in-cgroup.sh"), cgroup, ...enter]];
}

/** Starts the host's pid 1 if it is not there, and records it in `host`. The wires come later (`wire`). */
export async function startHost(lab: LabState, host: LabHost): Promise<boolean> {
  if (await isAlive(host.init)) return false;
  delete host.init;
  const ready = join(runDir(lab), `${host.name}.init`);
  await rm(ready, { force: true });
  const log = join(logDir(lab), `${host.name}.init.log`);
  const unshare = [
    "unshare",
    "--mount",
    "--uts",
    "--ipc",
    "--net",
    "--pid",
    "--fork",
    "--propagation",
    "private",
    "--",
    "sh",
  ];
  const [script, env] =
    host.kind === "switch"
      ? [[labScript("switch-init.sh"), ready, labScript("reap.sh")], {}]
      : [[labScript("node-init.sh")], await prepareHostDir(lab, host, ready)];
  const output = createWriteStream(log, { flags: "a", mode: 0o600 });
  await new Promise((resolve, reject) => output.once("open", resolve).once("error", reject));
  const child = spawn(
    "sh",
    [labScript("in-cgroup.sh"), cgroupPath(lab, `${host.name}.services`, "init"), ...unshare, ...script],
    {
      detached: true,
      stdio: ["ignore", output, output],
      env: { PATH: NODE_PATH, LC_ALL: "C.UTF-8", ...env },
      cwd: "/",
    },
  );
  let ended: string | undefined;
  child.once("error", (error) => (ended = error.message));
  child.once("exit", (code, signal) => (ended = `ended with ${code === null ? signal : `exit code ${code}`}`));
  child.unref();
  output.close();
  const pid = await until(
    async () => {
      if (ended !== undefined) return -1;
      const text = await readFile(ready, "utf8").catch(() => "");
      return text.endsWith("\n") ? Number(text) : undefined;
    },
    20_000,
    5,
  );
  const ticks = pid === undefined || pid < 0 ? undefined : await startTicks(pid);
  if (pid === undefined || ticks === undefined) {
    const lines = (await readFile(log, "utf8").catch(() => "")).trim().split("\n").slice(-6);
    throw ferryError("E_START", `${host.name} did not come up: ${ended ?? "no answer in 20 s"}`, {
      node: host.name,
      evidence: { command: [...unshare, ...script], lines },
      remedy: "ferry doctor says what this machine lacks",
    });
  }
  host.init = { pid, ticks };
  host.netns = /\[(\d+)\]/.exec(await readlink(`/proc/${pid}/ns/net`))?.[1] ?? "";
  return true;
}

/** A node's files before its root is mounted: what lies in the overlay's upper layer, and its own disk. */
async function prepareHostDir(lab: LabState, host: LabHost, ready: string): Promise<Record<string, string>> {
  const dir = hostDir(lab, host.name);
  const upper = join(dir, "upper");
  const folders = ["upper", "work", "root", "ram", "lib", "upper/etc/ferry", "upper/usr/local/bin"];
  for (const folder of folders) await mkdir(join(dir, folder), { recursive: true });
  const names = lab.hosts.map(({ name, ip }) => `${ip} ${name === "switch" ? "temporal" : name}`);
  await writeFile(join(upper, "etc/hostname"), `${host.name}\n`);
  await writeFile(join(upper, "etc/hosts"), ["127.0.0.1 localhost", "::1 localhost", ...names, ""].join("\n"));
  await writeFile(join(upper, "etc/resolv.conf"), "# the lab has no name server\n");
  await writeFile(join(dir, "boot_id"), `${randomUUID()}\n`);
  await rm(join(upper, "usr/local/bin/node"), { force: true });
  await symlink("/opt/node/bin/node", join(upper, "usr/local/bin/node"));
  const common = {
    NAME: host.name,
    HOST_DIR: dir,
    LOWER: lab.rootfs,
    READY: ready,
    PACKAGE: packageRoot(),
    PROGRAMS: programsDir(lab),
  };
  if (host.kind !== "node") return common;
  const authorityDir = join(lab.directory, "authority");
  const shared = join(lab.directory, "shared");
  await mkdir(shared, { recursive: true });
  // As on storage that anybody may use.
  await chmod(shared, 0o1777);
  await writeFile(
    join(upper, "etc/ferry/policy.json"),
    `${JSON.stringify({ sharedVolumes: { shared: "/srv/shared" } })}\n`,
  );
  await issueNodeCertificate({ authorityDir, node: host.name, outDir: join(upper, "etc/ferry") });
  await makeCheckpointKeys(lab, host.name, join(upper, "etc/ferry"));
  const { directory: checkpoints } = checkpointPlaces(lab);
  return {
    ...common,
    LIB: join(dir, "lib"),
    SHARED: shared,
    CHECKPOINTS: checkpoints,
    LOGS: logDir(lab),
    WORKER_GID: String(WORKER_UID),
  };
}

/**
 * The layer between a node's own files and the root file system: this machine's Node.js, the same for agents and for
 * workloads (a bind mount would not be seen by workloads, whose roots are made of the layers).
 */
export async function makePrograms(lab: LabState): Promise<void> {
  const node = join(programsDir(lab), "opt/node/bin/node");
  if (existsSync(node)) return;
  await mkdir(dirname(node), { recursive: true, mode: 0o755 });
  const fresh = `${node}.new`;
  await rm(fresh, { force: true });
  const binary = await realpath(process.execPath);
  // Usually on the same file system: a link costs nothing.
  await link(binary, fresh).catch(() => copyFile(binary, fresh));
  await rename(fresh, node);
}

export const makeAuthority = async (lab: LabState): Promise<void> => {
  await createAuthority(join(lab.directory, "authority"));
};

const BRIDGE = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
const portOf = (host: LabHost): string => `port${host.octet}`;

/** `ip -batch` in a host's network namespace. */
async function ip(host: LabHost, lines: readonly string[]): Promise<void> {
  if (host.init === undefined) throw ferryError("E_STATE", `${host.name} is not running`);
  await run("nsenter", ["--target", String(host.init.pid), "--net", "--", "ip", "-batch", "-"], {
    input: `${lines.join("\n")}\n`,
    doing: `setting up the network of ${host.name}`,
  });
}

/** The switch's bridge, with the address that Temporal answers on. */
export const wireSwitch = (lab: LabState): Promise<void> =>
  ip(findHost(lab, "switch"), [
    "link set lo up",
    `link add br0 address ${MAC_PREFIX}:01 ${BRIDGE}`,
    `addr add ${lab.prefix}.1/24 dev br0`,
    "link set br0 up",
  ]);

/** One host's wire to the switch; nodes get a bridge of their own for their workloads. */
export async function wireHost(lab: LabState, host: LabHost): Promise<void> {
  const hub = findHost(lab, "switch");
  await ip(hub, [
    `link add ${portOf(host)} type veth peer name eth0 netns ${host.init?.pid ?? 0}`,
    `link set ${portOf(host)} master br0 up`,
  ]);
  const address = `addr add ${host.ip}/24 dev`;
  const mac = `${MAC_PREFIX}:${hex(host.octet)}`;
  await ip(
    host,
    host.kind === "client"
      ? ["link set lo up", `link set eth0 address ${mac} up`, `${address} eth0`]
      : [
          "link set lo up",
          `link add br0 address ${mac} ${BRIDGE}`,
          "link set eth0 master br0 up",
          `${address} br0`,
          "link set br0 up",
        ],
  );
}

/** Cuts a host off the others, or plugs it in again: its port on the switch. Up waits for the carrier. */
export async function setPort(lab: LabState, host: LabHost, state: "up" | "down"): Promise<void> {
  const hub = findHost(lab, "switch");
  await ip(hub, [`link set ${portOf(host)} ${state}`]);
  if (state === "down") return;
  const args = ["--target", String(hub.init?.pid ?? 0), "--net", "--", "ip", "-oneline", "link", "show", portOf(host)];
  // The kernel may take a second to tell the bridge that there is a carrier.
  await until(async () => ((await run("nsenter", args)).stdout.includes("state UP") ? true : undefined), 5000);
}

/** Waits until the last one of that host's network namespace took its port along. */
export async function awaitPortGone(lab: LabState, host: LabHost): Promise<void> {
  const hub = findHost(lab, "switch");
  const gone = await until(async () => {
    const { exitCode } = await run(
      "nsenter",
      ["--target", String(hub.init?.pid ?? 0), "--net", "--", "ip", "link", "show", portOf(host)],
      { allow: [1] },
    );
    return exitCode === 1 ? true : undefined;
  }, 5000);
  // Namespaces end a moment after their processes; a port that stays is removed by hand.
  if (gone === undefined) await ip(hub, [`link del ${portOf(host)}`]);
}

/**
 * Preflight on the destination: can this node take the workload as the source describes it? All reasons at once.
 *
 * The source's facts are input, not authority: paths are only stat'ed, and refused when they are not absolute and plain.
 */
import { stat, statfs } from "node:fs/promises";
import { elfBuildId } from "../../host/elf.js";
import { cpuFlags } from "../../host/facts.js";
import { parseMountinfo, readProc, shown } from "../../host/procfs.js";
import { userfaultfdProblem } from "../../host/userfaultfd-probe.js";
import { addressProblem } from "../../model/address.js";
import type { OperationRef, SourceFacts } from "../../model/contract.js";
import { toFailure } from "../../model/failure.js";
import type { NodeFacts } from "../../model/node.js";
import type { Hold } from "../../model/ownership.js";
import type { AskedOptions, Finding } from "../../model/plan.js";
import { compareFlags } from "./cpu.js";
import { checkEngine, compareVersions } from "./engine.js";
import { checkEpoch } from "./epoch.js";
import { finder, listText, MIB, sizeText } from "./findings.js";
import { checkAddress, checkBridge, readLinks } from "./network.js";
import { checkTools } from "./tools.js";
import { userIds } from "./users.js";

const { block, warn } = finder("destination");

export interface DestinationContext {
  /** This node's facts. */
  node: NodeFacts;
  facts: SourceFacts;
  ref: OperationRef;
  options: AskedOptions;
  stateDir: string;
  runDir: string;
  bridge: string;
  /** Every hold of this workload in this node's journal. */
  holds: readonly Hold[];
}

async function guarded(check: string, findings: Promise<Finding[]>): Promise<Finding[]> {
  try {
    return await findings;
  } catch (error) {
    return [
      block(
        check,
        `could not be checked: ${toFailure(error).message}`,
        "try again; if it stays so, look at the agent's log",
      ),
    ];
  }
}

/** Wall clocks may differ by what the facts needed to travel here, and this much more. */
const CLOCK_BEHIND_MS = 500;
const CLOCK_AHEAD_MS = 10_000;

export function checkClock(sourceMs: number | undefined, nowMs: number): Finding[] {
  if (sourceMs === undefined || !Number.isFinite(sourceMs)) return [];
  const ahead = nowMs - sourceMs;
  if (ahead >= -CLOCK_BEHIND_MS && ahead <= CLOCK_AHEAD_MS) return [];
  const size =
    Math.abs(ahead) < 120_000
      ? `${Math.abs(ahead / 1000).toFixed(1)} s`
      : `${Math.round(Math.abs(ahead) / 60_000)} min`;
  return [
    warn(
      "clock",
      `the clock here is about ${size} ${ahead < 0 ? "behind" : "ahead of"} the source's: the workload sees the time jump, leases and certificates may expire, reported times are off`,
      "synchronise both nodes' clocks (NTP)",
    ),
  ];
}

/** Identity, versions, CPU: pure comparisons. */
export function checkCompatible(
  own: NodeFacts,
  facts: SourceFacts,
  ref: OperationRef,
  ownFlags: readonly string[],
): Finding[] {
  const findings: Finding[] = [];
  const source = facts.node;
  if (ref.source === ref.destination || source.node === own.node) {
    findings.push(block("destination", `source and destination are the same node, ${own.node}`, "choose another node"));
  } else if (own.node !== ref.destination || source.node !== ref.source) {
    findings.push(
      block(
        "destination",
        `the migration says ${ref.source} -> ${ref.destination}, but this is ${own.node} with facts of ${source.node}`,
        "check that each worker polls the queue of its own node",
      ),
    );
  }
  if (own.arch !== source.arch) {
    findings.push(
      block(
        "architecture",
        `${source.node} is ${source.arch}, ${own.node} is ${own.arch}`,
        "choose a node of the same architecture",
      ),
    );
  }
  if (own.criuVersion !== "" && source.criuVersion !== "" && compareVersions(own.criuVersion, source.criuVersion) < 0) {
    findings.push(
      block(
        "criu version",
        `criu ${own.criuVersion} on ${own.node} is older than ${source.criuVersion} on ${source.node}: images are read by the same or a newer version only`,
        `upgrade criu on ${own.node} to ${source.criuVersion} or later`,
      ),
    );
  }
  if (compareVersions(own.kernel, source.kernel) < 0) {
    findings.push(
      warn(
        "kernel",
        `kernel ${own.kernel} on ${own.node} is older than ${source.kernel} on ${source.node}: programs that found newer system calls may miss them`,
        "run the same kernel, or a newer one, on the destination",
      ),
    );
  }
  const { missing, harmless } = compareFlags(facts.cpuFlags, ownFlags);
  if (own.arch === source.arch && missing.length > 0) {
    findings.push(
      block(
        "cpu",
        `the CPU of ${own.node} lacks ${listText(missing, 12)}, which ${source.node} has: programs that use them would die of SIGILL`,
        "choose a node with the same or a newer CPU, or start the workload on the lesser one first",
      ),
    );
  }
  if (own.arch === source.arch && harmless.length > 0) {
    findings.push(
      finder("destination").info("cpu", `flags that only kernels use are missing here: ${listText(harmless)}`),
    );
  }
  return [...findings, ...checkLimits(own, facts)];
}

function checkLimits(own: NodeFacts, facts: SourceFacts): Finding[] {
  const findings: Finding[] = [];
  const { memoryBytes, cpus } = facts.spec.limits;
  if (memoryBytes !== undefined && memoryBytes > own.memoryTotalBytes) {
    findings.push(
      block(
        "memory limit",
        `the workload may use ${sizeText(memoryBytes)}, ${own.node} has ${sizeText(own.memoryTotalBytes)} in all`,
        "choose a larger node, or run the workload with a lower limit",
      ),
    );
  }
  if (cpus !== undefined && cpus > own.cpus) {
    findings.push(
      warn(
        "cpu limit",
        `the workload may use ${cpus} cores, ${own.node} has ${own.cpus}`,
        "expect it to be slower here",
      ),
    );
  }
  return findings;
}

/** Room to breathe beside what is needed: a twentieth, at least 64 MiB. */
const withMargin = (bytes: number): number => bytes + Math.max(64 * MIB, bytes / 20);

export interface Room {
  memoryAvailableBytes: number;
  diskAvailableBytes: number;
  /** Free space of the run directory, where images and pages wait until they are in place. */
  runAvailableBytes: number;
  /** Is the run directory in memory (tmpfs)? */
  runInMemory: boolean;
}

export function checkRoom(room: Room, facts: SourceFacts, node: string): Finding[] {
  const findings: Finding[] = [];
  const memory = withMargin(facts.memoryBytes);
  if (room.memoryAvailableBytes < memory) {
    findings.push(
      block(
        "memory",
        `the workload uses ${sizeText(facts.memoryBytes)}, ${node} has ${sizeText(room.memoryAvailableBytes)} available (needed with a margin: ${sizeText(memory)})`,
        "free memory there, or choose another node",
      ),
    );
  } else if (room.runInMemory && room.memoryAvailableBytes < memory + facts.memoryBytes) {
    findings.push(
      warn(
        "memory",
        `until all pages are in place they wait in memory as well: ${sizeText(memory + facts.memoryBytes)} would be comfortable, ${node} has ${sizeText(room.memoryAvailableBytes)}`,
        "free memory there, or expect it to swap",
      ),
    );
  }
  if (room.runAvailableBytes < memory) {
    findings.push(
      block(
        "space for pages",
        `images and pages need ${sizeText(memory)} in the run directory of ${node}, which has ${sizeText(room.runAvailableBytes)} free`,
        "enlarge that tmpfs (mount -o remount,size=...), or remove what older operations left",
      ),
    );
  }
  const disk = withMargin(facts.volumeBytes);
  if (room.diskAvailableBytes < disk) {
    findings.push(
      block(
        "disk",
        `${facts.volumeAtMost === true ? `the volume is so large that it could not be counted in time; its file system on ${facts.node.node} has ${sizeText(facts.volumeBytes)} in use` : `the volume has ${sizeText(facts.volumeBytes)}`}, the state directory's disk on ${node} has ${sizeText(room.diskAvailableBytes)} free (needed with a margin: ${sizeText(disk)})`,
        facts.volumeAtMost === true
          ? "free space on that disk until it fits for certain, or choose another node"
          : "free space on that disk, or choose another node",
      ),
    );
  }
  return findings;
}

const TMPFS_MAGIC = 0x01021994;

export async function readRoom(ctx: Pick<DestinationContext, "node" | "stateDir" | "runDir">): Promise<Room> {
  const [state, runSpace] = await Promise.all([statfs(ctx.stateDir), statfs(ctx.runDir)]);
  return {
    memoryAvailableBytes: ctx.node.memoryAvailableBytes,
    diskAvailableBytes: state.bavail * state.bsize,
    runAvailableBytes: runSpace.bavail * runSpace.bsize,
    runInMemory: runSpace.type === TMPFS_MAGIC,
  };
}

const FILE_TYPE = 0o170000;
const plainPath = (path: string): boolean =>
  path.startsWith("/") && !path.includes("\0") && !path.split("/").includes("..") && path.length < 4096;

/** Why one file differs, or undefined when it is the same. */
async function fileProblem(file: SourceFacts["files"][number]): Promise<string | undefined> {
  const path = shown(file.path);
  if (!plainPath(file.path)) return `${path} is not a plain absolute path`;
  const stats = await stat(file.path).catch(() => undefined);
  if (stats === undefined) return `${path} is missing`;
  if ((stats.mode & FILE_TYPE) !== (file.mode & FILE_TYPE)) return `${path} is another kind of file`;
  if (stats.mode !== file.mode) {
    return `${path} has mode ${(stats.mode & 0o7777).toString(8)} instead of ${(file.mode & 0o7777).toString(8)}`;
  }
  if (!stats.isFile()) return undefined;
  if (stats.size !== file.sizeBytes) return `${path} has ${stats.size} bytes instead of ${file.sizeBytes}`;
  if (file.buildId !== undefined && (await elfBuildId(file.path)) !== file.buildId) return `${path} is another build`;
  return undefined;
}

export async function checkFiles(facts: SourceFacts): Promise<Finding[]> {
  const problems = (await Promise.all(facts.files.map(fileProblem))).filter((problem) => problem !== undefined);
  if (problems.length === 0) return [];
  return [
    block(
      "files",
      `${problems.length} of ${facts.files.length} files that the workload uses differ here: ${listText(problems, 8)}`,
      "install the same versions of the same packages on both nodes",
    ),
  ];
}

async function checkUser(facts: SourceFacts, node: string): Promise<Finding[]> {
  const { user } = facts.spec;
  const here = await userIds(user);
  if (here === undefined) {
    return [
      block(
        "user",
        `user ${user} does not exist on ${node}`,
        `add it there, with the same numbers as on ${facts.node.node}`,
      ),
    ];
  }
  const there = facts.userIds;
  if (there !== undefined && (there.uid !== here.uid || there.gid !== here.gid)) {
    return [
      block(
        "user",
        `user ${user} is ${here.uid}:${here.gid} on ${node} and ${there.uid}:${there.gid} on ${facts.node.node}; processes and files keep their numbers`,
        "give the user the same numbers on both nodes",
      ),
    ];
  }
  return [];
}

async function checkKernelFeatures(node: string): Promise<Finding[]> {
  const findings: Finding[] = [];
  const problem = userfaultfdProblem();
  if (problem !== undefined) {
    findings.push(
      block(
        "userfaultfd",
        `memory can't be restored page by page on ${node}: ${problem}`,
        "run the agent as root with CAP_SYS_PTRACE, on a kernel with CONFIG_USERFAULTFD",
      ),
    );
  }
  const mounts = parseMountinfo((await readProc("self", "mountinfo")) ?? "");
  if (!mounts.some((mount) => mount.fsType === "cgroup2")) {
    findings.push(
      block(
        "cgroups",
        `${node} has no cgroup v2 tree mounted, which holds and kills workloads`,
        "mount -t cgroup2 none /sys/fs/cgroup/unified",
      ),
    );
  }
  return findings;
}

/** Never throws for a finding. About one second: as long as the question who has the address takes. */
export async function preflightDestination(ctx: DestinationContext): Promise<Finding[]> {
  const { node, facts, ref, bridge } = ctx;
  const { ip, mac } = facts.spec.network;
  const now = Date.now();
  const [engine, bridgeFindings, address, files, user, tools, room, features, flags] = await Promise.all([
    guarded("criu", checkEngine("destination", node.node, node.criuVersion)),
    guarded(
      "bridge",
      readLinks().then((links) => checkBridge(links, bridge, node.node, ip)),
    ),
    guarded("ip address", checkAddress(bridge, node.node, ip, mac)),
    guarded("files", checkFiles(facts)),
    guarded("user", checkUser(facts, node.node)),
    guarded("tools", checkTools("destination", node.node)),
    guarded(
      "space",
      readRoom(ctx).then((found) => checkRoom(found, facts, node.node)),
    ),
    guarded("kernel features", checkKernelFeatures(node.node)),
    cpuFlags().catch(() => []),
  ]);
  // The bridge's own finding, or that of the tools, says more than the failure of an arping that can't work.
  const noBridge = bridgeFindings.some((finding) => finding.level === "block" && finding.check === "bridge");
  const holder = addressProblem(facts.spec, node.node, node.workloads);
  const noArping = tools.some((finding) => finding.message.includes("arping"));
  return [
    ...checkCompatible(node, facts, ref, flags),
    ...checkEpoch(ref, ctx.holds, node.node),
    ...engine,
    ...features,
    ...tools,
    ...bridgeFindings,
    ...(noBridge || noArping ? [] : address),
    ...(holder === undefined ? [] : [block("ip address", holder.message, holder.remedy ?? "")]),
    ...files,
    ...user,
    ...room,
    ...checkClock(typeof facts.node.clockUnixMs === "number" ? facts.node.clockUnixMs : undefined, now),
  ];
}

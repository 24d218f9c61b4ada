/**
 * Preflight on the source: everything about the running workload that can be known before the freeze, all at once.
 *
 * The workload is only looked at, never stopped. A reason against is a finding, never an error: what can't be read becomes
 * a finding, too. The facts that the destination must compare travel with them.
 */
import { stat, statfs } from "node:fs/promises";
import { cpuFlags as readCpuFlags } from "../../host/facts.js";
import { run } from "../../host/exec.js";
import { socketProtocol, socketsOf } from "../../host/sockets.js";
import { bareIp } from "../../model/address.js";
import type { OperationRef, SourceFacts } from "../../model/contract.js";
import { toFailure } from "../../model/failure.js";
import type { NodeFacts } from "../../model/node.js";
import { isDead, type Hold } from "../../model/ownership.js";
import type { AskedOptions, Finding } from "../../model/plan.js";
import type { WorkloadSpec } from "../../model/workload.js";
import { checkEngine } from "./engine.js";
import { filesToCompare } from "./files.js";
import { finder, sizeText } from "./findings.js";
import { frozenCgroup } from "./frozen.js";
import { findHolders } from "./holders.js";
import { checkMemory, frozenBytesOf, treeMemoryBytes } from "./memory.js";
import { checkHiddenProc, checkMounts, checkTmpfs, viewMounts } from "./mounts.js";
import { checkLocks, checkOpenFiles, checkPipes, halfPipes } from "./open-files.js";
import { checkInet, checkOtherSockets, checkUnix, externalPeers, ownedSockets } from "./socket-checks.js";
import { checkFrozen, checkNamespaces, checkTree } from "./tasks.js";
import { checkTools } from "./tools.js";
import { inspectTree, type Tree } from "./tree.js";
import { userIds } from "./users.js";

const { block, warn } = finder("source");

export interface SourceContext {
  /** This node's facts. */
  node: NodeFacts;
  spec: WorkloadSpec;
  /** Pid inside the workload's namespace -> pid on the node. */
  pids: Record<string, number>;
  volumeDir: string;
  runDir: string;
  options: AskedOptions;
  /** When given, the journal must agree with it. */
  ref?: OperationRef;
  /** Every hold of this workload in this node's journal. */
  holds: readonly Hold[];
  /** Mount points that the runtime hands to the engine by name (default /data). */
  externalMounts?: readonly string[];
  /** Does the runtime pass --file-locks? Default true. */
  movesLocks?: boolean;
}

/** A check that could not be made is a reason against, too: going on blindly would be worse. */
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

/** The source must be the owner, under the very epoch that the migration names. */
function checkHolds(
  spec: WorkloadSpec,
  holds: readonly Hold[],
  ref: OperationRef | undefined,
  node: string,
): Finding[] {
  const findings: Finding[] = [];
  if (ref !== undefined && ref.source === ref.destination) {
    findings.push(block("destination", `source and destination are the same node, ${node}`, "choose another node"));
  }
  const newest = holds
    .toSorted((a, b) => a.epoch - b.epoch)
    .findLast((hold) => hold.state !== "TOMBSTONE" && !isDead(hold.state));
  if (newest === undefined) {
    findings.push(
      block("ownership", `${node}'s journal knows nothing of ${spec.name}`, "ask `ferry inspect` where it runs"),
    );
  } else if (newest.state !== "OWNER" && newest.state !== "RUNNING") {
    findings.push(
      block(
        "ownership",
        `${node}'s journal says ${newest.state} (epoch ${newest.epoch}) of ${spec.name}, not OWNER`,
        "another operation is not settled yet: wait for it, or migrate again to settle it",
      ),
    );
  } else if (ref !== undefined && newest.epoch !== ref.epoch) {
    findings.push(
      block(
        "epoch",
        `the migration names epoch ${ref.epoch} of ${spec.name}, ${node} runs epoch ${newest.epoch}`,
        "start the migration again: it takes the epoch that is true now",
      ),
    );
  }
  return findings;
}

async function checkSockets(tree: Tree, spec: WorkloadSpec): Promise<Finding[]> {
  const { root } = tree;
  if (root === undefined) return [];
  const owned = ownedSockets(tree);
  const half = halfPipes(tree);
  const sockets = await socketsOf(root.pid);
  const external = externalPeers(owned, sockets.unix);
  const links = new Set([...half.keys(), ...external.map((socket) => `socket:[${socket.peer}]`)]);
  const holders = await findHolders(links, new Set(tree.tasks.map((task) => task.pid)));
  return [
    ...checkPipes(half, holders),
    ...checkUnix(owned, external, holders),
    ...checkInet(owned, sockets.inet, bareIp(spec.network.ip)),
    ...checkOtherSockets(owned, sockets, socketProtocol),
  ];
}

/** Counting a volume of millions of files takes long; the activity may take more than four times this. */
const COUNT_MS = 20_000;

/**
 * Bytes on disk of the volume. What can't be counted in time is at most what its file system has in use (`atMost`); where
 * files share blocks or are compressed, copies may need more than that, but nothing better is known.
 */
export async function volumeSize(volumeDir: string, countMs = COUNT_MS): Promise<{ bytes: number; atMost: boolean }> {
  if ((await stat(volumeDir).catch(() => undefined)) === undefined) return { bytes: 0, atMost: false };
  try {
    // 1: files vanished while it counted.
    const count = ["-n", "10", "du", "-sx", "-B1", "--", volumeDir];
    const { stdout } = await run("nice", count, { timeoutMs: countMs, allow: [1] });
    const bytes = Number(/^(\d+)\t/.exec(stdout)?.[1]);
    if (Number.isSafeInteger(bytes)) return { bytes, atMost: false };
  } catch {
    // it took too long
  }
  const { blocks, bfree, bsize } = await statfs(volumeDir);
  return { bytes: (blocks - bfree) * bsize, atMost: true };
}

function checkDuration(options: AskedOptions, memoryBytes: number): Finding[] {
  const { mode, bandwidthBytesPerSec, maxBlackoutMs } = options;
  if (mode !== "cold" || bandwidthBytesPerSec === undefined) return [];
  const expectedMs = (memoryBytes / bandwidthBytesPerSec) * 1000;
  if (expectedMs <= maxBlackoutMs) return [];
  return [
    warn(
      "blackout",
      `cold mode moves up to ${sizeText(memoryBytes)} while frozen: at ${sizeText(bandwidthBytesPerSec)}/s about ${Math.round(expectedMs / 1000)} s, and after ${maxBlackoutMs / 1000} s the source takes the workload back`,
      "use --mode postcopy, more bandwidth, or a longer --max-blackout",
    ),
  ];
}

/** Never throws for a finding; throws only when /proc itself can't be read. Takes well under a second for small trees. */
export async function preflightSource(ctx: SourceContext): Promise<SourceFacts> {
  const { spec, node, options } = ctx;
  const early = Promise.all([
    Promise.all([
      guarded("criu", checkEngine("source", node.node, node.criuVersion)),
      guarded("tools", checkTools("source", node.node)),
    ]).then((found) => found.flat()),
    volumeSize(ctx.volumeDir),
    readCpuFlags(),
    userIds(spec.user),
  ]);
  const tree = await inspectTree(ctx.pids);
  const view = await viewMounts(tree, ctx.volumeDir, ctx.externalMounts ?? ["/data"]);
  const ownMounts = tree.root !== undefined && tree.root.namespaces.mnt !== tree.own.mnt;
  const [sockets, frozen, tmpfs, files, memoryBytes, [engine, volume, cpuFlags, ids]] = await Promise.all([
    guarded("sockets", checkSockets(tree, spec)),
    guarded("frozen", frozenCgroup(tree.root?.cgroups ?? "").then(checkFrozen)),
    ownMounts ? checkTmpfs(tree) : [],
    filesToCompare(tree, view),
    treeMemoryBytes(tree),
    early,
  ]);
  const findings = [
    ...checkHolds(spec, ctx.holds, ctx.ref, node.node),
    ...engine,
    ...checkTree(tree),
    ...checkNamespaces(tree),
    ...frozen,
    ...checkOpenFiles(tree),
    ...checkLocks(tree, ctx.movesLocks ?? true),
    ...sockets,
    ...(ownMounts ? [...checkMounts(view), ...checkHiddenProc(tree)] : []),
    ...tmpfs,
    ...checkMemory(tree),
    ...checkDuration(options, memoryBytes),
  ];
  return {
    findings,
    // What took time here is no difference between clocks.
    node: node.clockUnixMs === undefined ? node : { ...node, clockUnixMs: Date.now() },
    spec,
    memoryBytes,
    volumeBytes: volume.bytes,
    ...(volume.atMost ? { volumeAtMost: true } : {}),
    processes: tree.tasks.length,
    threads: tree.tasks.reduce((sum, task) => sum + task.stat.threads, 0),
    cpuFlags,
    files,
    frozenBytes: frozenBytesOf(tree.tasks.map((task) => task.status)),
    ...(ids === undefined ? {} : { userIds: ids }),
  };
}

/** What a node is made of while nothing moves: counts that must not grow with the number of moves, and sizes. */
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { cgroupPath, cgroupPids, hierarchies } from "../../deploy/lab/cgroups.js";
import { labNode, labRun, labServicePid } from "../../deploy/lab/index.js";
import type { E2eLab } from "./support.js";

/** Must be the same after any number of moves, when the workload is back where it was. */
export interface Levels {
  /** Names of all processes on the node, with their counts. */
  processes: Record<string, number>;
  cgroups: number;
  mounts: number;
  networkNamespaces: number;
  links: number;
  nftTables: number;
  /** Files and directories that the agent keeps (not what is inside volumes). */
  stateEntries: number;
  runEntries: number;
}

export interface Sizes {
  agentRssKiB: number;
  agentDescriptors: number;
  agentSockets: number;
  workerRssKiB: number;
  workerDescriptors: number;
  journalBytes: number;
  agentLogBytes: number;
  /** Memory in the node's tmpfs at /run. */
  runKiB: number;
}

export interface Figures {
  levels: Levels;
  sizes: Sizes;
}

const count = (text: string): number => text.split("\n").filter((line) => line.trim() !== "").length;

function processSizes(pid: number): { rssKiB: number; descriptors: number; sockets: number } {
  const rss = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  const links = readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/${pid}/fd/${fd}`)];
    } catch {
      return []; // closed meanwhile
    }
  });
  const sockets = links.filter((link) => link.startsWith("socket:")).length;
  return { rssKiB: Number(rss), descriptors: links.length, sockets };
}

function subdirectories(path: string): number {
  if (!existsSync(path)) return 0;
  return readdirSync(path, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .reduce((sum, entry) => sum + 1 + subdirectories(join(path, entry.name)), 0);
}

export async function figuresOf(e2e: E2eLab, node: string): Promise<Figures> {
  const { lab, pid } = await labNode(e2e.state, node);
  const [agentPid, workerPid] = await Promise.all(
    (["agent", "worker"] as const).map((name) => labServicePid(e2e.state, node, name)),
  );
  if (agentPid === undefined || workerPid === undefined) throw new Error(`agent or worker of ${node} does not run`);
  const [agent, worker] = [processSizes(agentPid), processSizes(workerPid)];
  const on = async (...command: string[]): Promise<string> => (await labRun(e2e.state, node, command)).stdout;
  const root = `/proc/${pid}/root`;
  // The workloads' cgroups, in the v2 tree and in the v1 hierarchies that hold their limits.
  const cgroups = (await hierarchies()).map((hierarchy) => join(hierarchy, lab.cgroup, node));

  const processes: Record<string, number> = {};
  for (const group of [cgroupPath(lab, `${node}.services`), cgroupPath(lab, node)]) {
    for (const member of await cgroupPids(group)) {
      const name = readFileSync(`/proc/${member}/comm`, "utf8").trim();
      processes[name] = (processes[name] ?? 0) + 1;
    }
  }
  return {
    levels: {
      processes: Object.fromEntries(Object.entries(processes).sort(([a], [b]) => (a < b ? -1 : 1))),
      cgroups: cgroups.reduce((sum, path) => sum + subdirectories(path), 0),
      // The agent's own view: what the node's init sees, and more if somebody forgot to unmount.
      mounts: count(readFileSync(`/proc/${agentPid}/mountinfo`, "utf8")),
      networkNamespaces: count(await on("sh", "-c", "ls /run/netns 2>/dev/null || true")),
      links: count(await on("ip", "-o", "link")),
      nftTables: count(await on("nft", "list", "tables")),
      stateEntries: count(await on("sh", "-c", "find /var/lib/ferry -maxdepth 2")),
      runEntries: count(await on("sh", "-c", "find /run /tmp /dev/shm -xdev -not -path '/run/netns/*'")),
    },
    sizes: {
      agentRssKiB: agent.rssKiB,
      agentDescriptors: agent.descriptors,
      agentSockets: agent.sockets,
      workerRssKiB: worker.rssKiB,
      workerDescriptors: worker.descriptors,
      journalBytes: statSync(`${root}/var/lib/ferry/journal.jsonl`).size,
      agentLogBytes: statSync(join(e2e.state, "logs", `${node}.agent.log`)).size,
      runKiB: Number((await on("df", "--output=used", "-k", "/run")).split("\n")[1]),
    },
  };
}

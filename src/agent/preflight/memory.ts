/** What the tree's memory is made of: how much, and which kinds move only while it is frozen, or not at all. */
import { kibBytes, parseKeyed, readProc, shown } from "../../host/procfs.js";
import type { Finding } from "../../model/plan.js";
import { finder, listText, MIB, sizeText } from "./findings.js";
import { taskName } from "./tasks.js";
import type { Tree } from "./tree.js";

const { block, warn } = finder("source");

/** Shared and huge memory is copied inside the blackout: from here on it is worth a word. */
const EAGER_NOTE_BYTES = 64 * MIB;

/** Resident plus swapped memory of the whole tree; pages that several processes share count once. */
export async function treeMemoryBytes(tree: Tree): Promise<number> {
  const alive = tree.tasks.filter((task) => task.stat.state !== "Z");
  const rss = (status: Map<string, string>): number => kibBytes(status.get("VmRSS")) + kibBytes(status.get("VmSwap"));
  const [only] = alive;
  // smaps_rollup walks all page tables: only where sharing makes the cheap figure wrong.
  if (alive.length === 1 && only !== undefined) return rss(only.status);
  const parts = await Promise.all(
    alive.map(async (task) => {
      const fields = parseKeyed((await readProc(task.pid, "smaps_rollup").catch(() => undefined)) ?? "");
      return fields.has("Pss") ? kibBytes(fields.get("Pss")) + kibBytes(fields.get("SwapPss")) : rss(task.status);
    }),
  );
  return parts.reduce((sum, bytes) => sum + bytes, 0);
}

/**
 * Bytes that only move while the tree is frozen, by the tasks' status files: explicit huge pages and shared memory (memfd
 * and mapped tmpfs files among it). What several tasks have mapped counts in each of them: the largest is a lower bound.
 */
export function frozenBytesOf(statuses: readonly Map<string, string>[]): number {
  const huge = statuses.reduce((sum, status) => sum + kibBytes(status.get("HugetlbPages")), 0);
  return huge + Math.max(0, ...statuses.map((status) => kibBytes(status.get("RssShmem"))));
}

/** The same of a running tree; what has ended meanwhile has none. */
export async function frozenMemoryBytes(pids: readonly number[]): Promise<number> {
  const read = (pid: number): Promise<string | undefined> => readProc(pid, "status").catch(() => undefined);
  return frozenBytesOf((await Promise.all(pids.map(read))).map((text) => parseKeyed(text ?? "")));
}

/** Memory of its own that each of these tasks has: what a page store of them holds. */
export async function ownMemoryBytes(pids: readonly number[]): Promise<number> {
  const texts = await Promise.all(pids.map((pid) => readProc(pid, "status").catch(() => undefined)));
  return texts.reduce((sum, text) => {
    const status = parseKeyed(text ?? "");
    return sum + kibBytes(status.get("RssAnon")) + kibBytes(status.get("VmSwap"));
  }, 0);
}

export function checkMemory({ tasks, root, own }: Tree): Finding[] {
  const findings: Finding[] = [];
  const sysv = tasks.filter((task) => task.special.some((name) => name.startsWith("/SYSV")));
  if (sysv.length > 0 && root?.namespaces.ipc === own.ipc) {
    findings.push(
      block(
        "SysV shared memory",
        `${listText(sysv.map(taskName))}: has System V shared memory in the node's IPC namespace, which stays behind`,
        "use POSIX or anonymous shared memory, or run it in an IPC namespace of its own",
      ),
    );
  }
  for (const task of tasks) {
    if (task.special.includes("[uprobes]")) {
      findings.push(
        block(
          "uprobes",
          `${taskName(task)}: a uprobe is attached`,
          "detach the tracing tool (bpftrace, perf), then migrate",
        ),
      );
    }
    const devices = task.mapped.filter((file) => file.stats?.isCharacterDevice() === true && file.path !== "/dev/zero");
    if (devices.length > 0) {
      findings.push(
        block(
          "mapped device",
          `${taskName(task)}: maps ${listText(devices.map((file) => shown(file.path)))}; device memory can't be moved`,
          "stop using the device, or run this workload without it",
        ),
      );
    }
  }
  const total = (key: string): number => tasks.reduce((sum, task) => sum + kibBytes(task.status.get(key)), 0);
  const huge = total("HugetlbPages");
  if (huge > 0) {
    findings.push(
      warn(
        "huge pages",
        `${sizeText(huge)} lie in explicit huge pages: they are copied while the workload is frozen, and the destination needs as many reserved`,
        "reserve huge pages on the destination, or turn explicit huge pages off",
      ),
    );
  }
  // A page that several processes have mapped counts in each: the largest of them is the honest lower bound.
  const shared = Math.max(0, ...tasks.map((task) => kibBytes(task.status.get("RssShmem"))));
  if (shared >= EAGER_NOTE_BYTES) {
    findings.push(
      warn(
        "shared memory",
        `at least ${sizeText(shared)} is shared memory, which is copied while the workload is frozen`,
        "expect a longer blackout; less shared memory (shared_buffers and the like) makes it shorter",
      ),
    );
  }
  return findings;
}

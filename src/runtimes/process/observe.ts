/** What is true of an incarnation, by its cgroup. Engines in the same cgroup (a held restore) are not the workload. */
import { namespacePids } from "../../host/proc.js";
import type { Parts } from "./places.js";

/** Processes of the tree: pid here, and pid inside its namespace. */
export function treePids(parts: Parts): { pid: number; inside: number }[] {
  return parts.cgroup.pids().flatMap((pid) => {
    const pids = namespacePids(pid);
    const inside = pids?.at(-1);
    // One entry: a process of the node itself (criu while it restores).
    return pids === undefined || pids.length < 2 || inside === undefined ? [] : [{ pid, inside }];
  });
}

/** Host pid of the process that is pid 1 inside. */
export const rootPid = (parts: Parts): number | undefined => treePids(parts).find(({ inside }) => inside === 1)?.pid;

/** Who else on this node has a pipe or socket open: only asked when one end of it is missing in the tree. */
import { readdir, readlink } from "node:fs/promises";
import { parseStat, readProc, shown } from "../../host/procfs.js";

/** Finds, for each link ("pipe:[1]", "socket:[2]"), one process outside of `inside` that has it open, in words. */
export async function findHolders(
  links: ReadonlySet<string>,
  inside: ReadonlySet<number>,
): Promise<Map<string, string>> {
  const holders = new Map<string, string>();
  if (links.size === 0) return holders;
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
  for (const pid of pids) {
    if (inside.has(pid) || holders.size === links.size) continue;
    const fds = await readdir(`/proc/${pid}/fd`).catch(() => []);
    const targets = await Promise.all(fds.map((fd) => readlink(`/proc/${pid}/fd/${fd}`).catch(() => "")));
    const found = targets.filter((target) => links.has(target) && !holders.has(target));
    if (found.length === 0) continue;
    const comm = parseStat((await readProc(pid, "stat").catch(() => undefined)) ?? "")?.comm ?? "?";
    for (const target of found) holders.set(target, `${shown(comm)} (process ${pid} of the node)`);
  }
  return holders;
}

/**
 * The lab's cgroups: everything the lab starts lives under `ferry-<id>` of the cgroup v2 tree, so that killing it needs
 * no list of processes. Layout below it: `host` (relays), `<host>.services/<service>` (what the lab runs on a host),
 * `<node>` (workloads, made by the runtime; the same path in the v1 hierarchies for their limits).
 */
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseMountinfo } from "../../src/host/procfs.js";
import { ferryError } from "../../src/model/failure.js";
import { until, type LabState } from "./state.js";

export const cgroupPath = (lab: LabState, ...parts: string[]): string => join(lab.cgroupRoot, lab.cgroup, ...parts);

/** Makes the lab's cgroups; hands the memory and cpu controllers down to the nodes' where the v2 tree has them. */
export async function makeCgroups(lab: LabState): Promise<void> {
  const nodes = lab.hosts.filter((host) => host.kind === "node").map((host) => host.name);
  const services = ["machine", ...lab.hosts.map((host) => host.name)].map((name) => `${name}.services`);
  for (const folder of ["", ...nodes, ...services]) await mkdir(cgroupPath(lab, folder), { recursive: true });
  const controllers = (await readFile(join(lab.cgroupRoot, "cgroup.controllers"), "utf8")).split(/\s+/);
  for (const name of ["memory", "cpu"].filter((controller) => controllers.includes(controller))) {
    for (const folder of [lab.cgroupRoot, cgroupPath(lab), ...nodes.map((node) => cgroupPath(lab, node))]) {
      // Without it limits can't be set, and the runtime says so: no reason not to come up.
      await writeFile(join(folder, "cgroup.subtree_control"), `+${name}`).catch(() => undefined);
    }
  }
}

/** Every cgroup below and including `path`, deepest first. */
async function tree(path: string): Promise<string[]> {
  let entries;
  try {
    entries = await readdir(path, { withFileTypes: true });
  } catch {
    return [];
  }
  const below = await Promise.all(entries.filter((e) => e.isDirectory()).map((e) => tree(join(path, e.name))));
  return [...below.flat(), path];
}

/** Pids (as this process sees them) in a cgroup and all below it. */
export async function cgroupPids(path: string): Promise<number[]> {
  const lists = await Promise.all(
    (await tree(path)).map((folder) => readFile(join(folder, "cgroup.procs"), "utf8").catch(() => "")),
  );
  // 0 stands for a process outside of our pid namespace
  return lists.flatMap((list) =>
    list
      .split("\n")
      .filter((line) => line !== "" && line !== "0")
      .map(Number),
  );
}

/** Kills everything in a v2 cgroup, frozen or not, and waits until it is empty. Fine when it does not exist. */
export async function killCgroup(path: string): Promise<void> {
  if (!existsSync(path)) return;
  await writeFile(join(path, "cgroup.kill"), "1").catch(async () => {
    // before Linux 5.14
    for (const pid of await cgroupPids(path)) process.kill(pid, "SIGKILL");
  });
  const empty = await until(async () => ((await populated(path)) ? undefined : true), 20_000, 5);
  if (empty === undefined) {
    throw ferryError("E_STUCK", `processes in ${path} do not end: ${(await cgroupPids(path)).join(", ")}`, {
      remedy: "see what they wait for (cat /proc/PID/stack), then run the command again",
    });
  }
}

export async function populated(path: string): Promise<boolean> {
  const events = await readFile(join(path, "cgroup.events"), "utf8").catch(() => "");
  return events.includes("populated 1");
}

/** Removes a v2 cgroup with all below it; it must be empty of processes. */
async function removeTree(path: string): Promise<void> {
  for (const folder of await tree(path)) {
    // A killed process may leave its cgroup a moment after the events file says so.
    const gone = await until(async () => {
      try {
        await rmdir(folder);
        return true;
      } catch (error) {
        if ((error as { code?: string }).code === "ENOENT") return true;
        if ((error as { code?: string }).code !== "EBUSY") throw error;
        // or was starting something while we killed (an `up` that was interrupted)
        await writeFile(join(folder, "cgroup.kill"), "1").catch(() => undefined);
        return undefined;
      }
    }, 5000);
    if (gone === undefined) {
      throw ferryError("E_STUCK", `the cgroup ${folder} is still busy`, {
        remedy: "run the command again in a moment",
      });
    }
  }
}

/** Mount points of every cgroup hierarchy: v2 first, then the v1 controllers. */
export async function hierarchies(): Promise<string[]> {
  const mounts = parseMountinfo(await readFile("/proc/self/mountinfo", "utf8"));
  return ["cgroup2", "cgroup"].flatMap((type) => mounts.filter((m) => m.fsType === type).map((m) => m.point));
}

/** Kills and removes the lab's cgroups in every hierarchy (or one node's with `below`). */
export async function destroyCgroups(lab: LabState, below = ""): Promise<void> {
  await killCgroup(cgroupPath(lab, below));
  for (const root of new Set([lab.cgroupRoot, ...(await hierarchies())])) {
    await removeTree(join(root, lab.cgroup, below));
  }
}

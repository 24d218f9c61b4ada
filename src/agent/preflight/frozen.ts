/** Is the workload's cgroup frozen? Read from cgroup v2 (cgroup.events, which counts frozen parents) and the v1 freezer. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { mountOption, parseMountinfo, readProc } from "../../host/procfs.js";

/** The frozen cgroup's file in words, or undefined. `cgroups`: the text of /proc/<pid>/cgroup. */
export async function frozenCgroup(cgroups: string): Promise<string | undefined> {
  const mounts = parseMountinfo((await readProc("self", "mountinfo")) ?? "");
  for (const line of cgroups.split("\n")) {
    const match = /^\d+:([^:]*):(\/.*)$/.exec(line);
    if (!match) continue;
    const [, controllers = "", path = "/"] = match;
    for (const mount of mounts) {
      const v2 = controllers === "" && mount.fsType === "cgroup2";
      const v1 =
        controllers === "freezer" &&
        mount.fsType === "cgroup" &&
        mount.superOptions.split(",").includes("freezer") &&
        mountOption(mount.superOptions, "name") === undefined;
      if (!v1 && !v2) continue;
      const within =
        mount.root === "/" ? path : path.startsWith(mount.root) ? path.slice(mount.root.length) : undefined;
      if (within === undefined) continue;
      const dir = join(mount.point, within);
      if (v2) {
        const events = await readFile(join(dir, "cgroup.events"), "utf8").catch(() => "");
        if (/^frozen 1$/m.test(events)) return `${dir}/cgroup.freeze is 1`;
      } else {
        const state = (await readFile(join(dir, "freezer.state"), "utf8").catch(() => "THAWED")).trim();
        if (state !== "THAWED") return `${dir}/freezer.state is ${state}`;
      }
    }
  }
  return undefined;
}

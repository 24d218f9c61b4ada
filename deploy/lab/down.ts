/** Taking a lab down, in whatever state it is: kill by cgroup, remove the cgroups, remove its files. Nothing else. */
import { existsSync } from "node:fs";
import { readdir, rm, rmdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { destroyCgroups } from "./cgroups.js";
import { defaultStateDir, LAB_ENTRIES, readLab, withLabLock } from "./state.js";

/**
 * Ends everything of the lab and removes its directory. Namespaces, mounts, wires and tables live in the processes'
 * namespaces only, so they end with them. Again is fine.
 * @returns whether there was a lab
 * @throws FerryError E_STUCK when processes do not end
 */
export async function labDown(options: { state?: string } = {}): Promise<boolean> {
  const directory = resolve(options.state ?? defaultStateDir());
  if (!existsSync(directory)) return false;
  return withLabLock(directory, async () => {
    const lab = await readLab(directory);
    if (lab !== undefined) await destroyCgroups(lab);
    // lab.json last: a crash in the middle leaves what `down` needs to go on.
    for (const entry of LAB_ENTRIES.toReversed()) await rm(join(directory, entry), { recursive: true, force: true });
    if ((await readdir(directory)).length === 0) await rmdir(directory);
    return lab !== undefined;
  });
}

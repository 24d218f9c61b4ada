/** Which files of the node's root the workload has open or mapped: the destination must have the very same. */
import { elfBuildId } from "../../host/elf.js";
import type { SourceFacts } from "../../model/contract.js";
import { originOf, type MountView } from "./mounts.js";
import type { Tree } from "./tree.js";

type FileFact = SourceFacts["files"][number];

/** criu does not compare the size of a file that is only appended to (a log). */
const appendOnly = (flags: number): boolean => (flags & 3) === 1 && (flags & 0o2000) !== 0;

interface Candidate {
  path: string;
  sizeBytes: number;
  mode: number;
  mapped: boolean;
  /** Read the content (for the build id) through this. */
  at?: string;
  mountId?: number;
}

function candidates(tree: Tree): Map<string, Candidate> {
  const found = new Map<string, Candidate>();
  const add = (candidate: Candidate): void => {
    const known = found.get(candidate.path);
    if (known === undefined || (candidate.mapped && !known.mapped)) found.set(candidate.path, candidate);
  };
  for (const task of tree.tasks) {
    for (const { path, stats, at } of task.mapped) {
      if (stats?.isFile() === true && stats.nlink > 0)
        add({ path, sizeBytes: stats.size, mode: stats.mode, mapped: true, at });
    }
    for (const { name, path, stats } of task.links) {
      if (stats === undefined || stats.nlink === 0) continue;
      const mapped = name === "exe";
      add({
        path,
        sizeBytes: stats.isFile() ? stats.size : 0,
        mode: stats.mode,
        mapped,
        ...(mapped ? { at: `/proc/${task.pid}/exe` } : {}),
      });
    }
    for (const { link, stats, info } of task.files) {
      if (stats === undefined || stats.nlink === 0 || !(stats.isFile() || stats.isDirectory())) continue;
      if (stats.isFile() && appendOnly(info.flags)) continue;
      add({
        path: link,
        sizeBytes: stats.isFile() ? stats.size : 0,
        mode: stats.mode,
        mapped: false,
        mountId: info.mountId,
      });
    }
  }
  return found;
}

/** `mode` is the whole st_mode; directories have size 0 (only their mode is compared). */
export async function filesToCompare(tree: Tree, view: MountView): Promise<FileFact[]> {
  const facts = await Promise.all(
    [...candidates(tree).values()].map(async (candidate): Promise<FileFact | undefined> => {
      const { path, sizeBytes, mode, mapped, at, mountId } = candidate;
      if (!path.startsWith("/") || (await originOf(view, path, mountId)) !== "node") return undefined;
      const buildId = at === undefined ? undefined : await elfBuildId(at);
      return { path, sizeBytes, mode, mapped, ...(buildId === undefined ? {} : { buildId }) };
    }),
  );
  return facts.filter((fact) => fact !== undefined).sort((a, b) => (a.path < b.path ? -1 : 1));
}

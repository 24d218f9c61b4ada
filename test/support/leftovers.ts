/**
 * What a lab, a test or a demo may leave behind on the machine, and must not: processes, network namespaces, mounts,
 * cgroups, nftables tables, files. Take a snapshot before, compare after. Other labs may be up meanwhile: give the
 * ids or paths that are yours, and only what carries them is counted.
 */
import { readdir, readFile, readlink } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { hierarchies } from "../../deploy/lab/cgroups.js";
import { run } from "../../src/host/exec.js";
import { startTicks, until } from "../../deploy/lab/state.js";

export interface HostSnapshot {
  /** "pid command (cgroup)" of every process in a cgroup named ferry-*. */
  processes: Map<string, string>;
  /** Inode of each network namespace that a process is in. */
  networkNamespaces: Map<string, string>;
  mounts: Map<string, string>;
  cgroups: Map<string, string>;
  tables: Map<string, string>;
}

export async function snapshotHost(): Promise<HostSnapshot> {
  const processes = new Map<string, string>();
  const networkNamespaces = new Map<string, string>();
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    // A zombie holds nothing; when the machine's init collects it is not ours to say.
    if ((await startTicks(Number(pid))) === undefined) continue;
    const cgroup = await readFile(`/proc/${pid}/cgroup`, "utf8").catch(() => "");
    const command = (await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")).replaceAll("\0", " ").trim();
    const [own] = cgroup.split("\n").filter((line) => line.includes("/ferry-"));
    if (own !== undefined) processes.set(pid, `${pid} ${command} (${own})`);
    const netns = await readlink(`/proc/${pid}/ns/net`).catch(() => undefined);
    if (netns !== undefined) networkNamespaces.set(netns, `${netns} held by ${pid} ${command}`);
  }
  const mounts = (await readFile("/proc/self/mountinfo", "utf8")).split("\n").filter((line) => line !== "");
  const cgroups: string[] = [];
  for (const root of await hierarchies()) {
    for (const name of await readdir(root)) if (name.startsWith("ferry-")) cgroups.push(join(root, name));
  }
  const { stdout } = await run("nft", ["list", "tables"]);
  const same = (items: readonly string[]): Map<string, string> => new Map(items.map((item) => [item, item]));
  return {
    processes,
    networkNamespaces,
    mounts: same(mounts),
    cgroups: same(cgroups),
    tables: same(stdout.split("\n").filter((line) => line !== "")),
  };
}

export interface Mine {
  /** Ids of the labs that should be gone. */
  labs?: readonly string[];
  /** Directories that should be gone. */
  directories?: readonly string[];
  /** Inodes of network namespaces that should be gone. */
  networkNamespaces?: readonly string[];
}

/**
 * What is there that was not there before, one line each; empty when all is swept. With `mine` only what carries one
 * of its marks; without, everything that is new (for a machine where nothing else happens). Waits up to two seconds:
 * the kernel ends namespaces a moment after their last process.
 */
export async function leftovers(before: HostSnapshot, mine?: Mine): Promise<string[]> {
  let found: string[] = [];
  await until(
    async () => {
      found = await compare(before, mine);
      return found.length === 0 ? true : undefined;
    },
    2000,
    100,
  );
  return found;
}

async function compare(before: HostSnapshot, mine: Mine | undefined): Promise<string[]> {
  const now = await snapshotHost();
  const marks = [...(mine?.labs ?? []), ...(mine?.directories ?? [])];
  const ours = (line: string): boolean => mine === undefined || marks.some((mark) => line.includes(mark));
  const fresh = (kind: keyof HostSnapshot): string[] =>
    [...now[kind]].flatMap(([key, line]) => (before[kind].has(key) ? [] : [line]));
  const namespaces = mine?.networkNamespaces;
  return [
    ...fresh("processes")
      .filter(ours)
      .map((line) => `process ${line}`),
    ...fresh("networkNamespaces")
      .filter((line) =>
        namespaces === undefined ? ours(line) : namespaces.some((inode) => line.includes(`[${inode}]`)),
      )
      .map((line) => `network namespace ${line}`),
    ...fresh("mounts")
      .filter(ours)
      .map((line) => `mount ${line}`),
    ...fresh("cgroups")
      .filter(ours)
      .map((line) => `cgroup ${line}`),
    // Those of nodes end with their network namespaces; one on the machine itself would be named after us.
    ...fresh("tables")
      .filter((line) => mine === undefined || line.includes("ferry"))
      .map((line) => `nft ${line}`),
    ...(mine?.directories ?? [])
      .filter((directory) => existsSync(directory))
      .map((directory) => `directory ${directory}`),
  ];
}

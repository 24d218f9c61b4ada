/**
 * The root file system that every lab node shares (as the lower layer of its overlay): Debian forky, because its criu
 * (4.2.1) works with the kernels of today; the criu of Debian 12 and 13 does not. Keyed by a hash of the recipe, built
 * aside and renamed, so a directory under its final name is complete.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../src/host/exec.js";
import { freeBytes } from "../../src/host/facts.js";
import { ferryError } from "../../src/model/failure.js";
import { quietly, type During } from "./progress.js";

const SUITE = "forky";
const PACKAGES = [
  // the engine and what the agent calls
  ["criu", "runc", "iproute2", "iputils-arping", "nftables", "util-linux-extra", "rsync", "acl", "attr", "tini"],
  // for people and for Node.js, which is bound in from the machine
  ["procps", "iputils-ping", "openssl", "ca-certificates", "curl", "libstdc++6"],
  // a clock of its own for an agent, where tests of faults set it
  ["libfaketime"],
  // workloads to move
  ["redis-server", "python3", "nginx-light", "postgresql"],
].flat();
const optionsFor = (more: readonly string[]): string[] => [
  "--variant=minbase",
  "--mode=root",
  `--include=${[...PACKAGES, ...more].join(",")}`,
  '--aptopt=Acquire::Check-Valid-Until "false"',
  "--aptopt=Acquire::Retries 3",
  // no manual pages, documents or translations: smaller and quicker
  ...["man", "doc", "locale", "info"].map((folder) => `--dpkgopt=path-exclude=/usr/share/${folder}/*`),
];
const NEEDED_BYTES = 1.5e9;
const KEPT_DAYS = 7;

const recipeHash = (more: readonly string[]): string =>
  createHash("sha256")
    .update(JSON.stringify([SUITE, optionsFor(more), process.arch]))
    .digest("hex")
    .slice(0, 12);

/**
 * Where the root file system is once it has been built. With `more` packages it is another one (the benchmark's, which
 * has the peers as well), which the nodes' own neither replaces nor knows.
 */
export const rootfsPath = (cache: string, more: readonly string[] = []): string =>
  join(cache, `${more.length === 0 ? "rootfs" : "rootfs-with"}-${recipeHash(more)}`);

/**
 * Builds it when it is missing.
 * @returns whether there was anything to do
 * @throws FerryError E_NO_SPACE, or E_TOOL with mmdebstrap's last lines
 */
export async function ensureRootfs(
  cache: string,
  more: readonly string[] = [],
  during: During = quietly,
): Promise<boolean> {
  const path = rootfsPath(cache, more);
  if (existsSync(path)) {
    // Says that it is of use still, see below.
    const now = new Date();
    await utimes(path, now, now);
    return false;
  }
  await mkdir(cache, { recursive: true });
  const free = await freeBytes(cache);
  if (free < NEEDED_BYTES) {
    throw ferryError(
      "E_NO_SPACE",
      `the node root file system needs 1.5 GB under ${cache}, only ${(free / 1e9).toFixed(1)} GB are free`,
      { remedy: "free some space, or set FERRY_CACHE to a directory on another disk" },
    );
  }
  const building = `${path}.building`;
  await rm(building, { recursive: true, force: true });
  const mirror = process.env["FERRY_DEBIAN_MIRROR"];
  await during("building the node root file system (1 to 5 minutes)", () =>
    run("mmdebstrap", [...optionsFor(more), SUITE, building, ...(mirror ? [mirror] : [])], {
      doing: "building the node root file system",
      timeoutMs: 15 * 60_000,
      remedy:
        "a Debian mirror must be reachable: set FERRY_DEBIAN_MIRROR to one (Debian's own by default), or http_proxy",
      // apt reads proxies from here and from the machine's apt configuration
      env: proxies(),
    }),
  );
  await rename(building, path);
  // Those of older recipes, unless another checkout has set itself up with one lately.
  for (const name of await readdir(cache)) {
    if (
      /^rootfs(-with)?-[0-9a-f]{12}(\.building)?$/.test(name) &&
      join(cache, name) !== path &&
      (await isOld(join(cache, name))) &&
      !(await inUse(join(cache, name)))
    ) {
      await rm(join(cache, name), { recursive: true, force: true });
    }
  }
  return true;
}

export function proxies(): Record<string, string> {
  const names = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
  return Object.fromEntries(names.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])));
}

const isOld = async (path: string): Promise<boolean> =>
  path.endsWith(".building") || Date.now() - (await stat(path)).mtimeMs > KEPT_DAYS * 86_400_000;

/** Whether any mount namespace has an overlay on it: a lab of an older version may still be up. */
async function inUse(path: string): Promise<boolean> {
  const { readFile } = await import("node:fs/promises");
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    try {
      if ((await readFile(`/proc/${pid}/mountinfo`, "utf8")).includes(path)) return true;
    } catch {
      // it ended meanwhile
    }
  }
  return false;
}

/** Programs that are built by `go install`, into the cache. */
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { run, type RunOptions } from "../../src/host/exec.js";
import { proxies } from "./rootfs.js";

const LIMIT_MS = 20 * 60_000;

const KEEP = [
  "HOME",
  "GOPROXY",
  "GOFLAGS",
  "GONOSUMDB",
  "GONOSUMCHECK",
  "GOSUMDB",
  "GOPRIVATE",
  "GOCACHE",
  "GOMODCACHE",
  "GOPATH",
];

/** Its caches and its ways out. */
const goEnvironment = (): Record<string, string> => ({
  ...proxies(),
  ...Object.fromEntries(KEEP.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : []))),
});

/** Makes CACHE/bin/NAME of a package whose program has that name. Throws E_TOOL. */
export async function goInstall(
  go: string,
  goPackage: string,
  cache: string,
  name: string,
  options: Pick<RunOptions, "doing" | "remedy">,
): Promise<void> {
  const building = join(cache, `go-bin-${name}`);
  await mkdir(join(cache, "bin"), { recursive: true });
  await rm(building, { recursive: true, force: true });
  try {
    await run(go, ["install", goPackage], {
      ...options,
      timeoutMs: LIMIT_MS,
      env: { ...goEnvironment(), GOBIN: building },
    });
    await rename(join(building, name), join(cache, "bin", name));
  } finally {
    await rm(building, { recursive: true, force: true });
  }
}

/** The programs that set-up and the lab call on this machine, from Debian packages where that is possible. */
import { existsSync } from "node:fs";
import { run } from "../../src/host/exec.js";
import { ferryError } from "../../src/model/failure.js";
import { whichProgram } from "./cache.js";
import { quietly, type During } from "./progress.js";
import { proxies } from "./rootfs.js";

/** What is needed: a package is missing when its program (or file) is. */
const NEEDED: { package: string; program?: string; file?: string }[] = [
  { package: "mmdebstrap", program: "mmdebstrap" },
  { package: "iproute2", program: "ip" },
  { package: "nftables", program: "nft" },
  { package: "iputils-arping", program: "arping" },
  { package: "rsync", program: "rsync" },
  { package: "util-linux", program: "nsenter" },
  { package: "util-linux", program: "setpriv" },
  { package: "openssl", program: "openssl" },
  { package: "ca-certificates", file: "/etc/ssl/certs/ca-certificates.crt" },
];

async function missing(): Promise<string[]> {
  const found = new Set<string>();
  for (const need of NEEDED) {
    const there =
      need.program === undefined ? existsSync(need.file ?? "") : (await whichProgram(need.program)) !== undefined;
    if (!there) found.add(need.package);
  }
  // Newer Debian and Ubuntu moved it out of util-linux.
  if ((await whichProgram("pivot_root")) === undefined) {
    found.add((await whichProgram("nsenter")) === undefined ? "util-linux" : "util-linux-extra");
  }
  return [...found];
}

/**
 * Installs what is missing, and nothing else.
 * @returns whether there was anything to do
 * @throws FerryError E_TOOL that names what is missing
 */
export async function ensurePackages(during: During = quietly): Promise<boolean> {
  const wanted = await missing();
  if (wanted.length === 0) return false;
  if ((await whichProgram("apt-get")) === undefined) {
    throw ferryError(
      "E_TOOL",
      `this machine lacks programs of these packages: ${wanted.join(", ")}; it has no apt-get`,
      {
        remedy: `install ${wanted.join(", ")} by this distribution's own means, then run the same command again`,
      },
    );
  }
  const env = { DEBIAN_FRONTEND: "noninteractive", ...proxies() };
  await during(`installing ${wanted.join(", ")} (10 seconds to 2 minutes)`, async () => {
    // A third-party source that is out of reach must not stop us: only the installation decides.
    await run("apt-get", ["update", "-qq"], { env, timeoutMs: 5 * 60_000, allow: [100] });
    await run("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...wanted], {
      env,
      doing: `installing ${wanted.join(", ")}`,
      timeoutMs: 10 * 60_000,
      remedy: "run the command above by hand and see what apt-get says",
    });
  });
  const left = await missing();
  if (left.length > 0) {
    throw ferryError("E_TOOL", `apt-get installed them, but programs of ${left.join(", ")} are still missing`, {
      remedy: "look at PATH: /usr/sbin and /sbin are searched too",
    });
  }
  return true;
}

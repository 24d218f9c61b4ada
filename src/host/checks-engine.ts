/** Doctor's checks of what moves workloads: criu, page tracking, nftables, rsync, and whether Temporal answers. */
import { fail, ok, skip, warn, type CheckOptions, type Finding, type Probe } from "./check.js";
import { certificate } from "./check-certificate.js";
import { run } from "./exec.js";
import { criuVersion, findProgram } from "./facts.js";
import { canScanPagemap, canWriteProtectAsync, hasSoftDirty } from "./kernel-probes.js";
import { userfaultfdProblem } from "./userfaultfd-probe.js";
import { toFailure } from "../model/failure.js";

/** Older ones fail on the kernels of today (docs/architecture.md). */
const OLDEST_CRIU = [4, 2] as const;
const NEWER_CRIU = "install criu 4.2 or newer here if this is a node";
const NODE_NEEDS_CRIU =
  "a machine that shall be a node needs criu 4.2 or newer (Debian forky has it); the lab brings its own";

async function criu(): Promise<Finding> {
  if ((await findProgram("criu")) === undefined) return warn("not installed", NODE_NEEDS_CRIU, NEWER_CRIU);
  const version = await criuVersion();
  return isOld(version) ? warn(version, NODE_NEEDS_CRIU, NEWER_CRIU) : ok(version);
}

function isOld(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map((part) => Number.parseInt(part, 10));
  return major < OLDEST_CRIU[0] || (major === OLDEST_CRIU[0] && minor < OLDEST_CRIU[1]);
}

async function criuCheck(): Promise<Finding> {
  if ((await findProgram("criu")) === undefined) return skip("criu is not installed");
  try {
    await run("criu", ["check", "--no-default-config"], { timeoutMs: 30_000 });
    return ok("looks good");
  } catch (error) {
    const { message, evidence } = toFailure(error);
    const lines = (evidence?.lines ?? []).filter((line) => line.includes("Error"));
    // That of an older criu says little about this kernel, and a lab does not use it.
    if (isOld(await criuVersion())) return warn("fails", lines.at(-1) ?? message, NEWER_CRIU);
    return fail(
      "fails",
      lines.at(-1) ?? message,
      "run `criu check` by hand: it names the kernel feature that is missing",
    );
  }
}

function userfaultfd(): Finding {
  const problem = userfaultfdProblem();
  return problem === undefined
    ? ok("missing pages, fork, remap, remove, unmap")
    : fail("can't be used", problem, "run as root outside of seccomp filters; the kernel needs CONFIG_USERFAULTFD");
}

function pageTracking(): Finding {
  const found = [
    ...(canWriteProtectAsync() && canScanPagemap() ? ["pagemap-scan"] : []),
    ...(hasSoftDirty() ? ["soft-dirty"] : []),
    "compare",
  ];
  return found.length > 1
    ? ok(found.join(", "))
    : warn("compare only", "no kernel help for finding the pages that changed", "use Linux 6.7 or newer");
}

function softDirty(): Finding {
  return hasSoftDirty() ? ok("yes") : ok("no", "only criu's own pre-dump needs it; Ferry tracks pages by other means");
}

async function nftables(): Promise<Finding> {
  try {
    await run("unshare", ["--net", "--", "nft", "add", "table", "inet", "ferry_doctor"], { timeoutMs: 10_000 });
    return ok("works");
  } catch (error) {
    const { message, evidence } = toFailure(error);
    return fail(
      "does not work",
      evidence?.lines?.at(-1) ?? message,
      "install nftables; load nf_tables (modprobe nf_tables)",
    );
  }
}

async function rsync(): Promise<Finding> {
  if ((await findProgram("rsync")) === undefined) {
    return fail("not installed", "it moves the files of workloads", "install the Debian package rsync");
  }
  const { stdout } = await run("rsync", ["--version"]);
  return ok(/version (\S+)/.exec(stdout)?.[1] ?? "installed");
}

const PROGRAMS: Record<string, string> = {
  ip: "iproute2",
  arping: "iputils-arping",
  nsenter: "util-linux",
  setpriv: "util-linux",
  perl: "perl",
};

async function programs(): Promise<Finding> {
  const names = Object.keys(PROGRAMS);
  const found = await Promise.all(names.map(findProgram));
  const missing = names.filter((_, at) => found[at] === undefined);
  if (missing.length === 0) return ok(names.join(", "));
  const packages = [...new Set(missing.map((name) => PROGRAMS[name]))];
  return fail(
    `without ${missing.join(", ")}`,
    "an agent and the lab call them",
    `install the Debian packages ${packages.join(", ")}`,
  );
}

async function openssl(): Promise<Finding> {
  if ((await findProgram("openssl")) === undefined) {
    return fail("not installed", "it makes the certificates of the nodes", "install the Debian package openssl");
  }
  const { stdout } = await run("openssl", ["version"]);
  return ok(stdout.split(" ").slice(0, 2).join(" "));
}

async function temporal(options: CheckOptions): Promise<Finding> {
  const address = options.temporalAddress;
  if (address === undefined || address === "") return skip("no address given", "say --address, or start a lab");
  const split = address.lastIndexOf(":");
  const port = Number(address.slice(split + 1));
  if (split <= 0 || !Number.isInteger(port) || port < 1 || port > 65_535) {
    return fail(address, "not an address of the form host:port", "give host:port, e.g. 127.0.0.1:7233");
  }
  if (options.askTemporal === undefined) return skip(address, "not asked");
  const started = performance.now();
  try {
    const version = await options.askTemporal(address);
    return ok(`${address}, version ${version || "unknown"}, answers in ${Math.ceil(performance.now() - started)} ms`);
  } catch (error) {
    const { message, remedy } = toFailure(error);
    const words = remedy ?? "start it (`ferry lab up` for a local one), or correct the address";
    return fail(`${address} does not answer as a Temporal server`, message, words);
  }
}

export const ENGINE_CHECKS = {
  criu,
  "criu check": criuCheck,
  userfaultfd,
  "page tracking": pageTracking,
  "soft-dirty": softDirty,
  nftables,
  rsync,
  openssl,
  certificate,
  programs,
  Temporal: temporal,
} satisfies Record<string, Probe>;

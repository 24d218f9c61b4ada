/** Doctor's checks of what moves workloads: criu, page tracking, nftables, rsync, and whether Temporal answers. */
import { createConnection } from "node:net";
import { fail, ok, skip, warn, type CheckOptions, type Finding, type Probe } from "./check.js";
import { run } from "./exec.js";
import { criuVersion, findProgram } from "./facts.js";
import { canScanPagemap, canWriteProtectAsync, hasSoftDirty } from "./kernel-probes.js";
import { userfaultfdProblem } from "./userfaultfd-probe.js";
import { toFailure } from "../model/failure.js";

/** Older ones fail on the kernels of today (docs/architecture.md). */
const OLDEST_CRIU = [4, 2] as const;
const NODE_NEEDS_CRIU =
  "a machine that shall be a node needs criu 4.2 or newer (Debian forky has it); the lab brings its own";

async function criu(): Promise<Finding> {
  if ((await findProgram("criu")) === undefined)
    return warn("not installed", NODE_NEEDS_CRIU, "install criu 4.2 or newer here if this is a node");
  const version = await criuVersion();
  const [major = 0, minor = 0] = version.split(".").map((part) => Number.parseInt(part, 10));
  return major < OLDEST_CRIU[0] || (major === OLDEST_CRIU[0] && minor < OLDEST_CRIU[1])
    ? warn(version, NODE_NEEDS_CRIU, "install criu 4.2 or newer here if this is a node")
    : ok(version);
}

async function criuCheck(): Promise<Finding> {
  if ((await findProgram("criu")) === undefined) return skip("criu is not installed");
  try {
    await run("criu", ["check", "--no-default-config"], { timeoutMs: 30_000 });
    return ok("looks good");
  } catch (error) {
    const { message, evidence } = toFailure(error);
    const lines = (evidence?.lines ?? []).filter((line) => line.includes("Error"));
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
  const host = address.slice(0, split);
  const port = Number(address.slice(split + 1));
  if (split <= 0 || !Number.isInteger(port) || port < 1 || port > 65_535) {
    return fail(address, "not an address of the form host:port", "give host:port, e.g. 127.0.0.1:7233");
  }
  const started = performance.now();
  const problem = await new Promise<string | undefined>((resolve) => {
    const socket = createConnection({ host, port });
    const end = (words?: string): void => {
      socket.destroy();
      resolve(words);
    };
    socket.setTimeout(3000, () => end("no answer in 3 s"));
    socket.once("connect", () => end());
    socket.once("error", (error) => end(error.message));
  });
  return problem === undefined
    ? ok(`${address} answers in ${Math.ceil(performance.now() - started)} ms`)
    : fail(`${address} does not answer`, problem, "start it (`ferry lab up` for a local one), or correct the address");
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
  Temporal: temporal,
} satisfies Record<string, Probe>;

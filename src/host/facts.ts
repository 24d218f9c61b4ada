/**
 * What a node says of itself: kernel, CPU, memory, disk, criu. Every figure is read now, none is kept.
 */
import { access, constants, readFile, statfs } from "node:fs/promises";
import { arch, cpus, networkInterfaces, release } from "node:os";
import { join } from "node:path";
import type { NodeFacts } from "../model/node.js";
import { run, SYSTEM_PATH } from "./exec.js";
import { packageVersion } from "./package-root.js";
import { kibBytes, parseKeyed } from "./procfs.js";

/** Full path of a program on the system's path (the one that `run` uses), or undefined. */
export async function findProgram(name: string): Promise<string | undefined> {
  for (const folder of SYSTEM_PATH.split(":")) {
    const path = join(folder, name);
    try {
      await access(path, constants.X_OK);
      return path;
    } catch {
      // not there: the next folder
    }
  }
  return undefined;
}

/** Version of criu, e.g. "4.2.1"; "" when criu is missing or does not say. */
export async function criuVersion(): Promise<string> {
  if ((await findProgram("criu")) === undefined) return "";
  try {
    const { stdout } = await run("criu", ["--version"], { timeoutMs: 5000 });
    return /^Version:\s*([0-9][0-9A-Za-z.+~-]*)/m.exec(stdout)?.[1] ?? "";
  } catch {
    return "";
  }
}

/** Flags of the first processor (x86 "flags", ARM "Features"), as the kernel names them. */
export async function cpuFlags(): Promise<string[]> {
  return parseCpuFlags(await readFile("/proc/cpuinfo", "utf8"));
}
export function parseCpuFlags(cpuinfo: string): string[] {
  const line = /^(?:flags|Features)[ \t]*:(.*)$/m.exec(cpuinfo)?.[1] ?? "";
  return line.split(/\s+/).filter((flag) => flag !== "");
}

/** Bytes that an unprivileged writer could still write on the file system that holds `path`. */
export async function freeBytes(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize;
}

/** Memory of the machine: total, and available without swapping (the kernel's estimate). */
export async function memoryBytes(): Promise<{ total: number; available: number }> {
  const fields = parseKeyed(await readFile("/proc/meminfo", "utf8"));
  return { total: kibBytes(fields.get("MemTotal")), available: kibBytes(fields.get("MemAvailable")) };
}

export interface NodeIdentity {
  node: string;
  linkHost: string;
  linkPort: number;
  stateDir: string;
  bridge: string;
  workloads: NodeFacts["workloads"];
}

/** Everything in NodeFacts. Throws only when /proc or `stateDir` can't be read. */
export async function collectNodeFacts(identity: NodeIdentity): Promise<NodeFacts> {
  const [criu, memory, diskAvailableBytes, bootId] = await Promise.all([
    criuVersion(),
    memoryBytes(),
    freeBytes(identity.stateDir),
    readFile("/proc/sys/kernel/random/boot_id", "utf8"),
  ]);
  const network = networkInterfaces()[identity.bridge]?.find(({ family }) => family === "IPv4")?.cidr;
  return {
    node: identity.node,
    version: packageVersion(),
    linkHost: identity.linkHost,
    linkPort: identity.linkPort,
    kernel: release(),
    arch: arch(),
    criuVersion: criu,
    cpus: cpus().length,
    memoryTotalBytes: memory.total,
    memoryAvailableBytes: memory.available,
    diskAvailableBytes,
    bootId: bootId.trim(),
    ...(typeof network === "string" ? { network } : {}),
    clockUnixMs: Date.now(),
    workloads: identity.workloads,
  };
}

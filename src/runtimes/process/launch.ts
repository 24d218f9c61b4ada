/** Starting a workload: see deploy/hooks/launch.sh for what happens inside its namespaces. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chownSync, existsSync, lstatSync, mkdirSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { SYSTEM_PATH } from "../../host/exec.js";
import { NETNS_DIR } from "../../host/netns.js";
import { makeWorkloadLog, readWorkloadLog, workloadLogSize } from "../../host/workload-log.js";
import { ferryError, type FerryError } from "../../model/failure.js";
import type { WorkloadSpec } from "../../model/workload.js";
import { HIDE_PROC } from "./hidden.js";
import type { Mounted, Parts, Places } from "./places.js";
import { resolveUser, type ResolvedUser } from "./user.js";

/** A program that ends with an error this soon after its exec has failed to start. */
const WATCH_MS = 200;
const SET_UP_MS = 20_000;

/**
 * What root keeps inside a workload: the usual set of containers, without mknod, since no device controller stands between a
 * workload and the node's disks. Others have none of it. Numbers: linux/capability.h.
 */
const CAPABILITIES = {
  chown: 0,
  dac_override: 1,
  fowner: 3,
  fsetid: 4,
  kill: 5,
  setgid: 6,
  setuid: 7,
  setpcap: 8,
  net_bind_service: 10,
  net_raw: 13,
  sys_chroot: 18,
  audit_write: 29,
  setfcap: 31,
};

/** Directories of a workload's files; idempotent. Says whether the volume is new. */
export function makeVolume(parts: Parts, mounted: readonly Mounted[], user?: ResolvedUser): boolean {
  const { volume } = parts;
  const fresh = !existsSync(volume.dir);
  mkdirSync(volume.dir, { recursive: true, mode: 0o700 });
  for (const dir of [volume.root, volume.log]) mkdirSync(dir, { recursive: true, mode: 0o755 });
  const newData = !existsSync(volume.data);
  mkdirSync(volume.data, { recursive: true, mode: 0o755 });
  const copied = mounted.filter(({ kind }) => kind === "copy");
  if (copied.length > 0) mkdirSync(volume.named, { recursive: true, mode: 0o755 });
  for (const { dir } of copied) {
    if (existsSync(dir)) continue;
    mkdirSync(dir, { mode: 0o755 });
    if (user !== undefined) chownSync(dir, user.uid, user.gid);
  }
  for (const { name, dir } of mounted) mustBeDirectory(name, dir);
  mkdirSync(parts.work, { recursive: true, mode: 0o700 });
  if (user !== undefined) {
    if (newData) chownSync(volume.data, user.uid, user.gid);
    // A program may open /dev/stdout again by name.
    makeWorkloadLog(volume.logFile, user);
  }
  return fresh;
}

/** A volume is bound where the workload wants it: never through a link that leads elsewhere. */
function mustBeDirectory(name: string, dir: string): void {
  const stats = lstatSync(dir, { throwIfNoEntry: false });
  if (stats?.isDirectory() === true && realpathSync(dir) === dir) return;
  throw ferryError(
    "E_VOLUME",
    `volume ${name}: ${dir} is ${stats === undefined ? "missing" : "not a directory, or there is a link on the way to it"} on this node`,
    {
      remedy: "a shared volume's path in the node's policy must be a directory, named without links",
    },
  );
}

/** The program with its user, rights, environment and directory, as the arguments of deploy/hooks/enter.pl. */
export function programCommand(spec: WorkloadSpec, user: ResolvedUser): string[] {
  const env: Record<string, string> = { PATH: SYSTEM_PATH, HOME: user.home, ...spec.env };
  return [
    process.arch,
    String(user.uid),
    String(user.gid),
    user.groups.join(",") || "-",
    Object.values(CAPABILITIES).join(","),
    spec.dir,
    ...Object.entries(env).map(([key, value]) => `${key}=${value}`),
    "--",
    ...spec.command,
  ];
}

/**
 * Runs launch.sh. Resolves with the host pid of the program once it has run for a moment (or has ended with 0).
 * Throws E_START with the reason; the caller removes what is left.
 */
export async function launch(
  places: Places,
  parts: Parts,
  spec: WorkloadSpec,
): Promise<{ pid: number; exitCode?: number }> {
  const user = await resolveUser(spec.user);
  const mounted = places.mounted(spec);
  makeVolume(parts, mounted, user);
  mkdirSync(parts.mountPoint, { recursive: true, mode: 0o700 });
  const args = [
    `--net=${join(NETNS_DIR, parts.network.netns)}`,
    "unshare",
    "--mount",
    "--pid",
    "--ipc",
    "--uts",
    "--propagation=private",
    "/bin/bash",
    places.hook("launch.sh"),
    parts.mountPoint,
    places.overlayOptions(parts),
    parts.volume.dir,
    "--",
    ...parts.cgroup.procsFiles,
    "--",
    ...mounted.flatMap(({ path, dir }) => [path, dir]),
    "--",
    ...programCommand(spec, user),
  ];
  const logStart = workloadLogSize(parts.volume.logFile);
  const child = spawn("nsenter", args, {
    cwd: "/",
    env: { PATH: SYSTEM_PATH, LC_ALL: "C.UTF-8", FERRY_HIDE_PROC: HIDE_PROC },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  const words: string[] = [];
  child.stderr.setEncoding("utf8").on("data", (text: string) => words.push(...text.split("\n").filter(Boolean)));
  let pid = 0;
  let exitCode: number | undefined;
  let ready: () => void = () => undefined;
  const isReady = new Promise<void>((resolve) => (ready = resolve));
  createInterface({ input: child.stdout }).on("line", (line) => {
    const [word, value] = line.split(" ");
    if (word === "pid") pid = Number(value);
    else if (word === "ready") ready();
    else if (word === "exit") exitCode = Number(value);
  });
  const ended = once(child, "close").catch((error: unknown) => words.push(String(error)));
  const timeout = new AbortController();
  await Promise.race([isReady, ended, sleep(SET_UP_MS, undefined, { signal: timeout.signal }).catch(() => undefined)]);
  timeout.abort();
  const early = new AbortController();
  await Promise.race([ended, sleep(WATCH_MS, undefined, { signal: early.signal }).catch(() => undefined)]);
  early.abort();
  if (child.exitCode === null && child.signalCode === null) {
    // It runs. From here on it belongs to the node's init.
    child.kill("SIGKILL");
  }
  await ended;
  if (pid > 0 && exitCode === undefined) return { pid };
  if (pid > 0 && exitCode === 0) return { pid, exitCode };
  const log = await readWorkloadLog(parts.volume.logFile, logStart);
  const said = log.split("\n").filter((line) => line.trim() !== "");
  throw startError(spec, exitCode ?? child.exitCode ?? undefined, said.length > 0 ? said : words);
}

function startError(spec: WorkloadSpec, exitCode: number | undefined, lines: string[]): FerryError {
  const program = spec.command[0] ?? "";
  const why =
    exitCode === 127
      ? `the command ${JSON.stringify(program)} was not found on this node`
      : exitCode === 126
        ? `the command ${JSON.stringify(program)} can't be executed`
        : exitCode === 125
          ? `the directory ${JSON.stringify(spec.dir)} can't be entered`
          : exitCode === undefined
            ? "it could not be set up"
            : exitCode > 128
              ? `it was killed at once by signal ${exitCode - 128}`
              : `it ended at once with exit code ${exitCode}`;
  return ferryError("E_START", `${spec.name} did not start: ${why}`, {
    workload: spec.name,
    evidence: { command: spec.command, ...(exitCode === undefined ? {} : { exitCode }), lines: lines.slice(-10) },
    remedy: "the lines above are its own words: mend the command, the user or the directory, then run it again",
  });
}

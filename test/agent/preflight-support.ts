/**
 * Real throw-away workloads for the preflight tests: a Python program as root of its own PID, mount and network namespace,
 * with standard streams on /dev/null, as the process runtime starts them.
 */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { collectNodeFacts, preflightSource } from "../../src/agent/preflight/index.js";
import type { SourceContext } from "../../src/agent/preflight/index.js";
import type { SourceFacts } from "../../src/model/contract.js";
import type { Finding } from "../../src/model/plan.js";
import type { WorkloadSpec } from "../../src/model/workload.js";

const python = ((): string | undefined => {
  // The real program, not a shim that needs a shell.
  const found = spawnSync("python3", ["-c", "import sys; print(sys.executable)"], { encoding: "utf8" });
  return found.status === 0 ? found.stdout.trim() : undefined;
})();

const namespaces = spawnSync("unshare", ["-p", "-m", "-n", "-f", "--mount-proc", "true"]).status === 0;

/** Why these tests can't run here, or false. */
export const skip: string | false =
  python === undefined
    ? "python3 is missing"
    : namespaces
      ? false
      : "needs root and the right to make PID, mount and network namespaces";

export const spec: WorkloadSpec = {
  name: "probe",
  runtime: "process",
  command: ["python3"],
  env: {},
  dir: "/",
  user: "root",
  limits: {},
  network: { ip: "10.77.0.100/24", mac: "02:fe:00:00:00:64" },
};

export interface Probe {
  /** Pid of the root process on this machine. */
  pid: number;
  /** Directory that the program sees as well (variable DIR). */
  dir: string;
  pids(): Record<string, number>;
  preflight(more?: Partial<SourceContext>): Promise<SourceFacts>;
  stop(): Promise<void>;
}

function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

/** All of a process's descendants and itself. */
function treeOf(pid: number): number[] {
  return [pid, ...childrenOf(pid).flatMap(treeOf)];
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (let waited = 0; !holds(); waited += 10) {
    if (waited > 10_000) throw new Error(`waited 10 s for ${what}`);
    await sleep(10);
  }
}

export interface ProbeOptions {
  /** Without setsid: the session leader stays outside. */
  sameSession?: boolean;
  stdin?: "ignore" | "pipe";
}

/** Starts `code` (Python); it must call ready() and then wait(). */
export async function startProbe(code: string, options: ProbeOptions = {}): Promise<Probe> {
  const dir = mkdtempSync(join(tmpdir(), "ferry-preflight-"));
  const prelude = `import os,socket,time,fcntl\nos.closerange(3,4096)\nDIR=os.environ['DIR']\ndef ready(): open(DIR+'/ready','w').close()\ndef wait(): time.sleep(120)\n`;
  const inside = options.sameSession === true ? [] : ["setsid"];
  const child: ChildProcess = spawn(
    "unshare",
    ["-p", "-m", "-n", "-f", "--kill-child", "--mount-proc", ...inside, python ?? "python3", "-c", prelude + code],
    {
      stdio: [options.stdin ?? "ignore", "ignore", "ignore"],
      env: { PATH: process.env["PATH"] ?? "", DIR: dir },
      detached: true,
    },
  );
  const outer = child.pid ?? 0;
  const stop = async (): Promise<void> => {
    const tree = treeOf(outer);
    for (const pid of tree.toReversed()) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // it has ended by itself
      }
    }
    await until("the probe's end", () => child.exitCode !== null || child.signalCode !== null);
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    await until("the probe to be ready", () => existsSync(join(dir, "ready")) || child.exitCode !== null);
    if (child.exitCode !== null) throw new Error(`the probe ended with ${child.exitCode}`);
  } catch (error) {
    await stop();
    throw error;
  }
  const [pid = 0] = childrenOf(outer);
  const pids = (): Record<string, number> =>
    Object.fromEntries(
      treeOf(pid).map((task) => {
        const status = readFileSync(`/proc/${task}/status`, "utf8");
        return [/^NSpid:.*\t(\d+)$/m.exec(status)?.[1] ?? "0", task];
      }),
    );
  const preflight = async (more: Partial<SourceContext> = {}): Promise<SourceFacts> => {
    const node = await collectNodeFacts({
      node: "node-a",
      linkHost: "127.0.0.1",
      linkPort: 7400,
      stateDir: dir,
      bridge: "br0",
      workloads: [],
    });
    return preflightSource({
      node,
      spec,
      pids: pids(),
      volumeDir: dir,
      runDir: dir,
      options: { mode: "postcopy", dryRun: true, maxBlackoutMs: 30_000 },
      holds: [{ workload: "probe", epoch: 1, state: "OWNER" }],
      ...more,
    });
  };
  return { pid, dir, pids, preflight, stop };
}

/** Messages of the findings of one check, with their levels. */
export const said = (findings: readonly Finding[], check: string): string[] =>
  findings.filter((finding) => finding.check === check).map((finding) => `${finding.level}: ${finding.message}`);

/** Blocking findings besides those that are this machine's (criu missing, extra mounts of the host). */
export const blocked = (findings: readonly Finding[]): Finding[] =>
  findings.filter((finding) => finding.level === "block" && !/^(?:criu.*|mounts)$/.test(finding.check));

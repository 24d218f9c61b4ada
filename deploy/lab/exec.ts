/** Running programs on the lab's hosts. */
import { spawn, type StdioOptions } from "node:child_process";
import { constants } from "node:os";
import { resolve } from "node:path";
import { run, type RunOptions, type RunResult } from "../../src/host/exec.js";
import { ferryError } from "../../src/model/failure.js";
import { enterArgs, findHost, NODE_PATH } from "./hosts.js";
import { defaultStateDir, isAlive, requireLab, type LabHost, type LabState } from "./state.js";

const ENV = { PATH: NODE_PATH, LC_ALL: "C.UTF-8", HOME: "/root" };

async function running(state: string | undefined, where: string): Promise<{ lab: LabState; host: LabHost }> {
  const lab = await requireLab(resolve(state ?? defaultStateDir()));
  const host = findHost(lab, where);
  if (await isAlive(host.init)) return { lab, host };
  throw ferryError("E_STATE", `${where} is not running`, { remedy: "start it again: ferry lab up" });
}

export interface LabNode {
  /** Its pid 1 as this machine sees it. */
  pid: number;
  ip: string;
  /** Program and arguments before which a command runs on that host, in a cgroup of the lab. */
  enter: string[];
  lab: LabState;
}

/** A host of the lab (a node, `client` or `switch`). Throws E_STATE when it does not run, E_NODE_UNKNOWN when it is not one. */
export async function labNode(state: string | undefined, name: string): Promise<LabNode> {
  const { lab, host } = await running(state, name);
  const [file, args] = enterArgs(lab, host, "exec");
  return { pid: host.init?.pid ?? 0, ip: host.ip, enter: [file, ...args], lab };
}

export interface LabExecOptions {
  state?: string;
  /** A node, `client` or `switch`. */
  where: string;
  argv: readonly string[];
  /** Default: inherit. */
  stdio?: StdioOptions;
  env?: Record<string, string>;
}

/**
 * Runs a program on a host and waits for its end.
 * @returns its exit code; 128 plus the signal's number when it was killed by one
 */
export async function labExec(options: LabExecOptions): Promise<number> {
  if (options.argv.length === 0) {
    throw ferryError("E_REQUEST", "there is no command to run", {
      remedy: "ferry lab exec client -- ping -c 1 node-a",
    });
  }
  const { enter } = await labNode(options.state, options.where);
  const [file = "sh", ...args] = [...enter, ...options.argv];
  const term = process.env["TERM"];
  const env = { ...ENV, ...(term === undefined ? {} : { TERM: term }), ...options.env };
  const child = spawn(file, args, { stdio: options.stdio ?? "inherit", env, cwd: "/" });
  // The terminal sends these to the whole group: the child decides, we wait for it.
  const ignore = (): void => undefined;
  const forward = (signal: NodeJS.Signals): void => void child.kill(signal);
  process.on("SIGINT", ignore);
  process.on("SIGTERM", forward);
  try {
    return await new Promise<number>((done, broken) => {
      child.once("error", broken);
      child.once("exit", (code, signal) => done(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
    });
  } finally {
    process.off("SIGINT", ignore);
    process.off("SIGTERM", forward);
  }
}

/** Like `run` of src/host, on a host of the lab. */
export async function labRun(
  state: string | undefined,
  where: string,
  argv: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const { enter } = await labNode(state, where);
  const [file = "sh", ...args] = [...enter, ...argv];
  return run(file, args, { ...options, env: { ...ENV, ...options.env } });
}

/**
 * The agent's side: start a mover, find a living one again, talk to it. A mover has a session of its own and outlives
 * its agent; `mover.pid` in the operation's directory says who it is (pid and start time, since pids are used again).
 */
import { spawn } from "node:child_process";
import { existsSync, openSync, readdirSync, readFileSync, renameSync, closeSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { SYSTEM_PATH } from "../../host/exec.js";
import { withCapabilitiesOf } from "../../host/privileges.js";
import { connectJson } from "../../host/json-socket.js";
import { FerryError, ferryError } from "../../model/failure.js";
import type {
  DestinationMoverRequest,
  DestinationMoverStatus,
  MoverConfig,
  SinkRequest,
  SourceMoverRequest,
  SourceMoverStatus,
} from "../../model/mover.js";
import { moverLine } from "./messages.js";

/**
 * Longest time until a new mover answers: only for one that hangs, one that ends is seen at once. Node starts in 50 to 300 ms; a busy
 * or emulated machine takes longer.
 */
const START_TIMEOUT_MS = 60_000;
const CONNECT_TIMEOUT_MS = 2000;
const PID_FILE = "mover.pid";

export type MoverStatus = SourceMoverStatus | DestinationMoverStatus;
export type MoverRequest = SourceMoverRequest | DestinationMoverRequest | SinkRequest;

export interface MoverClient<Status extends MoverStatus> {
  /** Resolves with the status after the verb was done; rejects with the mover's failure, or E_PAGES when it died. */
  request(request: MoverRequest): Promise<Status>;
  /** The last status that was heard. */
  status(): Status;
  onStatus(listener: (status: Status) => void): void;
  /** First status that satisfies `until`. Rejects E_DEADLINE after `timeoutMs`, or with the failure in the status. */
  wait(until: (status: Status) => boolean, timeoutMs: number): Promise<Status>;
  onClose(listener: () => void): void;
  close(): void;
}

const pidFile = z.strictObject({ pid: z.number().int().positive(), startTime: z.string().regex(/^[0-9]+$/) });

/** Start time of a process in clock ticks since boot (field 22 of its stat), or undefined when it is gone. */
export function startTimeOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // A killed process of several threads is a zombie while some of them still hold its sockets.
    const dead = (fields[0] === "Z" && readdirSync(`/proc/${pid}/task`).length <= 1) || fields[0] === "X";
    return dead ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** Says who the mover of `dir` is: written by who starts it, before it can do anything, and by the mover itself. */
export function writePidFile(dir: string, pid: number): void {
  const path = join(dir, PID_FILE);
  const temporary = `${path}.${process.pid}`;
  writeFileSync(temporary, JSON.stringify({ pid, startTime: startTimeOf(pid) ?? "0" }), { mode: 0o600 });
  renameSync(temporary, path);
}

/** Pid of the living mover of the operation directory `dir`, if there is one. */
export function moverPid(dir: string): number | undefined {
  try {
    const known = pidFile.parse(JSON.parse(readFileSync(join(dir, PID_FILE), "utf8")));
    return startTimeOf(known.pid) === known.startTime ? known.pid : undefined;
  } catch {
    return undefined;
  }
}

/** Kills the mover of `dir` and waits until it is gone. Idempotent. Its page daemon and guard end by themselves or live on. */
export async function killMover(dir: string): Promise<void> {
  const pid = moverPid(dir);
  if (pid === undefined) return;
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    return;
  }
  for (let waited = 0; waited < 5000 && moverPid(dir) === pid; waited += 5) await sleep(5);
  if (moverPid(dir) === pid)
    throw ferryError("E_STUCK", `mover ${pid} does not die`, { remedy: `look at process ${pid}` });
  rmSync(join(dir, PID_FILE), { force: true });
}

/** Another program that stands where that side's mover does, and what it needs in its environment. */
export interface Program {
  main?: string;
  env?: Record<string, string>;
}

/**
 * Starts the mover of `config`, which the agent has written to `configFile` (`mover.json` in the operation's
 * directory), and waits until it answers. One that lives but does not answer is killed first. Returns its pid.
 * Throws E_INTERNAL with the last lines of its log when it ends instead.
 */
export async function startMover(config: MoverConfig, configFile: string, program: Program = {}): Promise<number> {
  await killMover(dirname(configFile));
  const main = program.main ?? fileURLToPath(new URL(`./${config.side}-main.js`, import.meta.url));
  const log = openSync(config.logFile, "a", 0o600);
  const child = spawn(...withCapabilitiesOf("mover", [process.execPath, main, configFile]), {
    cwd: "/",
    detached: true,
    stdio: ["ignore", log, log],
    env: { ...program.env, PATH: SYSTEM_PATH, LC_ALL: "C.UTF-8" },
  });
  closeSync(log);
  const end: { why?: string } = {};
  child.once("error", (error) => (end.why = error.message));
  child.once("exit", (code, signal) => (end.why = signal === null ? `exit code ${code}` : `killed by ${signal}`));
  child.unref();
  const { pid } = child;
  if (pid !== undefined) writePidFile(dirname(configFile), pid);
  const until = performance.now() + START_TIMEOUT_MS;
  while (end.why === undefined && performance.now() < until) {
    if (existsSync(config.controlSocket)) {
      try {
        (await connectJson(config.controlSocket, CONNECT_TIMEOUT_MS)).destroy();
        if (pid !== undefined) return pid;
      } catch {
        // not yet
      }
    }
    await sleep(5);
  }
  throw ferryError("E_INTERNAL", `the ${config.side}'s mover did not start: ${end.why ?? "it does not answer"}`, {
    side: config.side,
    node: config.node,
    evidence: { command: [process.execPath, main, configFile], lines: lastLines(config.logFile, 8) },
  });
}

function lastLines(file: string, count: number): string[] {
  try {
    return readFileSync(file, "utf8").trimEnd().split("\n").slice(-count);
  } catch {
    return [];
  }
}

/** Connects to a mover that lives, and waits for its first status. Rejects with E_AGENT_DOWN when nobody answers. */
export async function connectMover<Status extends MoverStatus>(controlSocket: string): Promise<MoverClient<Status>> {
  const peer = await connectJson(controlSocket, CONNECT_TIMEOUT_MS);
  const pending = new Map<number, { resolve: (status: Status) => void; reject: (error: Error) => void }>();
  const statusListeners = new Set<(status: Status) => void>();
  const closeListeners = new Set<() => void>();
  let last: Status | undefined;
  let nextId = 1;

  const died = (): FerryError =>
    ferryError("E_PAGES", `the mover at ${controlSocket} has ended or does not answer any more`, {
      remedy: "the agent starts a new one; its log is beside the socket",
    });
  const heard = (status: Status): void => {
    last = status;
    // A listener may remove itself or others while it is called.
    for (const listener of Array.from(statusListeners)) listener(status);
  };
  peer.onMessage((line) => {
    const parsed = moverLine.safeParse(line);
    if (!parsed.success) {
      peer.destroy();
      return;
    }
    const message = parsed.data;
    if (!("id" in message)) {
      heard(message.status as Status);
      return;
    }
    const request = pending.get(message.id);
    pending.delete(message.id);
    if (message.ok) {
      heard(message.status as Status);
      request?.resolve(message.status as Status);
    } else {
      request?.reject(new FerryError(message.failure));
    }
  });
  peer.onClose(() => {
    for (const request of pending.values()) request.reject(died());
    pending.clear();
    for (const listener of Array.from(closeListeners)) listener();
  });

  const first = await new Promise<Status>((resolve, reject) => {
    const timer = setTimeout(() => {
      peer.destroy();
      reject(died());
    }, CONNECT_TIMEOUT_MS);
    const done = (status: Status): void => {
      clearTimeout(timer);
      statusListeners.delete(done);
      resolve(status);
    };
    statusListeners.add(done);
    peer.onClose(() => {
      clearTimeout(timer);
      reject(died());
    });
  });

  return {
    request: (request) =>
      new Promise<Status>((resolve, reject) => {
        if (peer.closed) {
          reject(died());
          return;
        }
        const id = nextId++;
        pending.set(id, { resolve, reject });
        peer.send({ id, request });
      }),
    status: () => last ?? first,
    onStatus: (listener) => {
      statusListeners.add(listener);
    },
    wait: (until, timeoutMs) =>
      new Promise<Status>((resolve, reject) => {
        const stop = (): void => {
          clearTimeout(timer);
          statusListeners.delete(look);
          closeListeners.delete(closed);
        };
        const look = (status: Status): void => {
          if (until(status)) {
            stop();
            resolve(status);
          } else if (status.failure !== undefined) {
            stop();
            reject(new FerryError(status.failure));
          }
        };
        const closed = (): void => {
          stop();
          reject(died());
        };
        const timer = setTimeout(() => {
          stop();
          reject(ferryError("E_DEADLINE", `the mover did not get there within ${timeoutMs} ms`));
        }, timeoutMs);
        statusListeners.add(look);
        closeListeners.add(closed);
        if (peer.closed) closed();
        else look(last ?? first);
      }),
    onClose: (listener) => {
      if (peer.closed) listener();
      else closeListeners.add(listener);
    },
    close: () => {
      peer.destroy();
    },
  };
}

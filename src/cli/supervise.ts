/**
 * Keeps a few of our own commands running as children: restarts what dies, forwards SIGTERM and SIGINT, ends when
 * all have ended after a signal.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, mkdirSync, openSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { packageRoot } from "../host/package-root.js";
import { ferryError, toFailure } from "../model/failure.js";
import { setprivArgs, SETPRIV } from "../model/privileges.js";

export interface Supervised {
  /** Which of the node's parts it is: decides the capabilities that it keeps. */
  part: "agent" | "worker";
  /** Arguments of `ferry`. */
  args: readonly string[];
  /** User and group id, with no other groups; default: ours. */
  uid?: number;
  /** Variables of our environment that are not its affair. */
  without?: readonly string[];
}

export interface SuperviseOptions {
  /** File that the children's standard output is appended to; default: our standard output. */
  logFile?: string;
}

/** First pause before a restart; doubles up to MAX while a child keeps dying young. */
const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 10_000;
/** A child that lived this long starts over with the first pause. */
const YOUNG_MS = 30_000;

export async function supervise(
  node: string,
  children: readonly Supervised[],
  options: SuperviseOptions = {},
): Promise<void> {
  const running = new Map<string, ChildProcess>();
  const stopping = new AbortController();
  const stop = (signal: NodeJS.Signals): void => {
    stopping.abort();
    for (const child of running.values()) child.kill(signal);
  };
  const signals = ["SIGTERM", "SIGINT", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, () => stop(signal === "SIGHUP" ? "SIGTERM" : signal));

  // Opened by us, as root: the worker could not append to a file of the agent's.
  const log = options.logFile === undefined ? undefined : openLog(options.logFile);
  // the same fields as in the lines of agent and worker
  const say = (fields: Record<string, unknown>): void => {
    const line = `${JSON.stringify({ level: "warn", time: new Date().toISOString(), node, component: "node", ...fields })}\n`;
    process.stderr.write(line);
    if (log !== undefined) writeSync(log, line);
  };
  const keep = async ({ part, args, uid, without = [] }: Supervised): Promise<void> => {
    let pauseMs = FIRST_PAUSE_MS;
    while (!stopping.signal.aborted) {
      const started = Date.now();
      const ids = uid === undefined ? [] : [`--reuid=${uid}`, `--regid=${uid}`, "--clear-groups"];
      const ferry = [process.execPath, join(packageRoot(), "bin", "ferry.js"), ...args, "--supervised"];
      const child = spawn(SETPRIV, [...ids, ...setprivArgs(part), "--", ...ferry], {
        // Standard input ends with us, see endWithParent.
        stdio: ["pipe", log ?? "inherit", "inherit"],
        // a session of its own: a signal to our terminal's group reaches it only through us
        detached: true,
        env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !without.includes(name))),
      });
      child.stdin?.on("error", () => undefined);
      running.set(part, child);
      const ended = await new Promise<string>((resolve) => {
        child.once("error", (error) => resolve(error.message));
        child.once("exit", (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`));
      });
      running.delete(part);
      // a signal that arrived between exit and here is seen by the loop's condition
      if (stopping.signal.aborted) return;
      pauseMs = Date.now() - started > YOUNG_MS ? FIRST_PAUSE_MS : Math.min(pauseMs * 2, MAX_PAUSE_MS);
      say({ pauseMs, msg: `the ${part} ended: ${ended}; starting it again` });
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  };
  await Promise.all(children.map(keep));
  if (log !== undefined) closeSync(log);
}

function openLog(path: string): number {
  try {
    mkdirSync(dirname(path), { recursive: true });
    return openSync(path, "a", 0o640);
  } catch (error) {
    throw ferryError("E_REQUEST", `the log file ${path} can't be opened: ${toFailure(error).message}`, {
      remedy: "give --log-file a path in a directory that can be written",
    });
  }
}

/**
 * For the children: a supervisor that was killed (SIGKILL can't be forwarded) takes them along, so that the next one
 * does not meet an agent that nobody looks after. Its end closes our standard input.
 */
export function endWithParent(): void {
  const { stdin } = process;
  const end = (): void => void process.kill(process.pid, "SIGTERM");
  stdin.once("end", end);
  stdin.once("error", end);
  stdin.resume();
  // It must not keep us alive either.
  (stdin as unknown as { unref?: () => void }).unref?.();
}

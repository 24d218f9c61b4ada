/**
 * Keeps a few of our own commands running as children: restarts what dies, forwards SIGTERM and SIGINT, ends when
 * all have ended after a signal.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { packageRoot } from "../host/package-root.js";

export interface Supervised {
  title: string;
  /** Arguments of `ferry`. */
  args: readonly string[];
  /** User and group id; default: ours. */
  uid?: number;
}

/** First pause before a restart; doubles up to MAX while a child keeps dying young. */
const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 10_000;
/** A child that lived this long starts over with the first pause. */
const YOUNG_MS = 30_000;

export async function supervise(node: string, children: readonly Supervised[]): Promise<void> {
  const running = new Map<string, ChildProcess>();
  const stopping = new AbortController();
  const stop = (signal: NodeJS.Signals): void => {
    stopping.abort();
    for (const child of running.values()) child.kill(signal);
  };
  const signals = ["SIGTERM", "SIGINT", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, () => stop(signal === "SIGHUP" ? "SIGTERM" : signal));

  // the same fields as in the lines of agent and worker
  const say = (fields: Record<string, unknown>): void => {
    const line = { level: "warn", time: new Date().toISOString(), node, component: "node", ...fields };
    process.stderr.write(`${JSON.stringify(line)}\n`);
  };
  const keep = async ({ title, args, uid }: Supervised): Promise<void> => {
    let pauseMs = FIRST_PAUSE_MS;
    while (!stopping.signal.aborted) {
      const started = Date.now();
      const child = spawn(process.execPath, [join(packageRoot(), "bin", "ferry.js"), ...args], {
        stdio: "inherit",
        // a session of its own: a signal to our terminal's group reaches it only through us
        detached: true,
        ...(uid !== undefined && { uid, gid: uid }),
      });
      running.set(title, child);
      const ended = await new Promise<string>((resolve) => {
        child.once("error", (error) => resolve(error.message));
        child.once("exit", (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`));
      });
      running.delete(title);
      // a signal that arrived between exit and here is seen by the loop's condition
      if (stopping.signal.aborted) return;
      pauseMs = Date.now() - started > YOUNG_MS ? FIRST_PAUSE_MS : Math.min(pauseMs * 2, MAX_PAUSE_MS);
      say({ pauseMs, msg: `the ${title} ended: ${ended}; starting it again` });
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  };
  await Promise.all(children.map(keep));
}

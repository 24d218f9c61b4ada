/**
 * A program of somebody else's, with everything that it starts: in a process group of its own, which is ended with it. For
 * commands of the configuration, whose scripts may leave helpers behind that hang.
 */
import { spawn } from "node:child_process";
import { FerryError, type Evidence } from "../model/failure.js";
import { SYSTEM_PATH } from "./exec.js";

/** From SIGTERM to SIGKILL. */
const GRACE_MS = 2_000;
const MAX_OUTPUT_BYTES = 64 * 1024;
const TOLD_LINES = 8;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

export interface GroupOptions {
  /** Milliseconds until SIGTERM to the whole group, then SIGKILL. */
  timeoutMs: number;
  /** What was being done, in words: the start of the error's message. */
  doing: string;
  remedy: string;
}

/**
 * Runs a program (an argument array, never a shell) to its end, and leaves nothing of its group. A signal to this process
 * reaches the group, too. Throws FerryError E_TOOL with command, exit code and last lines when it fails or takes too long.
 */
export async function runInGroup(file: string, args: readonly string[], options: GroupOptions): Promise<void> {
  const { timeoutMs, doing, remedy } = options;
  const child = spawn(file, [...args], {
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
    env: { PATH: SYSTEM_PATH, LC_ALL: "C.UTF-8" },
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      output = (output + text).slice(-MAX_OUTPUT_BYTES);
    });
  }
  const end = (signal: NodeJS.Signals): void => {
    if (child.pid === undefined) return;
    try {
      process.kill(-child.pid, signal);
    } catch {
      // nobody is left of it
    }
  };
  let late = false;
  let kill: NodeJS.Timeout | undefined;
  const timer = setTimeout(() => {
    late = true;
    end("SIGTERM");
    kill = setTimeout(() => end("SIGKILL"), GRACE_MS);
  }, timeoutMs);
  // It does not get the terminal's signals by itself.
  const forward = (signal: NodeJS.Signals): void => {
    end("SIGKILL");
    for (const name of SIGNALS) process.off(name, forward);
    process.kill(process.pid, signal);
  };
  for (const name of SIGNALS) process.on(name, forward);
  // Of the program, not of its output: a helper that it left behind may hold that open.
  const ended = await new Promise<{ code?: number; signal?: string; error?: Error }>((resolve) => {
    child.once("error", (error) => resolve({ error }));
    child.once("exit", (code, signal) =>
      resolve({ ...(code === null ? {} : { code }), ...(signal === null ? {} : { signal }) }),
    );
  });
  clearTimeout(timer);
  clearTimeout(kill);
  for (const name of SIGNALS) process.off(name, forward);
  end("SIGKILL");
  child.stdout.destroy();
  child.stderr.destroy();
  if (ended.code === 0 && !late) return;
  const lines = output
    .split("\n")
    .filter((line) => line.trim() !== "")
    .slice(-TOLD_LINES);
  const evidence: Evidence = {
    command: [file, ...args],
    lines,
    ...(ended.code === undefined ? {} : { exitCode: ended.code }),
    ...(ended.signal === undefined ? {} : { signal: ended.signal }),
  };
  const why = late
    ? `did not finish in ${timeoutMs} ms, and was ended with all that it had started`
    : ended.error === undefined
      ? "failed"
      : `could not be started: ${ended.error.message}`;
  throw new FerryError({ code: "E_TOOL", message: `${doing}: ${file} ${why}`, evidence, remedy });
}

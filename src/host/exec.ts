/**
 * Running other programs: argument arrays, never a shell; a small clean environment; the outcome as evidence.
 */
import { execa } from "execa";
import { FerryError, type Evidence, type FailureCode } from "../model/failure.js";

export const SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

export interface RunOptions {
  /** Failure code when it fails (default E_TOOL). */
  code?: FailureCode;
  /** What was being done, in words: the start of the error's message. */
  doing?: string;
  remedy?: string;
  input?: string;
  /** Milliseconds until SIGTERM, then SIGKILL (default 30000). Never use a timeout around criu. */
  timeoutMs?: number;
  cwd?: string;
  env?: Record<string, string>;
  /** Exit codes that are fine besides 0. */
  allow?: number[];
  signal?: AbortSignal;
}

export interface RunResult {
  stdout: string;
  stderr: string;
  exitCode: number;
  durationMs: number;
}

const lastLines = (text: string, count: number): string[] =>
  text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .slice(-count);

/** Runs a program to its end. Throws FerryError with the command, exit code and last lines when it fails. */
export async function run(file: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const result = await execa(file, [...args], {
    env: { PATH: SYSTEM_PATH, LC_ALL: "C.UTF-8", ...options.env },
    extendEnv: false,
    reject: false,
    stdin: options.input === undefined ? "ignore" : "pipe",
    ...(options.input === undefined ? {} : { input: options.input }),
    timeout: options.timeoutMs ?? 30_000,
    forceKillAfterDelay: 2000,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.signal === undefined ? {} : { cancelSignal: options.signal }),
  });
  if (result.exitCode !== undefined && (result.exitCode === 0 || options.allow?.includes(result.exitCode))) {
    return { stdout: result.stdout, stderr: result.stderr, exitCode: result.exitCode, durationMs: result.durationMs };
  }
  const evidence: Evidence = { command: [file, ...args], lines: lastLines(result.stderr || result.stdout, 8) };
  if (result.exitCode !== undefined) evidence.exitCode = result.exitCode;
  if (result.signal !== undefined) evidence.signal = result.signal;
  const why = result.timedOut
    ? `did not finish in ${options.timeoutMs ?? 30_000} ms`
    : result.exitCode === undefined && result.signal === undefined
      ? `could not be started: ${(result.shortMessage ?? "").split("\n", 1).join("")}`
      : "failed";
  throw new FerryError({
    code: options.code ?? "E_TOOL",
    message: `${options.doing ?? `running ${file}`}: ${file} ${why}`,
    evidence,
    ...(options.remedy === undefined ? {} : { remedy: options.remedy }),
  });
}

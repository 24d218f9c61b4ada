/**
 * One run of criu (a dump or a restore), in a session of its own, known only by its directory on the tmpfs:
 *
 *   command   what was run, JSON          pid     line of /proc/PID/stat of the wrapper (engine.sh)
 *   at.POINT  a hook point was reached    gate    FIFO: the hook waits here for the exit code to return
 *   rc        exit code of criu           log     criu's log; words: its standard output and error
 *   begin     FIFO: the command was started ahead and waits here; begun: it was told to begin
 *
 * All of it is a level: a restarted agent reads the same. The wrapper records the exit code whatever becomes of the agent.
 */
import { spawn } from "node:child_process";
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  watch,
  writeFileSync,
  writeSync,
  type FSWatcher,
} from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { realtimeMs } from "../../host/clock.js";
import { SYSTEM_PATH } from "../../host/exec.js";
import { groupEnded, isAlive, killGroup, parseProcessId, type ProcessId } from "../../host/proc.js";
import { errnoName, makeFifo } from "../../host/syscall.js";
import { ferryError } from "../../model/failure.js";
import type { EngineHandle, EngineStatus } from "../runtime.js";

export const HOOK_POINTS = ["network-lock", "post-dump", "post-restore", "post-resume"] as const;

/**
 * What the hook returns for a veto. criu then puts the tree back and exits with 255 (measured, 4.2.1), as it does for some
 * errors on the way: `putBack` tells them apart.
 */
export const VETO = 71;

/** The engine's log is polled for changes this often, besides being watched. */
const POLL_MS = 40;
const STARTING_MS = 2000;
const KILLED_WITHIN_MS = 5000;
const BEGIN = "begin";
const BEGUN = "begun";

export function makeFifoAt(path: string): void {
  const failed = makeFifo(path);
  if (failed < 0) throw ferryError("E_TOOL", `making the FIFO ${path}: ${errnoName(-failed)}`);
}

function readIf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Unix milliseconds of an event that a hook wrote: nanoseconds of the monotonic clock, or seconds of the wall clock. */
function eventMs(text: string): number | undefined {
  const monotonic = /^monotonic (\d{1,19})\n$/.exec(text)?.[1];
  if (monotonic !== undefined) return realtimeMs() - Number(process.hrtime.bigint() - BigInt(monotonic)) / 1e6;
  return /^\d+\.\d+\n$/.test(text) ? Number(text) * 1000 : undefined;
}

/** A command as it was noted; what a crash has cut short is no reason to hide the failure that it is evidence of. */
function wordsOf(json: string | undefined): string[] {
  try {
    const words: unknown = JSON.parse(json ?? "[]");
    return Array.isArray(words) ? words.map(String) : [];
  } catch {
    return [];
  }
}

export class Engine implements EngineHandle {
  readonly dir: string;

  constructor(dir: string) {
    this.dir = dir;
  }

  /** The engine of `dir`, running or ended; undefined when there was none. */
  static adopt(dir: string): Engine | undefined {
    return existsSync(join(dir, "command")) ? new Engine(dir) : undefined;
  }

  get logFile(): string {
    return join(this.dir, "log");
  }

  /** Identity of the wrapper: leader of the session in which criu and its hooks run. */
  get leader(): ProcessId | undefined {
    const text = readIf(join(this.dir, "pid"));
    const id = text === undefined ? undefined : parseProcessId(text);
    return id && { pid: id.pid, startTicks: id.startTicks };
  }

  /** Begun so lately that the wrapper may not have written down its pid yet. */
  private get starting(): boolean {
    try {
      return Date.now() - statSync(join(this.dir, "command")).mtimeMs < STARTING_MS;
    } catch {
      return false;
    }
  }

  status(): EngineStatus {
    // First whether it lives, then what it has left behind: the other way round an end in between would look like a loss.
    const leader = this.leader;
    const alive = leader === undefined ? this.starting : isAlive(leader);
    const reached: EngineStatus["reached"] = {};
    for (const point of HOOK_POINTS) {
      const at = eventMs(readIf(join(this.dir, `at.${point}`)) ?? "");
      if (at !== undefined) reached[point] = at;
    }
    const rc = readIf(join(this.dir, "rc"));
    if (rc !== undefined && /^\d{1,3}\n$/.test(rc)) return { alive: false, exitCode: Number(rc), reached };
    return { alive, reached };
  }

  async wait(until: (status: EngineStatus) => boolean, timeoutMs: number): Promise<EngineStatus> {
    let wake: () => void = () => undefined;
    let watcher: FSWatcher | undefined;
    try {
      watcher = watch(this.dir, () => wake());
      watcher.on("error", () => undefined);
    } catch {
      // the poll is enough
    }
    const end = performance.now() + timeoutMs;
    try {
      for (;;) {
        const changed = new Promise<void>((resolve) => (wake = resolve));
        const status = this.status();
        if (until(status) || !status.alive) return status;
        if (performance.now() >= end) {
          throw ferryError("E_DEADLINE", `criu did not get there within ${timeoutMs} ms`, {
            evidence: await this.evidence(),
          });
        }
        const stop = new AbortController();
        await Promise.race([
          changed,
          sleep(Math.min(POLL_MS, Math.max(1, end - performance.now())), undefined, { signal: stop.signal }).catch(
            () => undefined,
          ),
        ]);
        stop.abort();
      }
    } finally {
      watcher?.close();
    }
  }

  async evidence(): Promise<{ command: string[]; exitCode?: number; lines: string[] }> {
    const read = async (file: string): Promise<string[]> =>
      (await readFile(file, "utf8").catch(() => "")).split("\n").filter((line) => line.trim() !== "");
    const log = await read(this.logFile);
    // The first line is noise wherever root lacks CAP_SYS_RESOURCE; the second follows from the first reason.
    const errors = log.filter(
      (line, index) =>
        (/\bError\b/.test(line) && !/rlimit: Can't setup RLIMIT_NOFILE|Unable to detach/.test(line)) ||
        // criu takes a file that is not there for an empty one: which it was stands in the line before.
        (/No \S+ image$/.test(line) && log[index + 1]?.includes("(empty-image)")),
    );
    const words = (await read(join(this.dir, "words"))).slice(-6);
    const warnings = errors.length > 0 ? [] : log.filter((line) => /\bWarn\b/.test(line)).slice(-4);
    const { exitCode } = this.status();
    return {
      command: wordsOf(readIf(join(this.dir, "command"))),
      ...(exitCode === undefined ? {} : { exitCode }),
      lines: [...errors.slice(0, 8), ...warnings, ...words],
    };
  }

  /** Did criu itself say that it was told to go back, and that it has let the tree go after that? */
  async putBack(): Promise<boolean> {
    const log = await readFile(this.logFile, "utf8").catch(() => "");
    const told = log.lastIndexOf("Running post-dump scripts");
    return told >= 0 && /Unseizing \d+ into 1$[^]*Dumping FAILED/m.test(log.slice(told));
  }

  /**
   * Tells the waiting hook to return `code`. false: the engine has ended, or nobody waited within `timeoutMs`
   * (nothing is left in the FIFO then).
   */
  openGate(code: number, timeoutMs = 5000): Promise<boolean> {
    return this.tell("gate", String(code), timeoutMs);
  }

  /** Started ahead, and not told to begin yet. */
  get waiting(): boolean {
    return existsSync(join(this.dir, BEGIN)) && !existsSync(join(this.dir, BEGUN)) && this.status().alive;
  }

  /** Lets an engine go that was started ahead. false: it has ended meanwhile. */
  async begin(): Promise<boolean> {
    // First the note: told twice, it would begin once all the same.
    writeFileSync(join(this.dir, BEGUN), "", { mode: 0o600 });
    return this.tell(BEGIN, "go", STARTING_MS);
  }

  private async tell(name: string, word: string, timeoutMs: number): Promise<boolean> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      try {
        const fd = openSync(join(this.dir, name), constants.O_WRONLY | constants.O_NONBLOCK);
        try {
          writeSync(fd, `${word}\n`);
          return true;
        } finally {
          closeSync(fd);
        }
      } catch (error) {
        const { code: errno } = error as NodeJS.ErrnoException;
        if (errno === "ENOENT") return false;
        if (errno !== "ENXIO") throw error;
      }
      if (performance.now() >= end || !this.status().alive) return false;
      await sleep(1);
    }
  }

  /** SIGKILL to the wrapper, criu and its hooks, and waits until they have gone. Idempotent. */
  async kill(): Promise<void> {
    const { leader } = this;
    if (leader !== undefined && killGroup(leader)) return groupEnded(leader.pid, KILLED_WITHIN_MS);
    // The wrapper has gone, a hook of a criu that was killed may still wait: let it go, nobody hears its answer.
    await this.openGate(VETO, 0);
  }
}

/** The wrapper writes the same a little later: whoever wants to kill it at once must know it, too. */
function writeLeader(dir: string, pid: number): void {
  const stat = readIf(`/proc/${pid}/stat`);
  if (stat === undefined) return;
  writeFileSync(join(dir, ".leader"), stat, { mode: 0o600 });
  renameSync(join(dir, ".leader"), join(dir, "pid"));
}

export interface EngineStart {
  /** Made anew; what was there of an earlier engine (that has ended) is removed. */
  dir: string;
  /** Path of deploy/hooks/engine.sh. */
  wrapper: string;
  /** criu's command, or what becomes criu. */
  command: string[];
  env: Record<string, string>;
  /** The command waits at the FIFO `begin` of its directory before it does anything (`Engine.begin`). */
  waiting?: boolean;
  /** Hand descriptor 3, a socket whose other end is closed at once, to the command. */
  closedSocket?: boolean;
}

/** Starts an engine. Throws E_BUSY when one is alive in that directory. */
export async function startEngine(options: EngineStart): Promise<Engine> {
  const { dir } = options;
  if (Engine.adopt(dir)?.status().alive === true) throw ferryError("E_BUSY", `an engine is still at work in ${dir}`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  for (const name of ["gate", ...(options.waiting === true ? [BEGIN] : [])]) makeFifoAt(join(dir, name));
  writeFileSync(join(dir, ".command"), JSON.stringify(options.command), { mode: 0o600 });
  renameSync(join(dir, ".command"), join(dir, "command"));
  // The wrapper writes into these: its own files would be for all to read, and criu must not get another umask.
  for (const name of [".pid", ".rc"]) writeFileSync(join(dir, name), "", { mode: 0o600 });
  const words = openSync(join(dir, "words"), "a", 0o600);
  try {
    const child = spawn("/bin/sh", [options.wrapper, dir, ...options.command], {
      cwd: "/",
      env: { PATH: SYSTEM_PATH, LC_ALL: "C.UTF-8", ...options.env },
      stdio: ["ignore", words, words, ...(options.closedSocket === true ? (["pipe"] as const) : [])],
      detached: true,
    });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
    if (options.closedSocket === true) (child.stdio[3] as Duplex | null)?.destroy();
    child.unref();
    if (child.pid !== undefined) writeLeader(dir, child.pid);
    return new Engine(dir);
  } finally {
    closeSync(words);
  }
}

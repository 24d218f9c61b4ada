/** What both movers' processes do alike: configuration, log, pid file, the end. */
import { fstatSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { lockFile } from "../../host/flock.js";
import { issuesOf } from "../../host/issues.js";
import { ferryError, toFailure } from "../../model/failure.js";
import type { MoverConfig } from "../../model/mover.js";
import { writePidFile } from "./client.js";
import { configSchema, FRAMES, type FrameMeta, type FrameType } from "./messages.js";

export type Log = (level: "info" | "warn" | "error", message: string, fields?: object) => void;

/** A mover that holds nothing up: killed last when memory runs out, since the workload's own memory waits for it. */
const OOM_SCORE = "-1000";
const LOCK_FILE = "mover.lock";
const LOOK_EVERY_MS = 1000;

/** Reads the configuration named on the command line, prepares the process. Ends it with code 2 when it is wrong. */
export function startProcess(side: MoverConfig["side"]): { config: MoverConfig; dir: string; log: Log } {
  const [, , file] = process.argv;
  const fail = (message: string): never => {
    process.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), level: "error", side, message })}\n`);
    process.exit(2);
  };
  if (file === undefined) return fail(`usage: ${side}-main.js CONFIG`);
  let config: MoverConfig;
  try {
    config = configSchema.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch (error) {
    return fail(`${file} is not a mover's configuration: ${toFailure(error).message}`);
  }
  if (config.side !== side) return fail(`${file} is for the ${config.side}`);
  process.title = `ferry-mover-${side}`;
  const log: Log = (level, message, fields = {}) => {
    const { operation, workload, node } = config;
    const time = new Date().toISOString();
    process.stderr.write(`${JSON.stringify({ time, level, side, node, workload, operation, message, ...fields })}\n`);
  };
  for (const signal of ["SIGHUP", "SIGINT"] as const) process.on(signal, () => undefined);
  process.on("uncaughtException", (error) => {
    log("error", "bug: the mover ends", { failure: toFailure(error), stack: error.stack });
    process.exit(1);
  });
  try {
    writeFileSync("/proc/self/oom_score_adj", OOM_SCORE);
  } catch {
    // not allowed here: then it is as likely to be chosen as others
  }
  const dir = dirname(file);
  stayAlone(dir, log);
  mkdirSync(config.storeDir, { recursive: true, mode: 0o700 });
  writePidFile(dir, process.pid);
  return { config, dir, log };
}

/**
 * One mover per side of an operation, and none without it: an agent that was killed while it started one may start
 * another, and removes the directory when the operation is over. Ends the process with code 3 when it is not alone, and
 * as soon as the directory is not the one that it works in.
 */
function stayAlone(dir: string, log: Log): void {
  const path = join(dir, LOCK_FILE);
  const fd = lockFile(path);
  if (fd === undefined) {
    log("warn", "another mover works on this operation");
    process.exit(3);
  }
  const { ino } = fstatSync(fd);
  setInterval(() => {
    const now = statSync(path, { throwIfNoEntry: false });
    if (now?.ino === ino) return;
    log("warn", "the operation's directory is gone: so is its mover");
    process.exit(0);
  }, LOOK_EVERY_MS).unref();
}

/** The meta of a frame from the peer. Throws E_FRAME: that ends the session. */
export function parseMeta<T extends FrameType>(type: T, meta: unknown): FrameMeta<T> {
  const parsed = FRAMES[type].safeParse(meta);
  if (!parsed.success) throw ferryError("E_FRAME", `frame ${type} is not valid: ${issuesOf(parsed.error, "meta")}`);
  return parsed.data as FrameMeta<T>;
}

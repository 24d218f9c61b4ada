/** What both movers' processes do alike: configuration, log, pid file, the end. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { ferryError, toFailure } from "../../model/failure.js";
import type { MoverConfig } from "../../model/mover.js";
import { writePidFile } from "./client.js";
import { configSchema, FRAMES, type FrameMeta, type FrameType } from "./messages.js";

export type Log = (level: "info" | "warn" | "error", message: string, fields?: object) => void;

/** A mover that holds nothing up: killed last when memory runs out, since the workload's own memory waits for it. */
const OOM_SCORE = "-1000";

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
  mkdirSync(config.storeDir, { recursive: true, mode: 0o700 });
  const dir = dirname(file);
  writePidFile(dir);
  return { config, dir, log };
}

/** The meta of a frame from the peer. Throws E_FRAME: that ends the session. */
export function parseMeta<T extends FrameType>(type: T, meta: unknown): FrameMeta<T> {
  const parsed = FRAMES[type].safeParse(meta);
  if (!parsed.success) throw ferryError("E_FRAME", `frame ${type}: ${parsed.error.message.slice(0, 500)}`);
  return parsed.data as FrameMeta<T>;
}

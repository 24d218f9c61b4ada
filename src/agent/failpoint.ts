/**
 * Failpoints: places at which a test may stop or kill this agent. They exist only when the agent was started with
 * FERRY_FAILPOINTS=<directory>; then, on reaching point P, a file P in it is taken away and says what happens:
 *
 *   kill    SIGKILL to the agent itself
 *   pause   a file P.hit appears; the operation (not the agent) waits until a file P.go does
 *   note    nothing: that P was taken away says that it was come by
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Phase } from "../model/phase.js";

/** All of them. Tests hold that each is come by, and that something strikes there. */
export const FAILPOINTS = [
  "source.arm",
  "source.presync",
  "source.precopy",
  "source.freeze",
  "source.dump",
  "source.transfer",
  "source.switch",
  "source.release",
  "source.drain",
  // Of a restore from a checkpoint as well: `restore`, `resume` and `drain`.
  "destination.arm",
  "destination.restore",
  "destination.transfer",
  "destination.switch",
  "destination.resume",
  "destination.drain",
  "checkpoint.arm",
  "checkpoint.presync",
  "checkpoint.precopy",
  "checkpoint.freeze",
  "checkpoint.dump",
  "checkpoint.transfer",
  "checkpoint.resume",
  "checkpoint.store",
  "checkpoint.commit",
  "checkpoint.release",
] as const;
export type Failpoint = (typeof FAILPOINTS)[number];

type After<Point extends string, Who extends string> = Point extends `${Who}.${infer Name}` ? Name : never;
/** Phases with a failpoint, of an operation's side. */
export type PhaseOf<Who extends "source" | "destination" | "checkpoint"> = Extract<After<Failpoint, Who>, Phase>;

/** For whoever arms one: a name that nothing comes by would be waited for in vain. */
export function demandFailpoint(name: string): asserts name is Failpoint {
  if ((FAILPOINTS as readonly string[]).includes(name)) return;
  throw new RangeError(`there is no failpoint ${name}: choose one of ${FAILPOINTS.join(", ")}`);
}

const directory = process.env["FERRY_FAILPOINTS"];
/** A test that died must not leave an operation waiting for ever. */
const LONGEST_PAUSE_MS = 120_000;

export async function failpoint(point: Failpoint): Promise<void> {
  if (directory === undefined) return;
  const file = join(directory, point);
  if (!existsSync(file)) return;
  const action = readFileSync(file, "utf8").trim();
  renameSync(file, `${file}.taken`);
  if (action === "kill") process.kill(process.pid, "SIGKILL");
  if (action !== "pause") return;
  writeFileSync(`${file}.hit`, "");
  const until = performance.now() + LONGEST_PAUSE_MS;
  while (!existsSync(`${file}.go`) && performance.now() < until) await new Promise((resolve) => setTimeout(resolve, 5));
}

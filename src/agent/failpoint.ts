/**
 * Failpoints: places at which a test may stop or kill this agent. They exist only when the agent was started with
 * FERRY_FAILPOINTS=<directory>; then, on reaching point P, a file P in it is taken away and says what happens:
 *
 *   kill    SIGKILL to the agent itself
 *   pause   a file P.hit appears; the operation (not the agent) waits until a file P.go does
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Side } from "../model/failure.js";
import type { Phase } from "../model/phase.js";

const directory = process.env["FERRY_FAILPOINTS"];
/** A test that died must not leave an operation waiting for ever. */
const LONGEST_PAUSE_MS = 120_000;

export type Failpoint = `${Side | "checkpoint"}.${Phase}` | "checkpoint.commit";

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

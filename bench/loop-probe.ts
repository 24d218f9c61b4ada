/**
 * Loaded into every agent and worker of the benchmark's lab (NODE_OPTIONS --import): how late its event loop is, as
 * milliseconds beyond a 10 ms timer, twice a second one JSON line to /tmp/ferry-loops/<pid>. Nothing of it is part of Ferry.
 */
import { appendFileSync, chmodSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { isMainThread } from "node:worker_threads";

const DIR = "/tmp/ferry-loops";
const EVERY_MS = 10;
const LINES_EVERY_MS = 500;

const role = process.argv.find((word) => word === "agent" || word === "worker");
if (isMainThread && role !== undefined) {
  mkdirSync(DIR, { recursive: true });
  try {
    chmodSync(DIR, 0o777);
  } catch {
    // somebody else made it, and let us write there
  }
  const file = join(DIR, `${role}-${process.pid}`);
  let late: number[] = [];
  let expected = performance.now() + EVERY_MS;
  let lineAt = performance.now() + LINES_EVERY_MS;
  const timer = setInterval(() => {
    const now = performance.now();
    late.push(Math.max(0, now - expected));
    expected = now + EVERY_MS;
    if (now < lineAt) return;
    lineAt = now + LINES_EVERY_MS;
    const line = { at: performance.timeOrigin + now, lateMs: late.map((value) => Math.round(value * 10) / 10) };
    late = [];
    appendFileSync(file, `${JSON.stringify(line)}\n`);
  }, EVERY_MS);
  timer.unref();
}

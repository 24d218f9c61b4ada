import { writeSync } from "node:fs";

/** The page daemon's log: one JSON line on standard error, which is a file. Its event loop never turns: no streams. */
export function say(event: string, fields: Record<string, unknown> = {}): void {
  writeSync(2, `${JSON.stringify({ time: new Date().toISOString(), pid: process.pid, event, ...fields })}\n`);
}

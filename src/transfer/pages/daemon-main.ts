/**
 * Program of the page daemon: daemon-main.js STORE_DIR LAZY_PAGES_SOCKET. Started by service.ts and spare.ts only.
 *
 * Its standard input says when to begin: /dev/null is at its end at once; a spare is started ahead of its store and waits
 * on a pipe for a line. The end of the pipe without one (whoever started it is gone, or needs none) ends it.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { poll } from "../../host/syscall.js";
import { toFailure } from "../../model/failure.js";
import { listenAt } from "./restore-socket.js";
import { say } from "./say.js";
import { takeOver } from "./takeover.js";

const [dir, socketPath] = process.argv.slice(2);
if (dir === undefined || socketPath === undefined) {
  say("usage: daemon-main.js STORE_DIR LAZY_PAGES_SOCKET");
  process.exit(2);
}
/** Of a spare: lazy-pages.socket, listening before there is a store, so that criu need not wait for that. */
let early = -1;

/** false: not needed any more. */
function told(at: string): boolean {
  if (!fstatSync(0).isFIFO() && !fstatSync(0).isSocket()) return true;
  early = listenAt(at);
  // Loads the system calls, too.
  poll(0, 0, 0);
  const word = Buffer.alloc(1);
  const got = readSync(0, word, 0, 1, null);
  // The guard must not keep a pipe of the mover's open.
  closeSync(0);
  openSync("/dev/null", "r");
  return got === 1;
}

try {
  if (!told(socketPath)) process.exit(0);
  takeOver(dir, socketPath, fileURLToPath(import.meta.url), early).run();
  process.exit(0);
} catch (error) {
  // the guard, if there is one, stays: the next daemon takes over from it
  say("failed", { ...toFailure(error), stack: error instanceof Error ? error.stack : undefined });
  process.exit(1);
}

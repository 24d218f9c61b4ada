/** Program of the page daemon: daemon-main.js STORE_DIR LAZY_PAGES_SOCKET. Started by service.ts only. */
import { fileURLToPath } from "node:url";
import { toFailure } from "../../model/failure.js";
import { say } from "./say.js";
import { takeOver } from "./takeover.js";

const [dir, socketPath] = process.argv.slice(2);
if (dir === undefined || socketPath === undefined) {
  say("usage: daemon-main.js STORE_DIR LAZY_PAGES_SOCKET");
  process.exit(2);
}
try {
  takeOver(dir, socketPath, fileURLToPath(import.meta.url)).run();
  process.exit(0);
} catch (error) {
  // the guard, if there is one, stays: the next daemon takes over from it
  say("failed", { ...toFailure(error), stack: error instanceof Error ? error.stack : undefined });
  process.exit(1);
}

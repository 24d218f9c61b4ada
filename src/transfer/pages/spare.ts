/**
 * A page daemon that is started before there is a store: program, libraries and code are loaded outside the blackout. It
 * touches nothing until it is told to begin, and ends by itself with the one who started it.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { SYSTEM_PATH } from "../../host/exec.js";
import { withCapabilitiesOf } from "../../host/privileges.js";

export const SCRIPT = fileURLToPath(new URL("./daemon-main.js", import.meta.url));

/** Starts the program. `waiting`: it begins when a line comes on its standard input, else at once. */
export function spawnDaemon(storeDir: string, socketPath: string, waiting: boolean): ChildProcess {
  const out = openSync(join(storeDir, "pages.log"), "a", 0o600);
  // A session of its own: signals to the mover's group do not reach it. No pipes that stay: its guard would keep them.
  const child = spawn(...withCapabilitiesOf("pageDaemon", [process.execPath, SCRIPT, storeDir, socketPath]), {
    cwd: "/",
    detached: true,
    stdio: [waiting ? "pipe" : "ignore", "ignore", out],
    env: { PATH: SYSTEM_PATH, LC_ALL: "C.UTF-8" },
  });
  closeSync(out);
  child.unref();
  return child;
}

export class SpareDaemon {
  readonly #child: ChildProcess;
  readonly #socketPath: string;
  #usable = true;

  /** Of the store that will be made in `storeDir`. */
  constructor(storeDir: string, socketPath: string) {
    this.#socketPath = socketPath;
    mkdirSync(storeDir, { recursive: true, mode: 0o700 });
    this.#child = spawnDaemon(storeDir, socketPath, true);
    this.#child.once("error", () => (this.#usable = false));
    this.#child.once("exit", () => (this.#usable = false));
    // It may be gone when it is spoken to.
    this.#child.stdin?.on("error", () => undefined);
    (this.#child.stdin as { unref?: () => void } | null)?.unref?.();
  }

  /** criu can connect already: what it sends is taken when there is a store. */
  get listening(): boolean {
    return this.#usable && existsSync(this.#socketPath);
  }

  /** The store is there: begin. undefined: it has ended, or was given to somebody already. */
  begin(): ChildProcess | undefined {
    if (!this.#usable || this.#child.pid === undefined) return undefined;
    this.#usable = false;
    this.#child.stdin?.end("\n");
    return this.#child;
  }

  /** Not needed any more; harmless after `begin`. */
  end(): void {
    if (this.#usable) this.#child.stdin?.destroy();
    this.#usable = false;
  }
}

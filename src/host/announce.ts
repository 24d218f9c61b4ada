/**
 * Telling the network where an address lives now.
 *
 * The announcer is a child in the workload's network namespace, started ahead of time: nothing needs to start inside the
 * blackout. It waits for a line on its standard input, announces at once and again over some seconds (frames get lost,
 * bridges and switches learn late), then ends. When the agent dies first, the end of its input ends it.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { SYSTEM_PATH } from "./exec.js";
import { NETNS_DIR } from "./netns.js";
import { processId, type ProcessId } from "./proc.js";

/** Milliseconds after the link came up at which everything is announced. */
export const ANNOUNCE_AT_MS = [0, 50, 150, 350, 750, 1500, 3000] as const;

export class Announcer {
  private readonly child: ChildProcess;
  private ended = false;

  /** `addresses` without prefix length. */
  constructor(netns: string, mac: string, addresses: readonly string[]) {
    const program = fileURLToPath(new URL("announcer.js", import.meta.url));
    this.child = spawn(
      "nsenter",
      [`--net=${join(NETNS_DIR, netns)}`, process.execPath, program, "eth0", mac, ...addresses],
      { env: { PATH: SYSTEM_PATH }, stdio: ["pipe", "ignore", "ignore"], detached: true },
    );
    this.child.on("error", () => (this.ended = true));
    this.child.on("exit", () => (this.ended = true));
    this.child.stdin?.on("error", () => undefined);
    this.child.unref();
    (this.child.stdin as { unref?: () => void } | null)?.unref?.();
  }

  /** Identity, for whoever must end it after the agent that started it has died. */
  get id(): ProcessId | undefined {
    return this.child.pid === undefined ? undefined : processId(this.child.pid);
  }

  get usable(): boolean {
    return !this.ended && this.child.stdin?.writable === true;
  }

  /** Announce now. Goes on by itself for some seconds, also when the agent ends meanwhile. */
  announce(): void {
    this.child.stdin?.write("now\n");
  }

  /** Ends it, announcing or not. */
  async stop(): Promise<void> {
    if (this.ended) return;
    const exit = once(this.child, "exit");
    this.child.ref();
    this.child.kill("SIGKILL");
    await exit.catch(() => undefined);
  }
}

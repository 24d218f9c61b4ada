/**
 * Telling the network where an address lives now, and asking whether somebody has it.
 *
 * The announcer is a child in the workload's network namespace, started ahead of time: nothing needs to start inside the
 * blackout. It waits for a line on its standard input, announces at once and again over some seconds (frames get lost,
 * bridges and switches learn late), then ends. When the agent dies first, the end of its input ends it.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import { SYSTEM_PATH } from "./exec.js";
import { arpClaim, arpProbe, ETH_P_ARP } from "./frames.js";
import { NETNS_DIR } from "./netns.js";
import { processId, type ProcessId } from "./proc.js";
import { PacketSocket } from "./packet.js";

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

/**
 * Asks the network on `link` whether somebody has the IPv4 address `ip` (RFC 5227 probes over about `waitMs`).
 * The MAC address of who answers, "this node" when it is ours, undefined when nobody does. IPv6 is not probed: undefined.
 */
export async function probeAddress(link: string, ip: string, waitMs = 200): Promise<string | undefined> {
  const own = networkInterfaces();
  if (Object.values(own).some((list) => list?.some((entry) => entry.address === ip) === true)) return "this node";
  if (ip.includes(":")) return undefined;
  const mac = readMac(link);
  const socket = new PacketSocket(link, ETH_P_ARP);
  try {
    const step = Math.max(5, Math.floor(waitMs / 12));
    for (let i = 0; i < 12; i++) {
      if (i % 4 === 0) socket.send(arpProbe(mac, ip));
      await sleep(step);
      for (let frame = socket.receive(); frame !== undefined; frame = socket.receive()) {
        const claim = arpClaim(frame, ip);
        if (claim !== undefined && claim !== mac) return claim;
      }
    }
    return undefined;
  } finally {
    socket.close();
  }
}

function readMac(link: string): string {
  return readFileSync(`/sys/class/net/${link}/address`, "utf8").trim();
}

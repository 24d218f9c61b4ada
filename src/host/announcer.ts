/** Program: announcer.js LINK MAC ADDRESS... See announce.ts. Runs inside the workload's network namespace. */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ANNOUNCE_AT_MS } from "./announce.js";
import { announcements, ETH_P_ARP, linkLocal } from "./frames.js";
import { PacketSocket } from "./packet.js";

const [link = "", mac = "", ...addresses] = process.argv.slice(2);
const frames = announcements(mac, [...addresses, ...(hasIpv6(link) ? [linkLocal(mac)] : [])]);
// Opened ahead of time: a packet socket may be bound while the link has no carrier.
const socket = new PacketSocket(link, ETH_P_ARP);

/** Then it has a link-local address, which moves with its MAC address: peers may know it by that. */
function hasIpv6(name: string): boolean {
  try {
    return readFileSync(`/proc/sys/net/ipv6/conf/${name}/disable_ipv6`, "utf8").trim() === "0";
  } catch {
    // The kernel has none.
    return false;
  }
}

process.stdin.once("data", () => {
  void (async () => {
    const start = performance.now();
    for (const at of ANNOUNCE_AT_MS) {
      await sleep(Math.max(0, start + at - performance.now()));
      for (const frame of frames) socket.send(frame);
    }
    process.exit(0);
  })();
  process.stdin.removeListener("end", leave);
});
function leave(): void {
  process.exit(0);
}
process.stdin.once("end", leave);

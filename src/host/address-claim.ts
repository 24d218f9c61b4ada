/**
 * Taking an IPv4 address that nobody has, in the manner of RFC 5227, with its times shortened: asked for three times, and
 * another machine that asks for it at the same moment counts as one that has it. From then on until the workload's own link
 * is up, and its kernel answers, this process answers whoever asks. So of two nodes that want one address at once at least
 * one gives way, however long the work between the question and the link takes.
 */
import { readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { arpClaim, arpDefence, arpProbe, arpWanted, ETH_P_ARP } from "./frames.js";
import { PacketSocket } from "./packet.js";

/** RFC 5227 has three probes a second or two apart, and two seconds after the last: for networks of any size. */
const PROBES = 3;
const APART_MS = 100;
const AFTER_MS = 150;
/** Well below the time that another node listens after its last probe. */
const LOOK_MS = 25;

export class AddressClaim {
  private socket: PacketSocket | undefined;
  private readonly mac: string;
  private readonly ip: string;
  private timer: NodeJS.Timeout | undefined;
  private other: string | undefined;

  private constructor(ip: string, mac: string, socket?: PacketSocket) {
    this.ip = ip;
    this.mac = mac;
    this.socket = socket;
  }

  /**
   * Asks the network on `link`, for about a third of a second, and holds `ip` (without prefix length) if nobody else does: see
   * `takenBy`. IPv6 is neither asked for nor held. Throws E_TOOL. Close it.
   */
  static async take(link: string, ip: string): Promise<AddressClaim> {
    if (hasIt(ip)) return new AddressClaim(ip, "").lost("this node");
    if (ip.includes(":")) return new AddressClaim(ip, "");
    const mac = readFileSync(`/sys/class/net/${link}/address`, "utf8").trim();
    const claim = new AddressClaim(ip, mac, new PacketSocket(link, ETH_P_ARP));
    try {
      for (let probe = 1; probe <= PROBES; probe += 1) {
        claim.socket?.send(arpProbe(mac, ip));
        await sleep(probe < PROBES ? APART_MS : AFTER_MS);
        if (claim.heard(true) !== undefined) break;
      }
    } catch (error) {
      claim.close();
      throw error;
    }
    if (claim.other === undefined) claim.timer = setInterval(() => claim.heard(false), LOOK_MS).unref();
    return claim;
  }

  /** The MAC address of who has it, or wants it as well; "this node" when an interface of ours has it; undefined: nobody. */
  get takenBy(): string | undefined {
    this.heard(false);
    return this.other;
  }

  /** Again is harmless. */
  close(): void {
    clearInterval(this.timer);
    this.socket?.close();
    this.socket = undefined;
  }

  private lost(to: string): this {
    this.other = to;
    return this;
  }

  /** Takes in what has come. `asking`: who asks for it now has begun as early as we have; later ones are told that it is taken. */
  private heard(asking: boolean): string | undefined {
    const { socket, mac, ip } = this;
    for (let frame = socket?.receive(); frame !== undefined; frame = socket?.receive()) {
      const owner = arpClaim(frame, ip);
      const wants = arpWanted(frame, ip);
      if (owner !== undefined && owner !== mac) this.other ??= owner;
      else if (wants === undefined || wants === mac) continue;
      else if (asking) this.other ??= wants;
      else if (this.other === undefined) socket?.send(arpDefence(mac, ip, wants));
    }
    return this.other;
  }
}

/** The MAC address of who has `ip` on `link` (or wants it), "this node", or undefined: nobody. Nothing is held. Throws E_TOOL. */
export async function whoHas(link: string, ip: string): Promise<string | undefined> {
  const claim = await AddressClaim.take(link, ip);
  claim.close();
  return claim.takenBy;
}

const hasIt = (ip: string): boolean =>
  Object.values(networkInterfaces()).some((list) => list?.some(({ address }) => address === ip) === true);

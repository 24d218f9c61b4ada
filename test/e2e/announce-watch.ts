/**
 * `node announce-watch.js LINK`: prints what others announce on this network, one line each: `arp MAC IP` for a gratuitous
 * ARP, `na MAC ADDRESS` (hexadecimal) for an unsolicited neighbour advertisement. `listening` comes first.
 */
import { PacketSocket } from "../../src/host/packet.js";

const ETH_P_ALL = 0x0003;
const ARP = 0x0806;
const IPV6 = 0x86dd;
const ICMPV6 = 58;
const ADVERTISEMENT = 136;
const SOLICITED = 0x40;

const macAt = (frame: Buffer, at: number): string => frame.toString("hex", at, at + 6).replace(/(..)(?=.)/g, "$1:");

function announcement(frame: Buffer): string | undefined {
  const type = frame.length < 42 ? 0 : frame.readUInt16BE(12);
  if (type === ARP) {
    const [sender, target] = [frame.subarray(28, 32), frame.subarray(38, 42)];
    return sender.equals(target) ? `arp ${macAt(frame, 22)} ${sender.join(".")}` : undefined;
  }
  const advertises = type === IPV6 && frame.length >= 86 && frame[20] === ICMPV6 && frame[54] === ADVERTISEMENT;
  if (!advertises || ((frame[58] ?? 0) & SOLICITED) !== 0) return undefined;
  // With the option that says the MAC address.
  return frame[78] === 2 ? `na ${macAt(frame, 80)} ${frame.toString("hex", 62, 78)}` : undefined;
}

const socket = new PacketSocket(process.argv[2] ?? "", ETH_P_ALL);
process.stdout.write("listening\n");
setInterval(() => {
  for (let frame = socket.receive(); frame !== undefined; frame = socket.receive()) {
    const line = announcement(frame);
    if (line !== undefined) process.stdout.write(`${line}\n`);
  }
}, 5);
process.stdin.resume().on("end", () => process.exit(0));

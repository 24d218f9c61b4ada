/** Raising and cutting a link by ioctl: no program is started, which would take 10 to 30 ms inside the client's gap. */
import koffi from "koffi";
import { ferryError } from "../model/failure.js";
import { SOCK_CLOEXEC, socketCalls } from "./socket-calls.js";
import { errnoName } from "./syscall.js";

const AF_INET = 2;
const SOCK_DGRAM_CLOEXEC = 2 | SOCK_CLOEXEC;
const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const IFF_UP = 1;
/** struct ifreq: the name, then a union, of which the flags are the first two bytes. */
const NAME_BYTES = 16;
const IFREQ_BYTES = 40;

/** Sets a link of this network namespace up or down. Throws E_TOOL. */
export function setLinkFlag(link: string, state: "up" | "down"): void {
  const c = socketCalls();
  const request = Buffer.alloc(IFREQ_BYTES);
  if (request.write(link, "latin1") >= NAME_BYTES) throw ferryError("E_TOOL", `${link} is too long for a link's name`);
  const fail = (doing: string): never => {
    throw ferryError("E_TOOL", `setting the workload's link ${link} ${state}: ${doing}: ${errnoName(koffi.errno())}`, {
      remedy: `see whether it is there: ip link show dev ${link}; the agent must run as root (CAP_NET_ADMIN)`,
    });
  };
  const fd = c.socket(AF_INET, SOCK_DGRAM_CLOEXEC, 0);
  if (fd < 0) return fail("socket");
  try {
    if (c.ioctl(fd, SIOCGIFFLAGS, request) < 0) return fail("reading its flags");
    const flags = request.readUInt16LE(NAME_BYTES);
    request.writeUInt16LE(state === "up" ? flags | IFF_UP : flags & ~IFF_UP, NAME_BYTES);
    if (c.ioctl(fd, SIOCSIFFLAGS, request) < 0) return fail("setting its flags");
  } finally {
    c.close(fd);
  }
}

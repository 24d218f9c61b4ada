/**
 * A workload's network namespace: named, with one link (eth0) to the node's bridge. The node's end of the link is the
 * fence: while it is down nothing gets in or out, whatever the sockets inside do.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { ferryError } from "../model/failure.js";
import { run } from "./exec.js";
import { setLinkFlag } from "./link-flags.js";

export const NETNS_DIR = "/run/netns";

export interface NetworkNames {
  /** Name of the namespace, in /run/netns. */
  netns: string;
  /** The node's end of the link; at most 15 characters, so derived by hash. */
  link: string;
}

export const networkNames = (workload: string, epoch: number): NetworkNames => ({
  netns: `ferry-${workload}-${epoch}`,
  link: `fv${createHash("sha256").update(`${workload}.${epoch}`).digest("hex").slice(0, 12)}`,
});

const NAMED = /^ferry-([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)-([1-9]\d*)$/;

/** Workloads' network namespaces on this node. */
export function listNetworks(): { workload: string; epoch: number }[] {
  if (!existsSync(NETNS_DIR)) return [];
  return readdirSync(NETNS_DIR).flatMap((name) => {
    const match = NAMED.exec(name);
    return match?.[1] === undefined ? [] : [{ workload: match[1], epoch: Number(match[2]) }];
  });
}

export interface NetworkSpec {
  /** Address with prefix length. */
  ip: string;
  mac: string;
  gateway?: string;
}

/** State of a link by its flags: "up" means administratively up. undefined: there is no such link. */
export async function linkState(link: string): Promise<"up" | "down" | undefined> {
  const { stdout, exitCode } = await run("ip", ["-o", "link", "show", "dev", link], { allow: [1] });
  if (exitCode !== 0) return undefined;
  return /<[^>]*\bUP\b[^>]*>/.test(stdout) ? "up" : "down";
}

/** Makes namespace and link with the node's end down. Idempotent: what is there whole is left alone. */
export async function createNetwork(
  names: NetworkNames,
  spec: NetworkSpec,
  bridge: string,
  settingsScript: string,
): Promise<void> {
  if (existsSync(join(NETNS_DIR, names.netns))) {
    const inside = await run("ip", ["-n", names.netns, "-o", "addr", "show", "dev", "eth0"], { allow: [1] });
    if (inside.stdout.includes(` ${spec.ip} `) && (await linkState(names.link)) !== undefined) return;
    await removeNetwork(names);
  }
  const doing = `making the network namespace ${names.netns}`;
  try {
    await run("ip", ["-batch", "-"], {
      doing,
      code: "E_START",
      input: [
        `netns add ${names.netns}`,
        `link add ${names.link} type veth peer name eth0 address ${spec.mac} netns ${names.netns}`,
        `link set ${names.link} master ${bridge}`,
        "",
      ].join("\n"),
    });
    await run("nsenter", [`--net=${join(NETNS_DIR, names.netns)}`, "/bin/sh", settingsScript], {
      doing,
      code: "E_START",
    });
    await run("ip", ["-n", names.netns, "-batch", "-"], {
      doing,
      code: "E_START",
      input: [
        "link set lo up",
        `addr add ${spec.ip} dev eth0${spec.ip.includes(":") ? " nodad" : ""}`,
        "link set eth0 up",
        ...(spec.gateway === undefined ? [] : [`route add default via ${spec.gateway} dev eth0 onlink`]),
        "",
      ].join("\n"),
    });
  } catch (error) {
    await removeNetwork(names);
    throw error;
  }
}

/** Raises or cuts the node's end of the link. Rejects with E_TOOL. */
export async function setLink(link: string, state: "up" | "down"): Promise<void> {
  setLinkFlag(link, state);
}

/** Removes link and namespace. Idempotent. */
export async function removeNetwork(names: NetworkNames): Promise<void> {
  // The link first, by itself: a namespace is torn down in the background, and would keep its name busy for a while.
  if (existsSync(join("/sys/class/net", names.link)) || (await linkState(names.link)) !== undefined) {
    await run("ip", ["link", "del", "dev", names.link], { allow: [1] });
  }
  if (existsSync(join(NETNS_DIR, names.netns))) await run("ip", ["netns", "del", names.netns]);
  if (existsSync(join(NETNS_DIR, names.netns)) || (await linkState(names.link)) !== undefined) {
    throw ferryError("E_STUCK", `the network namespace ${names.netns} or its link ${names.link} can't be removed`, {
      remedy: `see who uses it: ip netns pids ${names.netns}`,
    });
  }
}

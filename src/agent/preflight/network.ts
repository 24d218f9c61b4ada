/** The destination's network: its bridge, the workload's subnet, and whether somebody else answers for the address. */
import { z } from "zod";
import { run } from "../../host/exec.js";
import { issuesOf } from "../../host/issues.js";
import type { Finding } from "../../model/plan.js";
import { ferryError, toFailure } from "../../model/failure.js";
import { finder } from "./findings.js";

const { block, warn, info } = finder("destination");

const linksSchema = z.array(
  z.object({
    ifname: z.string().optional(),
    flags: z.array(z.string()).default([]),
    linkinfo: z.object({ info_kind: z.string().optional() }).optional(),
    addr_info: z
      .array(
        z.object({ family: z.string().optional(), local: z.string().optional(), prefixlen: z.number().optional() }),
      )
      .default([]),
  }),
);
export type Links = z.infer<typeof linksSchema>;

const number = (address: string): number => address.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
/** Are two dotted quads in the same network of this prefix length? */
export function sameNetwork(a: string, b: string, prefix: number): boolean {
  const size = 2 ** (32 - prefix);
  return Math.floor(number(a) / size) === Math.floor(number(b) / size);
}

/** Output of `ip -j -d addr show`. Throws E_TOOL when it is something else. */
export function parseLinks(json: string): Links {
  let why: string;
  try {
    const parsed = linksSchema.safeParse(JSON.parse(json === "" ? "[]" : json));
    if (parsed.success) return parsed.data;
    why = issuesOf(parsed.error);
  } catch {
    why = "it is not JSON";
  }
  throw ferryError("E_TOOL", `what \`ip -j -d addr show\` printed is not a list of interfaces: ${why}`, {
    remedy: "see that iproute2 on that node is Debian's: ferry doctor",
  });
}

export function checkBridge(links: Links, bridge: string, node: string, cidr: string): Finding[] {
  const [ip = "", prefix = "32"] = cidr.split("/");
  const findings: Finding[] = [];
  const own = links.find((link) => link.addr_info.some((address) => address.local === ip));
  if (own !== undefined) {
    findings.push(
      block(
        "ip address",
        `${node} itself has the workload's address ${ip} on ${own.ifname ?? "an interface"}`,
        "give the node or the workload another address",
      ),
    );
  }
  const link = links.find((entry) => entry.ifname === bridge);
  if (link === undefined) {
    findings.push(
      block(
        "bridge",
        `${node} has no bridge ${bridge}`,
        `make it (ip link add ${bridge} type bridge), or give the agent the right --bridge`,
      ),
    );
    return findings;
  }
  if (link.linkinfo?.info_kind !== undefined && link.linkinfo.info_kind !== "bridge") {
    findings.push(
      block(
        "bridge",
        `${bridge} on ${node} is no bridge but ${link.linkinfo.info_kind}`,
        "give the agent a bridge with --bridge",
      ),
    );
  }
  if (!link.flags.includes("UP")) {
    findings.push(block("bridge", `bridge ${bridge} on ${node} is down`, `ip link set ${bridge} up`));
  }
  const networks = link.addr_info.filter((address) => address.family === "inet" && address.local !== undefined);
  if (networks.length === 0) {
    findings.push(
      warn(
        "subnet",
        `bridge ${bridge} on ${node} has no IPv4 address: whether ${cidr} belongs there can't be told`,
        "make sure that both nodes' bridges are one network",
      ),
    );
  } else if (
    !networks.some(
      (address) => address.prefixlen === Number(prefix) && sameNetwork(address.local ?? "", ip, Number(prefix)),
    )
  ) {
    const have = networks.map((address) => `${address.local ?? ""}/${address.prefixlen ?? ""}`).join(", ");
    findings.push(
      block(
        "subnet",
        `the workload's address ${cidr} is not in the network of ${bridge} on ${node} (${have})`,
        "choose a node on the same network, or start the workload with an address of this one",
      ),
    );
  }
  return findings;
}

/** MAC addresses, lower case, that answered in the output of arping (iputils). */
export function parseArping(stdout: string): string[] {
  const macs = new Set<string>();
  for (const match of stdout.matchAll(/^\w+ (?:reply|request) from \S+ \[([0-9A-Fa-f:]{17})\]/gm)) {
    if (match[1] !== undefined) macs.add(match[1].toLowerCase());
  }
  return [...macs];
}

/** RFC 5227 in spirit: ask who has the address. Only the workload itself, at the source, may answer. Takes a second. */
export async function checkAddress(bridge: string, node: string, cidr: string, mac: string): Promise<Finding[]> {
  const [ip = ""] = cidr.split("/");
  let stdout: string;
  try {
    // -b: stay with broadcasts, so that everybody who has the address answers both.
    ({ stdout } = await run("arping", ["-b", "-c", "2", "-w", "1", "-I", bridge, ip], { allow: [1], timeoutMs: 3000 }));
  } catch (error) {
    // Going on blindly could give two machines with one address.
    return [
      block(
        "ip address",
        `whether somebody else uses ${ip} could not be asked: ${toFailure(error).message}`,
        "see why arping (iputils) does not work on the node",
      ),
    ];
  }
  return judgeReplies(parseArping(stdout), ip, mac, node);
}

export function judgeReplies(macs: readonly string[], ip: string, mac: string, node: string): Finding[] {
  const others = macs.filter((answer) => answer !== mac.toLowerCase());
  if (others.length > 0) {
    return [
      block(
        "ip address",
        `${ip} is in use by somebody else: ${others.join(", ")} answers for it, the workload's MAC is ${mac}`,
        "find that machine and give it another address",
      ),
    ];
  }
  if (macs.length > 0) return [info("ip address", `${ip} is answered by the workload itself only`)];
  return [
    warn(
      "ip address",
      `nobody answers for ${ip} as seen from ${node}: the workload at the source should`,
      "make sure that both nodes' bridges are one network, else clients can't follow the workload",
    ),
  ];
}

/** Interfaces with their addresses, as findings when they can't be listed. */
export async function readLinks(): Promise<Links> {
  const { stdout } = await run("ip", ["-j", "-d", "addr", "show"], {
    doing: "listing the node's interfaces",
    timeoutMs: 3000,
  });
  return parseLinks(stdout);
}

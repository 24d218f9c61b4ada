/**
 * The node's own policy: what its administrator lets run here, whoever asks. Temporal and peers are input; this file is
 * authority. Without a file everything that the spec allows is allowed, except what is never allowed.
 */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { ferryError, type Side } from "../model/failure.js";
import { nameProblem } from "../model/names.js";
import type { Finding } from "../model/plan.js";
import { parseIpv4 } from "../model/spec-check.js";
import type { WorkloadSpec } from "../model/workload.js";

export const POLICY_FILE = "/etc/ferry/policy.json";

/** Names that load code into the engine, the agent's tools or the workload's first steps as root: refused everywhere. */
export const FORBIDDEN_ENV: readonly string[] = [
  "LD_PRELOAD",
  "LD_AUDIT",
  "NODE_OPTIONS",
  "CRIU_CONFIG_FILE",
  "BASH_ENV",
];

const subnet = z.string().refine((text) => parseSubnet(text) !== undefined, "must be a network such as 10.77.0.0/24");

const volumeName = z.string().refine((name) => nameProblem("volume", name) === undefined, "is not a valid volume name");
const directory = z
  .string()
  .refine(
    (path) => /^(?:\/[^/\0]+)+$/.test(path) && !/\/\.{1,2}(?:\/|$)/.test(path),
    "must be an absolute path without . and ..",
  );

const policySchema = z.strictObject({
  /** User names or numbers that workloads may run as. */
  users: z.array(z.string().min(1)).optional(),
  /** Networks that workloads' addresses must lie in. */
  subnets: z.array(subnet).optional(),
  /** Highest memory limit; with it every workload must have one. */
  maxMemoryBytes: z.int().positive().optional(),
  /** Shared volumes of this node: name and directory. A workload can name no other directory of the node. */
  sharedVolumes: z.record(volumeName, directory).optional(),
  /** Environment names that are refused besides the ones that always are. */
  forbiddenEnv: z.array(z.string().min(1)).optional(),
});
export type Policy = z.infer<typeof policySchema>;

/** Read anew each time: an administrator's change holds at once. No file: no restrictions of this node's own. Throws E_POLICY when the file is there and not readable or not valid. */
export function loadPolicy(file: string = POLICY_FILE): Policy {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return {};
    throw ferryError("E_POLICY", `the node's policy ${file} can't be read: ${String(error)}`, {
      remedy: "make it readable for root, or remove it",
    });
  }
  return parsePolicy(text, file);
}

/** Throws E_POLICY with every reason when `text` is not a policy. */
export function parsePolicy(text: string, file: string = POLICY_FILE): Policy {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw ferryError(
      "E_POLICY",
      `the node's policy ${file} is not JSON: ${error instanceof Error ? error.message : ""}`,
      {
        remedy: "correct the file; nothing is started on this node until then",
      },
    );
  }
  const parsed = policySchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw ferryError("E_POLICY", `the node's policy ${file} is not valid`, {
    evidence: { lines: parsed.error.issues.map((issue) => `${issue.path.join(".") || "(file)"}: ${issue.message}`) },
    remedy: "correct the file; nothing is started on this node until then",
  });
}

interface Subnet {
  first: number;
  size: number;
}

function parseSubnet(text: string): Subnet | undefined {
  const [address, prefix, ...rest] = text.split("/");
  const base = parseIpv4(address ?? "");
  if (base === undefined || rest.length > 0 || !/^(?:\d|[12]\d|3[0-2])$/.test(prefix ?? "")) return undefined;
  const size = 2 ** (32 - Number(prefix));
  return { first: Math.floor(base / size) * size, size };
}

/** What this node's policy has against a spec: findings that block, all of them. */
export function checkPolicy(spec: WorkloadSpec, policy: Policy, side: Side = "destination"): Finding[] {
  const findings: Finding[] = [];
  const block = (message: string, remedy: string): void => {
    findings.push({ level: "block", check: "policy", side, message, remedy });
  };
  const forbidden = new Set([...FORBIDDEN_ENV, ...(policy.forbiddenEnv ?? [])]);
  const names = Object.keys(spec.env).filter((name) => forbidden.has(name));
  if (names.length > 0) {
    block(
      `environment ${names.join(", ")} is not allowed: it would load code`,
      "leave it out of --env; set it inside a script",
    );
  }
  if (policy.users !== undefined && !policy.users.includes(spec.user)) {
    block(
      `user ${spec.user} is not allowed on this node (allowed: ${policy.users.join(", ") || "none"})`,
      "choose an allowed user, or let the administrator extend the node's policy",
    );
  }
  if (policy.subnets !== undefined) {
    const address = parseIpv4(spec.network.ip.split("/")[0] ?? "");
    const inside = policy.subnets.map(parseSubnet).some((net) => {
      return net !== undefined && address !== undefined && address >= net.first && address < net.first + net.size;
    });
    if (!inside) {
      block(
        `address ${spec.network.ip} is not allowed on this node (allowed: ${policy.subnets.join(", ") || "none"})`,
        "choose an address in an allowed network",
      );
    }
  }
  if (policy.maxMemoryBytes !== undefined) {
    const limit = spec.limits.memoryBytes;
    if (limit === undefined) {
      block(
        `this node wants a memory limit of at most ${policy.maxMemoryBytes} bytes`,
        "run it with --limit memory=...",
      );
    } else if (limit > policy.maxMemoryBytes) {
      block(
        `the memory limit of ${limit} bytes is over this node's ${policy.maxMemoryBytes}`,
        "lower --limit memory, or choose another node",
      );
    }
  }
  for (const { name, kind } of spec.volumes ?? []) {
    if (kind !== "shared" || Object.hasOwn(policy.sharedVolumes ?? {}, name)) continue;
    const known = Object.keys(policy.sharedVolumes ?? {});
    block(
      `this node has no shared volume ${name} (it has: ${known.join(", ") || "none"})`,
      `let the administrator name its directory in the node's policy: "sharedVolumes": {"${name}": "/path"}`,
    );
  }
  return findings;
}

/** The directory of a shared volume on this node, by its policy as it is now. Throws E_POLICY. */
export function sharedVolumeDir(name: string, policy: Policy = loadPolicy()): string {
  const shared = policy.sharedVolumes ?? {};
  const dir = Object.hasOwn(shared, name) ? shared[name] : undefined;
  if (dir === undefined) {
    throw ferryError("E_POLICY", `this node has no shared volume ${name}`, {
      remedy: `let the administrator name its directory in ${POLICY_FILE}: "sharedVolumes": {"${name}": "/path"}`,
    });
  }
  return dir;
}

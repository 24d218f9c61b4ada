/** The agent's configuration, from flags of `ferry agent`. */
import { z } from "zod";
import { issuesOf } from "../host/issues.js";
import { isNodeName } from "../model/names.js";
import { ferryError } from "../model/failure.js";
import { POLICY_FILE } from "./policy.js";

const absolute = z
  .string()
  .refine((path) => path.startsWith("/") && !path.includes("\0"), "must be an absolute path without NUL characters");
/** Names of links and of cgroups: `.` and `..` would mean other places. */
const NOT_UP = /^(?!\.{1,2}(?:\/|$))(?!.*\/\.{1,2}(?:\/|$))/;

export const agentConfigSchema = z.strictObject({
  node: z.string().refine(isNodeName, "is not a valid node name"),
  /** Journal and volumes: on a real disk. */
  stateDir: absolute.default("/var/lib/ferry"),
  /** Images, sockets, page stores: on a tmpfs. */
  runDir: absolute.default("/run/ferry"),
  socket: absolute.default("/run/ferry/agent.sock"),
  /** Group that may use the socket besides root. */
  socketGid: z.int().min(0).optional(),
  bridge: z
    .string()
    .regex(/^[A-Za-z0-9_.-]{1,15}$/, "must be the name of a network interface")
    .regex(NOT_UP, "must not be . or ..")
    .default("br0"),
  cgroupParent: z
    .string()
    .regex(/^[A-Za-z0-9_.-]+(?:\/[A-Za-z0-9_.-]+)*$/, "must be a relative path of a cgroup")
    .regex(NOT_UP, "must not contain . or ..")
    .default("ferry"),
  linkHost: z.string().regex(/^[A-Za-z0-9.:_-]{1,255}$/, "must be an address or a host name"),
  linkPort: z.int().min(1).max(65_535).default(7400),
  /** Directory with ca.crt, node.crt, node.key. */
  tlsDir: absolute.default("/etc/ferry"),
  /** What may run here; it need not be there. */
  policyFile: absolute.default(POLICY_FILE),
  /** Revocation lists (PEM); without it no certificate counts as revoked. */
  crlFile: absolute.optional(),
  /** Where checkpoints are kept (checkpoints/store-config.ts); without it none are. */
  storeFile: absolute.optional(),
  logLevel: z.enum(["debug", "info", "warn", "error"]).default("info"),
  logFile: absolute.optional(),
});
export type AgentConfig = z.infer<typeof agentConfigSchema>;

/** Throws E_REQUEST that names every option that is wrong. */
export function parseAgentConfig(raw: unknown): AgentConfig {
  const parsed = agentConfigSchema.safeParse(raw);
  if (parsed.success) return parsed.data;
  throw ferryError("E_REQUEST", `the agent's configuration is wrong: ${issuesOf(parsed.error)}`, {
    remedy: "correct these options: ferry agent --help",
  });
}

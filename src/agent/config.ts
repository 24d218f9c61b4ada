/** The agent's configuration, from flags of `ferry agent`. */
import { z } from "zod";
import { isNodeName } from "../model/names.js";
import { ferryError } from "../model/failure.js";

const absolute = z.string().refine((path) => path.startsWith("/"), "must be an absolute path");

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
    .regex(/^[A-Za-z0-9_.-]{1,15}$/)
    .default("br0"),
  cgroupParent: z
    .string()
    .regex(/^[A-Za-z0-9_.-]+(\/[A-Za-z0-9_.-]+)*$/)
    .default("ferry"),
  linkHost: z.string().min(1),
  linkPort: z.int().min(1).max(65_535).default(7400),
  /** Directory with ca.crt, node.crt, node.key. */
  tlsDir: absolute.default("/etc/ferry"),
  logLevel: z.enum(["debug", "info", "warn", "error"]).default("info"),
  logFile: absolute.optional(),
});
export type AgentConfig = z.infer<typeof agentConfigSchema>;

/** Throws E_REQUEST that names every option that is wrong. */
export function parseAgentConfig(raw: unknown): AgentConfig {
  const parsed = agentConfigSchema.safeParse(raw);
  if (parsed.success) return parsed.data;
  throw ferryError(
    "E_REQUEST",
    `the agent's configuration is wrong: ${parsed.error.issues.map((i) => `${i.path.join(".")}: ${i.message}`).join("; ")}`,
  );
}

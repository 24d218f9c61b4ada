/** Configuration of a node's worker, checked at the edge. */
import { z } from "zod";
import { ferryError } from "../model/failure.js";
import { nameProblem } from "../model/names.js";

export const LOG_LEVELS = ["trace", "debug", "info", "warn", "error"] as const;

const hostPort = z.string().regex(/^[^\s/:]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$/, "must be host:port");

const schema = z.strictObject({
  node: z.string().superRefine((node, context) => {
    const problem = nameProblem("node", node);
    if (problem !== undefined) context.addIssue({ code: "custom", message: problem });
  }),
  /** Unix socket of the node's agent. */
  agentSocket: z.string().min(1),
  /** Temporal frontend, host:port. There is no default: a worker must not end up at a server by accident. */
  address: hostPort,
  namespace: z.string().min(1).default("default"),
  /** PEM, as read from its files. */
  tls: z
    .strictObject({
      ca: z.instanceof(Buffer).optional(),
      cert: z.instanceof(Buffer).optional(),
      key: z.instanceof(Buffer).optional(),
    })
    .optional(),
  apiKey: z.string().min(1).optional(),
  logLevel: z.enum(LOG_LEVELS).default("info"),
  /** File that the log is appended to; default: standard output. */
  logFile: z.string().min(1).optional(),
  /** host:port where metrics are served for Prometheus; default: nowhere. */
  metrics: hostPort.optional(),
  /** How long a stopping worker waits for short steps (long ones detach at once), then gives up. */
  shutdownGraceMs: z.int().min(0).default(2_000),
  shutdownForceMs: z.int().min(1_000).default(10_000),
});

export type WorkerConfig = z.output<typeof schema>;
export type WorkerConfigInput = z.input<typeof schema>;

/** @throws FerryError E_REQUEST that names every field that is wrong. */
export function parseWorkerConfig(input: unknown): WorkerConfig {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => `${path.map(String).join(".") || "it"}: ${message}`);
  throw ferryError("E_REQUEST", `the worker's configuration is not valid: ${problems.join("; ")}`, {
    remedy: "see ferry worker --help",
  });
}

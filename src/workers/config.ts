/** Configuration of a node's worker, checked at the edge. */
import { z } from "zod";
import type { PayloadKey } from "../keys/payload-keys.js";
import { ferryError } from "../model/failure.js";
import { nameProblem } from "../model/names.js";
import { watchProblems, type Watch } from "../model/presence.js";
import { cut, firstProblems } from "../model/words.js";

export const LOG_LEVELS = ["trace", "debug", "info", "warn", "error"] as const;

const MAX_PROBLEM = 400;

const HOST_PORT = /^(?:[^\s/:]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})$/;
const hostPort = z.string().refine((text) => {
  const port = Number(HOST_PORT.exec(text)?.[1]);
  return port >= 1 && port <= 65_535;
}, "must be host:port, the port from 1 to 65535");

type Loose<T> = { [K in keyof T]?: T[K] | undefined };
const defined = (watch: Loose<Watch>): Partial<Watch> =>
  Object.fromEntries(Object.entries(watch).filter(([, ms]) => ms !== undefined));

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
      serverName: z.string().min(1).optional(),
    })
    .optional(),
  apiKey: z.string().min(1).optional(),
  /** Encrypts what Temporal stores, newest key first. */
  payloadKeys: z.custom<readonly PayloadKey[]>((keys) => Array.isArray(keys), "must be a list of keys").optional(),
  logLevel: z.enum(LOG_LEVELS).default("info"),
  /** File that the log is appended to; default: standard output. */
  logFile: z.string().min(1).optional(),
  /** host:port where metrics are served for Prometheus; default: nowhere. */
  metrics: hostPort.optional(),
  /** Version of the workflows' code for Temporal's Worker Versioning; default: none, any worker may take any workflow. */
  buildId: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$/, "must be 1 to 100 letters, digits and . _ + -")
    .optional(),
  /** When the node is taken for silent or lost, in milliseconds: see model/presence. */
  watch: z
    .strictObject({ silentAfterMs: z.number(), lostAfterMs: z.number(), steadyMs: z.number() })
    .partial()
    .superRefine((watch, context) => {
      for (const message of watchProblems(defined(watch))) context.addIssue({ code: "custom", message });
    })
    .transform((watch) => defined(watch))
    .optional(),
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
  const problems = firstProblems(
    parsed.error.issues.map(
      ({ path, message }) => `${cut(path.map(String).join(".")) || "it"}: ${cut(message, MAX_PROBLEM)}`,
    ),
  );
  throw ferryError("E_REQUEST", `the worker's configuration is not valid: ${problems.join("; ")}`, {
    remedy: "see ferry worker --help",
  });
}

/** Requests from outside, checked: what is wrong is said with the field and the value. */
import { z } from "zod";
import { FerryError, type FailureCode } from "../model/failure.js";
import { nameProblem } from "../model/names.js";
import { MAX_GRACE_MS } from "../model/request-check.js";
import { ON_NODE_LOSS } from "../model/checkpoints.js";
import { ON_STALL } from "../model/convergence.js";
import { TRACKERS } from "../model/mover.js";
import { ASKED_MODES, DEFAULT_MAX_BLACKOUT_MS, type AskedOptions } from "../model/plan.js";
import { signatureProblems, type SpecSignature } from "../model/spec-signature.js";
import { dirProblems, ipProblems } from "../model/spec-check.js";
import { VOLUME_KINDS, volumesProblems } from "../model/volumes.js";
import { cut, firstProblems } from "../model/words.js";
import { RUNTIMES } from "../model/workload.js";
import type { RunRequest } from "./types.js";

/** Characters: some name many fields at once. */
const MAX_PROBLEM = 400;

const word = z.string().refine((text) => !text.includes("\0"), "must not contain a NUL character");

const runSchema = z.strictObject({
  name: z.string(),
  node: z.string(),
  command: z.array(word).min(1, "a command is needed").max(256, "at most 256 words"),
  runtime: z.enum(RUNTIMES).optional(),
  env: z
    .record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, "a variable's name has letters, digits and _"), word)
    .optional(),
  dir: word
    .superRefine((dir, ctx) => {
      for (const message of dirProblems(dir)) ctx.addIssue({ code: "custom", message: message.slice("dir ".length) });
    })
    .optional(),
  off: z.array(z.string()).max(1000).optional(),
  user: z
    .string()
    .regex(/^(?:[a-z_][a-z0-9_-]{0,31}|\d{1,10}(?::\d{1,10})?)$/, "must be a user name, uid or uid:gid")
    .optional(),
  limits: z
    .strictObject({
      memoryBytes: z
        .int()
        .min(2 ** 20, "at least 1 MiB")
        .optional(),
      cpus: z.number().positive().max(4096).optional(),
    })
    .optional(),
  volumes: z
    .array(z.strictObject({ name: z.string(), path: z.string(), kind: z.enum(VOLUME_KINDS).default("copy") }))
    .superRefine((volumes, ctx) => {
      for (const message of volumesProblems(volumes)) ctx.addIssue({ code: "custom", message });
    })
    .optional(),
  ip: z
    .string()
    .superRefine((ip, ctx) => {
      // Without a prefix length it gets the one of the node's bridge, which is not known yet.
      for (const message of ipProblems("it", ip.includes("/") ? ip : `${ip}/32`)) {
        ctx.addIssue({ code: "custom", message: message.slice("it ".length).replace(`${ip}/32"`, `${ip}"`) });
      }
    })
    .optional(),
  mac: z
    .string()
    .regex(
      /^[0-9a-f][26ae](?::[0-9a-f]{2}){5}$/,
      "must be a locally administered unicast address, like 02:fe:0a:4d:00:78",
    )
    .optional(),
  gateway: z.ipv4().optional(),
  signature: z
    .custom<SpecSignature>((value) => signatureProblems(value).length === 0, {
      error: (issue) => signatureProblems(issue.input).join("; "),
    })
    .optional(),
  onNodeLoss: z.enum(ON_NODE_LOSS).optional(),
});

const migrateSchema = z.strictObject({
  to: z.string(),
  mode: z.enum(ASKED_MODES).default("auto"),
  dryRun: z.boolean().default(false),
  maxBlackoutMs: z.int().min(100, "at least 100 ms").max(3_600_000, "at most an hour").default(DEFAULT_MAX_BLACKOUT_MS),
  bandwidthBytesPerSec: z.int().min(1024, "at least 1024 bytes a second").optional(),
  maxDowntimeMs: z.number().min(0).max(3_600_000, "at most an hour").optional(),
  onStall: z.enum(ON_STALL).optional(),
  maxRounds: z.int().min(1).max(1000).optional(),
  timeoutMs: z.number().min(100, "at least 100 ms").max(86_400_000, "at most a day").optional(),
  tracker: z.enum([...TRACKERS, "auto"]).optional(),
  hold: z.boolean().optional(),
  keepFrames: z.boolean().optional(),
});

export function parse<Schema extends z.ZodType>(
  schema: Schema,
  what: string,
  code: FailureCode,
  value: unknown,
): z.output<Schema> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const problems = firstProblems(
    parsed.error.issues.map(({ path, message }) => {
      const where = cut(path.map(String).join("."));
      return where === "" ? cut(message, MAX_PROBLEM) : `${where}: ${cut(message, MAX_PROBLEM)}`;
    }),
  );
  throw new FerryError({
    code,
    message: `the ${what} is not valid: ${problems.join("; ")}`,
    remedy: "correct these fields and ask again",
  });
}

export function checkName(kind: "workload" | "node", name: unknown): string {
  const problem = nameProblem(kind, name);
  if (problem !== undefined) throw new FerryError({ code: "E_NAME", message: problem });
  return String(name);
}

/** Names are checked first, with the sentence that says the rule; then the rest. */
export function checkRun(request: RunRequest): z.output<typeof runSchema> {
  const given: Partial<RunRequest> | null = request;
  checkName("workload", given?.name);
  checkName("node", given?.node);
  if (Array.isArray(given?.off)) for (const node of given.off) checkName("node", node);
  return parse(runSchema, `request to run ${request.name}`, "E_SPEC", request);
}

export function checkMigrate(name: string, request: unknown): { to: string; options: AskedOptions } {
  const { to } = (request ?? {}) as { to?: unknown };
  checkName("node", to);
  const parsed = parse(migrateSchema, `request to migrate ${name}`, "E_REQUEST", request);
  const { to: node, ...given } = parsed;
  const { mode, dryRun, maxBlackoutMs, ...optional } = given;
  const chosen = Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined));
  return { to: node, options: { mode, dryRun, maxBlackoutMs, ...(chosen as Partial<AskedOptions>) } };
}

export const checkGrace = (graceMs: unknown): number =>
  parse(z.int().min(0).max(MAX_GRACE_MS, "at most ten minutes"), "grace time in milliseconds", "E_REQUEST", graceMs);

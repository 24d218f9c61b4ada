/** Requests that have to do with checkpoints, checked: what is wrong is said with the field and the value. See requests.ts. */
import { z } from "zod";
import { labelsProblems, MAX_REASON, MAX_REQUESTED_BY } from "../model/checkpoint-check.js";
import { isCheckpointId, type SaveOptions } from "../model/checkpoints.js";
import { FerryError } from "../model/failure.js";
import type { RestoreRequest } from "../model/messages.js";
import { MAX_WORKLOAD_NAME } from "../model/names.js";
import { DEFAULT_MAX_BLACKOUT_MS } from "../model/plan.js";
import { ipProblems } from "../model/spec-check.js";
import { cut, shown } from "../model/words.js";
import { checkName, parse } from "./requests.js";
import type { CheckpointOptions, CloneRequest, PruneOptions, RestoreOptions } from "./types.js";

export const MAX_CLONES = 100;

const plain = (max: number) =>
  z
    .string()
    .max(max)
    .refine((text) => !text.includes("\0"), "must not contain a NUL character");
const id = z.string().refine(isCheckpointId, { error: (issue) => `${shown(issue.input)} is not a checkpoint's id` });
const moment = z.date().refine((at) => at.getTime() >= 0, "is before 1970");

const saveFields = z.strictObject({
  stop: z.boolean().default(false),
  wakeOnTraffic: z.exactOptional(z.boolean()),
  reason: plain(MAX_REASON).default(""),
  requestedBy: plain(MAX_REQUESTED_BY).default("sdk"),
  labels: z
    .record(z.string(), z.string())
    .superRefine((labels, ctx) => {
      for (const message of labelsProblems(labels)) ctx.addIssue({ code: "custom", message });
    })
    .default({}),
  maxBlackoutMs: z.int().min(100, "at least 100 ms").max(3_600_000, "at most an hour").default(DEFAULT_MAX_BLACKOUT_MS),
});

const saveSchema = saveFields.refine(
  ({ stop, wakeOnTraffic }) => stop || wakeOnTraffic !== true,
  "only what is let go sleeps: wakeOnTraffic needs stop",
);

const off = z.array(z.string()).max(1000).optional();
const restoreSchema = z
  .strictObject({
    checkpoint: id.optional(),
    at: moment.optional(),
    node: z.string().optional(),
    off,
    lazy: z.boolean().optional(),
    dryRun: z.boolean().optional(),
  })
  .refine(({ checkpoint, at }) => checkpoint === undefined || at === undefined, "checkpoint and at don't go together");

const cloneSchema = z
  .strictObject({
    of: z.string(),
    as: z.string(),
    count: z.int().min(1).max(MAX_CLONES, `at most ${MAX_CLONES} at once`).optional(),
    ips: z
      .array(
        z.string().superRefine((ip, ctx) => {
          for (const message of ipProblems("it", ip.includes("/") ? ip : `${ip}/32`)) {
            ctx.addIssue({ code: "custom", message: message.slice("it ".length).replace(`${ip}/32"`, `${ip}"`) });
          }
        }),
      )
      .max(MAX_CLONES)
      .optional(),
    node: z.string().optional(),
    checkpoint: id.optional(),
    at: moment.optional(),
    off,
    lazy: z.boolean().optional(),
  })
  .refine(({ checkpoint, at }) => checkpoint === undefined || at === undefined, "checkpoint and at don't go together")
  .refine(({ ips = [], count = 1 }) => ips.length <= count, "there are more addresses than clones");

const pruneSchema = z
  .strictObject({
    keep: z.int().min(1, "the newest always stays: at least 1").max(1_000_000).optional(),
    olderThanMs: z.number().min(0).optional(),
    maxBytes: z.number().min(0).optional(),
    dryRun: z.boolean().optional(),
    node: z.string().optional(),
  })
  .refine(
    ({ keep, olderThanMs, maxBytes }) => keep !== undefined || olderThanMs !== undefined || maxBytes !== undefined,
    "one of keep, olderThanMs and maxBytes is needed",
  );

/** Names before the rest, with the sentence that says the rule. */
function names(given: { node?: unknown; off?: unknown } | null | undefined): void {
  if (given?.node !== undefined) checkName("node", given.node);
  if (Array.isArray(given?.off)) for (const node of given.off) checkName("node", node);
}

export const checkCheckpoint = (name: string, options: CheckpointOptions = {}): SaveOptions =>
  parse(saveSchema, `request for a checkpoint of ${name}`, "E_REQUEST", options);

export function checkRestore(name: string, options: RestoreOptions = {}): RestoreRequest {
  names(options);
  const asked = parse(restoreSchema, `request to restore ${name}`, "E_REQUEST", options);
  return {
    ...(asked.checkpoint !== undefined && { checkpoint: asked.checkpoint }),
    ...(asked.at !== undefined && { at: asked.at.getTime() }),
    ...(asked.node !== undefined && { node: asked.node }),
    ...(asked.off !== undefined && { off: asked.off }),
    ...(asked.lazy !== undefined && { lazy: asked.lazy }),
    ...(asked.dryRun !== undefined && { dryRun: asked.dryRun }),
  };
}

export function checkClone(request: CloneRequest): z.output<typeof cloneSchema> & { names: string[] } {
  const given: Partial<CloneRequest> | null = request;
  checkName("workload", given?.of);
  checkName("workload", given?.as);
  names(given);
  const asked = parse(cloneSchema, `request to clone ${request.of}`, "E_REQUEST", request);
  const { count, as } = asked;
  const all = count === undefined ? [as] : Array.from({ length: count }, (_, i) => `${as}-${i + 1}`);
  const long = all.find((name) => name.length > MAX_WORKLOAD_NAME);
  if (long !== undefined) checkName("workload", long);
  if (all.includes(asked.of)) {
    throw new FerryError({
      code: "E_REQUEST",
      message: `a clone of ${cut(asked.of)} can't have its name`,
      workload: asked.of,
      remedy: "choose another one",
    });
  }
  return { ...asked, names: all };
}

export function checkPrune(workload: string, options: PruneOptions & { node?: string }): z.output<typeof pruneSchema> {
  names(options);
  return parse(pruneSchema, `request to prune checkpoints of ${workload}`, "E_REQUEST", options);
}

/** Or the beginning of one. */
export const checkId = (given: unknown): string => parse(id, "checkpoint's id", "E_REQUEST", given);

/** Strict schemas of everything that reaches the agent over its socket, the link, or from its own journal. */
import { z } from "zod";
import { isCheckpointId } from "../model/checkpoints.js";
import { ON_STALL } from "../model/convergence.js";
import { TRACKERS } from "../model/mover.js";
import { steerProblems, type SteerCommand } from "../model/steering.js";
import { isNodeName, isOperationId, isOperationOf, isWorkloadName, nameProblem } from "../model/names.js";
import { HOLD_STATES } from "../model/ownership.js";
import { ASKED_MODES, MODES } from "../model/plan.js";
import { MAX_GRACE_MS } from "../model/request-check.js";
import { MAX_IDLE_CPU_PERCENT } from "../model/schedules.js";
import { specProblems } from "../model/spec-check.js";
import { MAX_VOLUMES } from "../model/volumes.js";
import type { WorkloadSpec } from "../model/workload.js";
import { CONTRACT_SCHEMA } from "../model/contract.js";
import { NONCE, NONCE_FILE } from "./shared-volumes.js";

const workloadName = z.string().refine(isWorkloadName, "is not a valid workload name");
const nodeName = z.string().refine(isNodeName, "is not a valid node name");
const volumeName = z.string().refine((name) => nameProblem("volume", name) === undefined, "is not a valid volume name");
const operation = z.string().refine(isOperationId, "is not a valid operation id");
const epoch = z.int().min(1).max(1_000_000_000);
const schema = z.literal(CONTRACT_SCHEMA);
const count = z.int().min(0);

/** The very question that the entity asks: what the agent takes from Temporal is held to nothing less. */
export const specSchema = z.custom<WorkloadSpec>((value) => specProblems(value).length === 0, {
  error: (issue) => specProblems(issue.input).join("; "),
});

export const holdSchema = z.strictObject({
  workload: workloadName,
  epoch,
  state: z.enum(HOLD_STATES),
  operation: z.string().optional(),
  peer: nodeName.optional(),
  to: epoch.optional(),
  digest: z.string().max(128).optional(),
  letRun: z.literal(true).optional(),
});

export const refSchema = z
  .strictObject({
    schema,
    operation,
    workload: workloadName,
    epoch,
    to: epoch,
    source: nodeName,
    destination: nodeName,
  })
  .refine((ref) => ref.to > ref.epoch, "`to` must be later than `epoch`")
  .refine((ref) => isOperationOf(ref.operation, ref.workload), "`operation` must be one of `workload`");

export const optionsSchema = z.strictObject({
  mode: z.enum(MODES),
  dryRun: z.boolean(),
  maxBlackoutMs: z.number().min(100).max(3_600_000),
  bandwidthBytesPerSec: z.number().positive().optional(),
  maxDowntimeMs: z.number().min(0).max(3_600_000).optional(),
  onStall: z.enum(ON_STALL).optional(),
  maxRounds: z.int().min(1).max(1000).optional(),
  timeoutMs: z.number().min(100).max(86_400_000).optional(),
  tracker: z.enum([...TRACKERS, "auto"]).optional(),
  hold: z.boolean().optional(),
  keepFrames: z.boolean().optional(),
});

/** Before preflight has chosen. */
const askedSchema = optionsSchema.extend({ mode: z.enum(ASKED_MODES) });

const endpoint = z.strictObject({ host: z.string().min(1).max(255), port: z.int().min(1).max(65_535) });

export const tokenSchema = z.strictObject({
  workload: workloadName,
  operation,
  from: epoch,
  to: epoch,
  source: nodeName,
  destination: nodeName,
  digest: z.string().min(1).max(128),
  certificate: z.string().max(16_384),
  signature: z.string().max(1024),
});

export const receiptSchema = z.strictObject({
  workload: workloadName,
  operation,
  epoch,
  owner: nodeName,
  digest: z.string().min(1).max(128),
  certificate: z.string().max(16_384),
  signature: z.string().max(1024),
});

const findingSchema = z.strictObject({
  level: z.enum(["block", "warn", "info"]),
  check: z.string(),
  side: z.enum(["source", "destination"]),
  message: z.string(),
  remedy: z.string().optional(),
});

const nodeFactsSchema = z.looseObject({
  node: nodeName,
  version: z.string(),
  linkHost: z.string(),
  linkPort: z.int(),
  kernel: z.string(),
  arch: z.string(),
  criuVersion: z.string(),
  cpus: z.number(),
  memoryTotalBytes: z.number(),
  memoryAvailableBytes: z.number(),
  diskAvailableBytes: z.number(),
  bootId: z.string(),
  workloads: z.array(z.looseObject({ name: z.string(), epoch: z.int(), state: z.string(), ip: z.string().optional() })),
});

export const sourceFactsSchema = z.looseObject({
  findings: z.array(findingSchema),
  node: nodeFactsSchema,
  spec: specSchema,
  memoryBytes: z.number(),
  volumeBytes: z.number(),
  volumeAtMost: z.boolean().optional(),
  processes: count,
  threads: count,
  cpuFlags: z.array(z.string()),
  shared: z
    .array(z.strictObject({ name: volumeName, file: z.string().regex(NONCE_FILE), nonce: z.string().regex(NONCE) }))
    .max(MAX_VOLUMES)
    .optional(),
  files: z.array(
    z.looseObject({
      path: z.string(),
      sizeBytes: z.number(),
      mode: z.int(),
      buildId: z.string().optional(),
      mapped: z.boolean(),
    }),
  ),
});

export const emptySchema = z.strictObject({}).or(z.undefined()).or(z.null());
export const startSchema = z.strictObject({ schema, operation, epoch, spec: specSchema });
const checkpointId = z.string().refine(isCheckpointId, "is not a valid checkpoint id");
export const recoverSchema = z.strictObject({ ref: refSchema, spec: specSchema, checkpoint: checkpointId });
const labels = z
  .record(z.string().regex(/^[a-z0-9][a-z0-9._/-]{0,62}$/i), z.string().max(200))
  .refine((all) => Object.keys(all).length <= 32, "are more than 32");
export const saveSchema = z.strictObject({
  ref: refSchema,
  options: z.strictObject({
    stop: z.boolean(),
    reason: z.string().max(1000),
    requestedBy: z.string().max(200),
    labels,
    maxBlackoutMs: z.number().positive(),
    wakeOnTraffic: z.exactOptional(z.boolean()),
    ifQuiet: z.exactOptional(z.boolean()),
  }),
  request: z.string().regex(/^[A-Za-z0-9-]{1,64}$/),
});
export const restoreSchema = z.strictObject({
  ref: refSchema,
  spec: specSchema,
  checkpoint: checkpointId,
  of: workloadName,
  letGoWith: checkpointId.optional(),
  lazy: z.boolean().optional(),
});
export const checkpointsSchema = z.strictObject({ schema, workload: workloadName.optional() });
export const checkpointRefSchema = z.strictObject({ schema, workload: workloadName, checkpoint: checkpointId });
export const pinSchema = checkpointRefSchema.extend({ pinned: z.boolean() });
export const diffSchema = checkpointRefSchema.extend({ with: checkpointId });
export const stopSchema = z.strictObject({
  schema,
  workload: workloadName,
  epoch,
  graceMs: z.int().min(0).max(MAX_GRACE_MS),
  callOff: z.boolean().optional(),
});
export const idleSchema = z.strictObject({
  schema,
  workload: workloadName,
  epoch,
  cpuPercent: z.number().min(0).max(MAX_IDLE_CPU_PERCENT),
});
export const workloadRefSchema = z.strictObject({ schema, workload: workloadName });
export const logsSchema = z.strictObject({
  schema,
  workload: workloadName,
  offset: z.int(),
  maxBytes: z.int().min(1).max(1_048_576),
});
export const preflightSchema = z.strictObject({ ref: refSchema, options: askedSchema });
export const preflightDestinationSchema = z.strictObject({
  ref: refSchema,
  options: askedSchema,
  facts: sourceFactsSchema,
});
export const reserveSchema = z.strictObject({
  ref: refSchema,
  options: optionsSchema,
  spec: specSchema,
  memoryBytes: z.number().min(0),
  volumeBytes: z.number().min(0),
});
export const takeOverSchema = z.strictObject({ ref: refSchema, options: optionsSchema, spec: specSchema });
export const handOverSchema = z.strictObject({
  ref: refSchema,
  options: optionsSchema,
  reservation: z.strictObject({ agent: endpoint, mover: endpoint }),
});
/** The clock's value is of this boot: after the next one nothing is under way. */
export const courseSchema = z.strictObject({
  maxDowntimeMs: z.number().min(0),
  bandwidthBytesPerSec: z.number().positive().optional(),
  paused: z.boolean(),
  heldUntil: z.number().nullable().optional(),
  now: z.boolean(),
  resumeFirst: z.boolean(),
});
export const steerSchema = z.strictObject({
  ref: refSchema,
  command: z.custom<SteerCommand>((value) => steerProblems(value).length === 0, {
    error: (issue) => steerProblems(issue.input).join("; "),
  }),
});
export const deliverSchema = z.strictObject({ ref: refSchema, token: tokenSchema });
export const resolveSchema = z.strictObject({
  ref: refSchema,
  evidence: z.string().min(1).max(1024),
  acceptRollback: z.boolean().optional(),
});
export const acknowledgeSchema = z.strictObject({ ref: refSchema, receipt: receiptSchema });

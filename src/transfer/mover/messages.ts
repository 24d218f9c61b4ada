/** Schemas of everything that reaches a mover or its agent from outside: config file, control socket, link frames. */
import { z } from "zod";
import type { FailureData } from "../../model/failure.js";
import { keptFailure } from "../../model/foreign-failure.js";
import type {
  DestinationMoverRequest,
  DestinationMoverStatus,
  MoverConfig,
  SourceMoverRequest,
  SourceMoverStatus,
} from "../../model/mover.js";
import { TRACKERS } from "../../model/mover.js";
import { isNodeName, isOperationId, isWorkloadName } from "../../model/names.js";
import { LOOK_KINDS, PASS_KINDS } from "../volume/rsync.js";
import { isImageName, MAX_IMAGE_BYTES, MAX_IMAGE_FILES } from "../images/names.js";

/** zod gives `T | undefined` for optional keys, the contracts say "absent": JSON knows no undefined, so both hold. */
type Parser<T> = z.ZodType<T>;

const path = z
  .string()
  .startsWith("/")
  .max(4096)
  .refine((value) => !value.includes("\0"), "has a zero byte");
const count = z.number().int().nonnegative();
const pid = z.number().int().positive();
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const stageId = z.string().regex(/^[0-9a-f]{32}$/);
const pids = z.record(z.string().regex(/^[1-9][0-9]{0,9}$/), pid);

export const configSchema = z.strictObject({
  operation: z.string().refine(isOperationId, "not an operation id"),
  workload: z.string().refine(isWorkloadName, "not a workload name"),
  node: z.string().refine(isNodeName, "not a node name"),
  peer: z.string().refine(isNodeName, "not a node name"),
  side: z.enum(["source", "destination"]),
  to: z.number().int().positive().optional(),
  controlSocket: path,
  imagesDir: path,
  storeDir: path,
  volumeDir: path,
  tls: z.strictObject({ caFile: path, certFile: path, keyFile: path, crlFile: path.optional() }),
  listenHost: z.string().min(1).max(255).optional(),
  bandwidthBytesPerSec: z.number().positive().optional(),
  logFile: path,
  storeFile: path.optional(),
  checkpoint: z
    .strictObject({
      workload: z.string().refine(isWorkloadName, "not a workload name"),
      id: z.string().min(1).max(128),
    })
    .optional(),
}) as Parser<unknown> as Parser<MoverConfig>;

const request = z.discriminatedUnion("verb", [
  z.strictObject({ verb: z.literal("status") }),
  z.strictObject({
    verb: z.literal("connect"),
    host: z.string().min(1).max(255),
    port: z.number().int().min(1).max(65535),
  }),
  z.strictObject({ verb: z.literal("presync"), pids: z.array(pid).optional() }),
  z.strictObject({ verb: z.literal("finalSync"), pids: z.array(pid).optional() }),
  z.strictObject({ verb: z.literal("sendImages"), pids }),
  z.strictObject({ verb: z.literal("scan"), pids, tracker: z.enum([...TRACKERS, "auto"]).optional() }),
  z.strictObject({ verb: z.literal("sendUnsent") }),
  z.strictObject({ verb: z.literal("cut") }),
  z.strictObject({ verb: z.literal("untrack") }),
  z.strictObject({ verb: z.literal("limit"), bandwidthBytesPerSec: z.number().positive().nullable() }),
  z.strictObject({ verb: z.literal("exit") }),
]);
export const sourceRequest = request as Parser<unknown> as Parser<SourceMoverRequest>;
export const destinationRequest = z.discriminatedUnion("verb", [
  z.strictObject({ verb: z.literal("status") }),
  z.strictObject({ verb: z.literal("fill") }),
  z.strictObject({ verb: z.literal("reset") }),
  z.strictObject({ verb: z.literal("exit") }),
]) as Parser<unknown> as Parser<DestinationMoverRequest>;

/** A line from the agent: the request is parsed by the side's own schema. */
export const requestLine = z.object({ id: count, request: z.unknown() });

/** A failure that came from elsewhere: what is kept of it is text, bounded. */
export const failureSchema: z.ZodType<FailureData> = z.unknown().transform((value, context) => {
  const kept = keptFailure(value, "E_LINK_LOST");
  if (kept !== undefined) return kept;
  context.addIssue({ code: "custom", message: "is not a failure" });
  return z.NEVER;
});

const images = z.object({ digest: sha256.optional(), bytes: count });
const duration = z.number().nonnegative();
const precopy = z.object({
  tracker: z.enum(TRACKERS),
  why: z.string(),
  scans: count,
  lastScan: z.object({ dirtyPages: count, presentPages: count, durationMs: duration, sincePreviousMs: duration }),
  unsentPages: count,
  sentPages: count,
  sentBytes: count,
  round: z.object({ sentPages: count, sentBytes: count, durationMs: duration }),
});
const sourceStatus = z.object({
  side: z.literal("source"),
  pid,
  connected: z.boolean(),
  volume: z.object({
    bytesSent: count,
    passes: count,
    finalDone: z.boolean(),
    last: z.object({ comparedBytes: count, durationMs: duration, sinceMs: duration }),
  }),
  images: images.extend({ sent: z.boolean() }),
  pages: z.object({ total: count, sent: count, bytesSent: count, allSent: z.boolean(), allAcked: z.boolean() }),
  precopy: precopy.optional(),
  failure: failureSchema.optional(),
});
const destinationStatus = z.object({
  side: z.literal("destination"),
  pid,
  port: count,
  connected: z.boolean(),
  images: images.extend({ received: z.boolean(), claimed: z.boolean() }),
  volume: z.object({ bytesReceived: count, finalDone: z.boolean(), durable: z.boolean().optional() }),
  pages: z.object({
    total: count,
    received: count,
    filled: count,
    faults: count,
    allReceived: z.boolean(),
    allFilled: z.boolean(),
  }),
  tasks: count,
  guardPid: pid.optional(),
  failure: failureSchema.optional(),
  // of a sink
  complete: z.boolean().optional(),
  stored: z.object({ bytes: count, total: count, done: z.boolean() }).optional(),
});
const status = z.discriminatedUnion("side", [sourceStatus, destinationStatus]) as Parser<unknown> as Parser<
  SourceMoverStatus | DestinationMoverStatus
>;

/** A line from the mover: an answer, or a status nobody asked for. */
export const moverLine = z.union([
  z.object({ id: count, ok: z.literal(true), status }),
  z.object({ id: count, ok: z.literal(false), failure: failureSchema }),
  z.object({ status }),
]);

/** Regions of one frame. */
export const MAX_REGIONS = 4096;
/** Numbers that tell the runs of one frame of staged pages. */
export const MAX_STAGE_RUNS = 4096;

/** Metas of the frames between the movers, by frame type; see wire.ts for who sends what. */
const slotRun = z.tuple([count, count]);
export const FRAMES = {
  // control session
  "images-begin": z.strictObject({ files: count.max(MAX_IMAGE_FILES), bytes: count.max(MAX_IMAGE_BYTES) }),
  file: z.strictObject({ name: z.string().refine(isImageName, "not an image name"), size: count, offset: count }),
  manifest: z.strictObject({
    files: z
      .array(z.strictObject({ name: z.string().refine(isImageName, "not an image name"), size: count, sha256 }))
      .max(MAX_IMAGE_FILES),
  }),
  /** What the destination has staged of these slots is old; payload: pairs of slot and pages, u32 little endian. */
  stale: z.strictObject({ stage: stageId }),
  /** `areas`: digest of the table. `stage`: it is made with the first `regions` regions of what was staged. */
  ready: z.strictObject({
    digest: sha256,
    areas: sha256,
    stage: z.strictObject({ id: stageId, regions: count }).nullable(),
  }),
  /** `stage`: what is staged here, and how many regions of it are known. */
  state: z.strictObject({
    digest: sha256.nullable(),
    areas: sha256.nullable(),
    stage: z.strictObject({ id: stageId, regions: count }).nullable(),
  }),
  refused: z.strictObject({ what: z.enum(["images", "volume", "pages"]), failure: failureSchema }),
  complete: z.strictObject({ slots: count }),
  // bulk and fault sessions
  /** `runs`: lengths in pages from `slot` on: data, zero, data, zero, ... */
  pages: z.strictObject({ slot: count, runs: z.array(count).max(4096) }),
  /** Pre-copy: what was staged before is forgotten. */
  "stage-begin": z.strictObject({ stage: stageId }),
  /** `regions`: vpid, start, pages, slot of the `from`th region and those behind it. */
  regions: z.strictObject({ from: count, regions: z.array(z.tuple([count, count, count, count])).max(MAX_REGIONS) }),
  /** `data`, `zero`: slot and pages of runs, one after the other; the payload is that of `data`. */
  "stage-pages": z.strictObject({ data: z.array(count).max(MAX_STAGE_RUNS), zero: z.array(count).max(MAX_STAGE_RUNS) }),
  /** So many frames of regions and staged pages were taken. */
  staged: z.strictObject({ frames: count }),
  credit: z.strictObject({ frames: count }),
  need: z.strictObject({ id: count }),
  missing: z.strictObject({ id: count, runs: z.array(slotRun).max(10_000), received: count }),
  fault: z.strictObject({ slot: count, pages: count }),
  // volume streams, on the bulk session
  "volume-open": z.strictObject({ stream: count, kind: z.enum([...PASS_KINDS, ...LOOK_KINDS]), gentle: z.boolean() }),
  "volume-data": z.strictObject({ stream: count }),
  "volume-eof": z.strictObject({ stream: count }),
  "volume-exit": z.strictObject({
    stream: count,
    exitCode: z.number().int().nullable(),
    signal: z.string().max(40).nullable(),
    lines: z.array(z.string().max(2000)).max(50),
  }),
  "volume-final": z.strictObject({}),
} as const;
export type FrameType = keyof typeof FRAMES;
export type FrameMeta<T extends FrameType> = z.infer<(typeof FRAMES)[T]>;
export const isFrameType = (type: string): type is FrameType => Object.hasOwn(FRAMES, type);

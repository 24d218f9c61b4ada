/**
 * The handshake's frames. The dialer offers versions and says why it calls; the listener selects a version or refuses
 * with a failure. The offer's shape is the same for ever; everything else may change with the version.
 */
import * as z from "zod";
import { issuesOf } from "../../host/issues.js";
import { ferryError, isFailureCode, type Evidence, type FailureData } from "../../model/failure.js";
import { isOperationId, isWorkloadName } from "../../model/names.js";
import { LINK_VERSIONS, type Hello } from "./types.js";

const offerSchema = z.object({ versions: z.array(z.int().min(1).max(1_000_000)).min(1).max(32) });

const helloSchema = z.strictObject({
  purpose: z.enum(["control", "bulk", "fault"]),
  operation: z.string().refine(isOperationId, "not an operation id"),
  workload: z.string().refine(isWorkloadName, "not a workload name"),
  to: z.int().min(1),
});
const offerV1Schema = z.strictObject({ versions: offerSchema.shape.versions, hello: helloSchema });
const welcomeSchema = z.strictObject({ version: z.int().min(1) });

const short = z.string().max(4000);
const failureSchema = z.object({
  code: z.string().max(64),
  message: short,
  side: z.enum(["source", "destination"]).optional(),
  node: short.optional(),
  phase: short.optional(),
  workload: short.optional(),
  remedy: short.optional(),
  evidence: z
    .object({
      command: z.array(short).max(200).optional(),
      exitCode: z.int().optional(),
      signal: short.optional(),
      lines: z.array(short).max(100).optional(),
    })
    .optional(),
});

/** The newest version that both speak, or undefined. */
export const selectVersion = (offered: readonly number[], spoken = LINK_VERSIONS): number | undefined =>
  spoken.filter((version) => offered.includes(version)).sort((a, b) => b - a)[0];

export const makeOffer = (hello: Hello): object => ({ versions: [...LINK_VERSIONS], hello: helloSchema.parse(hello) });

/** What a dialer may say; a user's mistake in the hello is caught here, before anything is sent. */
export function checkHello(hello: Hello): void {
  const parsed = helloSchema.safeParse(hello);
  if (!parsed.success) throw ferryError("E_REQUEST", `this link's hello is not valid: ${issuesOf(parsed.error)}`);
}

/** Listener: version and hello of an offer. Throws E_LINK_VERSION or E_FRAME. */
export function readOffer(meta: unknown): { version: number; hello: Hello } {
  const offer = offerSchema.safeParse(meta);
  if (!offer.success) throw ferryError("E_FRAME", `the dialer's offer is not valid: ${issuesOf(offer.error)}`);
  const version = selectVersion(offer.data.versions);
  if (version === undefined) {
    throw ferryError(
      "E_LINK_VERSION",
      `no common version of the link: offered ${offer.data.versions.join(", ")}, spoken here ${LINK_VERSIONS.join(", ")}`,
      { remedy: "bring Ferry on both nodes to versions that overlap (ferry --version)" },
    );
  }
  const parsed = offerV1Schema.safeParse(meta);
  if (!parsed.success) throw ferryError("E_FRAME", `the dialer's hello is not valid: ${issuesOf(parsed.error)}`);
  return { version, hello: parsed.data.hello };
}

/** Dialer: the version that the listener selected. Throws E_FRAME or E_LINK_VERSION. */
export function readWelcome(meta: unknown): number {
  const parsed = welcomeSchema.safeParse(meta);
  if (!parsed.success) throw ferryError("E_FRAME", `the listener's welcome is not valid: ${issuesOf(parsed.error)}`);
  if (!LINK_VERSIONS.includes(parsed.data.version)) {
    throw ferryError("E_LINK_VERSION", `the listener selected version ${parsed.data.version}, which was not offered`);
  }
  return parsed.data.version;
}

const MAX_CAUSES = 5;

/** A failure that a peer sent, cut to what may be shown; undefined when it is none. Codes not known here become E_LINK_LOST. */
export function readFailure(value: unknown, depth = 0): FailureData | undefined {
  const parsed = failureSchema.safeParse(value);
  if (!parsed.success) return undefined;
  const { code, message, side, node, phase, workload, remedy, evidence } = parsed.data;
  const failure: FailureData = { code: isFailureCode(code) ? code : "E_LINK_LOST", message };
  if (side !== undefined) failure.side = side;
  if (node !== undefined) failure.node = node;
  if (phase !== undefined) failure.phase = phase;
  if (workload !== undefined) failure.workload = workload;
  if (remedy !== undefined) failure.remedy = remedy;
  if (evidence !== undefined) {
    const kept: Evidence = {};
    if (evidence.command !== undefined) kept.command = evidence.command;
    if (evidence.exitCode !== undefined) kept.exitCode = evidence.exitCode;
    if (evidence.signal !== undefined) kept.signal = evidence.signal;
    if (evidence.lines !== undefined) kept.lines = evidence.lines;
    failure.evidence = kept;
  }
  const cause = (value as { cause?: unknown }).cause;
  if (cause !== undefined && depth < MAX_CAUSES) {
    const inner = readFailure(cause, depth + 1);
    if (inner !== undefined) failure.cause = inner;
  }
  return failure;
}

/** A failure made small enough for a handshake frame: evidence and long texts are cut, not the sentence. */
export function shrinkFailure(failure: FailureData, depth = 0): FailureData {
  const cut = (text: string): string => (text.length > 1000 ? `${text.slice(0, 997)}...` : text);
  const { cause, evidence: _evidence, ...rest } = failure;
  const shrunk: FailureData = { ...rest, message: cut(rest.message) };
  if (rest.remedy !== undefined) shrunk.remedy = cut(rest.remedy);
  if (cause !== undefined && depth < 2) shrunk.cause = shrinkFailure(cause, depth + 1);
  return shrunk;
}

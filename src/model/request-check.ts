/**
 * Is something a message of ours? Whoever reaches Temporal can send a workflow anything, and a workflow that stumbles over
 * the form of its input fails its task again and again, for ever, instead of saying what is wrong. So every input and
 * update is checked before a field of it is read. Pure; every problem is listed, in words.
 */
import { isOperationId, nameProblem } from "./names.js";
import { ON_STALL } from "./convergence.js";
import { CARRIED_AT, MIGRATION_STATES } from "./messages.js";
import { TRACKERS } from "./mover.js";
import { ASKED_MODES, MODES } from "./plan.js";
import { checkpointInputProblems, reportProblems, storeAskProblems } from "./checkpoint-check.js";
import { flag, list, object, oneOf, whole, within, type Fields } from "./fields.js";
import { MAX_EPOCH, refProblems, tuningProblems } from "./ref-check.js";
import { idleScaleInputProblems, protectInputProblems, scaleInputProblems } from "./schedules.js";
import { watchProblems } from "./presence.js";
import { specProblems } from "./spec-check.js";
import { shown } from "./words.js";

const MAX_SEQUENCE = 999_999_999;
/** Longest time between SIGTERM and SIGKILL that may be asked for: ten minutes, everywhere. */
export const MAX_GRACE_MS = 600_000;
const MAX_OFF = 1_000;
const MIN_BLACKOUT_MS = 100;
const MAX_BLACKOUT_MS = 3_600_000;

const grace = (value: unknown): string | undefined =>
  typeof value === "number" && value >= 0 && value <= MAX_GRACE_MS
    ? undefined
    : `graceMs must be milliseconds from 0 to ${MAX_GRACE_MS}, got ${shown(value)}`;

const roundsProblems = ({ maxDowntimeMs, onStall, maxRounds, timeoutMs, tracker, hold, keepFrames }: Fields) => [
  within("maxDowntimeMs", maxDowntimeMs, 0, MAX_BLACKOUT_MS),
  oneOf("onStall", onStall, ON_STALL),
  maxRounds === undefined ? undefined : whole("maxRounds", maxRounds, 1, 1000),
  within("timeoutMs", timeoutMs, MIN_BLACKOUT_MS, 86_400_000),
  oneOf("tracker", tracker, [...TRACKERS, "auto"]),
  hold === undefined ? undefined : flag("hold", hold),
  keepFrames === undefined ? undefined : flag("keepFrames", keepFrames),
];

/** `modes`: with `auto` where a person asks, without it where preflight has chosen. */
export const optionsProblems = (options: unknown, modes: readonly string[] = MODES): string[] =>
  object("options", options, ({ mode, dryRun, maxBlackoutMs, bandwidthBytesPerSec, ...rounds }) => [
    ...roundsProblems(rounds),
    (modes as readonly unknown[]).includes(mode)
      ? undefined
      : `mode ${shown(mode)} is not known: use one of ${modes.join(", ")}`,
    flag("dryRun", dryRun),
    typeof maxBlackoutMs === "number" && maxBlackoutMs >= MIN_BLACKOUT_MS && maxBlackoutMs <= MAX_BLACKOUT_MS
      ? undefined
      : `maxBlackoutMs must be milliseconds from ${MIN_BLACKOUT_MS} to ${MAX_BLACKOUT_MS}, got ${shown(maxBlackoutMs)}`,
    bandwidthBytesPerSec === undefined || (typeof bandwidthBytesPerSec === "number" && bandwidthBytesPerSec > 0)
      ? undefined
      : `bandwidthBytesPerSec must be more than 0, got ${shown(bandwidthBytesPerSec)}`,
  ]);

export const startProblems = (ask: unknown): string[] =>
  object("the request", ask, ({ spec, node, off }) => [
    nameProblem("node", node),
    ...(off === undefined
      ? []
      : Array.isArray(off) && off.length <= MAX_OFF
        ? off.map((name) => nameProblem("node", name))
        : [`off must be a list of at most ${MAX_OFF} nodes, got ${shown(off)}`]),
    ...specProblems(spec),
  ]);

export const migrateProblems = (ask: unknown): string[] =>
  object("the request", ask, ({ to, options }) => [nameProblem("node", to), ...optionsProblems(options, ASKED_MODES)]);

export const stopProblems = (ask: unknown): string[] => object("the request", ask, ({ graceMs }) => [grace(graceMs)]);

export const resolveProblems = (ask: unknown): string[] =>
  object("the request", ask, ({ keep, acceptRollback }) => [
    keep === "source" || keep === "destination" ? undefined : `keep must be source or destination, got ${shown(keep)}`,
    flag("acceptRollback", acceptRollback),
  ]);

export const recoverProblems = (ask: unknown): string[] =>
  object("the request", ask, ({ node, acceptRollback }) => [
    nameProblem("node", node),
    flag("acceptRollback", acceptRollback),
  ]);

export const fenceProblems = (ask: unknown): string[] =>
  object("the request", ask, ({ evidence }) => [
    typeof evidence === "string" && evidence.length > 0 && evidence.length <= 1000
      ? undefined
      : `evidence must be a text of 1 to 1000 characters, got ${shown(evidence)}`,
  ]);

export const removeProblems = (ask: unknown): string[] =>
  object("the request", ask, ({ force, graceMs }) => [flag("force", force), grace(graceMs)]);

export const askProblems = (ask: unknown): string[] =>
  object("the request", ask, (fields) => {
    if (fields["ask"] === "describe") {
      const { timeoutMs } = fields;
      return timeoutMs === undefined ? [] : [whole("timeoutMs", timeoutMs, 1, MAX_GRACE_MS)];
    }
    const ofStore = storeAskProblems(fields);
    if (ofStore !== undefined) return ofStore;
    if (fields["ask"] !== "observe" && fields["ask"] !== "log") {
      return [`a node can't be asked for ${shown(fields["ask"])}`];
    }
    const name = nameProblem("workload", fields["workload"]);
    if (fields["ask"] === "observe") return [name];
    return [
      name,
      whole("offset", fields["offset"], Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
      whole("maxBytes", fields["maxBytes"], 1, 1_048_576),
    ];
  });

const handOverProblems = (handOver: unknown): string[] =>
  object("handOver", handOver, ({ ref, options, spec }) => [
    ...refProblems(ref),
    ...optionsProblems(options),
    ...specProblems(spec),
  ]);

/** Of the signal `operation`: what is no message of ours is not heard. A word in it may be long: it quotes logs. */
export const newsProblems = (news: unknown): string[] =>
  object("the signal", news, ({ operation, state, handOver, problem, checkpoint }) => [
    isOperationId(operation) ? undefined : `operation ${shown(operation)} is not one`,
    (MIGRATION_STATES as readonly unknown[]).includes(state) ? undefined : `state ${shown(state)} is not known`,
    problem === undefined || typeof problem === "string" ? undefined : `problem ${shown(problem)} is not a text`,
    ...(handOver === undefined ? [] : handOverProblems(handOver)),
    ...(checkpoint === undefined ? [] : reportProblems(checkpoint)),
  ]);

/** What continue-as-new hands from run to run: only its form, since no other client has a reason to send any. */
const carriedProblems = (carried: unknown): string[] =>
  object("carried", carried, ({ at, handOver, view, findings, failures, reasons }) => [
    (CARRIED_AT as readonly unknown[]).includes(at) ? undefined : `carried.at ${shown(at)} is not known`,
    ...handOverProblems(handOver),
    ...object("carried.view", view, ({ startedAt, phases, steering }) => [
      whole("carried.view.startedAt", startedAt, 0, Number.MAX_SAFE_INTEGER),
      list("carried.view.phases", phases),
      list("carried.view.steering", steering),
    ]),
    list("carried.findings", findings),
    list("carried.failures", failures),
    list("carried.reasons", reasons),
  ]);

const moment = (what: string, value: unknown): string | undefined =>
  value === undefined ? undefined : whole(what, value, 0, Number.MAX_SAFE_INTEGER);

export const watchingProblems = (watch: unknown): string[] => object("watch", watch, (fields) => watchProblems(fields));

/** Input of each type of workflow, by its name. */
export const INPUT_PROBLEMS = {
  workload: (input: unknown): string[] =>
    object("the input", input, ({ name, tuning }) => [
      nameProblem("workload", name),
      ...(tuning === undefined ? [] : tuningProblems(tuning)),
    ]),
  migrate: (input: unknown): string[] =>
    object("the input", input, (fields) => [
      nameProblem("workload", fields["workload"]),
      nameProblem("node", fields["source"]),
      nameProblem("node", fields["destination"]),
      whole("sequence", fields["sequence"], 1, MAX_SEQUENCE),
      whole("epoch", fields["epoch"], 0, MAX_EPOCH),
      ...specProblems(fields["spec"]),
      ...optionsProblems(fields["options"], ASKED_MODES),
      ...tuningProblems(fields["tuning"]),
      ...(fields["unsettled"] === undefined ? [] : handOverProblems(fields["unsettled"])),
      ...(fields["carried"] === undefined ? [] : carriedProblems(fields["carried"])),
    ]),
  settle: (input: unknown): string[] =>
    object("the input", input, ({ handOver, tuning, startedAt }) => [
      ...handOverProblems(handOver),
      ...tuningProblems(tuning),
      moment("startedAt", startedAt),
    ]),
  sweep: (input: unknown): string[] =>
    object("the input", input, ({ handOver, moved, nodes, tuning, startedAt }) => [
      ...handOverProblems(handOver),
      flag("moved", moved),
      moment("startedAt", startedAt),
      ...(Array.isArray(nodes) ? nodes.map((node) => nameProblem("node", node)) : [list("nodes", nodes)]),
      ...tuningProblems(tuning),
    ]),
  supersede: (input: unknown): string[] =>
    object("the input", input, ({ ref, tuning, round }) => [
      ...refProblems(ref),
      ...tuningProblems(tuning),
      ...(round === undefined ? [] : [whole("round", round, 0, MAX_SEQUENCE)]),
    ]),
  checkpoint: checkpointInputProblems,
  protect: protectInputProblems,
  scale: scaleInputProblems,
  idle: idleScaleInputProblems,
  node: (input: unknown): string[] =>
    object("the input", input, ({ node, watch }) => [
      nameProblem("node", node),
      ...(watch === undefined ? [] : watchingProblems(watch)),
    ]),
} as const;

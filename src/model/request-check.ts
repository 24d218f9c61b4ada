/**
 * Is something a message of ours? Whoever reaches Temporal can send a workflow anything, and a workflow that stumbles over
 * the form of its input fails its task again and again, for ever, instead of saying what is wrong. So every input and
 * update is checked before a field of it is read. Pure; every problem is listed, in words.
 */
import { isOperationId, nameProblem } from "./names.js";
import { ON_STALL } from "./convergence.js";
import { TRACKERS } from "./mover.js";
import { ASKED_MODES, MODES } from "./plan.js";
import { specProblems } from "./spec-check.js";

type Fields = Record<string, unknown>;
const MAX_EPOCH = 1_000_000_000;
const MAX_SEQUENCE = 999_999_999;
/** Longest time between SIGTERM and SIGKILL that may be asked for: ten minutes, everywhere. */
export const MAX_GRACE_MS = 600_000;
const MAX_OFF = 1_000;
const MIN_BLACKOUT_MS = 100;
const MAX_BLACKOUT_MS = 3_600_000;

const shown = (value: unknown): string => {
  const text = JSON.stringify(value) ?? typeof value;
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
};

/** The problems of an object's fields; one problem when it is no object at all. */
function object(what: string, value: unknown, problemsOf: (fields: Fields) => (string | undefined)[]): string[] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return [`${what} must be an object, got ${shown(value)}`];
  }
  return problemsOf(value as Fields).filter((problem) => problem !== undefined);
}

const whole = (what: string, value: unknown, min: number, max: number): string | undefined =>
  typeof value === "number" && Number.isInteger(value) && value >= min && value <= max
    ? undefined
    : `${what} must be a whole number from ${min} to ${max}, got ${shown(value)}`;

const flag = (what: string, value: unknown): string | undefined =>
  typeof value === "boolean" ? undefined : `${what} must be true or false, got ${shown(value)}`;

const grace = (value: unknown): string | undefined =>
  typeof value === "number" && value >= 0 && value <= MAX_GRACE_MS
    ? undefined
    : `graceMs must be milliseconds from 0 to ${MAX_GRACE_MS}, got ${shown(value)}`;

const oneOf = (what: string, value: unknown, all: readonly string[]): string | undefined =>
  value === undefined || (all as readonly unknown[]).includes(value)
    ? undefined
    : `${what} ${shown(value)} is not known: use one of ${all.join(", ")}`;
const within = (what: string, value: unknown, min: number, max: number): string | undefined =>
  value === undefined || (typeof value === "number" && value >= min && value <= max)
    ? undefined
    : `${what} must be a number from ${min} to ${max}, got ${shown(value)}`;

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

const tuningProblems = (tuning: unknown): string[] =>
  object("tuning", tuning, (fields) =>
    Object.entries(fields).map(([name, value]) =>
      typeof value === "number" && value >= 0 ? undefined : `tuning.${name} must be a number, got ${shown(value)}`,
    ),
  );

const refProblems = (ref: unknown): string[] =>
  object("ref", ref, ({ operation, workload, epoch, to, source, destination }) => [
    isOperationId(operation) ? undefined : `operation ${shown(operation)} is not valid`,
    nameProblem("workload", workload),
    nameProblem("node", source),
    nameProblem("node", destination),
    whole("epoch", epoch, 0, MAX_EPOCH),
    whole("to", to, 1, MAX_EPOCH),
  ]);

const handOverProblems = (handOver: unknown): string[] =>
  object("handOver", handOver, ({ ref, options, spec }) => [
    ...refProblems(ref),
    ...optionsProblems(options),
    ...specProblems(spec),
  ]);

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
    ]),
  settle: (input: unknown): string[] =>
    object("the input", input, ({ handOver, tuning }) => [...handOverProblems(handOver), ...tuningProblems(tuning)]),
  sweep: (input: unknown): string[] =>
    object("the input", input, ({ handOver, moved, nodes, tuning }) => [
      ...handOverProblems(handOver),
      flag("moved", moved),
      ...(Array.isArray(nodes)
        ? nodes.map((node) => nameProblem("node", node))
        : [`nodes must be a list, got ${shown(nodes)}`]),
      ...tuningProblems(tuning),
    ]),
  node: (input: unknown): string[] => object("the input", input, ({ node }) => [nameProblem("node", node)]),
} as const;

/** Requests that have to do with checkpoints: is one a message of ours? Pure; see request-check.ts. */
import { isCheckpointId } from "./checkpoints.js";
import { flag, object, whole, within, type Fields } from "./fields.js";
import { isOperationId, nameProblem } from "./names.js";
import { MAX_EPOCH, refProblems, tuningProblems } from "./ref-check.js";
import { specProblems } from "./spec-check.js";
import { cut, shown } from "./words.js";
import { RUNTIMES } from "./workload.js";

export const MAX_LABELS = 32;
export const MAX_LABEL = 200;
export const MAX_REASON = 1000;
export const MAX_REQUESTED_BY = 200;
const MAX_OFF = 1000;
/** The agent's own rule. */
const LABEL_NAME = /^[a-z0-9][a-z0-9._/-]{0,62}$/i;

const text = (what: string, value: unknown, max: number): string | undefined =>
  typeof value === "string" && value.length <= max && !value.includes("\0")
    ? undefined
    : `${what} must be a text of at most ${max} characters, got ${shown(value)}`;

/** Of one label: its name, its value. */
export const labelProblem = (name: string, value: unknown): string | undefined =>
  LABEL_NAME.test(name)
    ? text(`label ${shown(name)}`, value, MAX_LABEL)
    : `label ${shown(cut(name, 80))} is not valid: use letters, digits, dots, hyphens, _ and /, at most 63`;

export const labelsProblems = (labels: unknown): string[] =>
  object("labels", labels, (all) => {
    const entries = Object.entries(all);
    if (entries.length > MAX_LABELS) return [`there are ${entries.length} labels, at most ${MAX_LABELS} are allowed`];
    return entries.map(([name, value]) => labelProblem(name, value));
  });

const saveProblems = (options: unknown): string[] =>
  object("options", options, ({ stop, reason, requestedBy, labels, maxBlackoutMs, wakeOnTraffic, ifQuiet }) => [
    flag("stop", stop),
    ...Object.entries({ wakeOnTraffic, ifQuiet }).map(([name, value]) =>
      value === undefined
        ? undefined
        : (flag(name, value) ?? (value !== true || stop === true ? undefined : `${name} needs stop`)),
    ),
    text("reason", reason, MAX_REASON),
    text("requestedBy", requestedBy, MAX_REQUESTED_BY),
    ...labelsProblems(labels),
    typeof maxBlackoutMs === "number"
      ? within("maxBlackoutMs", maxBlackoutMs, 100, 3_600_000)
      : `maxBlackoutMs must be milliseconds from 100 to 3600000, got ${shown(maxBlackoutMs)}`,
  ]);

export const checkpointProblems = (ask: unknown): string[] =>
  object("the request", ask, ({ options }) => saveProblems(options));

/** An id, or the beginning of one. */
export const checkpointIdProblem = (what: string, id: unknown): string | undefined =>
  isCheckpointId(id) ? undefined : `${what} ${shown(id)} is not a checkpoint's id`;

export const restoreProblems = (ask: unknown): string[] =>
  object("the request", ask, ({ node, checkpoint, at, clone, off, lazy, dryRun, wake }) => [
    ...(wake === undefined
      ? []
      : object("wake", wake, (sleeper) => [
          nameProblem("node", sleeper["node"]),
          whole("wake.epoch", sleeper["epoch"], 1, MAX_EPOCH),
        ])),
    node === undefined ? undefined : nameProblem("node", node),
    checkpoint === undefined ? undefined : checkpointIdProblem("checkpoint", checkpoint),
    at === undefined ? undefined : whole("at", at, 0, 8_640_000_000_000_000),
    checkpoint !== undefined && at !== undefined ? "checkpoint and at don't go together" : undefined,
    lazy === undefined ? undefined : flag("lazy", lazy),
    dryRun === undefined ? undefined : flag("dryRun", dryRun),
    ...(off === undefined
      ? []
      : Array.isArray(off) && off.length <= MAX_OFF
        ? off.map((name) => nameProblem("node", name))
        : [`off must be a list of at most ${MAX_OFF} nodes, got ${shown(off)}`]),
    ...(clone === undefined
      ? []
      : object("clone", clone, ({ spec, of }) => [nameProblem("workload", of), ...specProblems(spec)])),
    clone !== undefined && node === undefined ? "a clone needs a node" : undefined,
  ]);

/** Questions about the store, to a node; undefined: it is none of these. */
export function storeAskProblems(fields: Fields): (string | undefined)[] | undefined {
  const { ask, workload, checkpoint, pinned } = fields;
  if (ask === "checkpoints") return [workload === undefined ? undefined : nameProblem("workload", workload)];
  if (ask !== "pin" && ask !== "removeCheckpoint" && ask !== "verify" && ask !== "diff") return undefined;
  return [
    nameProblem("workload", workload),
    checkpointIdProblem("checkpoint", checkpoint),
    ask === "pin" ? flag("pinned", pinned) : undefined,
    ask === "diff" ? checkpointIdProblem("with", fields["with"]) : undefined,
  ];
}

const OUTCOMES: readonly unknown[] = ["saved", "failed", "unknown"];
const STATES_AFTER: readonly unknown[] = ["running", "checkpointed", "sleeping", "stopped", "unknown"];

/** What the entity takes in of how a checkpoint ended. */
export const reportProblems = (report: unknown): string[] =>
  object("the report", report, ({ outcome, operation, state, epoch, checkpoint, failure }) => [
    OUTCOMES.includes(outcome) ? undefined : `outcome ${shown(outcome)} is not known`,
    STATES_AFTER.includes(state) ? undefined : `state ${shown(state)} is not known`,
    isOperationId(operation) ? undefined : `operation ${shown(operation)} is not one`,
    whole("epoch", epoch, 0, MAX_EPOCH),
    ...(checkpoint === undefined
      ? []
      : object("checkpoint", checkpoint, ({ id, takenAt }) => [
          isCheckpointId(id) ? undefined : `checkpoint ${shown(id)} is not an id`,
          typeof takenAt === "number" && Number.isFinite(takenAt) ? undefined : `takenAt ${shown(takenAt)} is no time`,
        ])),
    ...(failure === undefined
      ? []
      : object("failure", failure, ({ message }) => [
          typeof message === "string" ? undefined : `message ${shown(message)} is not a text`,
        ])),
  ]);

export const checkpointInputProblems = (input: unknown): string[] =>
  object("the input", input, ({ ref, runtime, options, tuning, late, request }) => [
    ...refProblems(ref),
    request === undefined ? undefined : text("request", request, 64),
    (RUNTIMES as readonly unknown[]).includes(runtime) ? undefined : `runtime ${shown(runtime)} is not known`,
    ...saveProblems(options),
    ...tuningProblems(tuning),
    ...(late === undefined
      ? []
      : object("late", late, ({ startedAt, since, problem }) => [
          whole("late.startedAt", startedAt, 0, Number.MAX_SAFE_INTEGER),
          whole("late.since", since, 0, Number.MAX_SAFE_INTEGER),
          text("late.problem", problem, 10_000),
        ])),
  ]);

/** What is done to workloads by the clock: Temporal Schedules, each of one workload and one kind. */
import {
  ScheduleAlreadyRunning,
  ScheduleNotFoundError,
  ScheduleOverlapPolicy,
  ServiceError,
  isGrpcServiceError,
  type ScheduleDescription,
  type ScheduleSpec,
} from "@temporalio/client";
import type { FerryError } from "../model/failure.js";
import { QUERY, WORKFLOW } from "../model/messages.js";
import { WORKFLOW_TASK_QUEUE, workloadWorkflowId } from "../model/names.js";
import type { Retention } from "../model/retention.js";
import {
  DEFAULT_IDLE_CPU_PERCENT,
  SCHEDULE_KINDS,
  everyText,
  idleEveryMs,
  idleScaleInputProblems,
  ofScheduleId,
  protectInputProblems,
  scaleInputProblems,
  scheduleId,
  tickWorkflowId,
  type IdleScaleInput,
  type ProtectInput,
  type ScaleInput,
  type ScheduleKind,
} from "../model/schedules.js";
import { asking, refuse } from "./failures.js";
import type { Context } from "./nodes.js";
import { checkName } from "./requests.js";
import { checkNote, checkProtect, checkScaleDown, checkScheduleId } from "./requests-schedules.js";
import { key } from "./starting.js";
import type { ScheduleChange, ScheduleListing, SchedulesClient } from "./types.js";

const ASK_MS = 10_000;
const GRPC_INVALID_ARGUMENT = 3;
/** A tick that was missed while Temporal was away is made up for if it is not older than that. */
const CATCH_UP = { protect: "1 minute", idle: "1 minute", "scale-down": "10 minutes", wake: "10 minutes" } as const;

type Input = ProtectInput | ScaleInput | IdleScaleInput;
type Wanted =
  | { kind: "protect"; input: ProtectInput }
  | { kind: "idle"; input: IdleScaleInput }
  | { kind: "scale-down" | "wake"; input: ScaleInput };
const TICKS = {
  protect: WORKFLOW.protect,
  idle: WORKFLOW.idle,
  "scale-down": WORKFLOW.scale,
  wake: WORKFLOW.scale,
} as const;

/** All of them have their own instant in the interval: not everything is frozen and read at once. */
function offsetOf(workload: string, everyMs: number): number {
  let hash = 0;
  for (const char of workload) hash = (hash * 31 + (char.codePointAt(0) ?? 0)) % 1_000_003;
  const seconds = Math.floor(everyMs / 1000);
  return (hash % Math.max(1, seconds)) * 1000;
}

function specOf({ kind, input }: Wanted): ScheduleSpec {
  if (kind === "protect" || kind === "idle") {
    const every = kind === "protect" ? input.everyMs : idleEveryMs(input.idleMs);
    return { intervals: [{ every, offset: offsetOf(input.workload, every) }] };
  }
  return { cronExpressions: [input.cron], timezone: input.timezone };
}

function optionsOf(wanted: Wanted) {
  const { kind, input } = wanted;
  const { workload } = input;
  const typedSearchAttributes = [{ key: key("FerryWorkload"), value: workload }];
  return {
    spec: specOf(wanted),
    action: {
      type: "startWorkflow" as const,
      workflowType: TICKS[kind],
      taskQueue: WORKFLOW_TASK_QUEUE,
      workflowId: tickWorkflowId(kind, workload),
      args: [input] as [Input],
      typedSearchAttributes,
      staticSummary: `${kind} ${workload}, ${whenText(input)}`,
    },
    policies: { overlap: ScheduleOverlapPolicy.SKIP, catchupWindow: CATCH_UP[kind] },
    typedSearchAttributes,
  };
}

const whenText = (input: Input): string =>
  "cron" in input
    ? `${input.cron} ${input.timezone}`
    : "idleMs" in input
      ? `idle for ${everyText(input.idleMs)}`
      : `every ${everyText(input.everyMs)}`;

const yesNo = (value: boolean | undefined): string => (value === true ? "yes" : "no");

/** Field by field, as a person reads it. */
function differences(before: ScheduleListing, after: Input): string[] {
  type Value = string | number | undefined;
  const changed = (name: string, was: Value, is: Value, say: (value: string | number) => string = String): string[] =>
    was === is ? [] : [`${name}: ${is === undefined ? "none" : say(is)}, was ${was === undefined ? "none" : say(was)}`];
  const span = (value: string | number): string => (typeof value === "number" ? everyText(value) : value);
  if ("cron" in after) {
    return [
      ...changed("cron", before.cron, after.cron),
      ...changed("timezone", before.timezone, after.timezone),
      ...changed("wake on traffic", yesNo(before.wakeOnTraffic), yesNo(after.wakeOnTraffic)),
    ];
  }
  if ("idleMs" in after) {
    return [
      ...changed("idle", before.idleMs, after.idleMs, span),
      ...changed("cpu percent", before.cpuPercent, after.cpuPercent),
      ...changed("wake on traffic", yesNo(before.wakeOnTraffic), yesNo(after.wakeOnTraffic)),
    ];
  }
  const was: Retention = before.retention ?? {};
  const { everyMs, retention: is, maxBlackoutMs } = after;
  return [
    ...changed("every", before.everyMs, everyMs, span),
    ...changed("keep", was.keep, is.keep),
    ...changed("older than", was.olderThanMs, is.olderThanMs, span),
    ...changed("max size", was.maxBytes, is.maxBytes),
    ...changed("max blackout", before.maxBlackoutMs, maxBlackoutMs, span),
  ];
}

const handleOf = ({ client }: Context, id: string) => client.schedule.getHandle(id);

/** Best effort is up to the caller. Returns those that were there. */
export async function dropSchedules(context: Context, workload: string): Promise<string[]> {
  const dropped: string[] = [];
  for (const kind of SCHEDULE_KINDS) {
    const id = scheduleId(kind, workload);
    try {
      await context.client.withDeadline(Date.now() + ASK_MS, () => handleOf(context, id).delete());
      dropped.push(id);
    } catch (error) {
      if (!(error instanceof ScheduleNotFoundError)) throw error;
    }
  }
  return dropped;
}

export function schedulesOf(context: Context): SchedulesClient {
  const { client, address } = context;
  const soon = <Result>(call: () => Promise<Result>): Promise<Result> => client.withDeadline(Date.now() + ASK_MS, call);

  /** Undefined: there is none. */
  const find = async (id: string): Promise<ScheduleListing | undefined> => {
    const parts = ofScheduleId(id);
    if (parts === undefined) return undefined;
    try {
      const described = await soon(() => handleOf(context, id).describe());
      return { ...listing(parts.kind, parts.workload, described), ...(await lastOf(context, described)) };
    } catch (error) {
      if (error instanceof ScheduleNotFoundError) return undefined;
      throw error;
    }
  };
  const demand = async (id: string): Promise<ScheduleListing> => {
    const found = await find(id);
    if (found !== undefined) return found;
    throw unknown(id);
  };

  const put = async (wanted: Wanted): Promise<ScheduleChange> => {
    const id = scheduleId(wanted.kind, wanted.input.workload);
    const options = optionsOf(wanted);
    const before = await find(id);
    if (before === undefined) {
      try {
        // Not only from the next interval on: it is protected, or looked at, now.
        const state = { triggerImmediately: wanted.kind === "protect" || wanted.kind === "idle" };
        await understood(id, () => soon(() => client.schedule.create({ scheduleId: id, ...options, state })));
        return { schedule: await demand(id), outcome: "created", changes: [] };
      } catch (error) {
        if (!(error instanceof ScheduleAlreadyRunning)) throw error;
        return put(wanted);
      }
    }
    const changes = before.problem === undefined ? differences(before, wanted.input) : [before.problem];
    if (changes.length === 0) return { schedule: before, outcome: "unchanged", changes };
    await understood(id, () =>
      soon(() =>
        handleOf(context, id).update(({ state: { paused, note } }) => ({
          ...options,
          state: { paused, ...(note !== undefined && { note }) },
        })),
      ),
    );
    return { schedule: await demand(id), outcome: "changed", changes };
  };

  const doing = <Result>(what: string, request: () => Promise<Result>): Promise<Result> =>
    asking({ address, doing: what }, request);

  const demandWorkload = async (workload: string): Promise<void> => {
    const notFound = {
      code: "E_WORKLOAD_UNKNOWN",
      message: `there is no workload ${workload}`,
      workload,
      remedy: "see which workloads there are: ferry ps",
    } as const;
    await asking({ address, doing: `read the state of ${workload}`, notFound }, () =>
      soon(() => client.workflow.getHandle(workloadWorkflowId(workload)).query(QUERY.status)),
    );
  };

  /** True: there was one. */
  const dropped = async (id: string): Promise<boolean> => {
    try {
      await soon(() => handleOf(context, id).delete());
      return true;
    } catch (error) {
      if (error instanceof ScheduleNotFoundError) return false;
      throw error;
    }
  };

  const change = async (verb: string, given: string, act: (id: string) => Promise<void>): Promise<void> => {
    const { id } = checkScheduleId(given);
    return doing(`${verb} schedule ${id}`, async () => {
      try {
        await soon(() => act(id));
      } catch (error) {
        throw error instanceof ScheduleNotFoundError ? unknown(id) : error;
      }
    });
  };

  return {
    protect: async (workload, request) => {
      const input = checkProtect(workload, request);
      await demandWorkload(workload);
      return doing(`protect ${workload}`, () => put({ kind: "protect", input }));
    },
    scaleDown: async (workload, request) => {
      const { cron, idleMs, cpuPercent, wakeOnTraffic, wake, timezone } = checkScaleDown(workload, request);
      await demandWorkload(workload);
      return doing(`scale ${workload} down`, async () => {
        const times = { timezone, ...(wakeOnTraffic && { wakeOnTraffic }) };
        const idle = { workload, cpuPercent: cpuPercent ?? DEFAULT_IDLE_CPU_PERCENT, wakeOnTraffic };
        const all: [Wanted["kind"], Wanted | undefined][] = [
          [
            "scale-down",
            cron === undefined ? undefined : { kind: "scale-down", input: { workload, to: "down", cron, ...times } },
          ],
          ["idle", idleMs === undefined ? undefined : { kind: "idle", input: { ...idle, idleMs } }],
          [
            "wake",
            wake === undefined ? undefined : { kind: "wake", input: { workload, to: "up", cron: wake, timezone } },
          ],
        ];
        const made: ScheduleChange[] = [];
        for (const [, wanted] of all) if (wanted !== undefined) made.push(await put(wanted));
        const [first] = made;
        for (const [kind, wanted] of all) {
          if (wanted !== undefined || !(await dropped(scheduleId(kind, workload))) || first === undefined) continue;
          first.changes.push(`${kind}: none any more`);
          if (first.outcome === "unchanged") first.outcome = "changed";
        }
        return made;
      });
    },
    list: (options) =>
      doing("list the schedules", async () => {
        const ids: string[] = [];
        if (options?.workload !== undefined) {
          const workload = checkName("workload", options.workload);
          ids.push(...SCHEDULE_KINDS.map((kind) => scheduleId(kind, workload)));
        } else {
          for await (const { scheduleId: id } of client.schedule.list())
            if (ofScheduleId(id) !== undefined) ids.push(id);
          ids.sort();
        }
        const found = await Promise.all(ids.map(find));
        return found.filter((one) => one !== undefined);
      }),
    get: async (given) => {
      const { id } = checkScheduleId(given);
      return doing(`read schedule ${id}`, () => demand(id));
    },
    pause: (id, note) =>
      change("pause", id, (sure) => handleOf(context, sure).pause(note === undefined ? "paused" : checkNote(note))),
    resume: (id) => change("resume", id, (sure) => handleOf(context, sure).unpause("resumed")),
    trigger: (id) => change("trigger", id, (sure) => handleOf(context, sure).trigger(ScheduleOverlapPolicy.SKIP)),
    remove: (id) => change("remove", id, (sure) => handleOf(context, sure).delete()),
  };
}

/** What Temporal can't read as a time is the caller's mistake; its client makes a TypeError of some. */
async function understood<Result>(id: string, request: () => Promise<Result>): Promise<Result> {
  try {
    return await request();
  } catch (error) {
    const why = error instanceof TypeError ? error.message : invalidArgument(error);
    if (why === undefined) throw error;
    throw refuse("E_REQUEST", `schedule ${id} is not valid: ${why}`, "correct the cron expression, or the time zone");
  }
}

function invalidArgument(error: unknown): string | undefined {
  const cause = error instanceof ServiceError ? error.cause : undefined;
  if (!isGrpcServiceError(cause)) return undefined;
  const code: number = cause.code;
  return code === GRPC_INVALID_ARGUMENT ? cause.details : undefined;
}

const unknown = (id: string): FerryError =>
  refuse("E_STATE", `there is no schedule ${id}`, "see which there are: ferry schedule ls");

const PROBLEMS = {
  protect: protectInputProblems,
  idle: idleScaleInputProblems,
  "scale-down": scaleInputProblems,
  wake: scaleInputProblems,
} as const;

function listing(kind: ScheduleKind, workload: string, { action, state, info }: ScheduleDescription): ScheduleListing {
  const [next] = info.nextActionTimes;
  const common = {
    id: scheduleId(kind, workload),
    kind,
    workload,
    paused: state.paused,
    ...(state.note !== undefined && state.note !== "" && { note: state.note }),
    ...(next !== undefined && !state.paused && { next }),
  };
  const input: unknown = action.args?.[0];
  const problems = PROBLEMS[kind](input);
  if (problems.length > 0) return { ...common, problem: `not as Ferry makes them: ${problems.join("; ")}` };
  if (kind === "protect") {
    const { everyMs, retention, maxBlackoutMs } = input as ProtectInput;
    return { ...common, everyMs, retention, maxBlackoutMs };
  }
  if (kind === "idle") {
    const { idleMs, cpuPercent, wakeOnTraffic } = input as IdleScaleInput;
    return { ...common, idleMs, cpuPercent, wakeOnTraffic };
  }
  const { cron, timezone, wakeOnTraffic } = input as ScaleInput;
  return { ...common, cron, timezone, ...(wakeOnTraffic === true && { wakeOnTraffic }) };
}

/** How the last tick went, as far as Temporal keeps it. */
async function lastOf({ client }: Context, { info }: ScheduleDescription): Promise<Pick<ScheduleListing, "last">> {
  const last = info.recentActions.at(-1);
  if (last === undefined) return {};
  const { workflowId, firstExecutionRunId } = last.action.workflow;
  const common = { at: last.takenAt, workflowId };
  try {
    const tick = await client.withDeadline(Date.now() + ASK_MS, () =>
      client.workflow.getHandle(workflowId, firstExecutionRunId).describe(),
    );
    const said: unknown = tick.memo?.["said"];
    const outcome = tick.status.name === "RUNNING" ? undefined : tick.typedSearchAttributes.get(key("FerryState"));
    const ended = tick.status.name === "COMPLETED" || tick.status.name === "RUNNING" ? outcome : "failed";
    return {
      last: {
        ...common,
        ...(ended !== undefined && { outcome: ended }),
        ...(typeof said === "string" && { message: said }),
      },
    };
  } catch {
    return { last: common };
  }
}

/** Requests that have to do with schedules, checked: what is wrong is said with the field and the value. See requests.ts. */
import { z } from "zod";
import { FerryError } from "../model/failure.js";
import { DEFAULT_MAX_BLACKOUT_MS } from "../model/plan.js";
import {
  MAX_EVERY_MS,
  MAX_IDLE_CPU_PERCENT,
  MAX_IDLE_MS,
  MIN_EVERY_MS,
  MIN_IDLE_MS,
  cronProblem,
  ofScheduleId,
  timezoneProblem,
  type ProtectInput,
  type ScheduleKind,
} from "../model/schedules.js";
import { cut, shown } from "../model/words.js";
import { checkName, parse } from "./requests.js";
import type { ProtectRequest, ScaleDownRequest } from "./types.js";

const MAX_NOTE = 200;

const protectSchema = z
  .strictObject({
    everyMs: z.int().min(MIN_EVERY_MS, "at least 10 s").max(MAX_EVERY_MS, "at most 31 days"),
    keep: z.int().min(1, "the newest always stays: at least 1").max(1_000_000).optional(),
    olderThanMs: z.number().min(0).optional(),
    maxBytes: z.number().min(0).optional(),
    maxBlackoutMs: z
      .int()
      .min(100, "at least 100 ms")
      .max(3_600_000, "at most an hour")
      .default(DEFAULT_MAX_BLACKOUT_MS),
  })
  .refine(
    ({ keep, olderThanMs, maxBytes }) => keep !== undefined || olderThanMs !== undefined || maxBytes !== undefined,
    "one of keep, olderThanMs and maxBytes is needed",
  );

const checked = (problemOf: (value: unknown) => string | undefined) =>
  z.string().superRefine((value, ctx) => {
    const message = problemOf(value);
    if (message !== undefined) ctx.addIssue({ code: "custom", message });
  });
const scaleDownSchema = z
  .strictObject({
    cron: checked(cronProblem).optional(),
    idleMs: z.int().min(MIN_IDLE_MS, "at least 10 s").max(MAX_IDLE_MS, "at most 31 days").optional(),
    cpuPercent: z.number().min(0).max(MAX_IDLE_CPU_PERCENT, `at most ${MAX_IDLE_CPU_PERCENT}`).optional(),
    wakeOnTraffic: z.boolean().default(false),
    wake: checked(cronProblem).optional(),
    timezone: checked(timezoneProblem).default("UTC"),
  })
  .refine(({ cron, idleMs }) => cron !== undefined || idleMs !== undefined, "one of cron and idleMs is needed")
  .refine(({ cpuPercent, idleMs }) => cpuPercent === undefined || idleMs !== undefined, "cpuPercent needs idleMs");

export function checkProtect(workload: string, request: ProtectRequest): ProtectInput {
  checkName("workload", workload);
  const asked = parse(protectSchema, `request to protect ${workload}`, "E_REQUEST", request);
  const { everyMs, maxBlackoutMs, keep, olderThanMs, maxBytes } = asked;
  const retention = {
    ...(keep !== undefined && { keep }),
    ...(olderThanMs !== undefined && { olderThanMs }),
    ...(maxBytes !== undefined && { maxBytes }),
  };
  return { workload, everyMs, retention, maxBlackoutMs };
}

export function checkScaleDown(workload: string, request: ScaleDownRequest): z.output<typeof scaleDownSchema> {
  checkName("workload", workload);
  return parse(scaleDownSchema, `request to scale ${workload} down`, "E_REQUEST", request);
}

export function checkScheduleId(id: unknown): { id: string; kind: ScheduleKind; workload: string } {
  const parsed = typeof id === "string" ? ofScheduleId(id) : undefined;
  if (parsed !== undefined) return { id: `${parsed.kind}/${parsed.workload}`, ...parsed };
  throw new FerryError({
    code: "E_REQUEST",
    message: `${shown(typeof id === "string" ? cut(id, 60) : id)} is not the id of a schedule`,
    remedy: "write it like protect/web, scale-down/web, idle/web or wake/web; see: ferry schedule ls",
  });
}

export const checkNote = (note: unknown): string =>
  parse(z.string().max(MAX_NOTE, `at most ${MAX_NOTE} characters`), "note", "E_REQUEST", note);

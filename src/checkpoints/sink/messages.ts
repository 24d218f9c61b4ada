/** What the agent may ask of a sink. */
import { z } from "zod";
import type { SinkRequest } from "../../model/mover.js";
import { specProblems } from "../../model/spec-check.js";
import type { WorkloadSpec } from "../../model/workload.js";
import { CheckpointFacts } from "../../store/index.js";

const facts = CheckpointFacts.extend({ takenAt: z.number().optional() });
const spec = z.custom<WorkloadSpec>((value) => specProblems(value).length === 0, {
  error: (issue) => specProblems(issue.input).join("; "),
});

export const sinkRequest = z.discriminatedUnion("verb", [
  z.strictObject({ verb: z.literal("status") }),
  z.strictObject({ verb: z.literal("store"), session: z.string().min(1).max(200), facts, spec }),
  z.strictObject({ verb: z.literal("exit") }),
]) as z.ZodType<unknown> as z.ZodType<SinkRequest>;

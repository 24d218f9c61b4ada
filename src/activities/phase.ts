/** The phase in which a long step is, by the last that its agent said: for the log lines of its activity. */
import type { Context } from "@temporalio/activity";
import { isPhase, type Phase } from "../model/phase.js";

const phases = new WeakMap<Context, Phase>();

export const phaseOf = (context: Context): Phase | undefined => phases.get(context);

/** Notes the phase of a heartbeat, and says in the log that it is another one. */
export function notePhase(context: Context, progress: unknown): void {
  const phase = typeof progress === "object" && progress !== null ? (progress as { phase?: unknown }).phase : undefined;
  if (!isPhase(phase) || phases.get(context) === phase) return;
  phases.set(context, phase);
  context.log.info(`phase ${phase}`);
}

/**
 * The workflows of a later version, as it should be done: one step more before the hand-over, and one at the end, both
 * behind `patched`. A migration that has passed the first already goes on without it.
 */
import { patched } from "@temporalio/workflow";
import { CONTRACT_SCHEMA } from "../../../src/model/contract.js";
import type { MigrateInput } from "../../../src/model/messages.js";
import type { MigrationReport } from "../../../src/model/report.js";
import { shortly } from "../../../src/workflows/calls.js";
import { STEPS, migrate as current } from "../../../src/workflows/migrate.js";
import { extraStep } from "./extra.js";

export { node, settle, sweep, workload } from "../../../src/workflows/index.js";

extraStep(STEPS, (saga) => {
  if (!patched("next: looks once more before the hand-over")) return false;
  saga.reasons.push("next: looked once more");
  return true;
});

export async function migrate(input: MigrateInput): Promise<MigrationReport> {
  const report = await current(input);
  if (!patched("next: looks where it runs")) return report;
  const { processes } = await shortly(report.node, input.tuning, "next").observeWorkload({
    schema: CONTRACT_SCHEMA,
    workload: report.workload,
  });
  return { ...report, reasons: [...report.reasons, `next: ${processes} on ${report.node}`] };
}

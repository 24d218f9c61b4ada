/** `ferry cancel`: call back the migration under way. */
import type { Command } from "commander";
import { ferryError } from "../../model/failure.js";
import { exitCodeOfOutcome } from "../failures.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import { EXIT, type CommandContext } from "../io.js";
import { parseWorkloadName } from "../parse.js";
import { renderReport } from "../render/migration.js";

interface CancelFlags extends ConnectionFlags {
  json?: boolean;
  wait: boolean;
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("cancel"))
    .description(
      "Call back the migration under way. Until the source has handed over it rolls back and the workload goes on there;\nafter that it can only go forward, and the report says so.\nA restore under way ends: nothing of it runs afterwards, and its checkpoint stays.",
    )
    .argument("<name>", "workload", parseWorkloadName)
    .option("--no-wait", "ask, and don't wait for the end")
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      "\nExit code 0: it was called back. Others: as in ferry --help.\n\nExamples:\n  ferry cancel redis",
    )
    .action(async (name: string, flags: CancelFlags) => {
      await withClient(context, flags, async (client) => {
        const workload = client.workloads.get(name);
        const status = await workload.status();
        if (status.state === "restoring") {
          await workload.cancelRestore();
          const now = await workload.status();
          if (flags.json === true) context.json(now);
          else context.out(`the restore of ${name} was called off: it is ${now.state}`);
          return;
        }
        const migration = await workload.migration();
        if (migration === undefined || status.operation === undefined) {
          throw ferryError("E_STATE", `no migration of ${name} is under way: it is ${status.state} on ${status.node}`, {
            workload: name,
            node: status.node,
            remedy: `see what it does: ferry inspect ${name}`,
          });
        }
        await migration.cancel();
        if (!flags.wait) {
          if (flags.json === true) context.json({ asked: true, operation: migration.operation });
          else context.out(`asked ${migration.operation} to roll back; watch: ferry inspect ${name}`);
          return;
        }
        const report = await migration.result();
        if (flags.json === true) context.json(report);
        else for (const line of renderReport(report, context.style())) context.out(line);
        // Called back is what was asked for; "moved" came too late, which is a failure of this command.
        context.exit(
          report.outcome === "rolled-back" || report.outcome === "refused"
            ? EXIT.moved
            : report.outcome === "moved"
              ? EXIT.failed
              : exitCodeOfOutcome[report.outcome],
        );
      });
    });
}

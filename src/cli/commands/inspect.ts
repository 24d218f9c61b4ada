/** `ferry inspect`: everything about one workload. */
import type { Command } from "commander";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseWorkloadName } from "../parse.js";
import { renderInspection } from "../render/workloads.js";

interface InspectFlags extends ConnectionFlags {
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("inspect"))
    .description("Show everything about one workload: its spec, its state, its processes and its node's journal.")
    .argument("<name>", "workload", parseWorkloadName)
    .option("--json", "print JSON")
    .addHelpText("after", "\nExamples:\n  ferry inspect redis\n  ferry inspect redis --json | jq .status.node")
    .action(async (name: string, flags: InspectFlags) => {
      await withClient(context, flags, async (client) => {
        const inspection = await client.workloads.get(name).inspect();
        if (flags.json === true) context.json(inspection);
        else for (const line of renderInspection(inspection, context.style())) context.out(line);
      });
    });
}

/** `ferry stop`: stop a workload, keep its files. */
import type { Command } from "commander";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseDuration, parseWorkloadName } from "../parse.js";

interface StopFlags extends ConnectionFlags {
  grace?: number;
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("stop"))
    .description("Stop a workload: SIGTERM, then SIGKILL. Its files stay on its node; ferry rm deletes them.")
    .argument("<name>", "workload", parseWorkloadName)
    .option("--grace <time>", "time between SIGTERM and SIGKILL (default: 10s)", parseDuration)
    .option("--json", "print its status as JSON")
    .addHelpText("after", "\nExamples:\n  ferry stop redis\n  ferry stop redis --grace 30s")
    .action(async (name: string, flags: StopFlags) => {
      await withClient(context, flags, async (client) => {
        const status = await client.workloads.get(name).stop(flags.grace === undefined ? {} : { graceMs: flags.grace });
        if (flags.json === true) context.json(status);
        else context.out(`${name} is ${status.state} on ${status.node}`);
      });
    });
}

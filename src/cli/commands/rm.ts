/** `ferry rm`: remove workloads and their files. */
import type { Command } from "commander";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseWorkloadName } from "../parse.js";

interface RmFlags extends ConnectionFlags {
  force?: boolean;
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("rm"))
    .description("Remove workloads: delete their files and forget them.")
    .argument("<name...>", "workloads")
    .option("-f, --force", "stop them first when they run")
    .option("--json", "print what was removed as JSON")
    .addHelpText("after", "\nExamples:\n  ferry rm redis\n  ferry rm --force redis web")
    .action(async (names: string[], flags: RmFlags) => {
      // All names are checked before the first is removed.
      for (const name of names) parseWorkloadName(name);
      await withClient(context, flags, async (client) => {
        for (const name of names) {
          await client.workloads.get(name).remove({ force: flags.force === true });
          if (flags.json !== true) context.out(`removed ${name}`);
        }
        if (flags.json === true) context.json({ removed: names });
      });
    });
}

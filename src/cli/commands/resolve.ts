/** `ferry resolve`: a person decides a migration in doubt. */
import { Option, type Command } from "commander";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseWorkloadName } from "../parse.js";

interface ResolveFlags extends ConnectionFlags {
  keep: "source" | "destination";
  acceptRollback?: boolean;
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("resolve"))
    .description(
      "Decide a migration in doubt that waits for a node which won't come back: whose copy stays.\nRefused when it could make two copies: a node that answers speaks for itself, one that is silent must be fenced first.",
    )
    .argument("<name>", "workload", parseWorkloadName)
    .addOption(
      new Option("--keep <side>", "the copy that stays").choices(["source", "destination"]).makeOptionMandatory(),
    )
    .option("--accept-rollback", "the other side may have run it meanwhile: what it did then is lost")
    .option("--json", "print the answer as JSON")
    .addHelpText(
      "after",
      `
  --keep source        the source takes back the frozen copy that it has released and kept
  --keep destination   the destination runs what it has prepared, without the source's token. Asks for --accept-rollback: a
                       source that was cut off goes home by itself, and may have worked on before it died

A node that comes back finds itself superseded: its copy is killed, its files are kept aside in its state directory.
Exit codes: 0 decided; 2 refused; 3 refused, since it is past the point where that side could have it.

Examples:
  ferry fence node-b --i-have-powered-it-off
  ferry resolve redis --keep source
  ferry resolve redis --keep destination --accept-rollback`,
    )
    .action(async (name: string, flags: ResolveFlags) => {
      await withClient(context, flags, async (client) => {
        const resolved = await client.workloads
          .get(name)
          .resolve({ keep: flags.keep, acceptRollback: flags.acceptRollback === true });
        if (flags.json === true) context.json(resolved);
        else context.out(`${resolved.operation}: ${resolved.message}`);
      });
    });
}

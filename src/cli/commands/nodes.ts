/** `ferry nodes`: list nodes. */
import type { Command } from "commander";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { renderNodes } from "../render/workloads.js";

interface NodesFlags extends ConnectionFlags {
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("nodes"))
    .description("List nodes: which answer, what room they have, which versions they run.")
    .option("--json", "print JSON")
    .addHelpText("after", "\nExamples:\n  ferry nodes\n  ferry nodes --json | jq -r '.[].name'")
    .action(async (flags: NodesFlags) => {
      await withClient(context, flags, async (client) => {
        const nodes = await client.nodes.list();
        if (flags.json === true) context.json(nodes);
        else for (const line of renderNodes(nodes, context.style())) context.out(line);
      });
    });
}

/** `ferry nodes`: list nodes. */
import type { Command } from "commander";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseNodeName } from "../parse.js";
import { renderNodes } from "../render/workloads.js";

interface NodesFlags extends ConnectionFlags {
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  const nodes = withConnection(program.command("nodes"))
    .description("List nodes: which answer, what room they have, which versions they run.")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      "\nExamples:\n  ferry nodes\n  ferry nodes --json | jq -r '.[].name'\n  ferry nodes forget node-c",
    )
    .action(async (flags: NodesFlags) => {
      await withClient(context, flags, async (client) => {
        const all = await client.nodes.list();
        if (flags.json === true) context.json(all);
        else for (const line of renderNodes(all, context.style())) context.out(line);
      });
    });
  withConnection(nodes.command("forget"))
    .description("No longer list a node that was given up, nor ask it before a workload is started.")
    .argument("<node>", "node", parseNodeName)
    .addHelpText(
      "after",
      "\nRefused while it answers, and unless it was fenced: one that is only out of reach may run workloads. It registers\nagain when its worker comes back.\n\nExamples:\n  ferry fence node-c --i-have-powered-it-off && ferry nodes forget node-c",
    )
    .action(async (node: string, flags: ConnectionFlags) => {
      await withClient(context, flags, async (client) => {
        await client.nodes.forget(node);
        context.out(`${node} is forgotten`);
      });
    });
}

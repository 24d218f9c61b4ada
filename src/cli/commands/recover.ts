/** `ferry recover`: a workload whose node is lost runs elsewhere, from its newest checkpoint. */
import type { Command } from "commander";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseNodeName, parseWorkloadName } from "../parse.js";

interface RecoverFlags extends ConnectionFlags {
  node: string;
  acceptRollback?: boolean;
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("recover"))
    .description(
      "Run a workload whose node is lost on another node, from its newest checkpoint.\nRefused when it could make two copies: the lost node must be silent, and fenced.",
    )
    .argument("<name>", "workload", parseWorkloadName)
    .requiredOption("--node <node>", "where to run it", parseNodeName)
    .option("--accept-rollback", "what it did since the checkpoint is lost")
    .option("--json", "print the answer as JSON")
    .addHelpText(
      "after",
      `
Without --accept-rollback it says what would be lost and stops, unless the workload was started with --on-node-loss restore.
It runs under a new epoch. The lost node finds itself superseded when it comes back: its copy is killed as soon as its worker is
there, its files are kept aside in its state directory.
Exit codes: 0 it runs; 1 a node is out of reach; 2 refused.

Examples:
  ferry fence node-a --i-have-powered-it-off
  ferry recover redis --node node-b --accept-rollback`,
    )
    .action(async (name: string, flags: RecoverFlags) => {
      await withClient(context, flags, async (client) => {
        const recovered = await client.workloads
          .get(name)
          .recover({ node: flags.node, acceptRollback: flags.acceptRollback === true });
        if (flags.json === true) context.json(recovered);
        else context.out(`${recovered.operation}: ${recovered.message}`);
      });
    });
}

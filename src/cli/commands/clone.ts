/** `ferry clone`: new workloads from a checkpoint of another one. */
import type { Command } from "commander";
import { MAX_CLONES } from "../../client/requests-checkpoints.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseCheckpointId, parseIps, parseMoment } from "../parse-checkpoints.js";
import { parseCount, parseNodeName, parseNodeNames, parseWorkloadName } from "../parse.js";

interface CloneFlags extends ConnectionFlags {
  as: string;
  count?: number;
  ip?: string[];
  node?: string;
  checkpoint?: string;
  at?: Date;
  off?: string[];
  lazy?: boolean;
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  const command = withConnection(program.command("clone"))
    .description(
      "Run new workloads from a checkpoint of another one: same memory and files, their own name, address and MAC.\nThe first one may go on running.",
    )
    .argument("<name>", "workload whose checkpoint it is", parseWorkloadName)
    .requiredOption("--as <new>", "name of the clone; with --count NEW-1, NEW-2, ...", parseWorkloadName)
    .option("--count <n>", "so many", parseCount("clones", 1, MAX_CLONES))
    .option(
      "--ip <address>",
      "its address, like 10.77.0.120 or 10.77.0.120/24; may be given again and again, in order (default: chosen from its name)",
      parseIps,
    )
    .option("--node <node>", "where to run them (default: where the first one is)", parseNodeName)
    .option(
      "--checkpoint <id>",
      "this one, or the only one whose id begins so (default: the newest)",
      parseCheckpointId,
    )
    .option(
      "--at <time>",
      "the newest that was taken until then, like 2026-03-01T10:00:00Z, or 2h: two hours ago",
      parseMoment(),
    )
    .option(
      "--off <node>",
      "this node is switched off, was fenced, and stays off: its silence is no reason to refuse; may be given again and again",
      parseNodeNames,
    )
    .option("--lazy", "each runs before its memory is read: what it touches comes first, the rest follows")
    .option("--json", "print the status of each as JSON")
    .addHelpText(
      "after",
      `
Who is connected to the first one stays connected to that one.
A spec's signature is of one name and address: nodes that want signatures refuse clones.
Exit codes: 0 all run; 1 some do not, it says which; 2 refused.

Examples:
  ferry clone redis --as redis-test
  ferry clone redis --as probe --count 3 --node node-b
  ferry clone redis --as redis-old --at 2d --ip 10.77.0.150`,
    )
    .action(async (name: string, flags: CloneFlags) => {
      if (flags.checkpoint !== undefined && flags.at !== undefined) {
        command.error("error: --checkpoint and --at don't go together");
      }
      if ((flags.ip?.length ?? 0) > (flags.count ?? 1)) command.error("error: there are more addresses than clones");
      await withClient(context, flags, async (client) => {
        const clones = await client.workloads.clone({
          of: name,
          as: flags.as,
          ...(flags.count !== undefined && { count: flags.count }),
          ...(flags.ip !== undefined && { ips: flags.ip }),
          ...(flags.node !== undefined && { node: flags.node }),
          ...(flags.checkpoint !== undefined && { checkpoint: flags.checkpoint }),
          ...(flags.at !== undefined && { at: flags.at }),
          ...(flags.off !== undefined && { off: flags.off }),
          ...(flags.lazy === true && { lazy: true }),
        });
        const all = await Promise.all(clones.map((clone) => clone.status()));
        if (flags.json === true) context.json(all);
        else {
          for (const { name: clone, node, spec } of all) {
            context.out(`${clone} runs on ${node}, ${spec.network.ip}, as ${name} was at its checkpoint`);
          }
        }
      });
    });
}

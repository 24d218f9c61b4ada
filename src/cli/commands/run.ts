/** `ferry run`: start a workload. */
import type { Command } from "commander";
import type { RunRequest } from "../../client/types.js";
import type { VolumeSpec } from "../../model/volumes.js";
import type { WorkloadLimits } from "../../model/workload.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseEnv, parseLimits, parseNodeName, parseNodeNames, parseVolume, parseWorkloadName } from "../parse.js";
import { renderInspection } from "../render/workloads.js";

interface RunFlags extends ConnectionFlags {
  node: string;
  ip?: string;
  mac?: string;
  gateway?: string;
  env?: Record<string, string>;
  dir?: string;
  user?: string;
  limit?: WorkloadLimits;
  volume?: VolumeSpec[];
  off?: string[];
  json?: boolean;
}

export function requestOf(name: string, command: string[], flags: RunFlags): RunRequest {
  return {
    name,
    node: flags.node,
    command,
    ...(flags.env !== undefined && { env: flags.env }),
    ...(flags.dir !== undefined && { dir: flags.dir }),
    ...(flags.user !== undefined && { user: flags.user }),
    ...(flags.limit !== undefined && { limits: flags.limit }),
    ...(flags.volume !== undefined && { volumes: flags.volume }),
    ...(flags.ip !== undefined && { ip: flags.ip }),
    ...(flags.mac !== undefined && { mac: flags.mac }),
    ...(flags.gateway !== undefined && { gateway: flags.gateway }),
    ...(flags.off !== undefined && { off: flags.off }),
  };
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("run"))
    .description(
      "Start a workload on a node: a process tree of its own, with an address and a /data directory that move with it.",
    )
    .argument("<name>", "what to call it", parseWorkloadName)
    .argument("<command...>", "program and arguments, after --")
    .requiredOption("--node <node>", "where to start it", parseNodeName)
    .option(
      "--ip <address>",
      "its address, like 10.77.0.100 or 10.77.0.100/24 (default: chosen from its name in the network of the node's bridge)",
    )
    .option("--mac <address>", "its MAC address (default: made from its IP address)")
    .option("--gateway <address>", "default route")
    .option("--env <key=value>", "environment, may be given again and again", parseEnv)
    .option("--dir <path>", "working directory (default: /data)")
    .option("--user <user>", "user name or uid[:gid] to run as")
    .option("--limit <limits>", "memory=SIZE,cpu=CORES", parseLimits)
    .option(
      "--volume <volume>",
      "NAME:/path[:copy|shared], may be given again and again: copy moves with it, shared is there on every node",
      parseVolume,
    )
    .option(
      "--off <node>",
      "this node is switched off and stays so: its silence is no reason to refuse; may be given again and again",
      parseNodeNames,
    )
    .option("--json", "print its status as JSON")
    .addHelpText(
      "after",
      `
Examples:
  ferry run redis --node node-a -- redis-server --save "" --protected-mode no --bind 0.0.0.0
  ferry run web --node node-b --ip 10.77.0.120/24 --limit memory=512M,cpu=1.5 -- python3 -m http.server 8000
  ferry run job --node node-a --user nobody --env MODE=fast --dir /data -- ./job --all
  ferry run db --node node-a --volume pg:/srv/pg --volume media:/srv/media:shared -- ./serve

Every node says first that it has no copy of that name. One that does not answer is a reason to refuse: bring it back, or,
when you have made sure that it is switched off and stays so:
  ferry run redis --node node-a --off node-c -- redis-server`,
    )
    .action(async (name: string, command: string[], flags: RunFlags) => {
      await withClient(context, flags, async (client) => {
        const workload = await client.workloads.run(requestOf(name, command, flags));
        if (flags.json === true) {
          context.json(await workload.status());
          return;
        }
        for (const line of renderInspection(await workload.inspect(), context.style())) context.out(line);
      });
    });
}

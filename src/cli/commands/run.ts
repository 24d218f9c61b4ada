/** `ferry run`: start a workload. */
import { Option, type Command } from "commander";
import type { RunRequest } from "../../client/types.js";
import { ON_NODE_LOSS, type OnNodeLoss } from "../../model/checkpoints.js";
import type { VolumeSpec } from "../../model/volumes.js";
import type { WorkloadLimits } from "../../model/workload.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import { ferryError } from "../../model/failure.js";
import type { CommandContext } from "../io.js";
import { parseEnv, parseLimits, parseNodeName, parseNodeNames, parseVolume, parseWorkloadName } from "../parse.js";
import { readSigned, requestOfSpec } from "../signed.js";
import { renderInspection } from "../render/workloads.js";

/** Flags that say what a spec says; `ferry sign` has them, too. */
export interface SpecFlags {
  ip?: string;
  mac?: string;
  gateway?: string;
  env?: Record<string, string>;
  dir?: string;
  user?: string;
  limit?: WorkloadLimits;
  volume?: VolumeSpec[];
  onNodeLoss?: OnNodeLoss;
}
interface RunFlags extends ConnectionFlags, SpecFlags {
  node: string;
  off?: string[];
  signed?: string;
  json?: boolean;
}

/** All but --ip, which one of both needs. */
export const withSpecFlags = (command: Command): Command =>
  command
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
    .addOption(
      new Option(
        "--on-node-loss <policy>",
        "when ferry recover is asked to run it elsewhere: ask whether it may go back to its last checkpoint (default), or restore it",
      ).choices(ON_NODE_LOSS),
    );

export function requestOf(
  name: string,
  command: string[],
  flags: SpecFlags & Pick<RunFlags, "node" | "off">,
): RunRequest {
  return {
    name,
    node: flags.node,
    command,
    ...(flags.env !== undefined && { env: flags.env }),
    ...(flags.dir !== undefined && { dir: flags.dir }),
    ...(flags.user !== undefined && { user: flags.user }),
    ...(flags.limit !== undefined && { limits: flags.limit }),
    ...(flags.onNodeLoss !== undefined && { onNodeLoss: flags.onNodeLoss }),
    ...(flags.volume !== undefined && { volumes: flags.volume }),
    ...(flags.ip !== undefined && { ip: flags.ip }),
    ...(flags.mac !== undefined && { mac: flags.mac }),
    ...(flags.gateway !== undefined && { gateway: flags.gateway }),
    ...(flags.off !== undefined && { off: flags.off }),
  };
}

/** A signed spec says everything itself. */
function requestOfSigned(file: string, name: string | undefined, flags: RunFlags): RunRequest {
  const { ip, mac, gateway, env, dir, user, limit, volume } = flags;
  const more = Object.entries({ ip, mac, gateway, env, dir, user, limit, volume }).flatMap(([flag, value]) =>
    value === undefined ? [] : `--${flag}`,
  );
  if (name !== undefined || more.length > 0) {
    throw ferryError(
      "E_REQUEST",
      `--signed goes without ${name === undefined ? more.join(", ") : "a name and a command"}`,
      {
        remedy: "the file says what is run; only --node and --off are asked for beside it",
      },
    );
  }
  const request = requestOfSpec(readSigned(file), flags.node);
  return { ...request, ...(flags.off !== undefined && { off: flags.off }) };
}

export function register(program: Command, context: CommandContext): void {
  const command = withConnection(program.command("run"))
    .description(
      "Start a workload on a node: a process tree of its own, with an address and a /data directory that move with it.",
    )
    .argument("[name]", "what to call it", parseWorkloadName)
    .argument("[command...]", "program and arguments, after --")
    .requiredOption("--node <node>", "where to start it", parseNodeName)
    .option(
      "--ip <address>",
      "its address, like 10.77.0.100 or 10.77.0.100/24 (default: chosen from its name in the network of the node's bridge)",
    );
  withSpecFlags(command)
    .option("--signed <file>", "run what was signed (ferry sign), instead of name, command and the options above")
    .option(
      "--off <node>",
      "this node is switched off, was fenced, and stays off: its silence is no reason to refuse; may be given again and again",
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
  ferry run --signed web.json --node node-a
  ferry run db --node node-a --volume pg:/srv/pg --volume media:/srv/media:shared -- ./serve

Every node says first that it has no copy of that name. One that does not answer is a reason to refuse: bring it back, or,
when you have made sure that it is switched off and stays so:
  ferry fence node-c --i-have-powered-it-off
  ferry run redis --node node-a --off node-c -- redis-server`,
    )
    .action(async (name: string | undefined, words: string[], flags: RunFlags) => {
      const request = flags.signed === undefined ? undefined : requestOfSigned(flags.signed, name, flags);
      if (request === undefined && name === undefined) command.error("error: missing required argument 'name'");
      if (request === undefined && words.length === 0) command.error("error: missing required argument 'command'");
      await withClient(context, flags, async (client) => {
        const workload = await client.workloads.run(request ?? requestOf(name ?? "", words, flags));
        if (flags.json === true) {
          context.json(await workload.status());
          return;
        }
        for (const line of renderInspection(await workload.inspect(), context.style())) context.out(line);
      });
    });
}

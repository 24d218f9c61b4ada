/** `ferry worker`: the node's Temporal worker. */
import type { Command } from "commander";
import { connectOptions, targetOf, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseDuration, parseNodeName } from "../parse.js";
import { withLogFlags, withSupervised, type LogLevel } from "./agent.js";

interface WorkerFlags extends ConnectionFlags, WatchFlags {
  node: string;
  agentSocket: string;
  logLevel?: LogLevel;
  logFile?: string;
  supervised?: boolean;
  metrics?: string;
  buildId?: string;
}

export interface WatchFlags {
  silentAfter?: number;
  lostAfter?: number;
}
/** When this node is taken for silent, and for lost. */
export const withWatchFlags = (command: Command): Command =>
  command
    .option(
      "--silent-after <time>",
      "nothing was heard of this node for so long: it is silent (default: 20s)",
      parseDuration,
    )
    .option(
      "--lost-after <time>",
      "nothing was heard of this node for so long: it is lost (default: 60s)",
      parseDuration,
    );

export function register(program: Command, context: CommandContext): void {
  const command = withConnection(program.command("worker"))
    .description(
      "Run a node's worker: unprivileged, polls Temporal for the node's steps and asks its agent to do them.\nMay be killed and restarted at any time; SIGTERM ends it gracefully.",
    )
    .requiredOption("--node <name>", "name of this node", parseNodeName)
    .option("--agent-socket <path>", "the agent's socket", "/run/ferry/agent.sock")
    .option("--metrics <host:port>", "serve metrics for Prometheus there, with the number of workloads in doubt")
    .option("--build-id <id>", "take workflows only while Temporal's Worker Versioning has this version as current");
  withSupervised(withLogFlags(withWatchFlags(command)))
    .addHelpText(
      "after",
      "\nExamples:\n  ferry worker --node node-a --address 192.0.2.1:7233\n  ferry worker --node node-a --log-level debug --log-file /var/log/ferry/worker.log",
    )
    .action(async (flags: WorkerFlags) => {
      if (flags.supervised === true) (await import("../supervise.js")).endWithParent();
      const target = await connectOptions(await targetOf(flags, context.io.env));
      const { runWorker } = await import("../../workers/worker.js");
      await runWorker({
        node: flags.node,
        agentSocket: flags.agentSocket,
        ...target,
        ...(flags.metrics !== undefined && { metrics: flags.metrics }),
        ...(flags.buildId !== undefined && { buildId: flags.buildId }),
        watch: {
          ...(flags.silentAfter !== undefined && { silentAfterMs: flags.silentAfter }),
          ...(flags.lostAfter !== undefined && { lostAfterMs: flags.lostAfter }),
        },
        ...(flags.logLevel !== undefined && { logLevel: flags.logLevel }),
        ...(flags.logFile !== undefined && { logFile: flags.logFile }),
      });
      context.exit(0);
    });
}

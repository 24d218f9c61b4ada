/** `ferry node`: agent and worker of one node as children, each restarted when it dies. */
import type { Command } from "commander";
import { ferryError } from "../../model/failure.js";
import { ACCESS_VARIABLES, targetOf, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseCount, parseNodeName } from "../parse.js";
import { withAgentFlags, withLogFlags, type AgentFlags } from "./agent.js";
import { withWatchFlags, type WatchFlags } from "./worker.js";

interface NodeFlags extends ConnectionFlags, Omit<AgentFlags, "node">, WatchFlags {
  name?: string;
  node?: string;
  workerUid: number;
  metrics?: string;
  buildId?: string;
}

export function register(program: Command, context: CommandContext): void {
  const command: Command = withConnection(program.command("node"))
    .description(
      "Run a node: starts its agent (root) and its worker (unprivileged), restarts what dies, forwards signals.\nIn production prefer one systemd unit for each.",
    )
    .option("--name <name>", "name of this node", parseNodeName)
    .option("--node <name>", "the same as --name", parseNodeName)
    .option(
      "--worker-uid <uid>",
      "user and group id that the worker runs as",
      parseCount("a user id", 1, 2 ** 31),
      60_971,
    )
    .option("--metrics <host:port>", "the worker serves metrics for Prometheus there")
    .option("--build-id <id>", "version of the worker, for Temporal's Worker Versioning");
  withLogFlags(withWatchFlags(withAgentFlags(command)))
    .addHelpText("after", "\nExamples:\n  ferry node --name node-a --link-host 192.0.2.11 --address 192.0.2.1:7233")
    .action(async (flags: NodeFlags) => {
      const name = flags.name ?? flags.node;
      if (name === undefined) command.error("error: required option '--name <name>' not specified");
      if (process.getuid?.() !== 0) {
        throw ferryError("E_REQUEST", "a node's agent must run as root: it freezes, saves and restores processes", {
          remedy: "start it as root, or start only the worker: ferry worker --node NAME",
        });
      }
      const { address, namespace } = await targetOf(flags, context.io.env);
      const { supervise } = await import("../supervise.js");
      const socket = flags.socket ?? "/run/ferry/agent.sock";
      const option = (key: string, value: string | number | undefined): string[] =>
        value === undefined ? [] : [key, String(value)];
      const logs = option("--log-level", flags.logLevel);
      const agentAndWorker = [
        {
          part: "agent" as const,
          // Temporal's keys are the worker's.
          without: Object.values(ACCESS_VARIABLES),
          args: [
            "agent",
            ...option("--node", name),
            ...option("--socket", socket),
            ...option("--link-host", flags.linkHost),
            ...option("--socket-gid", flags.socketGid ?? flags.workerUid),
            ...option("--state", flags.state),
            ...option("--run", flags.run),
            ...option("--bridge", flags.bridge),
            ...option("--cgroup-parent", flags.cgroupParent),
            ...option("--link-port", flags.linkPort),
            ...option("--tls-dir", flags.tlsDir),
            ...option("--policy", flags.policy),
            ...option("--crl", flags.crl),
            ...option("--store", flags.store),
            ...logs,
          ],
        },
        {
          part: "worker" as const,
          args: [
            "worker",
            ...option("--node", name),
            ...option("--agent-socket", socket),
            ...option("--address", address),
            ...option("--namespace", namespace),
            ...option("--metrics", flags.metrics),
            ...option("--build-id", flags.buildId),
            ...option("--silent-after", flags.silentAfter === undefined ? undefined : `${flags.silentAfter}ms`),
            ...option("--lost-after", flags.lostAfter === undefined ? undefined : `${flags.lostAfter}ms`),
            ...logs,
          ],
          uid: flags.workerUid,
        },
      ];
      await supervise(name, agentAndWorker, flags.logFile === undefined ? {} : { logFile: flags.logFile });
    });
}

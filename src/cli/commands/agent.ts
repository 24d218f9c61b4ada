/** `ferry agent`: the node's root daemon. */
import { InvalidArgumentError, Option, type Command } from "commander";
import type { CommandContext } from "../io.js";
import { parseCount, parseNodeName } from "../parse.js";

const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface AgentFlags {
  node: string;
  state?: string;
  run?: string;
  socket?: string;
  socketGid?: number;
  bridge?: string;
  cgroupParent?: string;
  linkHost: string;
  linkPort?: number;
  tlsDir?: string;
  policy?: string;
  crl?: string;
  store?: string;
  logLevel?: LogLevel;
  logFile?: string;
  supervised?: boolean;
}

/** Options of the agent, shared with `ferry node`. */
export const withAgentFlags = (command: Command): Command =>
  command
    .option("--state <dir>", "journal and volumes, on a real disk (default: /var/lib/ferry)")
    .option("--run <dir>", "images and page stores, on a tmpfs (default: /run/ferry)")
    .option("--socket <path>", "the agent's socket (default: /run/ferry/agent.sock)")
    .option("--socket-gid <gid>", "group that may use the socket besides root", parseCount("a group", 0, 2 ** 31))
    .option("--bridge <name>", "bridge that workloads are attached to (default: br0)")
    .option("--cgroup-parent <path>", "cgroup under which workloads live (default: ferry)")
    .requiredOption("--link-host <address>", "address of this node as other nodes reach it")
    .option("--link-port <port>", "port of the link (default: 7400)", parseCount("a port", 1, 65_535))
    .option("--tls-dir <dir>", "ca.crt, node.crt and node.key (default: /etc/ferry)")
    .option("--policy <file>", "what may run on this node (default: /etc/ferry/policy.json, if there)")
    .option("--crl <file>", "revocation lists: peers whose certificate is in one are refused (default: none)")
    .option("--store <file>", "where checkpoints are kept, JSON: see docs/checkpoints.md (default: none are)");

export const withLogFlags = (command: Command): Command =>
  command
    .option("--log-level <level>", "debug, info, warn or error (default: info)", logLevelOf)
    .option("--log-file <path>", "where JSON log lines go (default: standard output)");

/** Set by `ferry node` for its children; see endWithParent. */
export const withSupervised = (command: Command): Command =>
  command.addOption(new Option("--supervised", "end when standard input does").hideHelp());

/** Throws InvalidArgumentError when it is not one. */
export function logLevelOf(text: string): LogLevel {
  const level = LOG_LEVELS.find((known) => known === text);
  if (level !== undefined) return level;
  throw new InvalidArgumentError(
    `${JSON.stringify(text.slice(0, 60))} is not a log level. Known: ${LOG_LEVELS.join(", ")}.`,
  );
}

/** The agent's configuration as its own strict parser expects it: only what was given. */
export function agentConfigOf(flags: AgentFlags): Record<string, unknown> {
  const config = {
    node: flags.node,
    stateDir: flags.state,
    runDir: flags.run,
    socket: flags.socket,
    socketGid: flags.socketGid,
    bridge: flags.bridge,
    cgroupParent: flags.cgroupParent,
    linkHost: flags.linkHost,
    linkPort: flags.linkPort,
    tlsDir: flags.tlsDir,
    policyFile: flags.policy,
    crlFile: flags.crl,
    storeFile: flags.store,
    logLevel: flags.logLevel,
    logFile: flags.logFile,
  };
  return Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined));
}

export function register(program: Command, context: CommandContext): void {
  const command = program.command("agent").requiredOption("--node <name>", "name of this node", parseNodeName);
  withSupervised(withLogFlags(withAgentFlags(command)))
    .description(
      "Run a node's agent: the root daemon that owns the journal, the engines and the fences. Ends on SIGTERM.",
    )
    .addHelpText("after", "\nExamples:\n  ferry agent --node node-a --link-host 192.0.2.11 --tls-dir /etc/ferry")
    .action(async (flags: AgentFlags) => {
      if (flags.supervised === true) (await import("../supervise.js")).endWithParent();
      const [{ runAgent }, { parseAgentConfig }] = await Promise.all([
        import("../../agent/main.js"),
        import("../../agent/config.js"),
      ]);
      await runAgent(parseAgentConfig(agentConfigOf(flags)));
      context.exit(0);
    });
}

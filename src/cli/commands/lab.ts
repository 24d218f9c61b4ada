/** `ferry lab`: a cluster of nodes on this machine. */
import type { Command } from "commander";
import type { CommandContext } from "../io.js";
import { labDir } from "../lab-state.js";
import { parseCount } from "../parse.js";
import { printable } from "../render/style.js";
import { renderLab } from "../render/lab.js";

interface LabFlags {
  state?: string;
  lab?: string;
  json?: boolean;
}

const withState = (command: Command): Command =>
  command
    .option("--state <dir>", "the lab's directory (default: FERRY_STATE, or ferry/lab in the user's state directory)")
    .option("--lab <dir>", "the same as --state");

export function register(program: Command, context: CommandContext): void {
  const lab = program
    .command("lab")
    .description(
      "A cluster on this machine: nodes as namespaces on a bridge, a client host, a Temporal server. Needs root.",
    )
    .addHelpText(
      "after",
      `
Examples:
  ferry lab up --nodes 3
  ferry lab status
  ferry lab exec client -- redis-cli -h 10.77.0.100 ping
  ferry lab exec node-b -- ps axf
  ferry lab down`,
    );
  const directory = (flags: LabFlags): string => labDir(flags.state ?? flags.lab, context.io.env);

  withState(lab.command("up"))
    .description("Bring the lab up. Again is harmless: what is missing is started.")
    .option("--nodes <count>", "how many nodes", parseCount("nodes", 1, 32))
    .option("--subnet <network>", "network of the nodes, a /24 (default: 10.77.0.0/24); two labs may have the same")
    .option("--json", "print its status as JSON")
    .addHelpText("after", "\nExamples:\n  ferry lab up --nodes 2\n  ferry lab up --state /var/tmp/other-lab")
    .action(async (flags: LabFlags & { nodes?: number; subnet?: string }) => {
      const { labStatus, labUp } = await import("../../../deploy/lab/index.js");
      const state = directory(flags);
      const started = performance.now();
      await labUp({
        state,
        ...(flags.nodes !== undefined && { nodes: flags.nodes }),
        ...(flags.subnet !== undefined && { subnet: flags.subnet }),
        log: (line) => context.err(printable(line)),
      });
      const status = await labStatus({ state });
      const nodes = status.hosts.filter((host) => host.kind === "node").map((host) => host.name);
      if (status.address !== undefined) {
        const [{ connect }, { untilNodesListed }] = await Promise.all([
          import("../../client/index.js"),
          import("../nodes-ready.js"),
        ]);
        const client = await connect({ address: status.address });
        try {
          if (!(await untilNodesListed(client, nodes, 15_000)))
            context.err("not every node is listed yet: ferry nodes");
        } finally {
          await client.close();
        }
      }
      if (flags.json === true) {
        context.json(status);
        return;
      }
      for (const line of renderLab(status, context.style())) context.out(line);
      context.out(`up in ${((performance.now() - started) / 1000).toFixed(1)} s; take it down: ferry lab down`);
    });

  withState(lab.command("down"))
    .description("Take the lab down: ends its processes and sweeps what it made, also after a crash.")
    .option("--json", "print JSON")
    .addHelpText("after", "\nExamples:\n  ferry lab down\n  ferry lab down --state /var/tmp/other-lab")
    .action(async (flags: LabFlags) => {
      const { labDown } = await import("../../../deploy/lab/index.js");
      const state = directory(flags);
      const was = await labDown({ state });
      if (flags.json === true) context.json({ down: true, was, directory: state });
      else context.out(was ? `the lab in ${printable(state)} is down` : `there was no lab in ${printable(state)}`);
    });

  withState(lab.command("status"))
    .description("Show each part of the lab and where Temporal and its UI are.")
    .option("--json", "print JSON")
    .addHelpText("after", "\nExamples:\n  ferry lab status\n  ferry lab status --json | jq -r .address")
    .action(async (flags: LabFlags) => {
      const { labStatus } = await import("../../../deploy/lab/index.js");
      const status = await labStatus({ state: directory(flags) });
      if (flags.json === true) context.json(status);
      else for (const line of renderLab(status, context.style())) context.out(line);
    });

  withState(lab.command("exec"))
    .description("Run a program on a node or on the client host; its exit code becomes ours.")
    .argument("<where>", "a node, or client")
    .argument("<command...>", "program and arguments, after --")
    .addHelpText(
      "after",
      "\nExamples:\n  ferry lab exec client -- ping -c 1 10.77.0.11\n  ferry lab exec node-b -- ps axf",
    )
    .action(async (where: string, argv: string[], flags: LabFlags) => {
      const { labExec } = await import("../../../deploy/lab/index.js");
      context.exit(await labExec({ state: directory(flags), where, argv, stdio: "inherit" }));
    });
}

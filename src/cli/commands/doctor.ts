/** `ferry doctor`: what this machine can do. */
import type { Command } from "commander";
import { EXIT, type CommandContext } from "../io.js";
import { connectOptions, targetOf, withConnection, type ConnectionFlags, type Target } from "../connection.js";

interface DoctorFlags extends ConnectionFlags {
  dir?: string;
  tlsDir?: string;
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("doctor"))
    .description("Check what this machine has of what Ferry needs: kernel, criu, cgroups, network, room, Temporal.")
    .option(
      "--dir <dir>",
      "where Ferry keeps its files: this file system is looked at (default: the lab's, or /var/lib)",
    )
    .option("--tls-dir <dir>", "a node's ca.crt, node.crt and node.key (default: /etc/ferry)")
    .option("--json", "print the checks as JSON")
    .addHelpText(
      "after",
      `
Exit codes: 0 nothing fails; 1 something is missing, each with what to do about it.

Examples:
  ferry doctor
  ferry doctor --lab /var/tmp/other-lab
  ferry doctor --address 192.0.2.1:7233 --json | jq -r '.[] | select(.status == "fail") | .remedy'`,
    )
    .action(async (flags: DoctorFlags) => {
      const { healthy, renderChecks, runChecks } = await import("../../host/checks.js");
      const { LAB_CHECKS } = await import("../../../deploy/setup/checks.js");
      const target = await targetOrNone(flags, context);
      const directory = flags.dir ?? flags.lab;
      const checks = await runChecks({
        more: LAB_CHECKS,
        ...(target !== undefined && {
          temporalAddress: target.address,
          askTemporal: async () => {
            const { serverVersion } = await import("../../client/index.js");
            return serverVersion(await connectOptions(target));
          },
        }),
        ...(directory !== undefined && { directory }),
        ...(flags.tlsDir !== undefined && { tlsDir: flags.tlsDir }),
      });
      if (flags.json === true) context.json(checks);
      else for (const line of renderChecks(checks)) context.out(line);
      context.exit(healthy(checks) ? EXIT.moved : EXIT.failed);
    });
}

/** Not having a lab is nothing to complain about here, unless one was named. */
async function targetOrNone(flags: DoctorFlags, context: CommandContext): Promise<Target | undefined> {
  try {
    return await targetOf(flags, context.io.env);
  } catch (error) {
    if (flags.lab !== undefined) throw error;
    return undefined;
  }
}

/** `ferry doctor`: what this machine can do. */
import type { Command } from "commander";
import { EXIT, type CommandContext } from "../io.js";
import { parseAddress } from "../parse.js";

interface DoctorFlags {
  address?: string;
  dir?: string;
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  program
    .command("doctor")
    .description("Check what this machine has of what Ferry needs: kernel, criu, cgroups, network, room, Temporal.")
    .option(
      "--address <host:port>",
      "Temporal frontend to reach (default: FERRY_TEMPORAL_ADDRESS, or the lab that is up)",
      parseAddress,
    )
    .option("--dir <dir>", "where Ferry keeps its files: this file system is looked at")
    .option("--json", "print the checks as JSON")
    .addHelpText(
      "after",
      `
Exit codes: 0 nothing fails; 1 something is missing, each with what to do about it.

Examples:
  ferry doctor
  ferry doctor --address 192.0.2.1:7233 --json | jq -r '.[] | select(.status == "fail") | .remedy'`,
    )
    .action(async (flags: DoctorFlags) => {
      const { healthy, renderChecks, runChecks } = await import("../../host/checks.js");
      const address = flags.address ?? (context.io.env["FERRY_TEMPORAL_ADDRESS"] || (await addressOfLab(context)));
      const checks = await runChecks({
        ...(address !== undefined && { temporalAddress: address }),
        ...(flags.dir !== undefined && { directory: flags.dir }),
      });
      if (flags.json === true) context.json(checks);
      else for (const line of renderChecks(checks)) context.out(line);
      context.exit(healthy(checks) ? EXIT.moved : EXIT.failed);
    });
}

/** A lab that is up, if there is one: not having one is nothing to complain about here. */
async function addressOfLab(context: CommandContext): Promise<string | undefined> {
  const { labAddress } = await import("../lab-state.js");
  try {
    return await labAddress(undefined, context.io.env);
  } catch {
    return undefined;
  }
}

/** `ferry ps`: list workloads. */
import type { Command } from "commander";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { renderPs, type PsRow } from "../render/workloads.js";

interface PsFlags extends ConnectionFlags {
  all?: boolean;
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("ps"))
    .description("List workloads: where each runs, in which state, under which address and epoch.")
    .option("-a, --all", "removed ones too")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Examples:
  ferry ps
  ferry ps --json | jq -r '.[] | select(.state == "running") | .name'`,
    )
    .action(async (flags: PsFlags) => {
      await withClient(context, flags, async (client) => {
        const listings = await client.workloads.list({ all: flags.all === true });
        const rows = await Promise.all(
          listings.map(async (listing): Promise<PsRow> => {
            try {
              return { listing, status: await client.workloads.get(listing.name).status() };
            } catch {
              // the entity ended or can't answer: the listing alone still tells where it was
              return { listing };
            }
          }),
        );
        if (flags.json === true) {
          context.json(rows.map(({ listing, status }) => ({ ...listing, ...status })));
        } else {
          for (const line of renderPs(rows, Date.now(), context.style())) context.out(line);
        }
      });
    });
}

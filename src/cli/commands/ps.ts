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
A workload whose node is not there says so ("running, node lost"): what stands there is then what was last known, and it may
well run on. See docs/operating.md, "When a node is lost".

Examples:
  ferry ps
  ferry ps --json | jq -r '.[] | select(.state == "running") | .name'`,
    )
    .action(async (flags: PsFlags) => {
      await withClient(context, flags, async (client) => {
        const [listings, gone] = await Promise.all([
          client.workloads.list({ all: flags.all === true }),
          client.nodes.away(),
        ]);
        const awayOf = (node: string): Pick<PsRow, "away"> => {
          const found = gone.find(({ name }) => name === node);
          return found === undefined ? {} : { away: found.state };
        };
        const rows = await Promise.all(
          listings.map(async (listing): Promise<PsRow> => {
            try {
              const status = await client.workloads.get(listing.name).status();
              return { listing, status, ...awayOf(status.node) };
            } catch {
              // the entity ended or can't answer: the listing alone still tells where it was
              return { listing, ...awayOf(listing.node) };
            }
          }),
        );
        if (flags.json === true) {
          context.json(rows.map(({ listing, status, away }) => ({ ...listing, ...status, ...(away && { away }) })));
        } else {
          for (const line of renderPs(rows, Date.now(), context.style())) context.out(line);
        }
      });
    });
}

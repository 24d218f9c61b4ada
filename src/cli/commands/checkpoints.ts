/** `ferry checkpoints`: what is in the store. */
import type { Command } from "commander";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseAge, parseCheckpointId } from "../parse-checkpoints.js";
import { parseCount, parseNodeName, parseSize, parseWorkloadName } from "../parse.js";
import { renderCheckpoint, renderCheckpoints, renderPruned } from "../render/checkpoints.js";
import { renderDiff } from "../render/diff.js";
import { registerStoreCommands } from "./checkpoints-store.js";

interface StoreFlags extends ConnectionFlags {
  node?: string;
  json?: boolean;
}
interface PruneFlags extends StoreFlags {
  keep?: number;
  olderThan?: number;
  maxSize?: number;
  dryRun?: boolean;
}

const withStore = (command: Command): Command =>
  withConnection(command)
    .option(
      "--node <node>",
      "ask this node's store (default: the workload's node, else any that has one)",
      parseNodeName,
    )
    .option("--json", "print JSON");

const nodeOf = ({ node }: StoreFlags): { node?: string } => (node === undefined ? {} : { node });

export function register(program: Command, context: CommandContext): void {
  const checkpoints = program
    .command("checkpoints")
    .description("The checkpoints in the store: list, compare, check, keep, remove and carry them elsewhere.")
    .addHelpText(
      "after",
      `
An id may be cut to what only one of the workload's ids begins with.
export, import, fsck, rekey and gc work on the store itself, here, and need no node: --store FILE is the configuration that
an agent of the store has (docs/checkpoints.md). All others ask a node.

Examples:
  ferry checkpoints ls
  ferry checkpoints ls redis --json | jq -r '.[].id'
  ferry checkpoints show redis 20260301T1000
  ferry checkpoints diff redis 20260301T1000 20260301T1100
  ferry checkpoints verify redis 20260301T1000
  ferry checkpoints prune redis --keep 5 --older-than 7d --dry-run
  ferry checkpoints export redis 20260301T1000 --store /etc/ferry/store.json -o redis.ferry
  ferry checkpoints fsck --store /etc/ferry/store.json`,
    );
  const named = (word: string, description: string): Command =>
    withStore(checkpoints.command(word)).description(description).argument("<name>", "workload", parseWorkloadName);
  const one = (word: string, description: string): Command =>
    named(word, description).argument("<id>", "its id, or the beginning of it", parseCheckpointId);

  withStore(checkpoints.command("ls"))
    .description("List checkpoints, oldest first: of one workload, or of all.")
    .argument("[name]", "workload", parseWorkloadName)
    .addHelpText("after", "\nExamples:\n  ferry checkpoints ls\n  ferry checkpoints ls redis --json | jq -r '.[-1].id'")
    .action(async (name: string | undefined, flags: StoreFlags) => {
      await withClient(context, flags, async (client) => {
        const listed = await client.checkpoints.list({
          ...(name !== undefined && { workload: name }),
          ...nodeOf(flags),
        });
        if (flags.json === true) context.json(listed);
        else for (const line of renderCheckpoints(listed, Date.now(), context.style(), name)) context.out(line);
      });
    });

  one("show", "Show everything about one checkpoint.")
    .addHelpText("after", "\nExamples:\n  ferry checkpoints show redis 20260301T1000")
    .action(async (name: string, id: string, flags: StoreFlags) => {
      await withClient(context, flags, async (client) => {
        const shown = await client.checkpoints.show(name, id, nodeOf(flags));
        if (flags.json === true) context.json(shown);
        else for (const line of renderCheckpoint(shown, Date.now(), context.style())) context.out(line);
      });
    });

  named("diff", "Say what changed between two checkpoints in memory, files and sockets, without reading contents.")
    .argument("<before>", "id of the first one", parseCheckpointId)
    .argument("<after>", "id of the second one", parseCheckpointId)
    .addHelpText(
      "after",
      `
Memory is that of each process's own areas; a file's size is its content's, and what changed of it is counted in whole blocks of
4 KiB. Long lists are cut and say so.

Examples:
  ferry checkpoints diff redis 20260301T1000 20260301T1100
  ferry checkpoints diff redis 20260301T1000 20260301T1100 --json | jq -r '.files.list[].name'`,
    )
    .action(async (name: string, before: string, after: string, flags: StoreFlags) => {
      await withClient(context, flags, async (client) => {
        const diff = await client.checkpoints.diff(name, before, after, nodeOf(flags));
        if (flags.json === true) context.json(diff);
        else for (const line of renderDiff(diff, context.style())) context.out(line);
      });
    });

  one("verify", "Read all of a checkpoint and check every digest and the signature.")
    .addHelpText(
      "after",
      "\nExit codes: 0 it is whole; 1 it is not.\n\nExamples:\n  ferry checkpoints verify redis 20260301T1000",
    )
    .action(async (name: string, id: string, flags: StoreFlags) => {
      await withClient(context, flags, async (client) => {
        await client.checkpoints.verify(name, id, nodeOf(flags));
        if (flags.json === true) context.json({ workload: name, checkpoint: id, whole: true });
        else context.out(`${name} ${id} is whole`);
      });
    });

  const changes = [
    ["pin", "Keep a checkpoint: it is not removed, nor pruned.", "is pinned", "pin"],
    ["unpin", "A pinned checkpoint may be removed again.", "is not pinned", "unpin"],
    [
      "rm",
      "Remove a checkpoint. No other one needs it. Refused for one that its workload was let go with.",
      "is removed",
      "remove",
    ],
  ] as const;
  for (const [word, description, said, verb] of changes) {
    one(word, description)
      .addHelpText("after", `\nExamples:\n  ferry checkpoints ${word} redis 20260301T1000`)
      .action(async (name: string, id: string, flags: StoreFlags) => {
        await withClient(context, flags, async (client) => {
          await client.checkpoints[verb](name, id, nodeOf(flags));
          if (flags.json === true) context.json({ workload: name, checkpoint: id, done: word });
          else context.out(`${name} ${id} ${said}`);
        });
      });
  }

  const prune = named("prune", "Remove what is not worth keeping. What is pinned, and the newest, always stay.")
    .option("--keep <n>", "so many of the newest stay, the others go", parseCount("checkpoints", 1, 1_000_000))
    .option("--older-than <age>", "older ones go, like 12h, 7d or 2w", parseAge)
    .option(
      "--max-size <size>",
      "the oldest go until all have added no more than this to the store, like 10G",
      parseSize,
    )
    .option("--dry-run", "say what would go, remove nothing")
    .addHelpText(
      "after",
      `
Each of --keep, --older-than and --max-size is reason enough to go; at least one is needed.

Examples:
  ferry checkpoints prune redis --keep 5
  ferry checkpoints prune redis --older-than 7d --max-size 10G --dry-run`,
    )
    .action(async (name: string, flags: PruneFlags) => {
      const { keep, olderThan, maxSize } = flags;
      if (keep === undefined && olderThan === undefined && maxSize === undefined) {
        prune.error("error: one of --keep, --older-than and --max-size is needed");
      }
      await withClient(context, flags, async (client) => {
        const dryRun = flags.dryRun === true;
        const pruned = await client.checkpoints.prune(name, {
          ...(keep !== undefined && { keep }),
          ...(olderThan !== undefined && { olderThanMs: olderThan }),
          ...(maxSize !== undefined && { maxBytes: maxSize }),
          ...(dryRun && { dryRun }),
          ...nodeOf(flags),
        });
        if (flags.json === true) context.json(pruned);
        else for (const line of renderPruned(pruned, dryRun, Date.now(), context.style())) context.out(line);
      });
    });

  registerStoreCommands(checkpoints, context);
}

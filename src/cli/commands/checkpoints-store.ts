/**
 * `ferry checkpoints export|import|fsck|rekey|gc`: on the store itself, in this process. Bulk data goes through no node, and
 * a store outlives its nodes.
 */
import type { Command } from "commander";
import { ferryError } from "../../model/failure.js";
import { onInterrupt } from "../interrupt.js";
import { EXIT, type CommandContext } from "../io.js";
import { parseCheckpointId } from "../parse-checkpoints.js";
import { parseWorkloadName } from "../parse.js";
import { renderCollected, renderExported, renderFsck, renderImported, renderRekeyed } from "../render/store.js";

interface Flags {
  store: string;
  json?: boolean;
}
interface ExportFlags extends Flags {
  output: string;
  forKey?: string;
}
interface ImportFlags extends Flags {
  key?: string;
}
interface FsckFlags extends Flags {
  quick?: boolean;
}
interface RekeyFlags extends Flags {
  newDataKey?: boolean;
}

const keeping = () => import("../../checkpoints/keeping.js");

/** Ctrl-C gives it up in good order. */
async function interruptible<T>(use: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const interrupt = onInterrupt();
  const controller = new AbortController();
  void interrupt.asked.then(() => controller.abort());
  try {
    return await use(controller.signal);
  } finally {
    interrupt.release();
  }
}

export function registerStoreCommands(checkpoints: Command, context: CommandContext): void {
  const command = (word: string, description: string): Command =>
    checkpoints
      .command(word)
      .description(description)
      .requiredOption("--store <file>", "the store's configuration, as `ferry agent --store` has it")
      .option("--json", "print JSON");
  const show = (flags: Flags, value: unknown, lines: () => readonly string[]): void => {
    if (flags.json === true) context.json(value);
    else for (const line of lines()) context.out(line);
  };

  command("export", "Write one checkpoint to one file, with all that it needs.")
    .argument("<name>", "workload", parseWorkloadName)
    .argument("[id]", "its id, or the beginning of it (default: the newest)", parseCheckpointId)
    .requiredOption("-o, --output <file>", "a new file, mode 0600; - is standard output")
    .option("--for-key <file>", "another master key that is to open it, for who must not have the store's own")
    .addHelpText(
      "after",
      `
The file is encrypted as the store is, and signed by the node that took the checkpoint. Who imports it needs the store's master
key, or the one of --for-key, and must trust that node. Packs are in it as a whole, with blocks of other checkpoints of the
workload. What can't be imported is not exported: every byte is checked on the way.

Examples:
  ferry checkpoints export redis --store /etc/ferry/store.json -o redis.ferry
  ferry checkpoints export redis 20260301T1000 --store s.json -o - | ssh far ferry checkpoints import - --store s.json`,
    )
    .action(async (workload: string, checkpoint: string | undefined, flags: ExportFlags) => {
      const out = flags.output;
      if (out === "-" && flags.json === true) {
        throw ferryError("E_REQUEST", "standard output can't have both the file and JSON", {
          remedy: "give -o a file, or leave --json out",
        });
      }
      if (out === "-" && process.stdout.isTTY) {
        throw ferryError("E_REQUEST", "a checkpoint is nothing for a terminal", {
          remedy: "give -o a file, or a pipe",
        });
      }
      const { exportToFile } = await keeping();
      // A reader that goes away before the end has no checkpoint: see bin/ferry.js.
      if (out === "-") process.exitCode = EXIT.failed;
      const exported = await interruptible((signal) =>
        exportToFile({
          config: flags.store,
          workload,
          ...(checkpoint !== undefined && { checkpoint }),
          to: out === "-" ? process.stdout : out,
          ...(flags.forKey !== undefined && { forKey: flags.forKey }),
          signal,
        }),
      );
      if (out === "-") for (const line of renderExported(exported)) context.err(line);
      else show(flags, exported, () => renderExported(exported));
    });

  command("import", "Take a checkpoint in from a file that an export has written.")
    .argument("<file>", "the file; - is standard input")
    .option("--key <file>", "another master key that opens it, besides those of the store")
    .addHelpText(
      "after",
      `
Signature, names and every byte of every block are checked before anything is stored; its manifest is stored last. Again is
harmless, and mends what is damaged or missing in the store. Standard input is kept in TMPDIR until it was checked. A store is
made where there is none.

Examples:
  ferry checkpoints import redis.ferry --store /etc/ferry/store.json
  ferry checkpoints import redis.ferry --store /etc/ferry/store.json --key /etc/ferry/other-site.master`,
    )
    .action(async (file: string, flags: ImportFlags) => {
      const { importFromFile } = await keeping();
      const imported = await interruptible((signal) =>
        importFromFile({
          config: flags.store,
          from: file === "-" ? process.stdin : file,
          ...(flags.key !== undefined && { key: flags.key }),
          signal,
        }),
      );
      show(flags, imported, () => renderImported(imported));
    });

  command("fsck", "Check everything in the store: signatures, keys, and every byte of every block.")
    .argument("[name]", "only this workload", parseWorkloadName)
    .argument("[id]", "only this checkpoint", parseCheckpointId)
    .option("--quick", "only what there is and how large, not every byte")
    .addHelpText(
      "after",
      `
Changes nothing, and may run beside everything else. Says of each problem which checkpoints it hurts, and which master key is
needed for what. To mend: import a checkpoint that was exported before; or remove those that are hurt (rm).

Exit codes: 0 all is whole; 1 something is not, or the store can't be reached.

Examples:
  ferry checkpoints fsck --store /etc/ferry/store.json
  ferry checkpoints fsck redis --store /etc/ferry/store.json --quick --json | jq .problems`,
    )
    .action(async (workload: string | undefined, checkpoint: string | undefined, flags: FsckFlags) => {
      const { checkStore } = await keeping();
      const report = await checkStore({
        config: flags.store,
        quick: flags.quick === true,
        ...(workload !== undefined && { workload }),
        ...(checkpoint !== undefined && { checkpoint }),
      });
      show(flags, report, () => renderFsck(report, flags.quick === true, context.style()));
      if (report.problems.length > 0) context.exit(EXIT.failed);
    });

  command("rekey", "Change the store's master key: afterwards only `key` of the configuration opens it.")
    .option(
      "--new-data-key",
      "what is written from now on has a new data key too: every workload's next checkpoint is whole",
    )
    .addHelpText(
      "after",
      `
1. On every node: the new key as \`key\`, the old one in \`oldKeys\`. Both are read then; nothing has to be restarted.
2. This command. It may be stopped and run again, and beside writers, readers and the collector.
3. Take the old one out of \`oldKeys\`. Files that were exported before still need it.

Only the few small keys are encrypted anew, not the blocks. Where a data key itself may have leaked: --new-data-key, then
remove the older checkpoints; fsck says what still needs which.

Examples:
  ferry checkpoints rekey --store /etc/ferry/store.json
  ferry checkpoints rekey --store /etc/ferry/store.json --new-data-key --json`,
    )
    .action(async (flags: RekeyFlags) => {
      const { rekeyStore } = await keeping();
      const rotation = await rekeyStore(flags.store, flags.newDataKey === true);
      show(flags, rotation, () => renderRekeyed(rotation, context.style()));
      if (rotation.left.length > 0) context.exit(EXIT.failed);
    });

  command("gc", "Free what no checkpoint needs. Nodes do it now and then after a removal.")
    .addHelpText(
      "after",
      `
What is of no use goes an hour after it was first found so: the first time it is marked, later it is freed. May run beside
everything else.

Examples:
  ferry checkpoints gc --store /etc/ferry/store.json`,
    )
    .action(async (flags: Flags) => {
      const { collectStore } = await keeping();
      const collected = await collectStore(flags.store);
      show(flags, collected, () => renderCollected(collected));
    });
}

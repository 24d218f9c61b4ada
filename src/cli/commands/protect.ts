/** `ferry protect`: a checkpoint of a workload now and then, by a schedule of Temporal. */
import type { Command } from "commander";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseAge } from "../parse-checkpoints.js";
import { parseEvery } from "../parse-schedules.js";
import { parseCount, parseDuration, parseSize, parseWorkloadName } from "../parse.js";
import { renderScheduleChange, renderSchedules } from "../render/schedules.js";

interface ListFlags extends ConnectionFlags {
  json?: boolean;
}
interface ProtectFlags extends ListFlags {
  every?: number;
  keep?: number;
  olderThan?: number;
  maxSize?: number;
  maxBlackout?: number;
}

export function register(program: Command, context: CommandContext): void {
  const protect: Command = withConnection(program.command("protect"))
    .enablePositionalOptions()
    .description(
      "Save a workload now and then, and remove older checkpoints. It runs on, frozen for a moment each time.\nAgain with other values: changed.",
    )
    .argument("[name]", "workload", parseWorkloadName)
    .option("--every <time>", "how often, from 10s to 31d, like 5m", parseEvery)
    .option("--keep <n>", "so many of the newest stay, the others go", parseCount("checkpoints", 1, 1_000_000))
    .option("--older-than <age>", "older ones go, like 12h, 7d or 2w", parseAge)
    .option(
      "--max-size <size>",
      "the oldest go until all have added no more than this to the store, like 10G",
      parseSize,
    )
    .option("--max-blackout <time>", "longest time frozen for one (default: 30s)", parseDuration)
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
The first checkpoint is made at once. Each of --keep, --older-than and --max-size is reason enough to go, also for what was saved by
hand; at least one is needed. What is pinned, and the newest, always stay.
A workload that is busy or does not run is left alone until the next time; ferry protect ls says so.
Pause and resume it: ferry schedule pause protect/NAME.
Exit codes: 0 done; 1 failed; 2 refused.

Examples:
  ferry protect redis --every 5m --keep 12
  ferry protect redis --every 1h --older-than 7d --max-size 10G
  ferry protect ls
  ferry protect rm redis`,
    )
    .action(async (name: string | undefined, flags: ProtectFlags) => {
      const { every, keep, olderThan, maxSize, maxBlackout } = flags;
      if (name === undefined) protect.error("error: name a workload, or say ls or rm");
      if (every === undefined) protect.error("error: --every is needed");
      if (keep === undefined && olderThan === undefined && maxSize === undefined) {
        protect.error("error: one of --keep, --older-than and --max-size is needed");
      }
      await withClient(context, flags, async (client) => {
        const change = await client.schedules.protect(name, {
          everyMs: every,
          ...(keep !== undefined && { keep }),
          ...(olderThan !== undefined && { olderThanMs: olderThan }),
          ...(maxSize !== undefined && { maxBytes: maxSize }),
          ...(maxBlackout !== undefined && { maxBlackoutMs: maxBlackout }),
        });
        if (flags.json === true) context.json(change);
        else for (const line of renderScheduleChange(change, Date.now(), context.style())) context.out(line);
      });
    });

  withConnection(protect.command("ls"))
    .description("List what is protected, how often, and how the last checkpoint went.")
    .option("--json", "print JSON")
    .addHelpText("after", "\nExamples:\n  ferry protect ls\n  ferry protect ls --json | jq -r '.[].workload'")
    .action(async (flags: ListFlags) => {
      await withClient(context, flags, async (client) => {
        const listed = (await client.schedules.list()).filter(({ kind }) => kind === "protect");
        if (flags.json === true) context.json(listed);
        else for (const line of renderSchedules(listed, Date.now(), context.style())) context.out(line);
      });
    });

  withConnection(protect.command("rm"))
    .description("No more checkpoints by the clock. Those that were made stay.")
    .argument("<name>", "workload", parseWorkloadName)
    .option("--json", "print JSON")
    .addHelpText("after", "\nExamples:\n  ferry protect rm redis")
    .action(async (name: string, flags: ListFlags) => {
      await withClient(context, flags, async (client) => {
        await client.schedules.remove(`protect/${name}`);
        if (flags.json === true) context.json({ removed: `protect/${name}` });
        else context.out(`removed protect/${name}; its checkpoints stay: ferry checkpoints ls ${name}`);
      });
    });
}

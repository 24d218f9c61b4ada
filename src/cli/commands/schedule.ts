/** `ferry schedule`: let workloads go at night, or when they are idle, and wake them in the morning, or when they are asked for; all schedules, also those of `ferry protect`. */
import type { Command } from "commander";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseCron, parseIdle, parsePercent, parseScheduleId, parseTimezone } from "../parse-schedules.js";
import { parseWorkloadName } from "../parse.js";
import { renderScheduleChange, renderSchedules } from "../render/schedules.js";

interface Flags extends ConnectionFlags {
  json?: boolean;
}
interface ScaleFlags extends Flags {
  cron?: string;
  idle?: number;
  cpu?: number;
  wakeOnTraffic?: boolean;
  wake?: string;
  timezone?: string;
}

export function register(program: Command, context: CommandContext): void {
  const schedule = program
    .command("schedule")
    .description("What is done to workloads by the clock: let them go, wake them, protect them.")
    .addHelpText(
      "after",
      `
A schedule is called KIND/NAME: protect/redis, scale-down/redis, idle/redis, wake/redis.

Examples:
  ferry schedule scale-down redis --cron '0 20 * * 1-5' --wake '0 7 * * 1-5' --timezone Europe/Berlin
  ferry schedule scale-down redis --idle 15m --wake-on-traffic
  ferry schedule ls
  ferry schedule pause protect/redis
  ferry schedule trigger scale-down/redis`,
    );
  const one = (word: string, description: string): Command =>
    withConnection(schedule.command(word)).description(description).option("--json", "print JSON");

  one(
    "scale-down",
    "Save a workload at certain times, or when it is idle, and let it go: it needs no memory and no processor until it is woken.",
  )
    .argument("<name>", "workload", parseWorkloadName)
    .option("--cron <expression>", "when: minute, hour, day, month, weekday", parseCron)
    .option("--idle <time>", "when no packet came or went for so long, and it used little of the processor", parseIdle)
    .option("--cpu <percent>", "with --idle: up to this much of one core is little (default: 1%)", parsePercent)
    .option("--wake-on-traffic", "its node holds its address, and restores it when something comes for it")
    .option("--wake <expression>", "when it runs again from that checkpoint, where it was (default: never)", parseCron)
    .option("--timezone <zone>", "of the times, like Europe/Berlin (default: UTC)", parseTimezone)
    .addHelpText(
      "after",
      `
It is ferry checkpoint --stop, and ferry restore. What does not run is left alone; only what was checkpointed is woken, so what a
person has stopped stays stopped. At least one of --cron and --idle is needed. Again with other values: changed; what is left
out then, goes. With --wake-on-traffic the first packet for it brings it back, and is answered (docs/checkpoints.md, Sleep and wake).

Examples:
  ferry schedule scale-down redis --idle 15m --wake-on-traffic
  ferry schedule scale-down redis --idle 1h --cpu 0.5%
  ferry schedule scale-down redis --cron '0 20 * * 1-5' --wake '0 7 * * 1-5'
  ferry schedule scale-down redis --cron '0 20 * * *' --timezone Europe/Berlin`,
    )
    .action(async (name: string, flags: ScaleFlags) => {
      const { cron, idle, cpu, wakeOnTraffic, wake, timezone } = flags;
      await withClient(context, flags, async (client) => {
        const changes = await client.schedules.scaleDown(name, {
          ...(cron !== undefined && { cron }),
          ...(idle !== undefined && { idleMs: idle }),
          ...(cpu !== undefined && { cpuPercent: cpu }),
          ...(wakeOnTraffic !== undefined && { wakeOnTraffic }),
          ...(wake !== undefined && { wake }),
          ...(timezone !== undefined && { timezone }),
        });
        if (flags.json === true) context.json(changes);
        else {
          for (const change of changes) {
            for (const line of renderScheduleChange(change, Date.now(), context.style())) context.out(line);
          }
        }
      });
    });

  one("ls", "List schedules, and how the last tick of each went: of one workload, or of all.")
    .argument("[name]", "workload", parseWorkloadName)
    .addHelpText("after", "\nExamples:\n  ferry schedule ls\n  ferry schedule ls redis --json | jq -r '.[].id'")
    .action(async (name: string | undefined, flags: Flags) => {
      await withClient(context, flags, async (client) => {
        const listed = await client.schedules.list(name === undefined ? {} : { workload: name });
        if (flags.json === true) context.json(listed);
        else for (const line of renderSchedules(listed, Date.now(), context.style())) context.out(line);
      });
    });

  const verbs = [
    ["pause", "Nothing is done until it is resumed.", "is paused", "pause"],
    ["resume", "It goes on. What was missed meanwhile is not made up for.", "goes on", "resume"],
    ["trigger", "One tick now, besides the others; see how it went with ferry schedule ls.", "is triggered", "trigger"],
    ["rm", "Remove a schedule. The workload is as it is.", "is removed", "remove"],
  ] as const;
  for (const [word, description, said, verb] of verbs) {
    one(word, description)
      .argument("<id>", "protect/NAME, scale-down/NAME, idle/NAME or wake/NAME", parseScheduleId)
      .addHelpText("after", `\nExamples:\n  ferry schedule ${word} protect/redis`)
      .action(async (id: string, flags: Flags) => {
        await withClient(context, flags, async (client) => {
          await client.schedules[verb](id);
          if (flags.json === true) context.json({ schedule: id, done: word });
          else context.out(`${id} ${said}`);
        });
      });
  }
}

/** `ferry migrate`: move a workload, watch it, print the report. Interrupting it leaves the migration going on. */
import { Option, type Command } from "commander";
import type { MigrationHandle } from "../../client/types.js";
import type { AskedMode, AskedOptions } from "../../model/plan.js";
import { harmless } from "../../model/words.js";
import { DEFAULT_LIMITS, ON_STALL, type OnStall } from "../../model/convergence.js";
import { TRACKERS, type TrackerKind } from "../../model/mover.js";
import { blockers, DEFAULT_MAX_BLACKOUT_MS } from "../../model/plan.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import { exitCodeOfOutcome } from "../failures.js";
import { onInterrupt } from "../interrupt.js";
import { EXIT, type CommandContext } from "../io.js";
import { liveView } from "../live-view.js";
import { parseCount, parseDuration, parseMode, parseNodeName, parseRate, parseWorkloadName } from "../parse.js";
import { renderLive, renderPlainProgress, renderReport, type LiveHead } from "../render/migration.js";

interface MigrateFlags extends ConnectionFlags {
  to: string;
  mode: AskedMode;
  dryRun?: boolean;
  maxBlackout?: number;
  bandwidth?: number;
  maxDowntime?: number;
  onStall?: OnStall;
  maxRounds?: number;
  timeout?: number;
  tracker?: TrackerKind | "auto";
  hold?: boolean;
  keepFrames: boolean;
  detach?: boolean;
  progress?: boolean;
  json?: boolean;
}

export const migrateOptionsOf = (flags: MigrateFlags): { to: string } & Partial<AskedOptions> => ({
  to: flags.to,
  mode: flags.mode,
  dryRun: flags.dryRun === true,
  ...(flags.maxBlackout !== undefined && { maxBlackoutMs: flags.maxBlackout }),
  ...(flags.bandwidth !== undefined && { bandwidthBytesPerSec: flags.bandwidth }),
  ...(flags.maxDowntime !== undefined && { maxDowntimeMs: flags.maxDowntime }),
  ...(flags.onStall !== undefined && { onStall: flags.onStall }),
  ...(flags.maxRounds !== undefined && { maxRounds: flags.maxRounds }),
  ...(flags.timeout !== undefined && { timeoutMs: flags.timeout }),
  ...(flags.tracker !== undefined && { tracker: flags.tracker }),
  ...(flags.hold === true && { hold: true }),
  ...(!flags.keepFrames && { keepFrames: false }),
});

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("migrate"))
    .description(
      "Move a workload to another node with its memory, files and TCP connections.\nCtrl-C stops watching, not the migration; ferry cancel calls it back.",
    )
    .argument("<name>", "workload", parseWorkloadName)
    .requiredOption("--to <node>", "destination", parseNodeName)
    .addOption(
      new Option(
        "--mode <mode>",
        "auto: precopy, or hybrid where --on-stall hybrid allows it and rounds would not get under --max-downtime; precopy: copy memory in rounds while it runs, then freeze for the rest; hybrid: rounds, then resume first; postcopy: resume first; cold: freeze, then copy all",
      )
        .argParser(parseMode)
        .default("auto"),
    )
    .option(
      "--dry-run",
      "check both nodes and print the plan; nothing is changed (it is stopped for under a millisecond to see how fast its memory changes)",
    )
    .option(
      "--max-blackout <time>",
      `longest time frozen before the source takes it back (default: ${DEFAULT_MAX_BLACKOUT_MS / 1000}s)`,
      parseDuration,
    )
    .option("--bandwidth <rate>", "limit for memory pages, like 100MB/s", parseRate)
    .option(
      "--max-downtime <time>",
      `freeze when so much downtime is expected at most (default: ${DEFAULT_LIMITS.maxDowntimeMs}ms)`,
      parseDuration,
    )
    .addOption(
      new Option("--on-stall <what>", "when more rounds don't get there (default: stop-and-copy)").choices(ON_STALL),
    )
    .option("--max-rounds <n>", `rounds at most (default: ${DEFAULT_LIMITS.maxRounds})`, parseCount("rounds", 1, 1000))
    .option(
      "--timeout <time>",
      `time for all rounds together (default: ${DEFAULT_LIMITS.timeoutMs / 60_000}m)`,
      parseDuration,
    )
    .addOption(
      new Option("--tracker <name>", "how changes of memory are found (default: the best that the node has)").choices([
        ...TRACKERS,
        "auto",
      ]),
    )
    .option("--hold", "make rounds, but don't freeze before `ferry steer NAME go`")
    .option(
      "--no-keep-frames",
      "don't keep what peers send during the blackout: they send it again, later than need be",
    )
    .option("--detach", "start it and don't wait")
    .option("--json", "print the report as one JSON document")
    .option("--progress", "with --json: one JSON line per observation before the report, and the report on one line")
    .addHelpText(
      "after",
      `
Exit codes: 0 moved (or --dry-run found nothing against it, or started with --detach); 1 failed, it runs on the source;
2 wrong use, or refused by the checks; 3 in doubt or stuck; 130 interrupted, the migration goes on.

Examples:
  ferry migrate redis --to node-b
  ferry migrate redis --to node-b --dry-run
  ferry migrate redis --to node-a --mode postcopy --bandwidth 100MB/s
  ferry migrate redis --to node-b --max-downtime 300ms --on-stall hybrid
  ferry migrate redis --to node-b --hold --detach      rounds until: ferry steer redis go
  ferry migrate redis --to node-b --max-blackout 5s --json | jq .blackoutMs`,
    )
    .action(async (name: string, flags: MigrateFlags) => {
      await withClient(context, flags, async (client) => {
        const workload = client.workloads.get(name);
        const interrupt = onInterrupt();
        try {
          const source = (await workload.status()).node;
          const handle = await workload.migrate(migrateOptionsOf(flags));
          if (flags.detach === true && flags.dryRun !== true) {
            if (flags.json === true)
              context.json({ workload: name, operation: handle.operation, workflowId: handle.workflowId });
            else
              context.out(`started ${handle.operation}; watch: ferry inspect ${name}; call back: ferry cancel ${name}`);
            return;
          }
          const head = { workload: name, source, destination: flags.to, mode: flags.mode };
          const ended = await Promise.race([watch(handle, head, flags, context, interrupt.happened), interrupt.asked]);
          if (ended === "interrupt") {
            if (context.io.stdout.isTTY === true) context.io.stdout.write("\u001b[?25h");
            context.err(
              `\n${handle.operation} goes on without us. Watch: ferry inspect ${name}. Call back: ferry cancel ${name}`,
            );
            context.exit(EXIT.interrupted);
            return;
          }
          if (flags.json !== true) for (const line of renderReport(ended, context.style())) context.out(line);
          else if (flags.progress === true) context.out(harmless(JSON.stringify({ report: ended })));
          else context.json(ended);
          // a plan that would be refused is no "go ahead" for a script
          const refused = ended.outcome === "planned" && blockers(ended.plan?.findings ?? ended.findings).length > 0;
          context.exit(refused ? EXIT.usage : exitCodeOfOutcome[ended.outcome]);
        } finally {
          interrupt.release();
        }
      });
    });
}

/** Shows progress until the migration ends, then gives its report. */
async function watch(
  handle: MigrationHandle,
  head: LiveHead,
  flags: MigrateFlags,
  context: CommandContext,
  stop: () => boolean,
): ReturnType<MigrationHandle["result"]> {
  const { stdout } = context.io;
  const quiet = flags.dryRun === true || (flags.json === true && flags.progress !== true);
  if (!quiet) {
    const live = flags.json !== true && stdout.isTTY === true && context.io.env["TERM"] !== "dumb";
    const view = liveView(stdout);
    let last = "";
    for await (const progress of handle.progress({ everyMs: live ? 150 : 500 })) {
      if (stop()) break;
      if (flags.json === true) {
        context.out(harmless(JSON.stringify({ progress })));
      } else if (live) {
        view.draw(renderLive(head, progress, context.style()));
      } else {
        const line = renderPlainProgress(progress);
        // the time alone is no news
        const news = line.slice(line.indexOf("]"));
        if (news !== last) context.out(line);
        last = news;
      }
    }
    if (live && !stop()) view.clear();
  }
  return handle.result();
}

/** `ferry checkpoint`: save a workload, watch it, say what was made. Interrupting it leaves the checkpoint going on. */
import type { Command } from "commander";
import type { CheckpointHandle } from "../../client/types.js";
import type { CheckpointReport } from "../../model/checkpoint-report.js";
import { MAX_REASON } from "../../model/checkpoint-check.js";
import { DEFAULT_MAX_BLACKOUT_MS } from "../../model/plan.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import { exitCodeOf } from "../failures.js";
import { onInterrupt } from "../interrupt.js";
import { EXIT, type CommandContext } from "../io.js";
import { liveView } from "../live-view.js";
import { parseLabel, parseReason } from "../parse-checkpoints.js";
import { parseDuration, parseWorkloadName } from "../parse.js";
import { renderCheckpointLive, renderCheckpointProgress, renderCheckpointReport } from "../render/checkpoints.js";
import { requestedBy } from "../user-name.js";

interface CheckpointFlags extends ConnectionFlags {
  stop?: boolean;
  wakeOnTraffic?: boolean;
  reason?: string;
  label?: Record<string, string>;
  maxBlackout?: number;
  detach?: boolean;
  json?: boolean;
}

const exitOf = ({ outcome, failure }: CheckpointReport): number =>
  outcome === "saved"
    ? EXIT.moved
    : outcome === "unknown"
      ? EXIT.doubt
      : failure === undefined
        ? EXIT.failed
        : exitCodeOf(failure);

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("checkpoint"))
    .description(
      "Save a workload with its memory and files in its node's store; it runs on, or is let go with --stop.\nCtrl-C stops watching, not the checkpoint; it can't be called back.",
    )
    .argument("<name>", "workload", parseWorkloadName)
    .option(
      "--stop",
      "let it go once the checkpoint is there; until then it stays frozen (bring it back: ferry restore)",
    )
    .option("--wake-on-traffic", "with --stop: its node holds its address, and restores it when something comes for it")
    .option("--reason <text>", `why, at most ${MAX_REASON} characters`, parseReason)
    .option("--label <name=value>", "may be given again and again", parseLabel)
    .option(
      "--max-blackout <time>",
      `longest time frozen if it is to run on (default: ${DEFAULT_MAX_BLACKOUT_MS / 1000}s)`,
      parseDuration,
    )
    .option("--detach", "start it and don't wait")
    .option("--json", "print how it ended as JSON")
    .addHelpText(
      "after",
      `
Its node needs a store: ferry agent --store FILE, see docs/checkpoints.md.
Exit codes: 0 it is there (or started with --detach); 1 it is not, the workload runs on; 2 refused; 3 its node does not answer;
130 interrupted, it goes on.

Examples:
  ferry checkpoint redis
  ferry checkpoint redis --reason "before the upgrade" --label release=7
  ferry checkpoint redis --stop
  ferry checkpoint redis --stop --wake-on-traffic
  ferry checkpoint redis --max-blackout 500ms --json | jq -r .checkpoint.id`,
    )
    .action(async (name: string, flags: CheckpointFlags) => {
      await withClient(context, flags, async (client) => {
        const interrupt = onInterrupt();
        try {
          const handle = await client.workloads.get(name).checkpoint({
            stop: flags.stop === true,
            requestedBy: requestedBy(),
            ...(flags.wakeOnTraffic !== undefined && { wakeOnTraffic: flags.wakeOnTraffic }),
            ...(flags.reason !== undefined && { reason: flags.reason }),
            ...(flags.label !== undefined && { labels: flags.label }),
            ...(flags.maxBlackout !== undefined && { maxBlackoutMs: flags.maxBlackout }),
          });
          if (flags.detach === true) {
            if (flags.json === true) {
              context.json({ workload: name, operation: handle.operation, workflowId: handle.workflowId });
            } else context.out(`started ${handle.operation}; see: ferry checkpoints ls ${name}`);
            return;
          }
          const ended = await Promise.race([watch(handle, flags, context, interrupt.happened), interrupt.asked]);
          if (ended === "interrupt") {
            if (context.io.stdout.isTTY === true) context.io.stdout.write("\u001b[?25h");
            context.err(`\n${handle.operation} goes on without us. See: ferry inspect ${name}`);
            context.exit(EXIT.interrupted);
            return;
          }
          if (flags.json === true) context.json(ended);
          else for (const line of renderCheckpointReport(ended, context.style())) context.out(line);
          context.exit(exitOf(ended));
        } finally {
          interrupt.release();
        }
      });
    });
}

async function watch(
  handle: CheckpointHandle,
  flags: CheckpointFlags,
  context: CommandContext,
  stop: () => boolean,
): Promise<CheckpointReport> {
  const { stdout } = context.io;
  if (flags.json !== true) {
    const live = stdout.isTTY === true && context.io.env["TERM"] !== "dumb";
    const view = liveView(stdout);
    let last = "";
    for await (const progress of handle.progress({ everyMs: live ? 150 : 500 })) {
      if (stop()) break;
      if (progress.state !== "working") continue;
      if (live) {
        view.draw(renderCheckpointLive(progress, context.style()));
        continue;
      }
      const line = renderCheckpointProgress(progress);
      // the time alone is no news
      const news = line.slice(line.indexOf("]"));
      if (news !== last) context.out(line);
      last = news;
    }
    if (live && !stop()) view.clear();
  }
  return handle.result();
}

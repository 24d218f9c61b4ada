/** `ferry restore`: run a workload that does not run from one of its checkpoints. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import type { WorkloadHandle } from "../../client/types.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseCheckpointId, parseMoment } from "../parse-checkpoints.js";
import { parseNodeName, parseNodeNames, parseWorkloadName } from "../parse.js";
import { describePages } from "../render/workloads.js";

interface RestoreFlags extends ConnectionFlags {
  checkpoint?: string;
  at?: Date;
  node?: string;
  off?: string[];
  lazy?: boolean;
  dryRun?: boolean;
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  const command = withConnection(program.command("restore"))
    .description(
      "Run a workload that does not run (stopped, exited, checkpointed) from its newest checkpoint, or an older one.\nIts files are those of the checkpoint, too: what it wrote since is lost.",
    )
    .argument("<name>", "workload", parseWorkloadName)
    .option(
      "--checkpoint <id>",
      "this one, or the only one whose id begins so (default: the newest)",
      parseCheckpointId,
    )
    .option(
      "--at <time>",
      "the newest that was taken until then, by the nodes' clocks: 2026-03-01T10:00:00Z, 2026-03-01, or how long ago, like 2h",
      parseMoment(),
    )
    .option("--node <node>", "where to run it (default: where it was)", parseNodeName)
    .option(
      "--off <node>",
      "this node is switched off, was fenced, and stays off: its silence is no reason to refuse; may be given again and again",
      parseNodeNames,
    )
    .option(
      "--lazy",
      "run it before its memory is read: what it touches comes first, the rest follows; until then it needs the store",
    )
    .option("--dry-run", "say from which checkpoint it would run, and what stands against it; nothing is changed")
    .option("--json", "print the answer as JSON")
    .addHelpText(
      "after",
      `
The newest is the last one of the latest epoch that it ran under; --at goes by time alone.
Every node says first that it has no copy of it; one that is off is fenced first (ferry fence).
It runs under a new epoch, later than every one that was given out.
What still runs is stopped first (ferry stop), or cloned (ferry clone). When its node is lost: ferry recover.
With --lazy it answers at once; the command ends when all of its memory is in place, and ferry inspect says how far that
is. A store that is away meanwhile keeps it waiting for what it has not touched yet; ferry cancel ends it.
An answer that was lost leaves it in-doubt: the same command again finds out whether it runs.
Exit codes: 0 it runs; 1 it could not be run, or a node is out of reach; 2 refused.

Examples:
  ferry restore redis
  ferry restore redis --checkpoint 20260301T1000 --node node-b
  ferry restore redis --lazy
  ferry restore redis --at 2h --dry-run
  ferry fence node-c --i-have-powered-it-off && ferry restore redis --off node-c`,
    )
    .action(async (name: string, flags: RestoreFlags) => {
      if (flags.checkpoint !== undefined && flags.at !== undefined) {
        command.error("error: --checkpoint and --at don't go together");
      }
      await withClient(context, flags, async (client) => {
        const workload = client.workloads.get(name);
        const done = new AbortController();
        if (flags.lazy === true && flags.dryRun !== true) void sayWhenItRuns(workload, context, done.signal);
        const restoring = workload.restore({
          ...(flags.checkpoint !== undefined && { checkpoint: flags.checkpoint }),
          ...(flags.at !== undefined && { at: flags.at }),
          ...(flags.node !== undefined && { node: flags.node }),
          ...(flags.off !== undefined && { off: flags.off }),
          ...(flags.lazy === true && { lazy: true }),
          ...(flags.dryRun === true && { dryRun: true }),
        });
        const restored = await restoring.finally(() => done.abort());
        if (flags.json === true) context.json(restored);
        else context.out(`${flags.dryRun === true ? "plan" : restored.operation}: ${restored.message}`);
      });
    });
}

const LOOK_EVERY_MS = 500;
const SAY_EVERY_MS = 5_000;

/** Who waits for the end sees from when on it can be used. Says nothing that is not known; never rejects. */
async function sayWhenItRuns(workload: WorkloadHandle, context: CommandContext, done: AbortSignal): Promise<void> {
  let saidAt: number | undefined;
  for (;;) {
    await sleep(LOOK_EVERY_MS, undefined, { signal: done }).catch(() => undefined);
    if (done.aborted) return;
    const seen = await workload.inspect().catch(() => undefined);
    const pages = seen?.observation?.pages;
    const now = performance.now();
    if (done.aborted || pages?.runs !== true || (saidAt !== undefined && now - saidAt < SAY_EVERY_MS)) continue;
    saidAt = now;
    context.err(`${workload.name}: ${describePages(pages)}`);
  }
}

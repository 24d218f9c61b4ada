/** `ferry logs`: a workload's output, followed across moves (the log moves with the workload). */
import type { Command } from "commander";
import type { WorkloadHandle } from "../../client/types.js";
import type { LogChunk } from "../../model/contract.js";
import { isRetryable, toFailure, type FailureCode } from "../../model/failure.js";
import type { WorkloadState, WorkloadStatus } from "../../model/workload.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import { onInterrupt, pause } from "../interrupt.js";
import type { CommandContext } from "../io.js";
import { parseSize, parseWorkloadName } from "../parse.js";

interface LogsFlags extends ConnectionFlags {
  follow?: boolean;
  tail?: number;
  json?: boolean;
}

/** Bytes asked for at a time. */
const CHUNK = 64 * 1024;
const FOLLOW_EVERY_MS = 500;
/** What passes by itself: a follower waits for it. */
const PASSING: readonly FailureCode[] = ["E_NODE_UNREACHABLE", "E_TEMPORAL_DOWN"];

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("logs"))
    .description("Show what a workload wrote to standard output and standard error. The log moves with it.")
    .argument("<name>", "workload", parseWorkloadName)
    .option("-f, --follow", "go on showing what it writes, also while and after it moves, until it ends or Ctrl-C")
    .option("--tail <size>", "only the last SIZE of it, like 4K", parseSize)
    .option("--json", "print the chunk that was read as JSON (not with --follow)")
    .addHelpText("after", "\nExamples:\n  ferry logs redis\n  ferry logs redis -f --tail 4K")
    .action(async (name: string, flags: LogsFlags, command: Command) => {
      if (flags.json === true && flags.follow === true) command.error("error: --json and --follow don't go together");
      await withClient(context, flags, async (client) => {
        const workload = client.workloads.get(name);
        const first = await workload.logs({ offset: flags.tail === undefined ? 0 : -flags.tail, maxBytes: CHUNK });
        if (flags.json === true) {
          context.json(first);
          return;
        }
        const next = await untilEnd(workload, first, context);
        if (flags.follow === true) await follow(workload, next, context);
      });
    });
}

/** Prints from `chunk` to the end as it is now; returns the offset to go on from. */
async function untilEnd(workload: WorkloadHandle, chunk: LogChunk, context: CommandContext): Promise<number> {
  let at = chunk;
  for (;;) {
    if (at.text !== "") context.io.stdout.write(at.text);
    if (at.nextOffset >= at.sizeBytes || at.nextOffset <= at.offset) return at.nextOffset;
    at = await workload.logs({ offset: at.nextOffset, maxBytes: CHUNK });
  }
}

async function follow(workload: WorkloadHandle, from: number, context: CommandContext): Promise<void> {
  const interrupt = onInterrupt();
  let offset = from;
  let away = false;
  try {
    while (!interrupt.happened()) {
      try {
        // Asked before the last look: what it wrote until then is in the log.
        const ended = endOf(await workload.status());
        offset = await untilEnd(workload, await workload.logs({ offset, maxBytes: CHUNK }), context);
        away = false;
        if (ended !== undefined) {
          context.err(`ferry: ${workload.name} ${ended}`);
          return;
        }
      } catch (error) {
        const failure = toFailure(error);
        if (failure.code === "E_WORKLOAD_UNKNOWN" && (await isGone(workload))) {
          context.err(`ferry: ${workload.name} was removed`);
          return;
        }
        const passing = isRetryable(failure.code) || PASSING.includes(failure.code);
        if (!passing) throw error;
        if (!away) context.err(`ferry: ${failure.message}; going on when it answers`);
        away = true;
      }
      await pause(FOLLOW_EVERY_MS, interrupt);
    }
  } finally {
    interrupt.release();
  }
}

const isGone = (workload: WorkloadHandle): Promise<boolean> =>
  workload.status().then(
    ({ state }) => state === "removed",
    (error: unknown) => toFailure(error).code === "E_WORKLOAD_UNKNOWN",
  );

/** States in which a workload writes no more. */
const ENDS: Partial<Record<WorkloadState, string>> = {
  exited: "has ended",
  stopped: "was stopped",
  failed: "could not be started",
};

/** How it came to its end; undefined: it may go on writing. */
const endOf = ({ state, exitCode }: WorkloadStatus): string | undefined =>
  state === "exited" && exitCode !== undefined ? `has ended with exit code ${exitCode}` : ENDS[state];

/** `ferry logs`: a workload's output, followed across moves (the log moves with the workload). */
import type { Command } from "commander";
import type { WorkloadHandle } from "../../client/types.js";
import { isRetryable, toFailure, type FailureCode } from "../../model/failure.js";
import type { WorkloadState, WorkloadStatus } from "../../model/workload.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import { onInterrupt, pause, type Interrupt } from "../interrupt.js";
import type { CommandContext } from "../io.js";
import { parseSize, parseWorkloadName } from "../parse.js";

/** What is asked of a workload here. */
type Log = Pick<WorkloadHandle, "name" | "status" | "logs">;

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
        const from = flags.tail === undefined ? 0 : -flags.tail;
        if (flags.json === true) {
          context.json(await workload.logs({ offset: from, maxBytes: CHUNK }));
        } else if (flags.follow === true) {
          await untilInterrupted((interrupt) => follow(workload, from, context, interrupt));
        } else {
          await printOn(workload, { offset: from }, context);
        }
      });
    });
}

/** Where a reader of the log has got to. It moves on with every piece printed, so that none is printed again after a failure. */
interface Cursor {
  /** Bytes; negative: that far before the end. */
  offset: number;
}

/** Prints from the cursor to the end as it is now. */
async function printOn(workload: Log, cursor: Cursor, context: CommandContext, interrupt?: Interrupt): Promise<void> {
  for (;;) {
    const at = await workload.logs({ offset: cursor.offset, maxBytes: CHUNK });
    if (interrupt?.happened() === true) return;
    if (at.text !== "") context.io.stdout.write(at.text);
    cursor.offset = at.nextOffset;
    if (at.nextOffset >= at.sizeBytes || at.nextOffset <= at.offset) return;
  }
}

/**
 * Ctrl-C ends it quietly from the first moment on: a log that grows faster than it is read has no end to wait for, and
 * a node that does not answer is not waited for either.
 */
async function untilInterrupted(work: (interrupt: Interrupt) => Promise<void>): Promise<void> {
  const interrupt = onInterrupt();
  try {
    await Promise.race([work(interrupt), interrupt.asked]);
  } finally {
    interrupt.release();
  }
}

/** Shows the log as it grows, until the workload's end, a failure that does not pass, or the interrupt. */
export async function follow(
  workload: Log,
  from: number,
  context: CommandContext,
  interrupt: Interrupt,
): Promise<void> {
  // What is there is shown first, and what goes wrong with that is no passing thing: the workload may not exist.
  const cursor: Cursor = { offset: from };
  await printOn(workload, cursor, context, interrupt);
  let away = false;
  while (!interrupt.happened()) {
    try {
      // Asked before the last look: what it wrote until then is in the log.
      const ended = endOf(await workload.status());
      await printOn(workload, cursor, context, interrupt);
      away = false;
      if (interrupt.happened()) return;
      if (ended !== undefined) {
        context.err(`ferry: ${workload.name} ${ended}`);
        return;
      }
    } catch (error) {
      if (interrupt.happened()) return;
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
}

const isGone = (workload: Log): Promise<boolean> =>
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

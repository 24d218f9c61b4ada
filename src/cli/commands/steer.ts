/** `ferry steer`: say something to the migration under way. Each command is an update in its history. */
import { Argument, InvalidArgumentError, type Command } from "commander";
import { ferryError } from "../../model/failure.js";
import { STEER_WORDS, type SteerCommand, type SteerWord } from "../../model/steering.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseDuration, parseRate, parseWorkloadName } from "../parse.js";
import { formatMs, formatRate } from "../render/format.js";

interface SteerFlags extends ConnectionFlags {
  json?: boolean;
}

const WORDS: Readonly<Record<string, string>> = {
  pause: "send nothing more until resume; the workload runs on",
  resume: "go on",
  "switch-now": "freeze as soon as possible",
  "post-copy-now": "freeze now, resume first, what remains follows",
  "bandwidth RATE": "limit the page traffic, like 100MB/s; none: no limit",
  "max-downtime TIME": "freeze when so much is expected at most",
  "hold [TIME]": "make rounds, don't freeze until go or for so long",
  go: "end of hold",
};

/** Throws InvalidArgumentError. */
export function steerCommand(word: SteerWord, value: string | undefined): SteerCommand {
  const need = (what: string): string => {
    if (value !== undefined) return value;
    throw new InvalidArgumentError(`${word} needs ${what}.`);
  };
  switch (word) {
    case "bandwidth": {
      const rate = need("a rate, like 100MB/s, or none");
      return { do: word, bytesPerSec: rate === "none" ? null : parseRate(rate) };
    }
    case "max-downtime":
      return { do: word, ms: parseDuration(need("a time, like 300ms")) };
    case "hold":
      return value === undefined ? { do: word } : { do: word, forMs: parseDuration(value) };
    case "pause":
    case "resume":
    case "switch-now":
    case "post-copy-now":
    case "go":
      break;
  }
  if (value !== undefined) throw new InvalidArgumentError(`${word} takes no value, got ${JSON.stringify(value)}.`);
  return { do: word };
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("steer"))
    .description("Steer the migration under way.")
    .argument("<name>", "workload", parseWorkloadName)
    .addArgument(new Argument("<command>", "what to do").choices(STEER_WORDS))
    .argument("[value]", "of bandwidth, max-downtime and hold")
    .option("--json", "print how it stands as JSON")
    .addHelpText(
      "after",
      `
Commands:
${Object.entries(WORDS)
  .map(([word, what]) => `  ${word.padEnd(18)} ${what}`)
  .join("\n")}

Exit codes: 0 taken; 2 wrong use, or too early or too late for it.

Examples:
  ferry steer redis bandwidth 50MB/s
  ferry steer redis hold 10m
  ferry steer redis go
  ferry steer redis post-copy-now`,
    )
    .action(async (name: string, word: SteerWord, value: string | undefined, flags: SteerFlags) => {
      let command: SteerCommand;
      try {
        command = steerCommand(word, value);
      } catch (error) {
        if (!(error instanceof InvalidArgumentError)) throw error;
        throw ferryError("E_REQUEST", error.message, { remedy: "see: ferry steer --help" });
      }
      await withClient(context, flags, async (client) => {
        const migration = await client.workloads.get(name).migration();
        if (migration === undefined) {
          throw ferryError("E_STATE", `no migration of ${name} is under way`, {
            workload: name,
            remedy: `see what it does: ferry inspect ${name}`,
          });
        }
        const steered = await migration.steer(command);
        if (flags.json === true) {
          context.json({ operation: migration.operation, ...steered });
          return;
        }
        context.out(`${migration.operation}: ${steered.message}`);
        const { paused, held, maxDowntimeMs, bandwidthBytesPerSec } = steered;
        const state = [
          ...(paused ? ["paused"] : []),
          ...(held ? ["held until go"] : []),
          `downtime limit ${formatMs(maxDowntimeMs)}`,
          bandwidthBytesPerSec === undefined ? "no bandwidth limit" : `at most ${formatRate(bandwidthBytesPerSec)}`,
        ];
        context.out(`  now: ${state.join(", ")}`);
      });
    });
}

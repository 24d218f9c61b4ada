/**
 * `ferry`: thin commands over the SDK. Only the command that is asked for is loaded, so that `ferry --help` is quick.
 * Nothing thrown leaves `main()`: every failure ends in words on standard error and an exit code.
 */
import { Command, CommanderError } from "commander";
import { packageVersion } from "../host/package-root.js";
import { describeFailure } from "../model/failure.js";
import { harmless } from "../model/words.js";
import { exitCodeOf, failureOf } from "./failures.js";
import { createContext, EXIT, type CliIo, type CommandContext } from "./io.js";
import { printable } from "./render/style.js";

const jsonLine = (value: object): string => harmless(JSON.stringify(value));

type Register = (program: Command, context: CommandContext) => void;

/** Every command: its line in `ferry --help`, and where it lives. */
const COMMANDS: readonly (readonly [name: string, summary: string, load: () => Promise<{ register: Register }>])[] = [
  ["run", "start a workload on a node", () => import("./commands/run.js")],
  ["sign", "sign a spec, for nodes that want it", () => import("./commands/sign.js")],
  ["keygen", "make a key: for signing, or for histories", () => import("./commands/keygen.js")],
  ["ps", "list workloads", () => import("./commands/ps.js")],
  ["inspect", "show everything about one workload", () => import("./commands/inspect.js")],
  ["logs", "show a workload's output", () => import("./commands/logs.js")],
  ["migrate", "move a workload to another node", () => import("./commands/migrate.js")],
  ["steer", "pause, hurry or limit the migration under way", () => import("./commands/steer.js")],
  ["cancel", "call back the migration under way", () => import("./commands/cancel.js")],
  ["resolve", "decide a migration in doubt", () => import("./commands/resolve.js")],
  ["checkpoint", "save a workload with its memory and files", () => import("./commands/checkpoint.js")],
  ["restore", "run a stopped workload from a checkpoint", () => import("./commands/restore.js")],
  ["clone", "run new workloads from a checkpoint", () => import("./commands/clone.js")],
  ["checkpoints", "list, compare, keep and remove checkpoints", () => import("./commands/checkpoints.js")],
  ["protect", "save a workload now and then", () => import("./commands/protect.js")],
  ["schedule", "let workloads go and wake them by the clock", () => import("./commands/schedule.js")],
  ["recover", "run a workload whose node is lost elsewhere", () => import("./commands/recover.js")],
  ["stop", "stop a workload, keep its files", () => import("./commands/stop.js")],
  ["rm", "remove a workload and its files", () => import("./commands/rm.js")],
  ["nodes", "list nodes", () => import("./commands/nodes.js")],
  ["fence", "say that a node is off", () => import("./commands/fence.js")],
  ["doctor", "check what this machine can do", () => import("./commands/doctor.js")],
  ["lab", "a cluster of nodes on this machine", () => import("./commands/lab.js")],
  ["demo", "watch a live redis move and move back", () => import("./commands/demo.js")],
  ["ui", "where the web console is", () => import("./commands/ui.js")],
  ["node", "run a node: agent and worker together", () => import("./commands/node.js")],
  ["agent", "run a node's agent (root)", () => import("./commands/agent.js")],
  ["worker", "run a node's worker (unprivileged)", () => import("./commands/worker.js")],
];

const EXAMPLES = `
Examples:
  ferry lab up                                     a cluster of two nodes on this machine
  ferry run web --node node-a -- python3 -m http.server 8000
  ferry migrate web --to node-b                    move it, with its connections
  ferry migrate web --to node-a --mode postcopy --dry-run
  ferry checkpoint web --stop                      save it and let it go; ferry restore web brings it back

Exit codes: 0 done; 1 failed, the workload runs where it ran; 2 wrong use, or refused before anything was touched;
            3 in doubt or stuck, see what it says.
Which lab or server: --lab DIR or --address HOST:PORT with run, ps, inspect, logs, migrate, steer, cancel, resolve, checkpoint,
            restore, clone, checkpoints, protect, schedule, recover, stop, rm, nodes, fence, ui, doctor, node and worker (default:
            the lab that is up); --lab DIR alone with lab and demo, which are of this machine.
Environment: FERRY_TEMPORAL_ADDRESS, FERRY_TEMPORAL_NAMESPACE, FERRY_TEMPORAL_TLS=1, FERRY_TEMPORAL_TLS_{CA,CERT,KEY,SERVER_NAME},
             FERRY_TEMPORAL_API_KEY[_FILE], FERRY_PAYLOAD_KEYS[_FILE] (encrypts what Temporal stores; see ferry keygen),
             FERRY_STATE (lab directory), FERRY_DEBUG=1 (stack traces), NO_COLOR.`;

/** The command that is asked for: the first word that is no option, or the one after `help`. */
function wanted(argv: readonly string[]): string | undefined {
  const words = argv
    .slice(0, argv.includes("--") ? argv.indexOf("--") : argv.length)
    .filter((word) => !word.startsWith("-"));
  return words[0] === "help" ? words[1] : words[0];
}

const wantsJson = (argv: readonly string[]): boolean =>
  argv.slice(0, argv.includes("--") ? argv.indexOf("--") : argv.length).includes("--json");

async function build(argv: readonly string[], context: CommandContext): Promise<Command> {
  const program = new Command("ferry");
  program
    .description(
      "Durable live migration: running workloads move to another machine with memory, files and connections.",
    )
    .version(packageVersion(), "-V, --version")
    .enablePositionalOptions()
    .showSuggestionAfterError()
    .addHelpText("after", EXAMPLES);
  const name = wanted(argv);
  for (const [command, summary, load] of COMMANDS) {
    if (command === name) {
      (await load()).register(program, context);
    } else {
      program.command(command).description(summary);
    }
  }
  quiet(program, context);
  return program;
}

/** commander throws instead of exiting, and writes where we say. Sub-commands do not inherit this: tell each. */
function quiet(command: Command, context: CommandContext): void {
  command.exitOverride().configureOutput({
    writeOut: (text) => void context.io.stdout.write(text),
    writeErr: (text) => void context.io.stderr.write(text),
    outputError: () => undefined,
  });
  for (const child of command.commands) quiet(child, context);
}

/**
 * commander repeats the whole value before our parser's sentence, which quotes it already (cut, with escapes): only the
 * option's name is worth keeping of that.
 */
function ownWords(message: string): string {
  const match =
    /^(?:option '([^']*)' argument|command-argument value) '[\s\S]*' is invalid(?: for argument '[^']*')?\. ([\s\S]+)$/.exec(
      message,
    );
  if (match === null) return message;
  const [, option, words = message] = match;
  return option === undefined ? words : `${option}: ${words}`;
}

/** Says what went wrong and returns the exit code. */
function report(error: unknown, json: boolean, context: CommandContext): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0 || error.code === "commander.help") return error.exitCode === 0 ? EXIT.moved : EXIT.usage;
    const message = ownWords(error.message.replace(/^error: /, ""));
    const oneLine = message.replaceAll("\n", " ");
    if (json)
      context.out(jsonLine({ ok: false, error: { code: "E_REQUEST", message: oneLine, remedy: "see --help" } }));
    context.err(`ferry: ${message.split("\n").map(printable).join("\n       ")}`);
    context.err("  what to do: add --help to see how it is used");
    return EXIT.usage;
  }
  const failure = failureOf(error);
  if (json) context.out(jsonLine({ ok: false, error: failure }));
  const [first = "", ...rest] = describeFailure(failure);
  context.err(`ferry: ${printable(first)}`);
  for (const line of rest) context.err(printable(line));
  if (context.io.env["FERRY_DEBUG"] === "1" && error instanceof Error) context.err(error.stack ?? "");
  return exitCodeOf(failure);
}

/**
 * Runs one command.
 * @param argv arguments after the program's name
 * @returns the exit code; never throws
 */
export async function main(
  argv: readonly string[],
  io: CliIo = { stdout: process.stdout, stderr: process.stderr, env: process.env },
): Promise<number> {
  const context = createContext(io);
  try {
    const program = await build(argv, context);
    if (argv.length === 0) {
      program.outputHelp();
      return EXIT.usage;
    }
    await program.parseAsync([...argv], { from: "user" });
    return context.exitCode;
  } catch (error) {
    return report(error, wantsJson(argv), context);
  }
}

/** `ferry fence`: a person's word, or a command's, that a node is off. */
import { existsSync, readFileSync } from "node:fs";
import { userInfo } from "node:os";
import type { Command } from "commander";
import { z } from "zod";
import { run } from "../../host/exec.js";
import type { FerryClient } from "../../client/types.js";
import { ferryError } from "../../model/failure.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseNodeName } from "../parse.js";

interface FenceFlags extends ConnectionFlags {
  iHavePoweredItOff?: boolean;
  config: string;
  json?: boolean;
}

const CONFIG = "/etc/ferry/fence.json";
const DEFAULT_TIMEOUT_MS = 60_000;
const MAX_EVIDENCE = 800;
/** A migration in doubt says what it knows by then. */
const DOUBT_MS = 15_000;
const pause = (ms: number): Promise<undefined> => new Promise((resolve) => setTimeout(resolve, ms, undefined).unref());
const configSchema = z.strictObject({
  /** Program and arguments; {node} is the node's name. Exit code 0 means that it is off. */
  command: z.array(z.string().min(1)).min(1),
  timeoutMs: z.int().min(100).max(600_000).optional(),
});

/** Throws E_REQUEST. */
function readConfig(file: string): z.infer<typeof configSchema> {
  if (!existsSync(file)) {
    throw ferryError("E_REQUEST", `how a node is switched off is not said: there is no ${file}`, {
      remedy:
        'switch it off by hand and say --i-have-powered-it-off, or write the file: {"command": ["/usr/local/bin/power-off", "{node}"]}',
    });
  }
  let raw: unknown;
  try {
    raw = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw ferryError("E_REQUEST", `${file} is not JSON: ${String(error)}`);
  }
  const parsed = configSchema.safeParse(raw);
  if (!parsed.success) throw ferryError("E_REQUEST", `${file}: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

async function switchOff(node: string, file: string): Promise<string> {
  const { command, timeoutMs = DEFAULT_TIMEOUT_MS } = readConfig(file);
  const [program = "", ...args] = command.map((part) => part.replaceAll("{node}", node));
  await run(program, args, {
    timeoutMs,
    doing: `switch ${node} off`,
    remedy: `nothing was fenced: see why ${program} fails, or switch it off by hand and say --i-have-powered-it-off`,
  });
  return `${[program, ...args].join(" ")} ended with 0`;
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("fence"))
    .description(
      "Say that a node is off, so that what is in doubt because of it can be resolved. Without --i-have-powered-it-off a command of the configuration switches it off.",
    )
    .argument("<node>", "node", parseNodeName)
    .option("--i-have-powered-it-off", "you did, and it stays off until somebody switches it on again")
    .option("--config <file>", "JSON with the command that switches a node off", CONFIG)
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
A node that answers can't be fenced by word. The fence ends when the node answers again. If it was not off, and only cut from
the network, its copies may run on until it is reached again: then they are killed (two copies meanwhile).

The configuration: {"command": ["ipmitool", "-H", "{node}-bmc", "chassis", "power", "off"], "timeoutMs": 60000}
Exit codes: 0 fenced; 1 the command failed; 2 refused.

Examples:
  ferry fence node-b --i-have-powered-it-off
  ferry fence node-b --config fence.json`,
    )
    .action(async (node: string, flags: FenceFlags) => {
      await withClient(context, flags, async (client) => {
        // A name that nobody knows is found out before anything is switched off.
        await client.nodes.get(node);
        const evidence =
          flags.iHavePoweredItOff === true
            ? `${userName()} says that it was powered off`
            : await switchOff(node, flags.config);
        const fence = await client.nodes.fence(node, evidence.slice(0, MAX_EVIDENCE));
        const inDoubt = await waiting(client, node);
        if (flags.json === true) {
          context.json({ node, ...fence, inDoubt });
          return;
        }
        context.out(`${node} is fenced: ${evidence}`);
        for (const { name, keep } of inDoubt) {
          context.out(`  ${name} waits for it: ferry resolve ${name} --keep ${keep}`);
        }
        if (inDoubt.length === 0) context.out("  nothing is in doubt because of it");
      });
    });
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return `user ${process.getuid?.() ?? "?"}`;
  }
}

/** Workloads in doubt, and the side that is left of them. */
async function waiting(client: FerryClient, node: string): Promise<{ name: string; keep: "source" | "destination" }[]> {
  const found: { name: string; keep: "source" | "destination" }[] = [];
  for (const { name, state } of await client.workloads.list()) {
    if (state !== "in-doubt" && state !== "stuck") continue;
    const report = await client.workloads
      .get(name)
      .migration()
      .then((migration) => Promise.race([migration?.result(), pause(DOUBT_MS)]))
      .catch(() => undefined);
    if (report?.source === node) found.push({ name, keep: "destination" });
    else if (report?.destination === node) found.push({ name, keep: "source" });
  }
  return found;
}

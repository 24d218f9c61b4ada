/** `ferry fence`: a person's word, or a command's, that a node is off. */
import { existsSync, readFileSync } from "node:fs";
import type { Command } from "commander";
import { z } from "zod";
import { runInGroup } from "../../host/group.js";
import { atMost } from "../../host/limit.js";
import type { FerryClient, WorkloadListing } from "../../client/types.js";
import { issuesOf } from "../../host/issues.js";
import { ferryError, toFailure } from "../../model/failure.js";
import { withClient, withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseNodeName } from "../parse.js";
import { userName } from "../user-name.js";

interface FenceFlags extends ConnectionFlags {
  iHavePoweredItOff?: boolean;
  config: string;
  json?: boolean;
}

const CONFIG = "/etc/ferry/fence.json";
const DEFAULT_TIMEOUT_MS = 60_000;
const MAX_EVIDENCE = 800;
const ASKED_AT_ONCE = 16;
/** A migration in doubt says what it knows by then. */
const DOUBT_MS = 15_000;
const pause = (ms: number): Promise<undefined> => new Promise((resolve) => setTimeout(resolve, ms, undefined).unref());
const configSchema = z.strictObject({
  /** Program and arguments; {node} is the node's name. Exit code 0 means that it is off. */
  command: z
    .array(
      z
        .string()
        .min(1)
        .refine((word) => !word.includes("\0"), "must not contain a NUL character"),
    )
    .min(1),
  /** Longest that it may take, with all that it has started. */
  timeoutMs: z.int().min(100).max(600_000).optional(),
});

const FORM =
  'nothing was switched off: write it as {"command": ["/usr/local/bin/power-off", "{node}"], "timeoutMs": 60000}, or switch the node off by hand and say --i-have-powered-it-off';

/** Throws E_REQUEST. */
export function readConfig(file: string): z.infer<typeof configSchema> {
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
    throw ferryError("E_REQUEST", `${file} can't be read as JSON: ${toFailure(error).message}`, { remedy: FORM });
  }
  const parsed = configSchema.safeParse(raw);
  if (!parsed.success) throw ferryError("E_REQUEST", `${file}: ${issuesOf(parsed.error)}`, { remedy: FORM });
  return parsed.data;
}

async function switchOff(node: string, file: string): Promise<string> {
  const { command, timeoutMs = DEFAULT_TIMEOUT_MS } = readConfig(file);
  const [program = "", ...args] = command.map((part) => part.replaceAll("{node}", node));
  await runInGroup(program, args, {
    timeoutMs,
    doing: `switch ${node} off`,
    remedy: `nothing was fenced: see why ${program} fails (a longer timeoutMs in ${file}, if it only takes long), or switch it off by hand and say --i-have-powered-it-off`,
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
The command, and all that it has started, is ended after timeoutMs (60 s): nothing is fenced then.
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
        const all = await askAll(client);
        const [inDoubt, ran] = [await waiting(client, all, node), ranOn(all, node)];
        if (flags.json === true) {
          context.json({ node, ...fence, inDoubt, ran });
          return;
        }
        context.out(`${node} is fenced: ${evidence}`);
        for (const { name, keep } of inDoubt) {
          context.out(`  ${name} waits for it: ferry resolve ${name} --keep ${keep}`);
        }
        for (const name of ran) context.out(`  ${name} ran there: ferry recover ${name} --node NODE`);
        if (inDoubt.length === 0) context.out("  nothing is in doubt because of it");
      });
    });
}

type Asked = Pick<WorkloadListing, "name" | "state" | "node"> & { idle: boolean };

/** What each entity says itself, since the list lags behind them. One that does not answer is as the list has it. */
async function askAll(client: FerryClient): Promise<Asked[]> {
  const limited = atMost(ASKED_AT_ONCE);
  const listings = await client.workloads.list();
  return Promise.all(
    listings.map((listing) =>
      limited(async () => {
        const said = await client.workloads
          .get(listing.name)
          .status()
          .then(({ state, node, operation }) => ({ state, node, idle: operation === undefined }))
          .catch(() => ({ ...listing, idle: false }));
        return { name: listing.name, state: said.state, node: said.node, idle: said.idle };
      }),
    ),
  );
}

/** A checkpoint whose node fell silent: nothing is under way, and that node alone may have it. */
const saveUnknown = ({ state, idle }: Asked): boolean => state === "in-doubt" && idle;

/** Workloads that ran there when it was last heard of, and that nothing else is under way with. */
const ranOn = (all: readonly Asked[], node: string): string[] =>
  all
    .filter((workload) => workload.node === node && (workload.state === "running" || saveUnknown(workload)))
    .map(({ name }) => name);

/** Workloads in doubt, and the side that is left of them. */
async function waiting(
  client: FerryClient,
  all: readonly Asked[],
  node: string,
): Promise<{ name: string; keep: "source" | "destination" }[]> {
  const found: { name: string; keep: "source" | "destination" }[] = [];
  for (const workload of all) {
    const { name, state } = workload;
    if ((state !== "in-doubt" && state !== "stuck") || saveUnknown(workload)) continue;
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

/**
 * Where Temporal is: `--address`, else the lab of `--lab`, else FERRY_TEMPORAL_ADDRESS, else the lab of the default
 * state directory.
 */
import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import type { ConnectOptions, FerryClient } from "../client/types.js";
import { ferryError } from "../model/failure.js";
import type { CliIo, CommandContext } from "./io.js";
import { parseAddress } from "./parse.js";

export interface ConnectionFlags {
  lab?: string;
  address?: string;
  namespace?: string;
}

/** Adds `--lab`, `--address` and `--namespace`. */
export const withConnection = (command: Command): Command =>
  command
    .option("--lab <dir>", "state directory of the lab to talk to (default: the running lab)")
    .option("--address <host:port>", "Temporal frontend to talk to instead of a lab", parseAddress)
    .option("--namespace <name>", "Temporal namespace");

/** Options that only the environment gives, so that keys are not in anybody's process list. */
async function secrets(env: CliIo["env"]): Promise<Pick<ConnectOptions, "tls" | "apiKey">> {
  const file = async (name: string): Promise<Buffer | undefined> => {
    const path = env[name];
    if (path === undefined || path === "") return undefined;
    try {
      return await readFile(path);
    } catch (error) {
      throw ferryError("E_REQUEST", `${name} names a file that can't be read: ${path}`, {
        remedy: `point ${name} at a readable PEM file, or unset it`,
        cause: { code: "E_REQUEST", message: error instanceof Error ? error.message : String(error) },
      });
    }
  };
  const ca = await file("FERRY_TEMPORAL_TLS_CA");
  const cert = await file("FERRY_TEMPORAL_TLS_CERT");
  const key = await file("FERRY_TEMPORAL_TLS_KEY");
  const apiKey = env["FERRY_TEMPORAL_API_KEY"];
  const tls = { ...(ca && { ca }), ...(cert && { cert }), ...(key && { key }) };
  return { ...(Object.keys(tls).length > 0 && { tls }), ...(apiKey !== undefined && apiKey !== "" && { apiKey }) };
}

/** Connection options, shared by every command that talks to Temporal. */
export async function connectOptions(flags: ConnectionFlags, env: CliIo["env"]): Promise<ConnectOptions> {
  const namespace = flags.namespace ?? env["FERRY_TEMPORAL_NAMESPACE"];
  const common = { ...(await secrets(env)), ...(namespace !== undefined && namespace !== "" && { namespace }) };
  const given = flags.address ?? (flags.lab === undefined ? env["FERRY_TEMPORAL_ADDRESS"] : undefined);
  if (given !== undefined && given !== "") return { address: given, ...common };
  const { labAddress } = await import("./lab-state.js");
  return { address: await labAddress(flags.lab, env), ...common };
}

/** Runs `use` with a client and closes it, whatever happens. */
export async function withClient<T>(
  context: CommandContext,
  flags: ConnectionFlags,
  use: (client: FerryClient) => Promise<T>,
): Promise<T> {
  const options = await connectOptions(flags, context.io.env);
  const { connect } = await import("../client/index.js");
  const client = await connect(options);
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}

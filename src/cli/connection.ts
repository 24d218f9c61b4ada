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

/** Where Temporal is and how to get in; keys come from the environment only, so that they are in no process list. */
export interface Target {
  address: string;
  namespace?: string;
  /** Names of PEM files. */
  tls?: { caFile?: string; certFile?: string; keyFile?: string };
  apiKey?: string;
}

/** Throws E_STATE when no address is given and no lab is up. */
export async function targetOf(flags: ConnectionFlags, env: CliIo["env"]): Promise<Target> {
  const set = (name: string): string | undefined => (env[name] === "" ? undefined : env[name]);
  const namespace = flags.namespace ?? set("FERRY_TEMPORAL_NAMESPACE");
  const [caFile, certFile, keyFile] = [
    set("FERRY_TEMPORAL_TLS_CA"),
    set("FERRY_TEMPORAL_TLS_CERT"),
    set("FERRY_TEMPORAL_TLS_KEY"),
  ];
  const apiKey = set("FERRY_TEMPORAL_API_KEY");
  const tls = { ...(caFile && { caFile }), ...(certFile && { certFile }), ...(keyFile && { keyFile }) };
  const more = {
    ...(namespace !== undefined && { namespace }),
    ...(Object.keys(tls).length > 0 && { tls }),
    ...(apiKey !== undefined && { apiKey }),
  };
  const given = flags.address ?? (flags.lab === undefined ? set("FERRY_TEMPORAL_ADDRESS") : undefined);
  if (given !== undefined) return { address: given, ...more };
  const { labAddress } = await import("./lab-state.js");
  return { address: await labAddress(flags.lab, env), ...more };
}

async function pem(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw ferryError("E_REQUEST", `can't read the certificate or key ${path}`, {
      remedy: "point FERRY_TEMPORAL_TLS_CA, _CERT and _KEY at readable PEM files, or unset them",
      cause: { code: "E_REQUEST", message: error instanceof Error ? error.message : String(error) },
    });
  }
}

/** The target with its PEM files read. Throws E_REQUEST that names the one that can't be. */
export async function connectOptions({ tls, ...target }: Target): Promise<ConnectOptions> {
  if (tls === undefined) return target;
  const { caFile, certFile, keyFile } = tls;
  return {
    ...target,
    tls: {
      ...(caFile !== undefined && { ca: await pem(caFile) }),
      ...(certFile !== undefined && { cert: await pem(certFile) }),
      ...(keyFile !== undefined && { key: await pem(keyFile) }),
    },
  };
}

/** Runs `use` with a client and closes it, whatever happens. */
export async function withClient<T>(
  context: CommandContext,
  flags: ConnectionFlags,
  use: (client: FerryClient) => Promise<T>,
): Promise<T> {
  const options = await connectOptions(await targetOf(flags, context.io.env));
  const { connect } = await import("../client/index.js");
  const client = await connect(options);
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}

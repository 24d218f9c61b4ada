/**
 * Where Temporal is: `--address`, else the lab of `--lab`, else FERRY_TEMPORAL_ADDRESS, else the lab of the default
 * state directory.
 */
import { readFile, stat } from "node:fs/promises";
import type { Command } from "commander";
import type { ConnectOptions, FerryClient } from "../client/types.js";
import { parsePayloadKeys } from "../keys/payload-keys.js";
import type { TlsMaterial } from "../keys/temporal-access.js";
import { FerryError, ferryError } from "../model/failure.js";
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
  access: AccessNames;
}

/** Values of the environment; the names of files where those hold secrets. */
interface AccessNames {
  tls?: string | undefined;
  caFile?: string | undefined;
  certFile?: string | undefined;
  keyFile?: string | undefined;
  serverName?: string | undefined;
  apiKey?: string | undefined;
  apiKeyFile?: string | undefined;
  payloadKeys?: string | undefined;
  payloadKeysFile?: string | undefined;
}

/** What says how to get into Temporal, and what histories are encrypted with: of workers and clients, and of nobody else. */
export const ACCESS_VARIABLES: Readonly<Record<keyof AccessNames, string>> = {
  tls: "FERRY_TEMPORAL_TLS",
  caFile: "FERRY_TEMPORAL_TLS_CA",
  certFile: "FERRY_TEMPORAL_TLS_CERT",
  keyFile: "FERRY_TEMPORAL_TLS_KEY",
  serverName: "FERRY_TEMPORAL_TLS_SERVER_NAME",
  apiKey: "FERRY_TEMPORAL_API_KEY",
  apiKeyFile: "FERRY_TEMPORAL_API_KEY_FILE",
  payloadKeys: "FERRY_PAYLOAD_KEYS",
  payloadKeysFile: "FERRY_PAYLOAD_KEYS_FILE",
};

/** Throws E_STATE when no address is given and no lab is up. */
export async function targetOf(flags: ConnectionFlags, env: CliIo["env"]): Promise<Target> {
  const set = (name: string): string | undefined => (env[name] === "" ? undefined : env[name]);
  const namespace = flags.namespace ?? set("FERRY_TEMPORAL_NAMESPACE");
  const access: AccessNames = Object.fromEntries(
    Object.entries(ACCESS_VARIABLES).map(([key, variable]) => [key, set(variable)]),
  );
  const more = { ...(namespace !== undefined && { namespace }), access };
  const given = flags.address ?? (flags.lab === undefined ? set("FERRY_TEMPORAL_ADDRESS") : undefined);
  if (given !== undefined) return { address: given, ...more };
  const { labAddress } = await import("./lab-state.js");
  return { address: await labAddress(flags.lab, env), ...more };
}

async function readNamed(key: keyof AccessNames, path: string, secret: boolean): Promise<Buffer> {
  const variable = ACCESS_VARIABLES[key];
  try {
    const { mode } = await stat(path);
    if (secret && (mode & 0o007) !== 0) {
      throw ferryError(
        "E_REQUEST",
        `${path} (${variable}) can be read by everybody, mode ${(mode & 0o777).toString(8)}`,
        {
          remedy: `chmod 600 ${path}, and make a new key if it was open to others`,
        },
      );
    }
    return await readFile(path);
  } catch (error) {
    if (error instanceof FerryError) throw error;
    throw ferryError("E_REQUEST", `can't read ${path} (${variable})`, {
      remedy: `point ${variable} at a file that can be read, or unset it`,
      cause: { code: "E_REQUEST", message: error instanceof Error ? error.message : String(error) },
    });
  }
}

/** A secret from the environment or from a file; both would leave open which one holds. */
async function secretOf(
  access: AccessNames,
  key: "apiKey" | "payloadKeys",
  fileKey: "apiKeyFile" | "payloadKeysFile",
): Promise<string | undefined> {
  const [value, file] = [access[key], access[fileKey]];
  if (value !== undefined && file !== undefined) {
    throw ferryError("E_REQUEST", `${ACCESS_VARIABLES[key]} and ${ACCESS_VARIABLES[fileKey]} are both set`, {
      remedy: "unset one of them",
    });
  }
  return file === undefined ? value : (await readNamed(fileKey, file, true)).toString("utf8").trim();
}

async function tlsOf(access: AccessNames): Promise<TlsMaterial | undefined> {
  const { tls, caFile, certFile, keyFile, serverName } = access;
  if (tls !== undefined && tls !== "1") {
    throw ferryError("E_REQUEST", `${ACCESS_VARIABLES.tls} is ${JSON.stringify(tls.slice(0, 60))}`, {
      remedy: "set it to 1 for TLS with the system's authorities, or unset it",
    });
  }
  if ([tls, caFile, certFile, keyFile, serverName].every((value) => value === undefined)) return undefined;
  return {
    ...(caFile !== undefined && { ca: await readNamed("caFile", caFile, false) }),
    ...(certFile !== undefined && { cert: await readNamed("certFile", certFile, false) }),
    ...(keyFile !== undefined && { key: await readNamed("keyFile", keyFile, true) }),
    ...(serverName !== undefined && { serverName }),
  };
}

/** The target with its files read. Throws E_REQUEST that names the variable and the file, and never quotes a secret. */
export async function connectOptions({ access, ...target }: Target): Promise<ConnectOptions> {
  const [tls, apiKey, payloadKeys] = [
    await tlsOf(access),
    await secretOf(access, "apiKey", "apiKeyFile"),
    await secretOf(access, "payloadKeys", "payloadKeysFile"),
  ];
  if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey)) {
    throw ferryError("E_REQUEST", "the API key is not one word of printable characters", {
      remedy: `see what is in ${ACCESS_VARIABLES.apiKey}, or in the file of ${ACCESS_VARIABLES.apiKeyFile}`,
    });
  }
  const keysFrom = access.payloadKeysFile ?? ACCESS_VARIABLES.payloadKeys;
  return {
    ...target,
    ...(tls !== undefined && { tls }),
    ...(apiKey !== undefined && { apiKey }),
    // In a variable they stand one after the other, with commas.
    ...(payloadKeys !== undefined && { payloadKeys: parsePayloadKeys(payloadKeys.replaceAll(",", "\n"), keysFrom) }),
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

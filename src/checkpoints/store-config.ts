/**
 * Where a node keeps checkpoints: `ferry agent --store FILE`, JSON. Everything in it is checked before the agent starts.
 *
 *   {"local": "/srv/ferry/store"} or {"s3": {"bucket": ..., "prefix": ..., "region": ..., "endpoint": ...}},
 *   "key":     {"file": ...} | {"environment": ...} | {"command": [...]}     missing: a store without encryption
 *   "oldKeys": the same, several: what was written with them can still be read
 *   "signer":  file of this node's Ed25519 private key, PEM
 *   "trusted": files of the public keys, PEM, whose checkpoints are believed; the node's own is always
 */
import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { readFile } from "node:fs/promises";
import { z } from "zod";
import { parseJson } from "../host/issues.js";
import { ferryError, toFailure } from "../model/failure.js";
import { loadKey, localBackend, s3Backend, Store, type Backend, type KeySource } from "../store/index.js";

const path = z.string().startsWith("/").max(4096);
const key = z.union([
  z.strictObject({ file: path }),
  z.strictObject({ environment: z.string().regex(/^[A-Z_][A-Z0-9_]*$/) }),
  z.strictObject({ command: z.tuple([path], z.string()) }),
]);
const common = {
  key: key.optional(),
  oldKeys: z.array(key).max(16).optional(),
  signer: path,
  trusted: z.array(path).max(1000).optional(),
};
export const storeConfigSchema = z.union([
  z.strictObject({ local: path, ...common }),
  z.strictObject({
    s3: z.strictObject({
      bucket: z.string().min(3).max(63),
      prefix: z.string().max(200).optional(),
      region: z.string().max(100).optional(),
      endpoint: z.url().optional(),
    }),
    ...common,
  }),
]);
export type StoreConfig = z.infer<typeof storeConfigSchema>;

const sourceOf = (given: z.infer<typeof key>): KeySource => {
  if ("file" in given) return { from: "file", path: given.file };
  if ("environment" in given) return { from: "environment", variable: given.environment };
  return { from: "command", command: given.command };
};

/** Reads the file. Throws E_REQUEST that names what is wrong in it. */
export async function readStoreConfig(file: string): Promise<StoreConfig> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    throw ferryError("E_REQUEST", `the store's configuration ${file} can't be read: ${toFailure(error).message}`);
  }
  const read = parseJson(text, storeConfigSchema);
  if ("data" in read) return read.data;
  throw ferryError("E_REQUEST", `the store's configuration ${file}: ${read.why}`);
}

/** Files and directories that nobody else on the node has to see. */
export const secretPlaces = (config: StoreConfig): string[] => [
  ...("local" in config ? [config.local] : []),
  ...[config.key, ...(config.oldKeys ?? [])].flatMap((one) => (one !== undefined && "file" in one ? [one.file] : [])),
  config.signer,
];

async function readKey(file: string, of: "signer" | "trusted"): Promise<KeyObject> {
  try {
    const pem = await readFile(file);
    const found = of === "signer" ? createPrivateKey(pem) : createPublicKey(pem);
    if (found.asymmetricKeyType !== "ed25519") throw new Error(`it is ${found.asymmetricKeyType}, not Ed25519`);
    return found;
  } catch (error) {
    throw ferryError("E_REQUEST", `${file} is no key that can be used: ${toFailure(error).message}`, {
      remedy: of === "signer" ? "ferry keygen makes one" : "give the public key of a node, PEM",
    });
  }
}

/** Opens the store; `make`: where there is none too. Throws E_REQUEST, E_STORE, E_STORE_KEY. */
export async function openStore(config: StoreConfig, make = true): Promise<Store> {
  const given = [...(config.key === undefined ? [] : [config.key]), ...(config.oldKeys ?? [])];
  const masterKeys = await Promise.all(given.map((one) => loadKey(sourceOf(one))));
  const signer = await readKey(config.signer, "signer");
  const trusted = await Promise.all((config.trusted ?? []).map((file) => readKey(file, "trusted")));
  return Store.open({ backend: await backendOf(config, make), masterKeys, signer, trusted, make });
}

async function backendOf(config: StoreConfig, make: boolean): Promise<Backend> {
  if ("local" in config) return localBackend(config.local, make);
  const { bucket, prefix, region, endpoint } = config.s3;
  return s3Backend({
    bucket,
    ...(prefix === undefined ? {} : { prefix }),
    ...(region === undefined ? {} : { region }),
    ...(endpoint === undefined ? {} : { endpoint }),
  });
}

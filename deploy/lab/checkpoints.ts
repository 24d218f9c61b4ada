/**
 * The lab's checkpoint store: one for all its nodes, a directory that each has at the same place. Each node signs with a
 * key of its own; its agent believes the others'.
 */
import { createPublicKey, generateKeyPairSync, randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { copyFile, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { LabState } from "./state.js";

/** On a node. */
const NODE_DIR = "/srv/checkpoints";
export const STORE_CONFIG = `${NODE_DIR}/store.json`;
const SIGNER = "checkpoints.key";
const MASTER = "checkpoints.master";

export function checkpointPlaces(lab: LabState): { directory: string; master: string; trusted: string } {
  const directory = join(lab.directory, "checkpoints");
  return { directory, master: join(lab.directory, "authority", MASTER), trusted: join(directory, "trusted") };
}

/** The store's place, and its configuration for the nodes that there are now. */
export async function makeCheckpointStore(lab: LabState): Promise<void> {
  const { directory, master, trusted } = checkpointPlaces(lab);
  await mkdir(trusted, { recursive: true });
  if (!existsSync(master)) await writeFile(master, `${randomBytes(32).toString("hex")}\n`, { mode: 0o600 });
  const nodes = lab.hosts.filter(({ kind }) => kind === "node");
  const config = {
    local: `${NODE_DIR}/store`,
    key: { file: `/etc/ferry/${MASTER}` },
    signer: `/etc/ferry/${SIGNER}`,
    trusted: nodes.map(({ name }) => `${NODE_DIR}/trusted/${name}.pem`),
  };
  const file = join(directory, "store.json");
  await writeFile(`${file}.new`, `${JSON.stringify(config, null, 2)}\n`);
  await rename(`${file}.new`, file);
}

/** What a node needs in its configuration directory, before it is started. */
export async function makeCheckpointKeys(lab: LabState, node: string, dir: string): Promise<void> {
  const { master, trusted } = checkpointPlaces(lab);
  await copyFile(master, join(dir, MASTER));
  const signer = join(dir, SIGNER);
  if (!existsSync(signer)) {
    const { privateKey } = generateKeyPairSync("ed25519");
    await writeFile(signer, privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  }
  const publicPem = createPublicKey(await readFile(signer)).export({ type: "spki", format: "pem" });
  await writeFile(join(trusted, `${node}.pem`), publicPem);
}

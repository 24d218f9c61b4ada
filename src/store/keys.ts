/**
 * Master keys: where they come from, and the wrapping of data keys with them.
 *
 * A master key is 32 bytes. Its id is derived from it, so that a wrapped key says which master key it needs.
 */
import { createCipheriv, createDecipheriv, createSecretKey, hkdfSync, randomBytes, type KeyObject } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { run } from "../host/exec.js";
import { ferryError, toFailure } from "../model/failure.js";

export type KeySource =
  | { from: "file"; path: string }
  | { from: "environment"; variable: string }
  /** Program and arguments; the key is the first line of its output. */
  | { from: "command"; command: readonly [string, ...string[]] };

export interface MasterKey {
  /** 16 hexadecimal digits. */
  id: string;
  key: KeyObject;
}

export const KEY_BYTES = 32;
const COMMAND_TIMEOUT_MS = 30_000;

const HINT = "a key is 64 hexadecimal digits or 44 characters of base64, as `openssl rand -hex 32` prints";

/** @throws FerryError E_STORE_KEY that never has any of `text` in it */
export function parseKey(text: string, where: string): MasterKey {
  const word = text.trim();
  const raw = /^[0-9a-fA-F]{64}$/.test(word)
    ? Buffer.from(word, "hex")
    : /^[A-Za-z0-9+/]{43}=$/.test(word)
      ? Buffer.from(word, "base64")
      : undefined;
  if (raw?.length !== KEY_BYTES) throw ferryError("E_STORE_KEY", `${where} holds no key of 32 bytes`, { remedy: HINT });
  return masterKey(raw);
}

export function masterKey(raw: Buffer): MasterKey {
  const id = Buffer.from(hkdfSync("sha256", raw, "", "ferry store: id of a master key", 8)).toString("hex");
  return { id, key: createSecretKey(raw) };
}

/** @throws FerryError E_STORE_KEY */
export async function loadKey(source: KeySource): Promise<MasterKey> {
  if (source.from === "environment") {
    const text = process.env[source.variable];
    if (!text) {
      throw ferryError("E_STORE_KEY", `the environment variable ${source.variable} for the store's key is not set`, {
        remedy: HINT,
      });
    }
    return parseKey(text, `the environment variable ${source.variable}`);
  }
  if (source.from === "command") {
    const [program, ...args] = source.command;
    const { stdout } = await run(program, args, {
      doing: "asking for the store's key",
      timeoutMs: COMMAND_TIMEOUT_MS,
    }).catch((error: unknown) => {
      const failure = toFailure(error);
      // What it printed may be the key: it goes into no error.
      if (failure.evidence !== undefined) delete failure.evidence.lines;
      throw ferryError("E_STORE_KEY", `the command for the store's key failed: ${program}`, { cause: failure });
    });
    return parseKey(stdout.split("\n")[0] ?? "", `the output of ${program}`);
  }
  try {
    const { mode } = await stat(source.path);
    if ((mode & 0o077) !== 0) {
      throw ferryError("E_STORE_KEY", `the store's key file ${source.path} can be read by others than its owner`, {
        remedy: `chmod 600 ${source.path}`,
      });
    }
    return parseKey(await readFile(source.path, "utf8"), source.path);
  } catch (error) {
    if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string" || "data" in error)
      throw error;
    throw ferryError("E_STORE_KEY", `the store's key file ${source.path} can't be read: ${error.message}`, {
      remedy: HINT,
    });
  }
}

/** nonce (12) | ciphertext (32) | tag (16). Random nonces: a master key wraps thousands of keys, far from 2^32. */
export function wrapKey(master: MasterKey, dataKey: Buffer, dataKeyId: string): Buffer {
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", master.key, nonce).setAAD(Buffer.from(`ferry data key ${dataKeyId}`));
  return Buffer.concat([nonce, cipher.update(dataKey), cipher.final(), cipher.getAuthTag()]);
}

/** @throws FerryError E_STORE_CORRUPT: the master key is the right one by its id, so the bytes were changed */
export function unwrapKey(master: MasterKey, wrapped: Buffer, dataKeyId: string): Buffer {
  try {
    const decipher = createDecipheriv("aes-256-gcm", master.key, wrapped.subarray(0, 12))
      .setAAD(Buffer.from(`ferry data key ${dataKeyId}`))
      .setAuthTag(wrapped.subarray(-16));
    return Buffer.concat([decipher.update(wrapped.subarray(12, -16)), decipher.final()]);
  } catch {
    throw ferryError("E_STORE_CORRUPT", `the wrapped data key ${dataKeyId} was changed`, {
      remedy: "bring the file under keys/ back from a backup: without it nothing can be read that was written with it",
    });
  }
}

/** A key of its own per purpose and name. */
export const deriveKey = (dataKey: Buffer, salt: Buffer, purpose: string): KeyObject =>
  createSecretKey(Buffer.from(hkdfSync("sha256", dataKey, salt, `ferry store: ${purpose}`, KEY_BYTES)));

/**
 * The keys of histories: what Temporal stores is encrypted with the first one, and may have been with any of them. A file
 * has a line for each, "ID BASE64", newest first; a new key goes on top, and an old one goes when no history of its time is
 * left.
 */
import { randomBytes } from "node:crypto";
import { ferryError } from "../model/failure.js";

export interface PayloadKey {
  /** Stands beside every payload, in the clear. */
  id: string;
  /** 32 bytes: AES-256. */
  key: Uint8Array;
}

export const KEY_BYTES = 32;
const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const BASE64 = /^[A-Za-z0-9+/]{43}=$/;

const wrong = (from: string, why: string) =>
  ferryError("E_REQUEST", `the keys of histories in ${from} can't be used: ${why}`, {
    remedy: 'one line for each key: its id, a space, 32 bytes as base64; make one with "ferry keygen histories"',
  });

/** Throws E_REQUEST when a key is no key; never quotes one. */
export function checkPayloadKeys(keys: readonly PayloadKey[], from = "the options"): readonly PayloadKey[] {
  if (keys.length === 0) throw wrong(from, "there is none");
  for (const [index, { id, key }] of keys.entries()) {
    if (!ID.test(id)) throw wrong(from, `key ${index + 1} has no valid id (letters, digits and . _ -, at most 64)`);
    if (key.length !== KEY_BYTES) throw wrong(from, `key ${id} has ${key.length} bytes, it must have ${KEY_BYTES}`);
    if (keys.findIndex((other) => other.id === id) !== index) throw wrong(from, `the id ${id} is there twice`);
  }
  return keys;
}

/** The text of such a file. @param from what it is called in an error. Throws E_REQUEST; never quotes a key. */
export function parsePayloadKeys(text: string, from: string): readonly PayloadKey[] {
  const keys: PayloadKey[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    const words = line.trim();
    if (words === "" || words.startsWith("#")) continue;
    const [id = "", base64 = "", ...rest] = words.split(/\s+/);
    if (rest.length > 0 || !ID.test(id) || !BASE64.test(base64)) throw wrong(from, `line ${index + 1} is not valid`);
    keys.push({ id, key: Buffer.from(base64, "base64") });
  }
  return checkPayloadKeys(keys, from);
}

/** The line of a new key. */
export const newPayloadKeyLine = (id: string): string => `${id} ${randomBytes(KEY_BYTES).toString("base64")}`;

/**
 * What the store needs from a place that keeps objects: names to bytes, each object whole or not there at all.
 *
 * Listing must show what was put before (S3 and file systems do). Times are the place's own clock, never the caller's:
 * leases and grace periods are measured by it.
 */
import { ferryError } from "../model/failure.js";

export interface ObjectInfo {
  key: string;
  bytes: number;
  /** By the clock of the place. */
  modifiedMs: number;
}

export interface Range {
  offset: number;
  bytes: number;
}

export interface Backend {
  /** For messages: "/var/lib/ferry/store", "s3://bucket/prefix". */
  readonly name: string;
  /** Stores a new object; an object that is there is left alone. Durable when it resolves. */
  put(key: string, body: Buffer): Promise<"stored" | "exists">;
  /** Stores an object over what was there. */
  replace(key: string, body: Buffer): Promise<void>;
  /** The object, or a part of it; undefined: there is none. A part that reaches over its end is E_STORE_CORRUPT. */
  get(key: string, range?: Range): Promise<Buffer | undefined>;
  stat(key: string): Promise<ObjectInfo | undefined>;
  /** In order of keys. */
  list(prefix: string): AsyncIterable<ObjectInfo>;
  /** No object is no error. */
  delete(key: string): Promise<void>;
  /** Removes what interrupted puts left behind, if it is older than this. */
  sweep(olderThanMs: number): Promise<void>;
  close(): void;
}

const KEY = /^[a-z0-9][A-Za-z0-9._-]*(\/[A-Za-z0-9][A-Za-z0-9._-]*)*$/;

/** @throws FerryError E_INTERNAL: keys are made here, never taken from outside */
export function checkKey(key: string): void {
  if (key.length > 512 || !KEY.test(key) || key.includes("..")) {
    throw ferryError("E_INTERNAL", `${JSON.stringify(key)} is no name of an object in the store`);
  }
}

export const tooShort = (backend: Backend, key: string, range: Range, bytes: number): Error =>
  ferryError(
    "E_STORE_CORRUPT",
    `object ${key} in ${backend.name} ends too early: ${bytes} bytes instead of ${range.bytes} at ${range.offset}`,
    { remedy: "`fsck` lists every checkpoint that needs it; restore from another one" },
  );

/** The object must be there. @throws FerryError E_STORE_CORRUPT */
export async function getExisting(backend: Backend, key: string, range?: Range): Promise<Buffer> {
  const body = await backend.get(key, range);
  if (body === undefined) {
    throw ferryError("E_STORE_CORRUPT", `object ${key} is missing in ${backend.name}`, {
      remedy: "`fsck` lists every checkpoint that needs it; restore from another one",
    });
  }
  return body;
}

export const noStore = (name: string): Error =>
  ferryError("E_STORE", `there is no store at ${name}`, {
    remedy: "look at the configuration: a store is made by the first agent that uses it, or by an import",
  });

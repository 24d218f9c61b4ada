/** Small objects of the store: one line of JSON, and one with its sha256. Read back strictly. */
import { createHash } from "node:crypto";
import type { z } from "zod";
import { ferryError } from "../model/failure.js";

const digestOf = (json: string): string => createHash("sha256").update(json).digest("hex");

export function encodeObject(value: unknown): Buffer {
  const json = JSON.stringify(value);
  return Buffer.from(`${json}\n${digestOf(json)}\n`);
}

/** @throws FerryError E_STORE_CORRUPT */
export function decodeObject<T>(schema: z.ZodType<T>, body: Buffer, key: string): T {
  const [json = "", digest, end, ...more] = body.toString("utf8").split("\n");
  if (digest !== digestOf(json) || end !== "" || more.length > 0) {
    throw ferryError("E_STORE_CORRUPT", `object ${key} of the store was changed or is cut: its digest differs`);
  }
  return parseObject(schema, Buffer.from(json), key);
}

/** JSON without a digest of its own. @throws FerryError E_STORE_CORRUPT with the first problem */
export function parseObject<T>(schema: z.ZodType<T>, body: Buffer, key: string): T {
  let value: unknown;
  try {
    value = JSON.parse(body.toString("utf8"));
  } catch {
    throw ferryError("E_STORE_CORRUPT", `object ${key} of the store is no JSON`);
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue?.path.join(".") ?? "";
  throw ferryError("E_STORE_CORRUPT", `object ${key} of the store is not as it must be: ${where}: ${issue?.message}`);
}

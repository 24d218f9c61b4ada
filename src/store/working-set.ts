/**
 * Which pages a workload touched first when it was restored from a checkpoint, in that order: what is read first the next
 * time. It lies beside the checkpoint and is no part of it. It is not signed: whoever changes it changes the order in which
 * pages come, and nothing else. It is encrypted, since it says something of what the workload does.
 */
import { createCipheriv, createDecipheriv, randomBytes, type KeyObject } from "node:crypto";
import { ferryError } from "../model/failure.js";
import { isWorkloadName } from "../model/names.js";
import { CHECKPOINT_ID } from "./manifest.js";
import type { Store } from "./store.js";

/** Pages of a task that are neighbours. */
export interface TouchedRun {
  vpid: number;
  /** Address, in pages. */
  page: number;
  pages: number;
}

export const MAX_RUNS = 8192;
/** Of all runs together: 256 MiB. */
export const MAX_PAGES = 65_536;

const MAGIC = "FERRYWS1";
const ID_BYTES = 16;
/** magic, cipher, data key, salt */
const HEAD_BYTES = MAGIC.length + 1 + 2 * ID_BYTES;
const TAG_BYTES = 16;
const RUN_BYTES = 16;
/** 2^57 bytes of address space. */
const MAX_PAGE = 2 ** 45;
const MAX_VPID = 0x7fffffff;

const PREFIX = "workingsets/";
export const workingSetKey = (workload: string, id: string): string => `${PREFIX}${workload}/${id}`;

const damaged = (key: string, why: string): Error =>
  ferryError("E_STORE_CORRUPT", `object ${key} of the store is no working set: ${why}`);

/** Its salt is its own, so its key is used once; the first byte is none of a pack's. */
const NONCE = Buffer.from([2, ...Array<number>(11).fill(0)]);
const aad = (key: string): Buffer => Buffer.from(`ferry working set ${key}`);

/** @throws FerryError E_STORE_CORRUPT */
export function decodeRuns(body: Buffer, key: string): TouchedRun[] {
  const count = body.length / RUN_BYTES;
  if (!Number.isInteger(count) || count > MAX_RUNS) throw damaged(key, `it has ${body.length} bytes`);
  const runs: TouchedRun[] = [];
  let sum = 0;
  for (let at = 0; at < body.length; at += RUN_BYTES) {
    const vpid = body.readUInt32LE(at);
    const pages = body.readUInt32LE(at + 4);
    const page = Number(body.readBigUInt64LE(at + 8));
    sum += pages;
    if (vpid === 0 || vpid > MAX_VPID || pages === 0 || sum > MAX_PAGES || page + pages > MAX_PAGE) {
      throw damaged(key, `${pages} pages of task ${vpid}`);
    }
    runs.push({ vpid, page, pages });
  }
  return runs;
}

export function encodeRuns(runs: readonly TouchedRun[]): Buffer {
  const body = Buffer.alloc(runs.length * RUN_BYTES);
  for (const [index, { vpid, page, pages }] of runs.entries()) {
    body.writeUInt32LE(vpid, index * RUN_BYTES);
    body.writeUInt32LE(pages, index * RUN_BYTES + 4);
    body.writeBigUInt64LE(BigInt(page), index * RUN_BYTES + 8);
  }
  return body;
}

/** Instead of what was kept for that checkpoint. @throws FerryError E_STORE; E_INTERNAL: too much, or not of this form */
export async function keepWorkingSet(
  { backend, ring }: Store,
  workload: string,
  id: string,
  runs: readonly TouchedRun[],
): Promise<void> {
  if (!isWorkloadName(workload) || !CHECKPOINT_ID.test(id)) throw ferryError("E_INTERNAL", "of no checkpoint");
  const name = workingSetKey(workload, id);
  const body = encodeRuns(runs);
  decodeRuns(body, name);
  const head = Buffer.alloc(HEAD_BYTES);
  head.write(MAGIC, "latin1");
  if (ring.cipher === "none") {
    await backend.replace(name, Buffer.concat([head, body]));
    return;
  }
  const salt = randomBytes(ID_BYTES);
  const dataKey = ring.current;
  head.writeUInt8(1, MAGIC.length);
  Buffer.from(dataKey, "hex").copy(head, MAGIC.length + 1);
  salt.copy(head, MAGIC.length + 1 + ID_BYTES);
  const cipher = createCipheriv("aes-256-gcm", await ring.objectKey(dataKey, salt), NONCE).setAAD(aad(name));
  await backend.replace(name, Buffer.concat([head, cipher.update(body), cipher.final(), cipher.getAuthTag()]));
}

/**
 * What was kept for this checkpoint; else for the newest other one of the workload (`own` is false then): addresses stay
 * the same from one to the next. undefined: nothing is known.
 * @throws FerryError E_STORE; E_STORE_CORRUPT, E_STORE_KEY: what is there can't be used
 */
export async function readWorkingSet(
  store: Store,
  workload: string,
  id: string,
): Promise<{ own: boolean; runs: TouchedRun[] } | undefined> {
  const own = await read(store, workingSetKey(workload, id));
  if (own !== undefined) return { own: true, runs: own };
  let newest: string | undefined;
  for await (const { key } of store.backend.list(`${PREFIX}${workload}/`)) newest = key;
  const runs = newest === undefined ? undefined : await read(store, newest);
  return runs === undefined ? undefined : { own: false, runs };
}

async function read({ backend, ring }: Store, key: string): Promise<TouchedRun[] | undefined> {
  const object = await backend.get(key);
  if (object === undefined) return undefined;
  if (object.length < HEAD_BYTES || object.length > HEAD_BYTES + TAG_BYTES + MAX_RUNS * RUN_BYTES) {
    throw damaged(key, `it has ${object.length} bytes`);
  }
  const encrypted = ring.cipher !== "none";
  if (object.toString("latin1", 0, MAGIC.length) !== MAGIC || object[MAGIC.length] !== (encrypted ? 1 : 0)) {
    throw damaged(key, "its head is another");
  }
  const body = object.subarray(HEAD_BYTES);
  if (!encrypted) return decodeRuns(body, key);
  const dataKey = object.toString("hex", MAGIC.length + 1, MAGIC.length + 1 + ID_BYTES);
  const salt = Buffer.from(object.subarray(MAGIC.length + 1 + ID_BYTES, HEAD_BYTES));
  return decodeRuns(unsealed(await ring.objectKey(dataKey, salt), body, key), key);
}

function unsealed(secret: KeyObject, body: Buffer, key: string): Buffer {
  if (body.length < TAG_BYTES) throw damaged(key, "it is cut");
  const decipher = createDecipheriv("aes-256-gcm", secret, NONCE)
    .setAAD(aad(key))
    .setAuthTag(body.subarray(body.length - TAG_BYTES));
  try {
    return Buffer.concat([decipher.update(body.subarray(0, body.length - TAG_BYTES)), decipher.final()]);
  } catch {
    throw damaged(key, "it was changed, or is another's");
  }
}

/** Of checkpoints that are gone. */
export async function dropWorkingSets({ backend }: Store): Promise<void> {
  for await (const { key } of backend.list(PREFIX)) {
    const manifest = `checkpoints/${key.slice(PREFIX.length)}.json`;
    if ((await backend.stat(manifest)) === undefined) await backend.delete(key);
  }
}

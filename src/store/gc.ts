/**
 * Frees what no checkpoint needs, beside writers and readers (docs/store.md says why it can't race them).
 *
 * In this order: list packs, leases, manifests, trash. A pack that no manifest needs goes only if its session has no
 * lease and was marked as condemned a whole grace period ago; a writer that comes back to its session looks for that
 * mark, after it has put its lease. A deleted checkpoint counts as there until it was in the trash for a grace period
 * and nobody is at work who began before that.
 */
import { randomBytes } from "node:crypto";
import { ferryError, toFailure } from "../model/failure.js";
import type { Collected } from "../model/store-report.js";
import { eachAtOnce } from "./at-once.js";
import { condemnedKey, LEASE_MS, leaseKey, readLeases } from "./lease.js";
import { readManifest } from "./manifest.js";
import { encodeObject } from "./objects.js";
import { packKey } from "./pack-format.js";
import type { Store } from "./store.js";
import { dropWorkingSets } from "./working-set.js";

export interface CollectOptions {
  /** How long something must be of no use before it goes. Default one hour; never under the time of a lease but in tests. */
  graceMs?: number;
  /** Age from which a lease is nobody's. */
  leaseMs?: number;
}

export const GRACE_MS = 60 * 60_000;
/** S3 tells times in whole seconds. */
const CLOCK_STEP_MS = 2000;
const MANIFESTS_AT_ONCE = 8;

/** @throws FerryError E_STORE_CORRUPT when a checkpoint can't be read: nothing is deleted then, it may need anything */
export async function collect(store: Store, options: CollectOptions = {}): Promise<Collected> {
  const { backend } = store;
  const graceMs = options.graceMs ?? GRACE_MS;
  const leaseMs = options.leaseMs ?? LEASE_MS;
  const nowMs = await placeClock(store);

  const packs: { id: string; bytes: number }[] = [];
  for await (const { key, bytes } of backend.list("packs/")) packs.push({ id: key.split("/")[2] ?? "", bytes });
  const leases = await readLeases(backend, nowMs);
  const alive = leases.filter(({ ageMs }) => ageMs < leaseMs);
  for (const { session, ageMs } of leases) if (ageMs >= leaseMs) await backend.delete(leaseKey(session));
  const atWork = new Set(alive.map(({ session }) => session));
  const oldestMs = Math.min(...alive.map(({ startedMs }) => startedMs));
  const forgotten = (modifiedMs: number): boolean =>
    nowMs - modifiedMs >= graceMs && oldestMs > modifiedMs + CLOCK_STEP_MS;
  const needed = await neededPacks(store, forgotten);

  for await (const { key, modifiedMs } of backend.list("trash/")) {
    if (forgotten(modifiedMs)) await backend.delete(key);
  }
  for await (const { key, modifiedMs } of backend.list("sessions/")) {
    const session = key.slice("sessions/".length, -".json".length);
    if (!atWork.has(session) && nowMs - modifiedMs >= graceMs) await backend.delete(key);
  }
  await dropWorkingSets(store);
  await backend.sweep(Math.max(graceMs, leaseMs));

  const marks = new Map<string, number>();
  for await (const { key, modifiedMs } of backend.list("condemned/")) marks.set(key.slice(10), modifiedMs);
  const result: Collected = { packs: 0, bytes: 0, waitingPacks: 0, waitingBytes: 0 };
  const waiting = new Set<string>();
  for (const { id, bytes } of packs) {
    const session = id.slice(0, 16);
    if (needed.has(id) || atWork.has(session)) continue;
    const markedMs = marks.get(session);
    if (markedMs === undefined) {
      await backend.put(condemnedKey(session), encodeObject({ format: 1 }));
      marks.set(session, nowMs);
    }
    if (markedMs !== undefined && nowMs - markedMs >= graceMs) {
      await backend.delete(packKey(id));
      result.packs += 1;
      result.bytes += bytes;
    } else {
      waiting.add(session);
      result.waitingPacks += 1;
      result.waitingBytes += bytes;
    }
  }
  // A mark of a session at work stays: its writer may have seen it, and relies on no older pack.
  for (const session of marks.keys()) {
    if (!waiting.has(session) && !atWork.has(session)) await backend.delete(condemnedKey(session));
  }
  return result;
}

/** The time by the clock that stamps the objects. */
async function placeClock({ backend }: Store): Promise<number> {
  const key = `probe/${randomBytes(8).toString("hex")}`;
  await backend.replace(key, Buffer.from("what time is it?\n"));
  const info = await backend.stat(key);
  await backend.delete(key);
  if (info === undefined) throw ferryError("E_STORE", `${backend.name} does not keep what is put into it`);
  return info.modifiedMs;
}

/** Packs of every checkpoint, deleted ones in the trash included. Signatures are not looked at: it can only keep more. */
async function neededPacks(store: Store, forgotten: (modifiedMs: number) => boolean): Promise<Set<string>> {
  const needed = new Set<string>();
  const keys: string[] = [];
  /** Nobody needs them any more. */
  const past = new Set<string>();
  for (const prefix of ["checkpoints/", "trash/"]) {
    for await (const { key, modifiedMs } of store.backend.list(prefix)) {
      keys.push(key);
      if (prefix === "trash/" && forgotten(modifiedMs)) past.add(key);
    }
  }
  await eachAtOnce(MANIFESTS_AT_ONCE, keys, async (key) => {
    let body = await store.backend.get(key);
    if (body === undefined && key.startsWith("checkpoints/")) {
      // Deleted since it was listed: it was put into the trash before that.
      body = await store.backend.get(key.replace("checkpoints/", "trash/"));
    }
    if (body === undefined) return;
    try {
      const manifest = readManifest(body, key, undefined);
      needed.add(manifest.tree.pack);
      for (const { id } of (await store.tree(manifest)).packs) needed.add(id);
    } catch (error) {
      // A broken checkpoint that was removed must not keep the collector from its work for ever.
      if (past.has(key) && toFailure(error).code === "E_STORE_CORRUPT") return;
      throw error;
    }
  });
  return needed;
}

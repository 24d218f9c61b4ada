/**
 * Leases: who is at work in the store, so that nothing is collected that a writer or a reader counts on.
 *
 * A lease is an object that its holder writes again and again; its age is by the clock of the place. Whoever wants to
 * use a checkpoint puts the lease first and looks for the checkpoint after that; the collector looks in the other order.
 */
import { z } from "zod";
import { ferryError, toFailure } from "../model/failure.js";
import type { Backend } from "./backend.js";
import { decodeObject, encodeObject } from "./objects.js";

/** A lease that was not written anew for this long is nobody's. */
export const LEASE_MS = 10 * 60_000;
const RENEW_MS = LEASE_MS / 5;

const LeaseFile = z.strictObject({
  format: z.literal(1),
  session: z.string(),
  /** When it began, by the clock of the place; null: just now. */
  startedMs: z.number().nullable(),
});

export const leaseKey = (session: string): string => `leases/${session}.json`;
/** Packs of this writer, who seems gone, are to be deleted: they must not be used any more. */
export const condemnedKey = (session: string): string => `condemned/${session}`;

export class Lease {
  readonly session: string;
  readonly #backend: Backend;
  #startedMs: number | null = null;
  #renewedAt = 0;
  #timer: NodeJS.Timeout | undefined;
  #renewing: Promise<void> = Promise.resolve();
  #ended = false;

  private constructor(backend: Backend, session: string) {
    this.#backend = backend;
    this.session = session;
  }

  static async take(backend: Backend, session: string): Promise<Lease> {
    const lease = new Lease(backend, session);
    await lease.#write();
    lease.#startedMs = (await backend.stat(leaseKey(session)))?.modifiedMs ?? null;
    await lease.#write();
    // A failure to renew is no news until somebody needs the lease: then it is asked for.
    lease.#timer = setInterval(() => void lease.#renew().catch(() => undefined), RENEW_MS).unref();
    return lease;
  }

  /** @throws FerryError E_STORE_LEASE when it may have been taken for nobody's in the meantime */
  async assertHeld(): Promise<void> {
    await this.#renew();
    this.#checkAge();
  }

  async end(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#timer);
    await this.#renewing.catch(() => undefined);
    await this.#backend.delete(leaseKey(this.session));
  }

  #renew(): Promise<void> {
    const next = async (): Promise<void> => {
      if (this.#ended) return;
      this.#checkAge();
      await this.#write();
    };
    this.#renewing = this.#renewing.catch(() => undefined).then(next);
    return this.#renewing;
  }

  async #write(): Promise<void> {
    // From before the request: when it was late, the lease is older than it looks.
    const at = Date.now();
    const file: z.infer<typeof LeaseFile> = { format: 1, session: this.session, startedMs: this.#startedMs };
    await this.#backend.replace(leaseKey(this.session), encodeObject(file));
    this.#renewedAt = at;
  }

  /** Half the time, since the clock here and the clock of the place need not run alike. */
  #checkAge(): void {
    if (this.#renewedAt !== 0 && Math.abs(Date.now() - this.#renewedAt) > LEASE_MS / 2) {
      throw ferryError("E_STORE_LEASE", `this process stood still for so long that its lease in the store ran out`, {
        remedy: "do it again: what was stored is used if it is still there",
      });
    }
  }
}

export interface HeldLease {
  session: string;
  startedMs: number;
  ageMs: number;
}

/** Every lease there is. @param nowMs by the clock of the place */
export async function readLeases(backend: Backend, nowMs: number): Promise<HeldLease[]> {
  const leases: HeldLease[] = [];
  for await (const { key, modifiedMs } of backend.list("leases/")) {
    const body = await backend.get(key);
    if (body === undefined) continue;
    const ageMs = nowMs - modifiedMs;
    try {
      const { session, startedMs } = decodeObject(LeaseFile, body, key);
      leases.push({ session, startedMs: startedMs ?? modifiedMs, ageMs });
    } catch (error) {
      // Counts as one that began before everything, until it is too old.
      if (toFailure(error).code !== "E_STORE_CORRUPT") throw error;
      leases.push({ session: key.slice("leases/".length, -".json".length), startedMs: 0, ageMs });
    }
  }
  return leases;
}

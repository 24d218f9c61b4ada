/**
 * Ownership: who may run a workload. The transition functions here are the ones that the agents use, so that a model
 * checker can walk the very same code (design: exactly one live copy).
 *
 * Each node keeps a ledger: for every workload, one hold per epoch. A hold is what this node has promised about that
 * epoch. Every move is journaled (fsynced) before its effect.
 *
 *   source       OWNER(e) -> FROZEN(e) -> RELEASED(e -> e') -> GONE(e)           commit point: RELEASED
 *                FROZEN(e) -> BURNED(e') -> OWNER(e)                             back: e' is never released
 *   destination  RESERVED(e') -> RECEIVED -> PREPARED -> ACTIVE -> RUNNING -> OWNER(e')
 *                RESERVED | RECEIVED | PREPARED -> TOMBSTONE(e')                 refused for ever
 *   any          OWNER(e) -> STOPPED(e)                                          stopped by a person, may not run
 *   checkpoint   OWNER(e) -> FROZEN(e -> e) -> OWNER(e)                          it is taken back: nobody was promised a thing
 *                FROZEN(e -> e) -> STOPPED(e)                                    its checkpoint is stored, it was to go
 *
 * When one of the two is lost for good a person decides (`ferry fence`, `ferry resolve`):
 *   source       RELEASED(e) + FENCED(e') -> FROZEN(e) -> OWNER(e)               e' can't run any more, says a person
 *   the other    any state that may run -> SUPERSEDED                            it came back, and kills its copy
 *
 * When a node is lost at rest, and was fenced, a person has another one run a checkpoint (`ferry recover`):
 *   another      OWNER(e''), later than every epoch that was given out           a new copy; no line of the lost node is needed
 *   the lost one OWNER(e) -> SUPERSEDED                                          it came back, and kills its copy if it has one
 *
 * A new OWNER (a start) is legal only where nothing of the workload is open: no copy runs, is held, or may come to run.
 */

export const HOLD_STATES = [
  "OWNER",
  "FROZEN",
  "RELEASED",
  "GONE",
  "BURNED",
  "RESERVED",
  "RECEIVED",
  "PREPARED",
  "ACTIVE",
  "RUNNING",
  "TOMBSTONE",
  "STOPPED",
  "FENCED",
  "SUPERSEDED",
] as const;
export type HoldState = (typeof HOLD_STATES)[number];

export interface Hold {
  workload: string;
  epoch: number;
  state: HoldState;
  operation?: string;
  /** The other node of the hand-over. */
  peer?: string;
  /** RELEASED: the epoch that was handed over. FROZEN: that it may be handed over to; its own epoch: a checkpoint is taken. */
  to?: number;
  /**
   * Digest of the image manifest: what RELEASED, the token and PREPARED are bound to. Of a restore: the checkpoint's id. STOPPED
   * by a checkpoint: its id, and nobody else's (see let-go.ts).
   */
  digest?: string;
  /** Of a restore: it was let run, whatever came of it. */
  letRun?: true;
}

/** All holds of one node: workload -> epoch -> hold. */
export type Ledger = ReadonlyMap<string, ReadonlyMap<number, Hold>>;

export const emptyLedger: Ledger = new Map();

const MOVES: Record<HoldState, readonly HoldState[]> = {
  OWNER: ["OWNER", "FROZEN", "STOPPED", "SUPERSEDED"],
  FROZEN: ["FROZEN", "RELEASED", "OWNER", "STOPPED", "SUPERSEDED"],
  RELEASED: ["RELEASED", "GONE", "FROZEN", "SUPERSEDED"],
  GONE: ["GONE"],
  BURNED: ["BURNED"],
  RESERVED: ["RESERVED", "RECEIVED", "TOMBSTONE"],
  RECEIVED: ["RECEIVED", "PREPARED", "TOMBSTONE"],
  PREPARED: ["PREPARED", "RECEIVED", "ACTIVE", "TOMBSTONE"],
  ACTIVE: ["ACTIVE", "RUNNING", "SUPERSEDED"],
  RUNNING: ["RUNNING", "OWNER", "SUPERSEDED"],
  TOMBSTONE: ["TOMBSTONE"],
  STOPPED: ["STOPPED"],
  FENCED: ["FENCED"],
  SUPERSEDED: ["SUPERSEDED"],
};

/** States in which an epoch may first be seen on a node. */
const ENTRY: readonly HoldState[] = ["OWNER", "RESERVED", "BURNED", "TOMBSTONE", "FENCED"];

/** States in which this node may let the workload run (or holds it running). */
export const mayRun = (state: HoldState): boolean => state === "OWNER" || state === "ACTIVE" || state === "RUNNING";
/** States in which a copy (running or held) may exist on this node. */
export const mayHoldCopy = (state: HoldState): boolean =>
  mayRun(state) || state === "FROZEN" || state === "RELEASED" || state === "PREPARED" || state === "RECEIVED";

/** States in which a copy runs, is held, or may still come to run here. While there is one of them no new copy is started. */
const OPEN: readonly HoldState[] = [
  "OWNER",
  "FROZEN",
  "RELEASED",
  "RESERVED",
  "RECEIVED",
  "PREPARED",
  "ACTIVE",
  "RUNNING",
];
/** Of an epoch that came by a hand-over: nothing of it depends on its source any more, also when it has ended since. */
export const hasOwned = (state: HoldState | undefined): boolean => state === "OWNER" || state === "STOPPED";
/** Promised to this node and not running: it may still be refused. */
export const mayRefuse = (state: HoldState): boolean =>
  state === "RESERVED" || state === "RECEIVED" || state === "PREPARED";
export const isOpen = (state: HoldState): boolean => OPEN.includes(state);
/** The latest of these holds that is not over: what stands against starting the workload anew, whatever its operation. */
export const openHold = (holds: readonly Hold[]): Hold | undefined =>
  holds.filter((hold) => isOpen(hold.state)).sort((a, b) => b.epoch - a.epoch)[0];

export const holdOf = (ledger: Ledger, workload: string, epoch: number): Hold | undefined =>
  ledger.get(workload)?.get(epoch);

export const holdsOf = (ledger: Ledger, workload: string): Hold[] =>
  [...(ledger.get(workload)?.values() ?? [])].sort((a, b) => a.epoch - b.epoch);

export const highestEpoch = (ledger: Ledger, workload: string): number =>
  Math.max(0, ...(ledger.get(workload)?.keys() ?? []));

/** The hold under which the workload runs, or may run, on this node. */
export const runningHold = (ledger: Ledger, workload: string): Hold | undefined =>
  holdsOf(ledger, workload)
    .toReversed()
    .find((hold) => mayRun(hold.state));

/** Of an epoch that was handed over, or would have been: this node knows that it never runs (again). */
export const isDead = (state: HoldState): boolean => state === "BURNED" || state === "FENCED";
const isReleased = (state: HoldState): boolean => state === "RELEASED" || state === "GONE";

/** Why `next` is not a legal move from this ledger, or undefined when it is. */
export function moveProblem(ledger: Ledger, next: Hold): string | undefined {
  const { workload, epoch, state } = next;
  const name = `${workload} epoch ${epoch}`;
  if (!Number.isSafeInteger(epoch) || epoch < 1) return `${name}: an epoch is a whole number from 1`;
  const before = holdOf(ledger, workload, epoch);
  if (before === undefined) {
    if (!ENTRY.includes(state)) return `${name}: ${state} can't be the first state of an epoch`;
    const released = holdsOf(ledger, workload).find((hold) => hold.to === epoch && isReleased(hold.state));
    if (state === "BURNED" && released !== undefined) {
      return `${name}: epoch ${released.epoch} was released to it, it can't be burned any more`;
    }
    if (state === "FENCED" && released?.state !== "RELEASED") {
      return `${name}: only an epoch that was released from here, and not let go, can be fenced`;
    }
    const highest = highestEpoch(ledger, workload);
    if (state === "RESERVED" || state === "OWNER") {
      if (epoch <= highest) return `${name}: stale, this node has seen epoch ${highest}`;
      // A new OWNER is a new copy: what is frozen, released or prepared here may still run, here or elsewhere.
      // A local restore (criu died in the hold) reserves a new epoch while its own older hold is FROZEN, never while it may run.
      const held = state === "OWNER" ? openHold(holdsOf(ledger, workload)) : runningHold(ledger, workload);
      if (held !== undefined) return `${name}: this node already holds epoch ${held.epoch} as ${held.state}`;
    }
    return undefined;
  }
  if (!MOVES[before.state].includes(state)) return `${name}: ${before.state} -> ${state} is not a legal move`;
  if (before.state === "FROZEN" && state === "FROZEN" && next.to !== undefined && next.to !== before.to) {
    return `${name}: what it is frozen for does not change while it is frozen`;
  }
  if (before.state === state) return undefined;
  if (state === "RELEASED") {
    if (next.to === undefined || next.to <= epoch) return `${name}: RELEASED must name a later epoch`;
    const burned = holdOf(ledger, workload, next.to);
    if (burned !== undefined && isDead(burned.state)) {
      return `${name}: epoch ${next.to} is burned and can't be released`;
    }
  }
  if (before.state === "RELEASED" && state === "FROZEN") {
    const fenced = before.to === undefined ? undefined : holdOf(ledger, workload, before.to);
    if (fenced?.state !== "FENCED") return `${name}: it was released, and epoch ${before.to ?? "?"} was not fenced`;
  }
  // Frozen for a checkpoint: no epoch was given out that another could come to run under.
  const forCheckpoint = before.state === "FROZEN" && before.to === epoch;
  if (before.state === "FROZEN" && state === "STOPPED" && !forCheckpoint) {
    return `${name}: it is frozen to be handed over to epoch ${before.to ?? "?"}, and can't be stopped`;
  }
  if (before.state === "FROZEN" && state === "OWNER" && !forCheckpoint) {
    const later = holdsOf(ledger, workload).some((hold) => hold.epoch > epoch && isDead(hold.state));
    if (!later) return `${name}: FROZEN goes back to OWNER only after the next epoch was burned`;
  }
  if (state === "ACTIVE" && (next.digest === undefined || next.digest !== before.digest)) {
    return `${name}: the token's digest is not the digest that was prepared`;
  }
  return undefined;
}

/** The ledger after `next`. Throws RangeError with the reason when the move is illegal: call `moveProblem` to ask first. */
export function applyMove(ledger: Ledger, next: Hold): Ledger {
  const problem = moveProblem(ledger, next);
  if (problem !== undefined) throw new RangeError(problem);
  const before = holdOf(ledger, next.workload, next.epoch);
  const epochs = new Map(ledger.get(next.workload) ?? []);
  epochs.set(next.epoch, { ...before, ...next });
  return new Map(ledger).set(next.workload, epochs);
}

/** The ledger without a workload: its holds are forgotten (after `rm`, when nothing of it is left on the node). */
export function forget(ledger: Ledger, workload: string): Ledger {
  const next = new Map(ledger);
  next.delete(workload);
  return next;
}

/** What the workflow may conclude from both journals; see design section 4.3. */
export type Verdict =
  | { verdict: "roll-back"; why: string }
  | { verdict: "forward"; why: string }
  | { verdict: "moved"; why: string }
  | { verdict: "rolled-back"; why: string }
  | { verdict: "wait"; why: string };

/**
 * Settle a hand-over from what both journals say (undefined: that node did not answer).
 * Only routes: the decision was made by whichever journal holds RELEASED or BURNED.
 */
export function settle(source: HoldState | undefined, destination: HoldState | undefined): Verdict {
  if (destination === "RUNNING" || destination === "OWNER") {
    return { verdict: "moved", why: `the destination's journal says ${destination}` };
  }
  if (destination === "ACTIVE") return { verdict: "forward", why: "the destination holds the token" };
  if (source === "RELEASED" || source === "GONE" || source === "SUPERSEDED") {
    if (destination === undefined)
      return { verdict: "wait", why: "the source has released, the destination does not answer" };
    if (destination === "TOMBSTONE") {
      return { verdict: "wait", why: "the source has released an epoch that the destination refused" };
    }
    return { verdict: "forward", why: `the source's journal says ${source}` };
  }
  if (source === undefined) {
    if (destination === "TOMBSTONE") return { verdict: "roll-back", why: "the destination has refused for ever" };
    return { verdict: "wait", why: "the source does not answer, it may have released" };
  }
  if (source === "OWNER" && destination === "TOMBSTONE") {
    return { verdict: "rolled-back", why: "the source runs and the destination has refused" };
  }
  return { verdict: "roll-back", why: `the source's journal says ${source}: nothing was released` };
}

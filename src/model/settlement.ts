/**
 * What may be concluded from two journals: pure, so that a property test can walk every pair of answers.
 */
import type { Inquiry, Observation, OperationRef } from "./contract.js";
import { ferryError, type FailureData, type FerryError } from "./failure.js";
import { isDead, isOpen, mayRun, openHold, settle, type Hold, type Verdict } from "./ownership.js";

/** The next epoch that neither node has seen: aborted numbers are never used again. */
export const nextEpoch = (epoch: number, ...seen: readonly (readonly Hold[])[]): number =>
  Math.max(epoch, ...seen.flat().flatMap((hold) => [hold.epoch, hold.to ?? 0])) + 1;

/** The hold under which these holds' node runs the workload, if it does: the latest epoch that may run. */
export const running = (holds: readonly Hold[]): Hold | undefined =>
  holds.filter((hold) => mayRun(hold.state)).sort((a, b) => b.epoch - a.epoch)[0];

/** Why these holds of `node` forbid to start the workload anew anywhere, in words; undefined when they don't. */
export function startProblem(workload: string, node: string, holds: readonly Hold[]): FailureData | undefined {
  const open = openHold(holds);
  if (open === undefined) return undefined;
  const { epoch, state, operation, peer } = open;
  if (mayRun(state)) {
    return {
      code: "E_WORKLOAD_EXISTS",
      message: `${workload} runs on ${node} already (epoch ${epoch}), without an entity that looks after it`,
      workload,
      node,
      remedy: `run it with --node ${node} and the same command to take it over, or choose another name`,
    };
  }
  const nodes = peer === undefined || peer === node ? node : `${node} and ${peer}`;
  return {
    code: "E_BUSY",
    message: `${workload} can't be started anew: its epoch ${epoch} is ${state} on ${node}, so the hand-over ${operation ?? "of it"} is still open and may yet run it`,
    workload,
    node,
    remedy:
      state === "RESERVED"
        ? `wait until it has ended; if nobody goes on with it, restart the agent of ${node}, which then refuses it`
        : `${nodes} settle it by themselves as soon as they reach each other; then run it with the same command on the node that has it, to take it over`,
  };
}

/** Highest sequence number among the operations that these holds name (`redis.migrate.3` has 3). */
export const highestSequence = (holds: readonly Hold[]): number =>
  Math.max(0, ...holds.map((hold) => Number(/\.(\d{1,9})$/.exec(hold.operation ?? "")?.[1] ?? 0)));

/**
 * Does the source run the workload again, under its old epoch or (criu died in the hold, restored locally) a new one
 * of its own, with the operation's epoch burned (or fenced, by a person)?
 */
export function backHome(ref: OperationRef, source: Inquiry): Hold | undefined {
  const burned = source.holds.some((hold) => hold.epoch === ref.to && isDead(hold.state));
  const hold = running(source.holds);
  return burned && hold !== undefined && hold.epoch !== ref.to ? hold : undefined;
}

/**
 * The destination holds what was prepared and no token of the source. A source that lost sight of the others goes home by
 * itself at its own deadline, so it may have worked on before it was switched off. Nobody else can know.
 */
export const maybeWentHome = ({ workload, source }: OperationRef): FerryError =>
  ferryError(
    "E_STATE",
    `it is not known that ${source} had released ${workload}: cut off from the others it would have gone on with it by itself, and what it did then is lost`,
    {
      workload,
      side: "destination",
      remedy: `bring ${source} back; or say that this is accepted: ferry resolve ${workload} --keep destination --accept-rollback`,
    },
  );

/** Has a person said that the destination of this hand-over is off, and the source taken it back? */
export const isFenced = (ref: OperationRef, source: Inquiry | undefined): boolean =>
  source?.holds.some((hold) => hold.epoch === ref.to && hold.state === "FENCED") === true;

/** It has owned the workload, which has ended or was stopped since: all the same it has moved there. */
export const asOwner = (destination: Inquiry): Inquiry =>
  destination.state === "STOPPED" ? { ...destination, state: "OWNER" } : destination;

/** `settle`, with the local restore of the source taken into account. Undefined: that node did not answer. */
export function conclude(ref: OperationRef, source: Inquiry | undefined, destination: Inquiry | undefined): Verdict {
  const home = source === undefined ? undefined : backHome(ref, source);
  if (home !== undefined && isFenced(ref, source)) {
    // A person has decided: whatever the destination comes back with is superseded.
    const over = destination?.state !== undefined && !isOpen(destination.state);
    const why = `epoch ${ref.to} was fenced, and the source runs`;
    return { verdict: over ? "rolled-back" : "roll-back", why };
  }
  return settle(home === undefined ? source?.state : "OWNER", destination?.state);
}

/** The states that wait for the other side: a hand-over that nobody has settled. */
const OPEN: ReadonlySet<string> = new Set(["FROZEN", "RELEASED", "RESERVED", "RECEIVED", "PREPARED", "ACTIVE"]);

/**
 * Hand-overs between these two nodes that are still open in a journal although their workflow is gone, oldest first.
 * One whose other side is a third node is told apart by `peer`.
 */
export function leftovers(
  schema: number,
  workload: string,
  source: { node: string; seen: Observation },
  destination: { node: string; seen: Observation },
): OperationRef[] {
  const found = new Map<string, OperationRef>();
  for (const [here, there] of [
    [source, destination],
    [destination, source],
  ] as const) {
    for (const hold of here.seen.holds) {
      if (hold.operation === undefined || hold.peer !== there.node || !OPEN.has(hold.state)) continue;
      const gives = hold.state === "FROZEN" || hold.state === "RELEASED";
      const other = there.seen.holds.find((h) => h.operation === hold.operation && h.epoch !== hold.epoch);
      const from = gives ? hold.epoch : (other?.epoch ?? here.seen.holds.find((h) => h.to === hold.epoch)?.epoch);
      const to = gives ? (hold.to ?? other?.epoch) : hold.epoch;
      const giver = gives ? here : there;
      const fallback = running(giver.seen.holds)?.epoch;
      const epoch = from ?? fallback;
      if (epoch === undefined || to === undefined || to <= epoch) continue;
      const taker = gives ? there : here;
      found.set(hold.operation, {
        schema,
        operation: hold.operation,
        workload,
        epoch,
        to,
        source: giver.node,
        destination: taker.node,
      });
    }
  }
  return [...found.values()].sort((a, b) => a.to - b.to);
}

/**
 * This operation as the journals have it, if it was begun already: its workflow was reset to a point before that, and has
 * forgotten it. `ref.epoch` is the one that it was asked for: earlier epochs are of an earlier life of that name.
 */
export function begunBefore(
  ref: OperationRef,
  source: readonly Hold[],
  destination: readonly Hold[],
): OperationRef | undefined {
  const mine = (hold: Hold): boolean => hold.operation === ref.operation && hold.epoch >= ref.epoch;
  const given = source.findLast((hold) => mine(hold) && hold.to !== undefined && hold.to > hold.epoch);
  const dead = source.findLast((hold) => mine(hold) && isDead(hold.state));
  const taken = destination.findLast(
    (hold) => mine(hold) && hold.epoch > ref.epoch && hold.peer === ref.source && hold.to === undefined,
  );
  const to = taken?.epoch ?? dead?.epoch ?? given?.to;
  return to === undefined ? undefined : { ...ref, epoch: given?.epoch ?? ref.epoch, to };
}

/** Both have gone on since: neither journal can be asked any more how this operation ended, and nothing of it is open. */
export function isLongOver(ref: OperationRef, source: readonly Hold[], destination: readonly Hold[]): boolean {
  const there = destination.find((hold) => hold.epoch === ref.to)?.state;
  if (there !== undefined && isOpen(there) && there !== "FROZEN" && there !== "RELEASED") return false;
  if (there !== undefined && there !== "TOMBSTONE") return true;
  // The destination has forgotten the workload since.
  if (there === undefined && source.some((hold) => hold.epoch === ref.epoch && hold.state === "GONE")) return true;
  return openHold(source) === undefined && source.some((hold) => hold.epoch === ref.to && isDead(hold.state));
}

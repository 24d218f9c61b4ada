/**
 * What the two agents of a hand-over do by themselves, simulated: each side is a loop that looks at its journal, takes
 * the next legal step and looks again. A crash ends the loop; a restarted agent starts it anew from its journal.
 */
import type { OperationRef, Receipt, SideOutcome, Token, TakeOverInput } from "../../model/contract.js";
import type { FailureData, Side } from "../../model/failure.js";
import type { HoldState } from "../../model/ownership.js";
import type { Phase } from "../../model/phase.js";
import { hasRounds } from "../../model/plan.js";
import type { Progress } from "../../model/report.js";
import type { SideRecord, SimulatedNode, SimulatedWorld } from "./world.js";

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const DIGEST = "simulated";

export function recordOf(node: SimulatedNode, ref: OperationRef): SideRecord {
  const found = node.records.get(ref.operation);
  if (found !== undefined) return found;
  const made: SideRecord = { asked: false, images: false, maxBlackoutMs: 30_000, postcopy: false, rounds: false };
  node.records.set(ref.operation, made);
  return made;
}

export const tokenOf = (ref: OperationRef): Token => ({
  workload: ref.workload,
  operation: ref.operation,
  from: ref.epoch,
  to: ref.to,
  source: ref.source,
  destination: ref.destination,
  digest: DIGEST,
  certificate: "simulated",
  signature: "simulated",
});

export const receiptOf = (ref: OperationRef): Receipt => ({
  workload: ref.workload,
  operation: ref.operation,
  epoch: ref.to,
  owner: ref.destination,
  digest: DIGEST,
  certificate: "simulated",
  signature: "simulated",
});

const outcomeOf = (
  side: Side,
  record: SideRecord,
  state: SideOutcome["state"],
  more: Partial<SideOutcome>,
): SideOutcome => {
  const names: Phase[] =
    side === "source" ? ["presync", "freeze", "dump", "transfer", "release"] : ["arm", "restore", "resume"];
  return {
    state,
    ...(record.frozenAt === undefined ? {} : { frozenAt: record.frozenAt }),
    ...(record.resumedAt === undefined ? {} : { resumedAt: record.resumedAt }),
    ...(record.drainedAt === undefined ? {} : { drainedAt: record.drainedAt }),
    phases: names.map((name, i) => ({ name, side, startedAt: (record.frozenAt ?? Date.now()) + i, durationMs: 1 })),
    transfer: { bytesSent: 4096, pagesSent: 1, pagesFaulted: 0, volumeBytes: 0, bandwidthBytesPerSec: 4_096_000 },
    ...more,
  };
};

const SOURCE_PHASES: Partial<Record<HoldState, Phase>> = { FROZEN: "transfer", RELEASED: "switch", GONE: "release" };
const DESTINATION_PHASES: Partial<Record<HoldState, Phase>> = {
  RECEIVED: "restore",
  PREPARED: "switch",
  ACTIVE: "switch",
  RUNNING: "drain",
  OWNER: "release",
};
const MIB = 2 ** 20;

/** How far a side is, as a real agent says it. */
export function progressOf(side: Side, node: SimulatedNode, ref: OperationRef): Progress {
  const record = recordOf(node, ref);
  const state = node.hold(ref.workload, side === "source" ? ref.epoch : ref.to)?.state ?? "RESERVED";
  const running: Phase = record.rounds ? "precopy" : "presync";
  const drains = side === "source" && record.postcopy && state === "RELEASED";
  const phase =
    side === "source" ? (drains ? "drain" : (SOURCE_PHASES[state] ?? running)) : (DESTINATION_PHASES[state] ?? "arm");
  return {
    phase,
    side,
    bytesSent: side === "source" ? 96 * MIB : 0,
    bytesTotal: side === "source" ? 128 * MIB : 0,
    pagesSent: 0,
    pagesTotal: 0,
    rateBytesPerSec: side === "source" ? 48 * MIB : 0,
    at: Date.now(),
    ...(side === "source" && record.rounds
      ? {
          precopy: {
            round: 3,
            remainingBytes: 12 * MIB,
            roundBytes: 16 * MIB,
            roundSentBytes: 4 * MIB,
            roundPages: 4096,
            roundSentPages: 1024,
            dirtyRateBytesPerSec: 5 * MIB,
            bandwidthBytesPerSec: 48 * MIB,
            expectedDowntimeMs: 310,
            etaMs: 1_500,
            throttlePercent: 0,
            paused: false,
            held: false,
            reason: "the expected downtime is above the limit",
          },
        }
      : {}),
  };
}

/** Starts a side's loop unless it runs already in this life of the agent. */
export function pump(world: SimulatedWorld, side: Side, ref: OperationRef): void {
  const node = world.node(side === "source" ? ref.source : ref.destination);
  const key = `${node.name}/${node.life}/${ref.operation}/${side}`;
  if (pumps.has(key)) return;
  pumps.add(key);
  const loop = side === "source" ? sourceLoop : destinationLoop;
  void loop(world, node, ref, node.life).finally(() => pumps.delete(key));
}
const pumps = new Set<string>();

async function sourceLoop(world: SimulatedWorld, node: SimulatedNode, ref: OperationRef, life: number): Promise<void> {
  const { workload, epoch, to, destination } = ref;
  const record = recordOf(node, ref);
  const alive = (): boolean => node.life === life && node.up;
  const peer = world.node(destination);
  const started = Date.now();
  while (alive()) {
    const hold = node.hold(workload, epoch);
    if (hold === undefined) return;
    if (node.hold(workload, to)?.state === "BURNED") {
      takeBack(world, node, ref);
      return;
    }
    const there = world.linked(node.name, destination) ? peer.hold(workload, to)?.state : undefined;
    switch (hold.state) {
      case "OWNER": {
        await world.reach("source:precopy", workload);
        await pause(world.phaseMs);
        if (!alive() || node.hold(workload, to)?.state === "BURNED") break;
        if (there === "TOMBSTONE" || Date.now() - started > record.maxBlackoutMs) {
          giveUp(
            world,
            node,
            ref,
            there === "TOMBSTONE" ? "the destination has refused" : "the destination is not armed",
          );
          return;
        }
        if (there === undefined || !recordOf(peer, ref).asked) break;
        record.frozenAt = Date.now();
        node.journal({ workload, epoch, state: "FROZEN", operation: ref.operation, peer: destination, to });
        world.set(node, { workload, epoch, state: "frozen" });
        await world.reach("source:frozen", workload);
        break;
      }
      case "FROZEN": {
        await pause(world.phaseMs);
        if (!alive() || node.hold(workload, to)?.state === "BURNED") break;
        const late = Date.now() - (record.frozenAt ?? 0) > record.maxBlackoutMs;
        if (late || there === "TOMBSTONE") {
          giveUp(world, node, ref, late ? "the blackout deadline has passed" : "the destination has refused");
          return;
        }
        if (there === "RESERVED") recordOf(peer, ref).images = true;
        if (there === "PREPARED") {
          await world.reach("source:before-release", workload);
          if (!alive() || node.hold(workload, to)?.state === "BURNED") break;
          node.journal({ workload, epoch, state: "RELEASED", to, digest: DIGEST });
          record.token = tokenOf(ref);
          await world.reach("source:released", workload);
        }
        break;
      }
      case "RELEASED": {
        if (there !== undefined && record.token !== undefined) recordOf(peer, ref).token = record.token;
        // As the real one: it keeps its frozen copy until the destination has said that it runs (post-copy: has it all).
        const enough =
          record.acknowledged === true ||
          there === "OWNER" ||
          (!record.postcopy && (there === "ACTIVE" || there === "RUNNING"));
        await pause(world.phaseMs / 2);
        if (!alive() || !enough) break;
        world.drop(node, workload, epoch);
        node.journal({ workload, epoch, state: "GONE" });
        record.outcome = outcomeOf("source", record, "GONE", {});
        await world.reach("source:gone", workload);
        break;
      }
      case "GONE":
        record.outcome ??= outcomeOf("source", record, "GONE", {});
        // The token goes on being offered until the destination has it.
        if (there === "ACTIVE" || there === "RUNNING" || there === "OWNER") return;
        if (there !== undefined && record.token !== undefined) recordOf(peer, ref).token = record.token;
        await pause(world.phaseMs);
        break;
      case "ACTIVE":
      case "BURNED":
      case "FENCED":
      case "SUPERSEDED":
      case "PREPARED":
      case "RECEIVED":
      case "RESERVED":
      case "RUNNING":
      case "STOPPED":
      case "TOMBSTONE":
        return;
    }
  }
}

/** Burn first, then let it run: the order that makes it impossible to release later. */
function giveUp(world: SimulatedWorld, node: SimulatedNode, ref: OperationRef, why: string): void {
  const failure: FailureData = {
    code: "E_DEADLINE",
    message: `${why}: the source took it back`,
    side: "source",
    node: node.name,
  };
  recordOf(node, ref).failure ??= failure;
  burnHere(node, ref);
  takeBack(world, node, ref);
}

export function burnHere(node: SimulatedNode, ref: OperationRef): void {
  if (node.hold(ref.workload, ref.to) === undefined) {
    node.journal({
      workload: ref.workload,
      epoch: ref.to,
      state: "BURNED",
      operation: ref.operation,
      peer: ref.destination,
    });
  }
}

export function takeBack(world: SimulatedWorld, node: SimulatedNode, ref: OperationRef): void {
  const { workload, epoch } = ref;
  if (node.hold(workload, epoch)?.state === "FROZEN") {
    node.journal({ workload, epoch, state: "OWNER" });
    world.set(node, { workload, epoch, state: "running" });
  }
  const record = recordOf(node, ref);
  record.outcome = outcomeOf("source", record, "OWNER", {
    epoch,
    failure: record.failure ?? {
      code: "E_BURNED",
      message: "the source was told to take the workload back",
      side: "source",
      node: node.name,
    },
  });
}

async function destinationLoop(
  world: SimulatedWorld,
  node: SimulatedNode,
  ref: OperationRef,
  life: number,
): Promise<void> {
  const { workload, to } = ref;
  const record = recordOf(node, ref);
  const alive = (): boolean => node.life === life && node.up;
  // A held restore dies with the agent that held it: it is prepared again from what is there.
  if (node.hold(workload, to)?.state === "PREPARED") node.journal({ workload, epoch: to, state: "RECEIVED" });
  while (alive()) {
    const hold = node.hold(workload, to);
    switch (hold?.state) {
      case "RESERVED":
        await pause(world.phaseMs / 2);
        if (!alive() || !record.images || node.hold(workload, to)?.state !== "RESERVED") break;
        node.journal({ workload, epoch: to, state: "RECEIVED", digest: DIGEST });
        await world.reach("destination:received", workload);
        break;
      case "RECEIVED":
        await pause(world.phaseMs);
        if (!alive() || node.hold(workload, to)?.state !== "RECEIVED") break;
        if (record.failure !== undefined) {
          refuseHere(world, node, ref);
          return;
        }
        world.set(node, { workload, epoch: to, state: "prepared" });
        node.journal({ workload, epoch: to, state: "PREPARED", digest: DIGEST });
        await world.reach("destination:prepared", workload);
        break;
      case "PREPARED":
        await pause(world.phaseMs / 4);
        if (!alive() || record.token === undefined || node.hold(workload, to)?.state !== "PREPARED") break;
        node.journal({ workload, epoch: to, state: "ACTIVE", digest: record.token.digest });
        await world.reach("destination:active", workload);
        break;
      case "ACTIVE":
        await pause(world.phaseMs / 4);
        if (!alive()) break;
        node.journal({ workload, epoch: to, state: "RUNNING" });
        record.resumedAt = Date.now();
        world.set(node, { workload, epoch: to, state: "running" });
        await world.reach("destination:running", workload);
        break;
      case "RUNNING":
        await pause(world.phaseMs);
        if (!alive()) break;
        record.drainedAt = Date.now();
        node.journal({ workload, epoch: to, state: "OWNER" });
        record.outcome = outcomeOf("destination", record, "OWNER", { epoch: to, receipt: receiptOf(ref) });
        await world.reach("destination:owner", workload);
        return;
      case undefined:
      case "BURNED":
      case "FENCED":
      case "SUPERSEDED":
      case "FROZEN":
      case "GONE":
      case "OWNER":
      case "RELEASED":
      case "STOPPED":
      case "TOMBSTONE":
        return;
    }
  }
}

export function refuseHere(world: SimulatedWorld, node: SimulatedNode, ref: OperationRef): void {
  const { workload, to } = ref;
  node.journal({ workload, epoch: to, state: "TOMBSTONE", operation: ref.operation, peer: ref.source });
  world.drop(node, workload, to);
  const record = recordOf(node, ref);
  record.outcome = outcomeOf("destination", record, "TOMBSTONE", {
    failure: record.failure ?? {
      code: "E_TOMBSTONED",
      message: "the destination was told to refuse",
      side: "destination",
      node: node.name,
    },
  });
}

export const remember = (record: SideRecord, input: Pick<TakeOverInput, "options">): void => {
  record.asked = true;
  record.maxBlackoutMs = input.options.maxBlackoutMs;
  record.postcopy = input.options.mode === "postcopy";
  record.rounds = hasRounds(input.options.mode);
};

/**
 * The hand-overs of this node: which are under way, started once and asked again and again. Both sides of each, and
 * the local restore (design section 4.6), which is a hand-over from this node to itself.
 */
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import type {
  HandOverInput,
  OperationRef,
  Receipt,
  Reservation,
  ReserveInput,
  SideOutcome,
  SteerInput,
  Step,
  TakeOverInput,
} from "../../model/contract.js";
import { FerryError, ferryError, toFailure, type FailureData } from "../../model/failure.js";
import { sameSpec } from "../../model/spec-signature.js";
import type { WorkloadSpec } from "../../model/workload.js";
import { isDead, isOpen, mayRefuse, runningHold } from "../../model/ownership.js";
import type { Steered } from "../../model/steering.js";
import { againstDestination, demand, demandAllowed } from "../gate.js";
import { ControlHub } from "./control.js";
import { makeDirs, removeDirs, sideDirs } from "./dirs.js";
import { HandOver } from "./hand-over.js";
import type { HandOverOptions } from "./source-side.js";
import { MoverSide } from "./mover.js";
import { mustBe, receiptOf, specOf, volumeDir, writeMoverConfig, type NodeContext } from "./node-context.js";
import { step } from "./step.js";
import { TakeOver } from "./take-over.js";

const NOTHING_MOVED = { bytesSent: 0, pagesSent: 0, pagesFaulted: 0, volumeBytes: 0, bandwidthBytesPerSec: 0 };

/** For a call that comes when all is over and cleaned up (a worker that hung): what the journal says, and nothing is made anew. */
const settled = (state: SideOutcome["state"], receipt?: Receipt): Step<SideOutcome> => ({
  done: true,
  result: { state, phases: [], transfer: NOTHING_MOVED, ...(receipt && { receipt }) },
});

export class HandOvers {
  readonly hub: ControlHub;
  private readonly context: NodeContext;
  private readonly takeOvers = new Map<string, TakeOver>();
  private readonly running = new Map<string, HandOver>();

  constructor(context: NodeContext) {
    this.context = context;
    this.hub = new ControlHub(context);
  }

  private get book(): NodeContext["book"] {
    return this.context.book;
  }
  source(operation: string): HandOver | undefined {
    return this.running.get(operation);
  }
  destination(operation: string): TakeOver | undefined {
    return this.takeOvers.get(operation);
  }
  /** Is a hand-over of this workload under way here, on either side? */
  busy(workload: string): boolean {
    return [...this.running.values(), ...this.takeOvers.values()].some(
      (side) => side.workload === workload && side.outcome === undefined,
    );
  }
  /** Forget an operation that was settled. */
  drop(operation: string): void {
    this.takeOvers.get(operation)?.dispose();
    this.takeOvers.delete(operation);
    this.running.delete(operation);
  }

  /** After a restart: go on with every hand-over that the journal says is under way. */
  goOn(): void {
    for (const record of this.book.operations()) {
      const { ref } = record.input;
      // An epoch that came back to its owner is handed over again by a later operation: the older ones are not under way.
      const hold = this.book.hold(ref.workload, record.side === "source" ? ref.epoch : ref.to);
      if (hold === undefined || hold.operation !== ref.operation) continue;
      const { state } = hold;
      if (record.side === "destination") {
        if (
          state === "RESERVED" ||
          state === "RECEIVED" ||
          state === "PREPARED" ||
          state === "ACTIVE" ||
          state === "RUNNING"
        ) {
          const takeOver = this.ensureTakeOver(record.input, record.local === true);
          if (state === "RESERVED" || state === "RECEIVED") {
            takeOver.refuse(
              ferryError("E_AGENT_DOWN", "the destination's agent was restarted before anything was prepared", {
                side: "destination",
              }).data,
            );
          }
        }
      } else {
        if (state === "FROZEN" && record.local === true) {
          // A local restore that was cut: refused, and begun anew from the frozen tree.
          this.ensureHandOver({ ...record.input }, {});
        } else if (state === "FROZEN" || state === "RELEASED") {
          this.ensureHandOver(record.input, record.local === true ? { local: true } : {});
        }
      }
    }
  }

  /** Is this operation under way here, or not yet settled? */
  has(operation: string): boolean {
    return this.takeOvers.has(operation) || this.running.has(operation);
  }

  async reserve(input: ReserveInput): Promise<Reservation> {
    mustBe(this.context, "destination", input.ref);
    // Neither is asked of a local restore: that ends an operation which is under way.
    demandAllowed(this.context, input.spec, "destination", input.ref.source);
    this.book.demandRoom();
    return this.reserveFor(input, false);
  }

  private async reserveFor(input: ReserveInput, local: boolean): Promise<Reservation> {
    const { ref, spec } = input;
    const { config } = this.context;
    const hold = this.book.hold(ref.workload, ref.to);
    if (hold !== undefined && hold.state !== "RESERVED") {
      throw ferryError(
        hold.state === "TOMBSTONE" ? "E_TOMBSTONED" : "E_STALE_EPOCH",
        `epoch ${ref.to} of ${ref.workload} is already ${hold.state} on node ${config.node}`,
      );
    }
    if (hold !== undefined && hold.operation !== ref.operation) {
      throw ferryError(
        "E_STALE_EPOCH",
        `epoch ${ref.to} of ${ref.workload} is reserved for operation ${hold.operation}`,
      );
    }
    this.demandKnownSpec(ref, spec);
    this.book.recordOperation({ side: "destination", input, ...(local ? { local } : {}) });
    this.book.record({
      workload: ref.workload,
      epoch: ref.to,
      state: "RESERVED",
      operation: ref.operation,
      peer: local ? config.node : ref.source,
    });
    this.book.recordSpec(spec);
    const dirs = sideDirs(config.runDir, ref.operation, "destination");
    makeDirs(dirs);
    if (!local) await mkdir(volumeDir(config, ref.workload), { recursive: true, mode: 0o700 });
    const mover = writeMoverConfig(this.context, dirs, {
      operation: ref.operation,
      workload: ref.workload,
      peer: local ? config.node : ref.source,
      side: "destination",
      to: ref.to,
    });
    const side = new MoverSide(mover, dirs);
    const client = await side.ensure();
    const status = client.status();
    if (status.side !== "destination")
      throw ferryError("E_INTERNAL", "the destination's mover says that it is a source");
    const { port } = status;
    client.close();
    return { agent: { host: config.linkHost, port: config.linkPort }, mover: { host: config.linkHost, port } };
  }

  /** While an epoch of it is held here, the journal's spec is that of what is held: no later reservation changes it. */
  private demandKnownSpec(ref: OperationRef, spec: WorkloadSpec): void {
    const held = this.book.holds(ref.workload).find((hold) => isOpen(hold.state));
    const known = this.book.spec(ref.workload);
    if (held === undefined || known === undefined || sameSpec(known, spec)) return;
    throw ferryError(
      "E_SPEC",
      `node ${this.context.config.node} holds epoch ${held.epoch} of ${ref.workload} (${held.state}) with another spec`,
      {
        workload: ref.workload,
        side: "destination",
        remedy: `ferry inspect ${ref.workload} says which operation has it`,
      },
    );
  }

  ensureTakeOver(input: ReserveInput, local: boolean): TakeOver {
    const { operation } = input.ref;
    const known = this.takeOvers.get(operation);
    if (known !== undefined) return known;
    const takeOver = new TakeOver(this.context, this.hub, input, local);
    this.takeOvers.set(operation, takeOver);
    takeOver.result.catch(() => {
      // It broke off (stuck): the next time it is asked it tries again.
      takeOver.dispose();
      this.takeOvers.delete(operation);
    });
    return takeOver;
  }

  ensureHandOver(input: HandOverInput, options: HandOverOptions): HandOver {
    const { operation, workload } = input.ref;
    const known = this.running.get(operation);
    if (known !== undefined) return known;
    const handOver = new HandOver(this.context, input, specOf(this.context, workload), {
      ...options,
      restoreLocally: (original, why) => this.restoreLocally(original, why),
      refuseLocally: (ref) => this.refuseLocally(ref),
    });
    this.running.set(operation, handOver);
    handOver.result.catch(() => this.running.delete(operation));
    return handOver;
  }

  /** A person steers the hand-over under way. Throws E_STATE when there is none here. */
  steer({ ref, command }: SteerInput): Steered {
    mustBe(this.context, "source", ref);
    const handOver = this.running.get(ref.operation);
    if (handOver === undefined || handOver.outcome !== undefined) {
      throw ferryError("E_STATE", `operation ${ref.operation} is not under way on node ${this.context.config.node}`, {
        side: "source",
        remedy: `it has not begun yet, or it has ended: see ferry inspect ${ref.workload}`,
      });
    }
    return handOver.steer(command);
  }

  async takeOver(input: TakeOverInput, waitMs: number): Promise<Step<SideOutcome>> {
    const { ref } = input;
    mustBe(this.context, "destination", ref);
    const record = this.book.operation("destination", ref.operation);
    if (record === undefined || record.side !== "destination" || record.input.ref.to !== ref.to) {
      throw ferryError(
        "E_STATE",
        `nothing was reserved on node ${this.context.config.node} for operation ${ref.operation}, epoch ${ref.to}`,
      );
    }
    const { source, epoch } = record.input.ref;
    // Nor is one that this node does to itself (a local restore) asked for by its id.
    if (record.local === true || source !== ref.source || epoch !== ref.epoch) throw this.notMeant(ref);
    const { state } = this.book.hold(ref.workload, ref.to) ?? {};
    const over = state === "OWNER" || (state !== undefined && !isOpen(state));
    const { root } = sideDirs(this.context.config.runDir, ref.operation, "destination");
    if (over && !this.takeOvers.has(ref.operation) && !existsSync(root)) {
      if (state === "TOMBSTONE" || state === "SUPERSEDED") return settled(state);
      return settled("OWNER", receiptOf(this.context, ref));
    }
    return step(this.ensureTakeOver(record.input, false), waitMs);
  }

  async handOver(input: HandOverInput, waitMs: number): Promise<Step<SideOutcome>> {
    const { ref } = input;
    mustBe(this.context, "source", ref);
    const known = this.running.get(ref.operation);
    if (known !== undefined) return step(known, waitMs);
    const hold = this.book.hold(ref.workload, ref.epoch);
    if (hold?.state === "SUPERSEDED" || hold?.state === "STOPPED") return settled(hold.state);
    if (hold === undefined || !["OWNER", "FROZEN", "RELEASED", "GONE"].includes(hold.state)) {
      throw ferryError(
        "E_STALE_EPOCH",
        `node ${this.context.config.node} does not hold epoch ${ref.epoch} of ${ref.workload} (${hold?.state ?? "unknown"})`,
      );
    }
    if (hold.state !== "OWNER" && hold.operation !== ref.operation) {
      throw ferryError("E_BUSY", `${ref.workload} is in the hands of operation ${hold.operation}`);
    }
    const burned = this.book.hold(ref.workload, ref.to);
    if (burned !== undefined && isDead(burned.state) && (hold.state === "OWNER" || hold.state === "GONE")) {
      const running = runningHold(this.book.ledger, ref.workload);
      return {
        done: true,
        result: {
          state: "OWNER",
          phases: [],
          transfer: NOTHING_MOVED,
          failure: ferryError("E_BURNED", `epoch ${ref.to} was burned: ${ref.workload} stays here`, { side: "source" })
            .data,
          ...(running === undefined ? {} : { epoch: running.epoch }),
        },
      };
    }
    if (hold.state === "GONE") return settled("GONE");
    const busy = [...this.running.values()].find((h) => h.workload === ref.workload && h.outcome === undefined);
    if (busy !== undefined) throw ferryError("E_BUSY", `${ref.workload} is being handed over by another operation`);
    // Its word is for one epoch on one node: by another ref it would be given twice.
    if (hold.state === "RELEASED" && hold.peer === this.context.config.node) {
      return step(this.goOnLocally(ref), waitMs);
    }
    if (hold.state !== "OWNER" && (hold.to !== ref.to || hold.peer !== ref.destination)) throw this.notMeant(ref);
    if (hold.state === "OWNER") {
      demand(this.context, ref.workload, againstDestination(this.context, ref));
      this.book.demandRoom();
    }
    this.book.recordOperation({ side: "source", input });
    return step(this.ensureHandOver(input, {}), waitMs);
  }

  private notMeant({ operation, epoch, to }: OperationRef): FerryError {
    const { node } = this.context.config;
    return ferryError("E_REQUEST", `operation ${operation} on ${node} is not of epoch ${epoch} to ${to} between these`);
  }

  /** Restored on this node itself it has gone on, under the same id, to a later epoch: whoever asks means that. */
  private goOnLocally(ref: OperationRef): HandOver {
    const { operation, workload } = ref;
    const given = this.book.operation("source", operation);
    const taken = this.book.operation("destination", operation);
    const first = this.book.hold(workload, ref.to);
    const burned = first !== undefined && isDead(first.state) && first.operation === operation;
    if (!burned || first.peer !== ref.destination || given?.side !== "source" || given.local !== true) {
      throw this.notMeant(ref);
    }
    if (taken?.side === "destination" && taken.local === true) this.ensureTakeOver(taken.input, true);
    return this.ensureHandOver(given.input, { local: true });
  }

  /** What an earlier local restore of this operation has left: it never ran, and leaves nothing to the next one. */
  private async refuseLocally(ref: OperationRef): Promise<void> {
    const { node } = this.context.config;
    const record = this.book.operation("destination", ref.operation);
    if (record?.side !== "destination" || record.local !== true) return;
    const hold = this.book.hold(ref.workload, record.input.ref.to);
    if (hold?.peer === node && mayRefuse(hold.state)) {
      const takeOver = this.ensureTakeOver(record.input, true);
      takeOver.refuse(
        ferryError("E_CANCELLED", "an earlier local restore was cut, and is begun anew", { side: "destination" }).data,
      );
      await takeOver.result;
    }
    // Its sweep uses the same directories: it has to be over.
    const old = this.takeOvers.get(ref.operation);
    await old?.result.catch(() => undefined);
    old?.dispose();
    this.takeOvers.delete(ref.operation);
  }

  /** criu died in the hold: restore on this node from the dumped images and the frozen tree's own pages. */
  async restoreLocally(input: HandOverInput, why: FailureData): Promise<SideOutcome> {
    const { ref } = input;
    const { node } = this.context.config;
    const to = Math.max(this.book.highest(ref.workload) + 1, ref.to);
    const local: OperationRef = { ...ref, to, source: node, destination: node };
    await this.refuseLocally(ref);
    removeDirs(sideDirs(this.context.config.runDir, ref.operation, "destination"));
    const options = { ...input.options, mode: "cold" as const, maxBlackoutMs: 600_000 };
    const reserve: ReserveInput = {
      ref: local,
      options,
      spec: specOf(this.context, ref.workload),
      memoryBytes: 0,
      volumeBytes: 0,
    };
    const reservation = await this.reserveFor(reserve, true);
    const takeOver = this.ensureTakeOver(reserve, true);
    const handOverInput: HandOverInput = { ref: local, options, reservation };
    this.book.recordOperation({ side: "source", input: handOverInput, local: true });
    const handOver = new HandOver(this.context, handOverInput, specOf(this.context, ref.workload), { local: true });
    // One side that fails does not leave the other one waiting.
    handOver.result.catch((error: unknown) => takeOver.refuse(toFailure(error)));
    const [taken, given] = await Promise.allSettled([takeOver.result, handOver.result]);
    takeOver.dispose();
    this.takeOvers.delete(ref.operation);
    if (given.status === "rejected") throw given.reason;
    if (taken.status === "rejected") throw taken.reason;
    if (given.value.state !== "GONE") throw new FerryError(given.value.failure ?? why);
    await this.context.runtime.destroy({ name: ref.workload, epoch: ref.epoch });
    return { ...given.value, state: "OWNER", epoch: to, failure: why };
  }
}

/**
 * Settling a hand-over: what the workflow asks when an answer was lost, and how it is told to go back, to refuse, to go
 * on, and to clean up. The workflow only routes; what may still happen is in the journal.
 */
import type { AcknowledgeInput, DeliverInput, Inquiry, OperationRef, ResolveInput } from "../../model/contract.js";
import { ferryError, type Side } from "../../model/failure.js";
import { MIGRATION, RECOVERY } from "../../model/names.js";
import { isDead, isOpen, mayRefuse, mayRun, runningHold, type Hold } from "../../model/ownership.js";
import { signToken, verifyReceipt } from "../../transfer/link/index.js";
import { removeOperation, sideDirs } from "./dirs.js";
import type { HandOvers } from "./hand-overs.js";
import {
  keepAside,
  mustBe,
  mustBeHere,
  receiptOf,
  removeHandedOver,
  removeSpentVolume,
  type NodeContext,
} from "./node-context.js";

/** How long burn and refuse wait for their side before they answer with the state as it is. */
const SETTLE_WAIT_MS = 20_000;

const within = (work: Promise<unknown>, ms: number): Promise<unknown> =>
  Promise.race([work.catch(() => undefined), new Promise((resolve) => setTimeout(resolve, ms))]);

/** Between two nodes: what it holds there is neither at rest nor over. */
const underWay = ({ state }: Hold): boolean => state !== "OWNER" && isOpen(state);
const notSettled = (workload: string, state: Hold["state"], node: string) =>
  ferryError("E_STATE", `${workload} is ${state} on node ${node}: the hand-over is not settled yet`);

export class Settling {
  private readonly context: NodeContext;
  private readonly handOvers: HandOvers;

  constructor(context: NodeContext, handOvers: HandOvers) {
    this.context = context;
    this.handOvers = handOvers;
  }
  private get book(): NodeContext["book"] {
    return this.context.book;
  }

  async inquire(ref: OperationRef): Promise<Inquiry> {
    const { node } = this.context.config;
    const holds = this.book.holds(ref.workload);
    const held =
      runningHold(this.book.ledger, ref.workload) ??
      holds.findLast((h) => h.state === "FROZEN" || h.state === "RELEASED");
    const seen =
      held === undefined ? undefined : await this.context.runtime.observe({ name: ref.workload, epoch: held.epoch });
    const base = { holds, processes: seen?.processes ?? 0 };
    if (node === ref.source) {
      // Of an epoch that was fenced nobody gets a token any more.
      const fenced = this.book.hold(ref.workload, ref.to)?.state === "FENCED";
      const token = fenced ? undefined : this.book.token(ref.operation, ref.to);
      const state = this.sourceState(ref);
      const receipt = receiptOf(this.context, ref);
      return {
        ...base,
        ...(receipt === undefined ? {} : { receipt }),
        ...(state === undefined ? {} : { state }),
        ...(token === undefined ? {} : { token: signToken(token, this.context.identity) }),
        ...this.handOvers.source(ref.operation)?.inquiry(),
      };
    }
    const hold = this.book.hold(ref.workload, ref.to);
    const receipt = receiptOf(this.context, ref);
    return {
      ...base,
      ...(hold === undefined ? {} : { state: hold.state }),
      ...(receipt === undefined ? {} : { receipt }),
      ...this.handOvers.destination(ref.operation)?.inquiry(),
    };
  }

  /** The source's word on this hand-over. After a local restore the old epoch is GONE and yet nothing was handed over. */
  private sourceState(ref: OperationRef): Hold["state"] | undefined {
    const hold = this.book.hold(ref.workload, ref.epoch);
    const next = this.book.hold(ref.workload, ref.to);
    if (next !== undefined && isDead(next.state)) {
      const running = runningHold(this.book.ledger, ref.workload);
      if (running !== undefined && mayRun(running.state)) return "OWNER";
    }
    return hold?.state;
  }

  async burn(ref: OperationRef): Promise<Inquiry> {
    mustBe(this.context, "source", ref);
    const hold = this.book.hold(ref.workload, ref.epoch);
    const running = this.handOvers.source(ref.operation);
    if (hold === undefined || hold.state === "RELEASED" || hold.state === "GONE") return this.inquire(ref);
    if (running !== undefined && running.outcome === undefined) {
      running.cancel(ferryError("E_CANCELLED", "the migration was cancelled", { side: "source" }).data);
      await within(running.result, SETTLE_WAIT_MS);
    } else if (hold.state === "FROZEN" && hold.operation === ref.operation) {
      // Never what another operation holds frozen, however late this call comes.
      const record = this.book.operation("source", ref.operation);
      if (record?.side === "source")
        await within(this.handOvers.ensureHandOver(record.input, {}).result, SETTLE_WAIT_MS);
    }
    if (
      this.book.hold(ref.workload, ref.epoch)?.state === "OWNER" &&
      this.book.hold(ref.workload, ref.to) === undefined
    ) {
      this.book.record({
        workload: ref.workload,
        epoch: ref.to,
        state: "BURNED",
        operation: ref.operation,
        peer: ref.destination,
      });
    }
    return this.inquire(ref);
  }

  async refuse(ref: OperationRef): Promise<Inquiry> {
    mustBeHere(this.context, "destination", ref);
    const hold = this.book.hold(ref.workload, ref.to);
    if (hold !== undefined && ["ACTIVE", "RUNNING", "OWNER", "SUPERSEDED"].includes(hold.state))
      return this.inquire(ref);
    const record = this.book.operation("destination", ref.operation);
    if (hold === undefined) {
      // It never happened here, and now it never will.
      this.book.record({
        workload: ref.workload,
        epoch: ref.to,
        state: "TOMBSTONE",
        operation: ref.operation,
        peer: ref.source,
      });
    } else if (hold.state !== "TOMBSTONE" && record?.side === "destination") {
      const takeOver = this.handOvers.ensureTakeOver(record.input, false);
      takeOver.refuse(ferryError("E_CANCELLED", "the migration was called off", { side: "destination" }).data);
      await within(takeOver.result, SETTLE_WAIT_MS);
    }
    return this.inquire(ref);
  }

  async deliver(input: DeliverInput): Promise<Inquiry> {
    const { ref, token } = input;
    mustBe(this.context, "destination", ref);
    const record = this.book.operation("destination", ref.operation);
    const hold = this.book.hold(ref.workload, ref.to);
    if (record?.side !== "destination" || hold === undefined) {
      throw ferryError("E_TOKEN", `nothing was reserved on this node for operation ${ref.operation}`);
    }
    if (!["RUNNING", "OWNER", "ACTIVE", "SUPERSEDED"].includes(hold.state))
      this.handOvers.ensureTakeOver(record.input, false).accept(token);
    return this.inquire(ref);
  }

  /** By a person's word: see NodeActivities. */
  async retake({ ref, evidence, acceptRollback }: ResolveInput): Promise<Inquiry> {
    mustBe(this.context, "source", ref);
    const hold = this.book.hold(ref.workload, ref.epoch);
    const record = this.book.operation("source", ref.operation);
    if (hold?.state === "GONE") {
      throw ferryError("E_PAST_COMMIT", `${ref.workload} is gone from node ${ref.source}: ${ref.destination} has it`);
    }
    if (hold?.state === "RELEASED" && hold.to === ref.to && record?.side === "source") {
      const handOver = this.handOvers.ensureHandOver(record.input, {});
      handOver.retake(evidence, acceptRollback === true);
      await within(handOver.result, SETTLE_WAIT_MS);
    }
    return this.inquire(ref);
  }

  /** By a person's word: see NodeActivities. */
  async claim({ ref, evidence, acceptRollback }: ResolveInput): Promise<Inquiry> {
    mustBe(this.context, "destination", ref);
    const hold = this.book.hold(ref.workload, ref.to);
    const record = this.book.operation("destination", ref.operation);
    if (
      record?.side !== "destination" ||
      hold === undefined ||
      hold.state === "RESERVED" ||
      hold.state === "RECEIVED"
    ) {
      throw ferryError("E_STATE", `${ref.workload} is not prepared on node ${ref.destination}: it has not all of it`);
    }
    if (hold.state === "PREPARED") {
      await this.handOvers.ensureTakeOver(record.input, false).claim(evidence, acceptRollback === true);
    }
    return this.inquire(ref);
  }

  /**
   * Other epochs that may run here, or that a checkpoint holds, and are older than the one that runs elsewhere: nobody needs to
   * know of them. (Those of a hand-over that is not settled are its own matter.)
   */
  private runningBefore({ workload, epoch, to }: OperationRef): Hold[] {
    const stale = ({ state, ...hold }: Hold): boolean =>
      mayRun(state) || (state === "FROZEN" && hold.to === hold.epoch);
    return this.book.holds(workload).filter((hold) => hold.epoch !== epoch && hold.epoch < to && stale(hold));
  }

  /**
   * SUPERSEDED first: from here on nothing starts it. Then the copy is killed; its files are kept aside. What never came here is
   * refused for ever.
   */
  async supersede({ ref, receipt }: AcknowledgeInput): Promise<Inquiry> {
    const { config, runtime, identity } = this.context;
    const { workload, operation } = ref;
    const isSource = config.node === ref.source;
    mustBe(this.context, isSource ? "source" : "destination", ref);
    const epoch = isSource ? ref.epoch : ref.to;
    const hold = this.book.hold(workload, epoch);
    if (!isSource && (hold === undefined || mayRefuse(hold.state))) {
      return this.refuse(ref);
    }
    const older = isSource && RECOVERY.test(operation) ? this.runningBefore(ref) : [];
    const over = hold !== undefined && !isOpen(hold.state) && hold.state !== "SUPERSEDED";
    if (over && older.length === 0) return this.inquire(ref);
    const digest = isSource ? receipt.digest : (hold?.digest ?? "");
    const owner = isSource ? ref.destination : ref.source;
    verifyReceipt(receipt, identity, { workload, operation, epoch: isSource ? ref.to : ref.epoch, owner, digest });
    for (const { epoch: stale, operation: by = operation, state } of older) {
      this.book.record({ workload, epoch: stale, state: "SUPERSEDED", operation, peer: owner });
      this.context.log("warn", "superseded: a later epoch runs elsewhere", { workload, operation, epoch: stale });
      const side = state === "OWNER" || state === "FROZEN" ? "source" : "destination";
      await runtime.destroy({ name: workload, epoch: stale }, sideDirs(config.runDir, by, side));
      if (side === "destination")
        await within(Promise.resolve(this.handOvers.destination(by)?.superseded()), SETTLE_WAIT_MS);
    }
    if (hold === undefined) {
      // Files that this journal knows nothing of are nobody's to remove.
      await keepAside(this.context, workload, epoch);
      // What it was asked for then may still come: it never runs here.
      this.book.record({ workload, epoch, state: "TOMBSTONE", operation, peer: owner });
    }
    if (hold === undefined || over) {
      await keepAside(this.context, workload);
      return this.inquire(ref);
    }
    const handOver = isSource ? this.handOvers.source(operation) : undefined;
    const takeOver = isSource ? undefined : this.handOvers.destination(operation);
    if (hold.state !== "SUPERSEDED") {
      this.book.record({ workload, epoch, state: "SUPERSEDED", operation, peer: owner });
      this.context.log("warn", "superseded: the other node has it, by a person's word", { workload, operation, epoch });
    }
    handOver?.superseded();
    const dirs = sideDirs(config.runDir, operation, isSource ? "source" : "destination");
    await runtime.destroy({ name: workload, epoch }, dirs);
    await within(Promise.resolve(handOver?.result ?? takeOver?.superseded()), SETTLE_WAIT_MS);
    // Whatever was under way may have begun to restore it once more.
    await runtime.destroy({ name: workload, epoch }, dirs);
    await keepAside(this.context, workload);
    return this.inquire(ref);
  }

  /** Only after RELEASED: a receipt for what was never released is a lie, or somebody else's. */
  async acknowledge(input: AcknowledgeInput): Promise<Inquiry> {
    const { ref, receipt } = input;
    mustBe(this.context, "source", ref);
    const hold = this.book.hold(ref.workload, ref.epoch);
    const record = this.book.operation("source", ref.operation);
    if (hold?.state === "RELEASED" && hold.to === ref.to && record?.side === "source" && record.local !== true) {
      const handOver = this.handOvers.ensureHandOver(record.input, {});
      handOver.acknowledge(receipt);
      await within(handOver.result, SETTLE_WAIT_MS);
    } else if (this.book.hold(ref.workload, ref.to)?.state === "FENCED") {
      throw ferryError("E_TOKEN", `epoch ${ref.to} of ${ref.workload} was fenced: what has it is stale`);
    } else if (hold?.state === "OWNER" || hold?.state === "FROZEN") {
      // Never released, and yet the destination owns it: a person has decided for it while this node was away.
      return this.supersede(input);
    } else if (hold === undefined || !["GONE", "SUPERSEDED", "STOPPED"].includes(hold.state)) {
      throw ferryError("E_TOKEN", `epoch ${ref.epoch} of ${ref.workload} was not released to epoch ${ref.to} here`);
    }
    return this.inquire(ref);
  }

  /**
   * Settled without the source (its destination refused before anything was asked here): a call that is still on its way
   * must not begin it now. What has begun meanwhile is called off; from then on the epoch is burned.
   */
  private async endLate(ref: OperationRef): Promise<void> {
    if (this.book.hold(ref.workload, ref.epoch)?.state !== "OWNER") return;
    const late = this.handOvers.source(ref.operation);
    if ((late !== undefined && late.outcome === undefined) || this.book.hold(ref.workload, ref.to) === undefined) {
      await this.burn(ref);
    }
    if (late !== undefined && late.outcome === undefined) {
      throw ferryError("E_STATE", `${ref.workload} is still being taken back on node ${this.context.config.node}`);
    }
  }

  /**
   * Whoever asks must mean the operation that the journal knows under that id: by another one's epochs nothing here would
   * seem to be under way, and what is removed is what a hand-over lives on. Throws E_REQUEST, E_STATE.
   */
  private demandKnown(ref: OperationRef, side: Side): void {
    const { operation, workload, epoch } = ref;
    const { node } = this.context.config;
    const wrong = (why: string) =>
      ferryError("E_REQUEST", `operation ${operation} is not cleaned up on ${node}: ${why}`);
    if (!MIGRATION.test(operation)) throw wrong("it is no migration");
    if (node !== ref.source && node !== ref.destination) throw wrong("this node has no part in it");
    const record = this.book.operation(side, operation);
    if (record !== undefined) {
      const own = record.input.ref;
      // Restored on the source itself it has gone on, under the same id, to a later epoch.
      const same =
        own.workload === workload &&
        own.epoch === epoch &&
        own.source === ref.source &&
        (record.local === true ? own.to >= ref.to : own.to === ref.to && own.destination === ref.destination);
      if (!same) throw wrong(`here it is of epoch ${own.epoch} to ${own.to}, not of ${epoch} to ${ref.to}`);
    }
    const open = this.book.holds(workload).find((hold) => hold.operation === operation && underWay(hold));
    if (open !== undefined) throw notSettled(workload, open.state, node);
  }

  async cleanup(ref: OperationRef): Promise<void> {
    const { config } = this.context;
    const { node } = config;
    const side = node === ref.source ? "source" : "destination";
    this.demandKnown(ref, side);
    if (side === "source") {
      await this.endLate(ref);
      const hold = this.book.hold(ref.workload, ref.epoch);
      const state = this.sourceState(ref);
      if (hold?.state === "GONE" && state === "GONE" && runningHold(this.book.ledger, ref.workload) === undefined) {
        await this.context.runtime.destroy({ name: ref.workload, epoch: ref.epoch });
        await removeHandedOver(this.context, ref.workload, ref.epoch);
      }
      // What was throttled in the rounds never stays so. Whoever asks for the clean-up asks again when this fails.
      const stays = runningHold(this.book.ledger, ref.workload);
      const spec = this.book.spec(ref.workload);
      if (stays !== undefined && spec !== undefined && !this.handOvers.busy(ref.workload)) {
        await this.context.runtime.throttle({ spec, epoch: stays.epoch }, 0);
      }
      if (state === "RELEASED" || state === "FROZEN") {
        throw notSettled(ref.workload, state, node);
      }
    } else {
      const state = this.book.hold(ref.workload, ref.to)?.state;
      if (state !== undefined && state !== "OWNER" && isOpen(state)) {
        throw notSettled(ref.workload, state, node);
      }
      if (state === "TOMBSTONE") {
        await this.context.runtime.destroy({ name: ref.workload, epoch: ref.to });
        await removeSpentVolume(this.context, ref.workload);
      }
    }
    this.handOvers.drop(ref.operation);
    // Both sides: a local restore had its other one here, too.
    removeOperation(config.runDir, ref.operation);
  }
}

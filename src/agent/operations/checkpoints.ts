/** The checkpoints that are being taken on this node: one at a time per workload, asked again and again until it is done. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Saved, SaveInput, Step } from "../../model/contract.js";
import { ferryError, toFailure, type FailureData, type FerryError } from "../../model/failure.js";
import { runningHold } from "../../model/ownership.js";
import { highestSequence } from "../../model/settlement.js";
import { Checkpoint } from "./checkpoint.js";
import { removeDirs, sideDirs } from "./dirs.js";
import type { HandOvers } from "./hand-overs.js";
import { mustBeHere, specOf, type NodeContext } from "./node-context.js";
import { step } from "./step.js";

const SINK = fileURLToPath(new URL("../../checkpoints/sink/main.js", import.meta.url));

/** One that broke off while it is frozen is begun again, whether anybody asks or not. */
const AGAIN_MS = 15_000;

const sequenceOf = (operation: string): number =>
  highestSequence([{ workload: "", epoch: 1, state: "OWNER", operation }]);

export class Checkpoints {
  private readonly context: NodeContext;
  private readonly handOvers: HandOvers;
  /** By workload: the one under way, or the last one. */
  private readonly latest = new Map<string, Checkpoint>();

  private readonly againMs: number;

  constructor(context: NodeContext, handOvers: HandOvers, againMs = AGAIN_MS) {
    this.context = context;
    this.againMs = againMs;
    this.handOvers = handOvers;
  }

  busy(workload: string): boolean {
    const latest = this.latest.get(workload);
    return latest !== undefined && latest.saved === undefined;
  }
  has(operation: string): boolean {
    return [...this.latest.values()].some((one) => one.operation === operation);
  }

  /** After a restart: what is frozen for a checkpoint is taken back, or let go; what was gathered is stored. */
  async goOn(): Promise<void> {
    const { book } = this.context;
    for (const { input, failure } of book.saves()) {
      if (failure !== undefined) continue;
      const { ref } = input;
      const hold = book.hold(ref.workload, ref.epoch);
      if (hold?.operation !== ref.operation || (hold.state !== "FROZEN" && hold.state !== "OWNER")) continue;
      // A local restore was under way: the hand-overs go on with it.
      if (book.operation("source", ref.operation) !== undefined) continue;
      if (hold.state === "OWNER" && !this.leftSomething(ref.operation)) continue;
      await this.begin(input, true).catch((error: unknown) => {
        this.context.log("error", `a checkpoint of ${ref.workload} can't go on`, { failure: toFailure(error) });
        this.thaw(input);
      });
    }
  }

  async save(input: SaveInput, waitMs: number): Promise<Step<Saved>> {
    const { ref } = input;
    const { workload, operation } = ref;
    const { book, config } = this.context;
    mustBeHere(this.context, "source", ref);
    mustBeHere(this.context, "destination", ref);
    const known = this.latest.get(workload);
    if (known?.is(input) === true) return step(known, waitMs);
    if (known !== undefined && known.saved === undefined) {
      throw this.inHands(workload, known);
    }
    // It was restored locally when the agent came back: that is this operation's own.
    if (this.handOvers.source(operation)?.outcome === undefined && this.handOvers.has(operation)) {
      await new Promise((resolve) => setTimeout(resolve, Math.min(waitMs, 500)));
      return { done: false };
    }
    if (this.handOvers.busy(workload)) throw this.inHands(workload);
    const before = book.save(workload);
    const again = JSON.stringify(before?.input) === JSON.stringify(input);
    const hold = book.hold(workload, ref.epoch);
    // It came to nothing before this agent was started, and whoever waited for it has heard so.
    if (again && before?.failure !== undefined) return { done: true, result: this.failed(ref, before.failure) };
    if (!again && hold?.state !== "OWNER") {
      throw ferryError(
        hold === undefined ? "E_STALE_EPOCH" : "E_STATE",
        `node ${config.node} does not run epoch ${ref.epoch} of ${workload} (${hold?.state ?? "unknown"})`,
        { workload },
      );
    }
    // A call that comes late (a worker that hung): its checkpoint is over, and nobody waits for another one.
    if (!again && highestSequence(book.holds(workload)) > sequenceOf(operation)) {
      throw ferryError("E_STATE", `${operation} is over: ${workload} has gone on with ${hold?.operation ?? ""}`, {
        workload,
      });
    }
    return step(await this.begin(input, again), waitMs);
  }

  private failed({ workload, epoch }: SaveInput["ref"], failure: FailureData): Saved {
    const { book, config } = this.context;
    const hold = runningHold(book.ledger, workload) ?? book.hold(workload, epoch);
    const side = { side: "source" as const, node: config.node };
    return {
      state: hold?.state ?? "GONE",
      epoch: hold?.epoch ?? epoch,
      phases: [],
      rounds: 0,
      failure: { ...failure, ...side },
    };
  }

  private async begin(input: SaveInput, again: boolean): Promise<Checkpoint> {
    const { book, config } = this.context;
    const { workload, operation } = input.ref;
    const { storeFile } = config;
    // One that is frozen is taken back, whatever became of the store.
    const env = await this.context.store.environment().catch((error: unknown) => {
      if (!again) throw error;
      return {};
    });
    const known = this.latest.get(workload);
    if (known?.is(input) === true) return known;
    // Begun while the configuration was read.
    if (known !== undefined && known.saved === undefined) throw this.inHands(workload, known);
    if (!again && this.handOvers.busy(workload)) throw this.inHands(workload);
    const session = `${operation} ${input.request}`;
    const spec = specOf(this.context, workload);
    if (!again) {
      book.demandRoom();
      book.recordSave({ input });
    }
    const checkpoint = new Checkpoint(this.context, input, spec, {
      session,
      ...(storeFile === undefined ? {} : { storeFile }),
      sink: { main: SINK, env },
      again,
      store: () => this.context.store.open(),
      restoreLocally: (original, why) => this.handOvers.restoreLocally(original, why),
    });
    this.latest.set(workload, checkpoint);
    checkpoint.result.then(
      () => {
        // Nobody cleans up after a local restore of it.
        this.handOvers.drop(operation);
        removeDirs(sideDirs(config.runDir, operation, "destination"));
      },
      () => {
        // It broke off: the next time it is asked it tries again; what is frozen does not wait for that.
        if (this.latest.get(workload) === checkpoint) this.latest.delete(workload);
        this.thaw(input);
      },
    );
    return checkpoint;
  }

  private thaw(input: SaveInput): void {
    const { workload, epoch, operation } = input.ref;
    const stays = (): boolean => {
      const hold = this.context.book.hold(workload, epoch);
      return hold?.state === "FROZEN" && hold.operation === operation;
    };
    if (!stays()) return;
    setTimeout(() => {
      if (!stays() || this.busy(workload) || this.handOvers.busy(workload)) return;
      this.begin(input, true).catch((error: unknown) => {
        this.context.log("error", `${workload} is still frozen for a checkpoint`, { failure: toFailure(error) });
        this.thaw(input);
      });
    }, this.againMs).unref();
  }

  private inHands(workload: string, other?: Checkpoint): FerryError {
    const whose =
      other === undefined
        ? "is being handed over by another operation"
        : `is in the hands of operation ${other.operation}`;
    return ferryError("E_BUSY", `${workload} ${whose}`, { workload });
  }

  private leftSomething(operation: string): boolean {
    return existsSync(sideDirs(this.context.config.runDir, operation, "sink").root);
  }
}

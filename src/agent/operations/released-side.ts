/**
 * The source's side after the commit point: RELEASED. It serves from its frozen tree until the destination needs nothing
 * more, then lets it go. Only forward, unless a person says that the destination is off (`retake`), or has decided for it
 * (`superseded`).
 */
import type { SideOutcome } from "../../model/contract.js";
import { ferryError, toFailure } from "../../model/failure.js";
import { verifyReceipt } from "../../transfer/link/index.js";
import type { Word } from "../book.js";
import type { PhaseOf } from "../failpoint.js";
import { removeDirs } from "./dirs.js";
import { FreezingSide } from "./freezing-side.js";

export abstract class ReleasedSide extends FreezingSide {
  /** A person has decided what nobody could know: the destination is off, or it owns the workload. */
  protected readonly decided = new AbortController();
  /** The destination needs nothing more: the frozen copy goes. */
  private letGo = false;

  protected override enter(phase: PhaseOf<"source">): Promise<void> {
    return this.begin(phase, `source.${phase}`);
  }

  /** RELEASED: serve until the destination needs nothing more, then kill, then GONE. However often parts of it die. */
  protected async finish(): Promise<SideOutcome> {
    const { runtime, book } = this.context;
    const { ref } = this.input;
    if (this.holdState === "RELEASED") {
      const digest = book.hold(ref.workload, ref.epoch)?.digest;
      if (digest === undefined) throw ferryError("E_INTERNAL", "released without a digest");
      this.frozenAt ??= runtime.adoptFreeze(this.dirs)?.status().reached["network-lock"];
      this.control.start();
      const { signal } = this.decided;
      await this.insist("journaling the token", async () => this.control.release(this.makeToken(digest)));
      // An agent that died between that word and the kill: the destination may be off by now, and is not asked again.
      if (this.told !== "owns") await this.waitUntilOwned(signal);
      // From here on its copy is let go.
      this.letGo = true;
      await this.enter("release");
      const outcome = this.assemble();
      await this.mover.end();
      await this.insist("killing the released copy", () => runtime.destroy(this.name, this.dirs));
      this.record("GONE");
      removeDirs(this.dirs);
      this.timer.end();
      return { ...outcome, state: "GONE", phases: this.timer.all() };
    }
    return { ...this.assemble(), state: "GONE" };
  }

  /** Serves until the destination has said that it needs nothing more. What it says is journaled. */
  private async waitUntilOwned(signal: AbortSignal): Promise<void> {
    const serving = new AbortController();
    const served = this.serve(serving.signal);
    try {
      const { destination } = await this.control.level.wait(
        (l) => l.destination?.hold === "RUNNING" || l.destination?.hold === "OWNER",
        { signal },
      );
      this.learn(destination?.resumedAt);
      await this.noteWord("runs");
      if (destination?.complete !== true && this.options.local !== true) {
        await this.enter("drain");
        await this.control.level.wait((l) => l.destination?.complete === true, { signal });
      }
      if (signal.aborted) throw signal.reason;
      await this.noteWord("owns");
      if (signal.aborted) throw signal.reason;
    } finally {
      serving.abort(new Error("done"));
      // A mover that it was just starting must not outlive the decision.
      if (signal.aborted) await served;
    }
  }

  private get told(): Word | undefined {
    const { operation, to } = this.input.ref;
    return this.context.book.heard(operation, to);
  }
  private async noteWord(word: Word): Promise<void> {
    const { operation, to } = this.input.ref;
    const { book } = this.context;
    await this.insist("journaling the destination's word", async () => book.recordHeard(operation, to, word));
  }

  /** Keeps the source's mover at work: the tree is frozen, so a new one can always send what is missing. */
  private async serve(signal: AbortSignal): Promise<void> {
    const { reservation } = this.input;
    while (!signal.aborted) {
      try {
        // What it says now, not what it said before the link was lost: its volume is overwritten only when it asks for that.
        const { destination } = await this.control.level.wait((l) => l.connected && l.destination !== undefined, {
          signal,
        });
        const wanted = destination?.wantsImages === true;
        const port = destination?.moverPort ?? reservation.mover.port;
        let status = await this.mover.request({ verb: "connect", host: reservation.mover.host, port }, signal);
        if (status.images.sent && wanted) {
          // It lost power: what lay in its memory comes again from the frozen tree, by a mover that knows of nothing.
          await this.mover.end();
          status = await this.mover.request({ verb: "connect", host: reservation.mover.host, port }, signal);
        }
        // A new mover (the old one died) has sent nothing yet; the destination tells it what is still missing.
        if (!status.images.sent) {
          if (wanted && this.options.local !== true) {
            await this.mover.request({ verb: "finalSync", pids: await this.hostPids() }, signal);
          }
          const pids = await this.context.runtime.pids(this.name);
          await this.mover.request({ verb: "sendImages", pids }, signal);
        }
        // Until the mover dies, or the destination asks for the images (again).
        await Promise.race([
          this.mover.wait(() => false, signal),
          this.control.level.wait((l) => l.destination?.wantsImages === true, { signal }),
        ]);
      } catch (error) {
        if (signal.aborted) return;
        this.log("warn", "the page traffic broke off and goes on", { failure: toFailure(error) });
        if (toFailure(error).code !== "E_PAGES") await this.mover.end();
        await new Promise((resolve) => setTimeout(resolve, 300));
      }
    }
  }

  // --- what others say ---------------------------------------------------------------------------------------------

  /**
   * A person says that the destination is off: take back what was released. FENCED is journaled first, so that whatever
   * dies then, it goes back. Throws E_STATE, E_PAST_COMMIT.
   */
  retake(evidence: string, acceptRollback: boolean): void {
    const { ref } = this.input;
    if (this.holdState !== "RELEASED" || this.decided.signal.aborted) return;
    const { connected, destination } = this.control.level.value;
    const refuse = (code: "E_STATE" | "E_PAST_COMMIT", message: string, remedy: string): never => {
      throw ferryError(code, message, { workload: ref.workload, side: "source", remedy });
    };
    if (this.options.local === true) refuse("E_STATE", `${ref.workload} is being restored on this node`, "wait for it");
    // One that has refused for ever may well be there.
    if (connected && destination?.hold !== "TOMBSTONE") {
      refuse(
        "E_STATE",
        `node ${this.peer} is connected right now: it is not off`,
        "wait: both settle it by themselves",
      );
    }
    const { told } = this;
    const says = destination?.hold === "RUNNING" || destination?.hold === "OWNER";
    const runs = says || told !== undefined;
    if (this.letGo || told === "owns" || (says && destination.complete)) {
      refuse("E_PAST_COMMIT", `node ${this.peer} has said that it owns ${ref.workload}`, "keep the destination's copy");
    }
    if (!acceptRollback && runs) {
      refuse(
        "E_PAST_COMMIT",
        `node ${this.peer} has said that ${ref.workload} runs there: taking it back loses what it did since`,
        `say that this is accepted: ferry resolve ${ref.workload} --keep source --accept-rollback`,
      );
    }
    this.log("warn", "taken back by a person's word", { evidence });
    const peer = this.peer;
    this.context.book.record({
      workload: ref.workload,
      epoch: ref.to,
      state: "FENCED",
      operation: ref.operation,
      peer,
    });
    this.record("FROZEN");
    const why = ferryError("E_BURNED", `a person has taken it back: ${evidence}`, { side: "source" });
    this.decided.abort(why);
  }

  /** SUPERSEDED was journaled: whatever this hand-over waits for, it ends. */
  superseded(): void {
    const why = ferryError("E_BURNED", "a person has decided for the other side", { side: "source" });
    if (!this.undo.signal.aborted) this.undo.abort(why);
    if (!this.decided.signal.aborted) this.decided.abort(why);
  }
  protected get isFenced(): boolean {
    const { ref } = this.input;
    return this.context.book.hold(ref.workload, ref.to)?.state === "FENCED";
  }

  /** The workflow brought the destination's receipt. Throws E_TOKEN when it is not genuine, or of another hand-over. */
  acknowledge(receipt: unknown): void {
    const { ref } = this.input;
    const digest = this.context.book.hold(ref.workload, ref.epoch)?.digest;
    if (digest === undefined) throw ferryError("E_TOKEN", `epoch ${ref.epoch} of ${ref.workload} was not released`);
    verifyReceipt(receipt, this.context.identity, {
      workload: ref.workload,
      operation: ref.operation,
      epoch: ref.to,
      owner: ref.destination,
      digest,
    });
    this.log("info", "the destination's receipt was carried here", { phase: this.timer.phase });
    this.control.vouched();
  }
}

/**
 * The source's side of a hand-over.
 *
 *   OWNER(e) -> approach: link, armed destination, volume while running
 *   -> FROZEN(e): link down, tree held, last of the volume, images, pages -> destination says PREPARED
 *   -> RELEASED(e -> e'): the commit point -> token -> destination RUNNING (post-copy: drained) -> kill -> GONE(e)
 *
 * Until RELEASED it takes the workload back alone: on any failure, on cancel, at its own deadline (monotonic clock).
 * After RELEASED it only goes forward, and keeps the frozen tree until the destination has said that it runs (and, in
 * post-copy, has every page): there is a copy at every instant.
 */
import type { HandOverInput, SideOutcome } from "../../model/contract.js";
import { FerryError, ferryError, toFailure, type FailureData } from "../../model/failure.js";
import { isDead } from "../../model/ownership.js";
import type { WorkloadSpec } from "../../model/workload.js";
import { orAbort } from "../level.js";
import { peerFailure, type DestinationState } from "./control.js";
import { removeDirs } from "./dirs.js";
import type { NodeContext } from "./node-context.js";
import { ReleasedSide } from "./released-side.js";
import type { HandOverOptions } from "./source-side.js";

/** Nothing is frozen yet, and the destination starts its mover meanwhile: a slow machine is no failure. */
const ARM_TIMEOUT_MS = 60_000;
/** Before the freeze a link may be away this long; in the blackout the deadline rules. */
const LINK_PATIENCE_MS = 10_000;

const saysNo = (destination: DestinationState | undefined): boolean =>
  destination?.failure !== undefined || destination?.hold === "TOMBSTONE";

export class HandOver extends ReleasedSide {
  readonly result: Promise<SideOutcome>;
  private readonly ended = new AbortController();

  constructor(context: NodeContext, input: HandOverInput, spec: WorkloadSpec, options: HandOverOptions = {}) {
    super(context, input, spec, options);
    this.result = this.run().then((outcome) => {
      this.outcome = outcome;
      return outcome;
    });
    this.result.catch((error: unknown) => this.log("error", "hand-over broke off", { failure: toFailure(error) }));
  }

  private async run(): Promise<SideOutcome> {
    let state = this.holdState;
    void this.steering.followBandwidth(
      // Who is not connected is told when it is.
      async (bandwidthBytesPerSec) => {
        if (this.mover.connected) await this.mover.request({ verb: "limit", bandwidthBytesPerSec });
      },
      (error) => this.log("warn", "the limit was not taken", { failure: toFailure(error) }),
      this.ended.signal,
    );
    try {
      if (state === "GONE") return await this.finish();
      // Fenced, and then this agent died: it goes back.
      if (state === "RELEASED" && this.isFenced) {
        this.record("FROZEN");
        state = "FROZEN";
      }
      if (state !== "RELEASED") {
        try {
          if (state === "FROZEN" && this.options.local !== true) {
            throw ferryError(
              "E_CANCELLED",
              "the agent was restarted while the workload was frozen, nothing was released",
              { side: "source" },
            );
          }
          await this.handOver();
        } catch (error) {
          // What fails behind the commit point (the token could not be journaled) does not take it back.
          if (this.holdState !== "RELEASED") return await this.rollBack(toFailure(error, "E_DUMP"));
          this.log("error", "released, and then", { failure: toFailure(error) });
        }
      }
      return await this.finish();
    } catch (error) {
      // A person has decided against the destination, or for it.
      if (!this.decided.signal.aborted) throw error;
      // Before it runs again nobody gets images, pages or the token from here any more, should that machine come back.
      await this.control.stop();
      await this.mover.end();
      return await this.rollBack(toFailure(this.decided.signal.reason));
    } finally {
      clearTimeout(this.deadline);
      this.ended.abort(new Error("the hand-over has ended"));
      this.frames?.stop();
      await this.control.stop();
    }
  }

  // --- forward ----------------------------------------------------------------------------------------------------

  private async handOver(): Promise<void> {
    const { signal } = this.undo;
    await this.approach(signal);
    if (this.options.local !== true) {
      await this.rounds(signal);
      // Told before the freeze, and again on every new connection: it decides what PREPARED needs.
      void this.steering.course
        .wait((c) => c.resumeFirst, { signal })
        .then(() => this.control.resumeFirst())
        .catch(() => undefined);
      // As late as can be: clocks drift, rounds may take hours.
      this.clock = await orAbort(this.control.clock(), signal);
    }
    if (this.options.local === true) this.engine = this.context.runtime.adoptFreeze(this.dirs);
    else await this.freeze(this.input.ref.to, signal);
    await this.enter("transfer");
    const pids = (await this.frozen) ?? (await this.context.runtime.pids(this.name));
    const sent = await this.mover.request({ verb: "sendImages", pids }, signal);
    await this.files;
    const { digest } = sent.images;
    if (digest === undefined)
      throw ferryError("E_IMAGE_INCOMPLETE", "the images were sent without a digest", { side: "source" });
    const level = await this.control.level.wait((l) => l.destination?.hold === "PREPARED" || saysNo(l.destination), {
      signal,
    });
    if (level.destination?.hold !== "PREPARED") throw this.destinationRefused(level.destination?.failure);
    if (level.destination.digest !== digest) {
      throw ferryError("E_IMAGE_DIGEST", "the destination prepared other images than were sent", {
        side: "destination",
      });
    }
    await this.enter("switch");
    // The commit point. From the check to the journal there is no await: nothing can come between.
    if (signal.aborted) throw signal.reason;
    const { ref } = this.input;
    this.record("RELEASED", { to: ref.to, digest });
    clearTimeout(this.deadline);
    this.frames?.pass();
    this.control.release(this.makeToken(digest));
  }

  /** Link, armed destination, the volume while the workload runs. */
  private async approach(signal: AbortSignal): Promise<void> {
    const { reservation } = this.input;
    await this.enter("arm");
    this.control.start();
    await orAbort(this.mover.ensure(), signal);
    const armed = await this.control.level
      .wait((l) => l.destination?.armed === true || saysNo(l.destination), {
        signal,
        timeoutMs: ARM_TIMEOUT_MS,
        what: `node ${this.peer} being armed`,
      })
      .catch((error: unknown) => {
        const { lost } = this.control.level.value;
        throw lost === undefined
          ? error
          : new FerryError({ ...peerFailure("destination", this.peer, lost), cause: toFailure(error) });
      });
    if (armed.destination?.armed !== true) throw this.destinationRefused(armed.destination?.failure);
    await this.mover.request({ verb: "connect", ...reservation.mover }, signal);
    // From here on a mover that is started anew would not know where to send to.
    this.watchPeer();
    if (this.options.local === true) return;
    await this.enter("presync");
    await this.volume.first(signal);
    await this.flushShared();
  }

  /** Anything that makes going on pointless before the commit: the destination refuses, the link or a mover is gone. */
  private watchPeer(): void {
    const { signal } = this.undo;
    void (async () => {
      for (;;) {
        const l = await this.control.level.wait((v) => !v.connected || saysNo(v.destination), { signal });
        if (l.connected) {
          this.cancel(this.destinationRefused(l.destination?.failure).data);
          return;
        }
        try {
          await this.control.level.wait((v) => v.connected, { signal, timeoutMs: LINK_PATIENCE_MS, what: "the link" });
        } catch (error) {
          if (signal.aborted) return;
          const lost = this.control.level.value.lost ?? toFailure(error);
          this.cancel(
            ferryError("E_LINK_LOST", `node ${this.peer} could not be reached for ${LINK_PATIENCE_MS / 1000} s`, {
              side: "source",
              phase: this.timer.phase,
              cause: lost,
              remedy: "the workload runs on at the source; check the network between the nodes, then migrate again",
            }).data,
          );
          return;
        }
      }
    })().catch(() => undefined);
    this.watchMover();
  }

  // --- back ---------------------------------------------------------------------------------------------------------

  /** BURNED(to) first: from here on this source can't release that epoch. Then the veto, then OWNER again. */
  private async rollBack(why: FailureData): Promise<SideOutcome> {
    const { runtime, book } = this.context;
    const { ref } = this.input;
    clearTimeout(this.deadline);
    this.failure = {
      ...why,
      side: why.side ?? "source",
      node: why.node ?? this.context.config.node,
      phase: why.phase ?? this.timer.phase,
    };
    this.log("warn", "taking the workload back", { failure: this.failure });
    const { holdState } = this;
    if (holdState === "STOPPED") return { ...this.assemble(), state: holdState };
    if (holdState === "SUPERSEDED") {
      await this.mover.end();
      removeDirs(this.dirs);
      return { ...this.assemble(), state: holdState };
    }
    const to = book.hold(ref.workload, ref.to);
    if (to?.peer === this.context.config.node) {
      // A local restore that was cut by the agent's death: what it restored never ran, and is refused before the next try.
      await this.options.refuseLocally?.(ref);
    } else if ((to === undefined || !isDead(to.state)) && this.options.local !== true) {
      book.record({
        workload: ref.workload,
        epoch: ref.to,
        state: "BURNED",
        operation: ref.operation,
        peer: this.peer,
      });
    }
    const aborting = this.control.abort(this.failure);
    await this.unthrottle();
    if (this.holdState === "FROZEN") {
      if (this.options.local === true) {
        throw ferryError(
          "E_STUCK",
          `${ref.workload} is frozen, criu is gone, and it could not be restored locally: ${this.failure.message}`,
          {
            side: "source",
            node: this.context.config.node,
            cause: this.failure,
            remedy: "the frozen tree and its images are kept: mend the cause, then `ferry cancel` tries again",
          },
        );
      }
      try {
        await this.insistUnlessLost(() => runtime.takeBack(this.incarnation, this.dirs));
        this.putFramesBack();
      } catch (error) {
        const lost = toFailure(error);
        if (lost.phase !== "dump" || this.options.restoreLocally === undefined) throw error;
        this.log("warn", "criu was lost in the hold: restoring locally", { failure: lost });
        await this.mover.end();
        return await this.options.restoreLocally(this.input, { ...this.failure, cause: lost });
      }
      this.record("OWNER");
    }
    await Promise.race([aborting, new Promise((resolve) => setTimeout(resolve, 500))]);
    this.timer.end();
    const outcome = this.assemble();
    await this.mover.end();
    removeDirs(this.dirs);
    return { ...outcome, state: "OWNER", epoch: ref.epoch };
  }
}

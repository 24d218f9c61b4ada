/**
 * The destination's side of a hand-over.
 *
 *   RESERVED -> (armed) -> images and volume are here -> RECEIVED -> restored, held in post-restore -> PREPARED
 *   -> token -> ACTIVE -> the hold is released -> RUNNING -> link up, announce -> every page in place -> OWNER
 *
 * Until ACTIVE it may refuse at any time (TOMBSTONE, for ever): nothing of it has run. From ACTIVE on only forward: a
 * held copy that was lost is restored again from the same images and pages. Without a token it waits; it never decides
 * by a clock that the source is gone.
 */
import type { ReserveInput, SideOutcome } from "../../model/contract.js";
import { ferryError, toFailure, type FailureData } from "../../model/failure.js";
import { hasResumed } from "../../runtimes/runtime.js";
import { verifyImages } from "../../transfer/images/verify.js";
import { destroyFaultService } from "../../transfer/pages/index.js";
import { orAbort } from "../level.js";
import type { ControlHub } from "./control.js";
import { removeDirs } from "./dirs.js";
import { removeSpentVolume, type NodeContext } from "./node-context.js";
import { DestinationSide } from "./destination-side.js";
import { wallMs } from "./phases.js";

const PREPARE_ATTEMPTS = 5;
const MOVER_PAUSE_MS = 100;

export class TakeOver extends DestinationSide {
  readonly result: Promise<SideOutcome>;
  /** Goes on when it is no longer waited for: what it starts has to be there before it is swept. */
  private preparing: Promise<void> = Promise.resolve();

  constructor(context: NodeContext, hub: ControlHub, input: ReserveInput, local: boolean) {
    super(context, hub, input, local);
    this.result = this.run().then((outcome) => {
      this.outcome = outcome;
      hub.publish(input.ref.operation);
      return outcome;
    });
    this.result.catch((error: unknown) => this.log("error", "take-over broke off", { failure: toFailure(error) }));
  }

  // --- the way --------------------------------------------------------------------------------------------------

  private async run(): Promise<SideOutcome> {
    try {
      const state = this.holdState;
      if (state === "RUNNING" || state === "OWNER") return await this.drain();
      if (state === "ACTIVE") {
        await this.activate();
        return await this.drain();
      }
      if (state === "TOMBSTONE") {
        return await this.giveUp(ferryError("E_TOMBSTONED", `epoch ${this.input.ref.to} was refused earlier`).data);
      }
      await this.prepare(state === "PREPARED");
      await this.enter("switch");
      const token = await this.token.wait((value) => value !== undefined, { signal: this.refusal.signal });
      if (token === undefined) throw ferryError("E_INTERNAL", "no token");
      this.record("ACTIVE", token.digest);
    } catch (error) {
      // Once PREPARED was said the source may have released: from then on only a refusal that was asked for ends it.
      if (this.holdState === "PREPARED" && !this.refusal.signal.aborted) throw error;
      return await this.giveUp(toFailure(error, "E_RESTORE"));
    }
    await this.activate();
    return await this.drain();
  }

  /** From reserved to PREPARED. Everything that needs no images is made before they come. */
  private async prepare(again: boolean): Promise<void> {
    const { runtime } = this.context;
    const { signal } = this.refusal;
    const away = this.watchSource();
    try {
      this.preparing = runtime.prepare(this.incarnation, this.dirs);
      await orAbort(this.preparing, signal);
      if (again) {
        this.engine = runtime.adoptRestore(this.dirs);
        const status = this.engine?.status();
        if (status?.alive === true && status.reached["post-restore"] !== undefined) {
          this.armed = true;
          this.hub.publish(this.input.ref.operation);
          return;
        }
      }
      const digest = await this.fetchImages(signal);
      // Said long ago, before the volume: only a link that was lost since makes it wait.
      if (!again) await this.specAgreed.wait((agreed) => agreed, { signal });
      await this.enter("restore");
      if (again) await this.mover.request({ verb: "reset" }, signal);
      const held = this.restoreHeld(signal);
      held.catch(() => undefined);
      // Beside criu, which holds what it restores: what has changed since it came is found before it is said to be there.
      const unchanged = verifyImages(this.dirs.images, digest);
      unchanged.catch(() => undefined);
      // PREPARED was said once, and the source may have released on it: that is not taken back. Written while criu works: what
      // is restored does not run.
      if (!again) this.record("RECEIVED", digest);
      await held;
      await unchanged;
      await this.fetchPages(signal);
      this.record("PREPARED", digest);
    } finally {
      away();
    }
  }

  /**
   * Images and volume are here. After a loss of power they come again, from the frozen tree. Returns their digest.
   * Throws E_IMAGE_DIGEST when they are others than before.
   */
  private async fetchImages(signal?: AbortSignal): Promise<string> {
    const client = await this.mover.ensure();
    const status = client.status();
    this.moverPort = status.port;
    this.wantsImages = !status.images.received;
    this.armed = true;
    if (this.wantsImages) await this.enter("arm");
    this.hub.publish(this.input.ref.operation);
    const received = await this.mover.wait((s) => s.images.received && (this.local || s.volume.finalDone), signal);
    this.wantsImages = false;
    this.hub.publish(this.input.ref.operation);
    const { digest } = received.images;
    if (digest === undefined) {
      throw ferryError("E_IMAGE_INCOMPLETE", "the images came without a digest", { side: "destination" });
    }
    if (this.digest !== undefined && this.digest !== digest) {
      throw ferryError("E_IMAGE_DIGEST", "other images came than those that were prepared before", {
        side: "destination",
      });
    }
    return digest;
  }

  /** Until nothing depends on the source any more, unless it may resume first. */
  private async fetchPages(signal?: AbortSignal): Promise<void> {
    await this.mover.wait((s) => s.images.claimed, signal);
    if (this.resumeFirst.value) return;
    await this.enter("transfer");
    const stop = new AbortController();
    try {
      await Promise.race([
        this.mover.wait((s) => s.pages.allReceived, signal),
        this.resumeFirst.wait((first) => first, { signal: stop.signal }),
      ]);
    } finally {
      stop.abort(new Error("done"));
    }
  }

  /**
   * criu's restore itself may touch a page that has not come (it registers restartable sequences, which lie in the task's
   * memory), and waits for it: so a mover that dies meanwhile is replaced at once.
   */
  private async keepMover(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.mover.wait(() => false, signal).catch(() => undefined);
      if (!signal.aborted) await new Promise((resolve) => setTimeout(resolve, MOVER_PAUSE_MS));
    }
  }

  /** Start criu and wait for the hold. Throws E_RESTORE with criu's own words. */
  private async restoreHeld(signal?: AbortSignal): Promise<void> {
    const engine = await this.context.runtime.restore(this.incarnation, this.dirs);
    this.engine = engine;
    const wait = engine.wait((s) => s.reached["post-restore"] !== undefined, 600_000);
    const over = new AbortController();
    void this.keepMover(over.signal);
    const status = await (signal === undefined ? wait : orAbort(wait, signal)).finally(() =>
      over.abort(new Error("held")),
    );
    if (status.reached["post-restore"] === undefined) {
      const evidence = await engine.evidence();
      throw ferryError("E_RESTORE", `criu could not restore ${this.input.ref.workload} on this node`, {
        side: "destination",
        node: this.context.config.node,
        phase: "restore",
        evidence,
        remedy:
          "the workload goes on at the source; the lines above are criu's reason: mend it on the destination and migrate again",
      });
    }
  }

  /** ACTIVE: let it run. A held copy that was lost is restored again. */
  private async activate(): Promise<void> {
    const { runtime } = this.context;
    const { ref } = this.input;
    for (let attempt = 1; ; attempt++) {
      this.demandActive();
      try {
        if (this.engine === undefined) this.engine = runtime.adoptRestore(this.dirs);
        const status = this.engine?.status();
        const held = status?.alive === true && status.reached["post-restore"] !== undefined;
        // One that ran is not restored again, and may have ended since.
        const resumed = status !== undefined && hasResumed(status);
        if (!held && !resumed) {
          await runtime.destroy({ name: ref.workload, epoch: ref.to }, this.dirs);
          await runtime.prepare(this.incarnation, this.dirs);
          // They may have lain here for long.
          await verifyImages(this.dirs.images, await this.fetchImages());
          await this.mover.request({ verb: "reset" });
          await this.restoreHeld();
          await this.fetchPages();
        }
        await this.enter("resume");
        this.demandActive();
        const { resumedAt } = await runtime.release(this.incarnation, this.dirs);
        this.resumedAt = resumedAt;
        this.record("RUNNING");
        return;
      } catch (error) {
        this.failure = toFailure(error, "E_RESTORE");
        this.log("error", `resume failed, attempt ${attempt}`, { failure: this.failure });
        this.engine = undefined;
        if (attempt >= PREPARE_ATTEMPTS) {
          this.hub.publish(ref.operation);
          throw ferryError(
            "E_STUCK",
            `the source has released ${ref.workload}, but it can't be resumed here after ${attempt} attempts`,
            {
              side: "destination",
              node: this.context.config.node,
              cause: this.failure,
              remedy:
                "images and pages are kept, and the source still holds the frozen workload: mend the cause, then restart this node's agent to try again",
            },
          );
        }
        await new Promise((resolve) => setTimeout(resolve, 500 * attempt));
      }
    }
  }

  /** It may have been superseded meanwhile. Throws E_STATE. */
  private demandActive(): void {
    if (this.holdState === "ACTIVE") return;
    const { ref } = this.input;
    throw ferryError("E_STATE", `epoch ${ref.to} of ${ref.workload} is ${this.holdState ?? "unknown"}: it may not run`);
  }

  /** RUNNING: network, then every page. Goes on however often the mover dies. */
  private async drain(): Promise<SideOutcome> {
    const { runtime } = this.context;
    const { ref } = this.input;
    if (this.holdState === "RUNNING") {
      if (this.resumedAt === undefined) {
        const engine = runtime.adoptRestore(this.dirs);
        this.resumedAt =
          engine?.status().reached["post-resume"] ?? engine?.status().reached["post-restore"] ?? wallMs();
      }
      this.failure = undefined;
      await runtime.openNetwork(this.incarnation);
      this.openDoor();
      this.hub.publish(ref.operation);
      await this.enter("drain");
      for (;;) {
        try {
          await this.mover.request({ verb: "fill" });
          await this.mover.wait((s) => s.pages.allFilled && (this.local || s.volume.durable === true));
          break;
        } catch (error) {
          const { processes } = await runtime.observe({ name: ref.workload, epoch: ref.to });
          if (processes === 0) {
            this.failure = ferryError("E_RESTORE", `${ref.workload} ended while its pages were still coming`, {
              side: "destination",
              cause: toFailure(error),
            }).data;
            break;
          }
          this.log("warn", "the page traffic broke off and goes on", { failure: toFailure(error) });
          await new Promise((resolve) => setTimeout(resolve, 200));
        }
      }
      this.drainedAt = wallMs();
      this.record("OWNER");
    }
    this.timer.end();
    const outcome = this.assemble("OWNER");
    await this.mover.end();
    this.hub.publish(ref.operation);
    return outcome;
  }

  /** What its peers said in the blackout, now that it listens. */
  private openDoor(): void {
    try {
      this.frames.open(this.context.runtime.frameDoor(this.incarnation));
    } catch (error) {
      this.log("warn", "kept frames could not be delivered: peers send them again", { failure: toFailure(error) });
      this.frames.close();
    }
  }

  /** SUPERSEDED was journaled, and the tree killed: what served it goes. */
  async superseded(): Promise<void> {
    // Without its mover nothing of it gets on.
    await this.mover.end();
    await this.result.catch(() => undefined);
    await this.mover.end();
    await destroyFaultService(this.dirs.store);
    removeDirs(this.dirs);
  }

  /** TOMBSTONE first, then sweep: from here on no token is ever accepted for this epoch. */
  private async giveUp(failure: FailureData): Promise<SideOutcome> {
    const { ref } = this.input;
    this.failure = { ...failure, side: failure.side ?? "destination", node: failure.node ?? this.context.config.node };
    this.log("warn", "refused", { failure: this.failure });
    this.record("TOMBSTONE");
    this.frames.close();
    this.timer.end();
    const outcome = this.assemble("TOMBSTONE");
    await this.preparing.catch(() => undefined);
    for (let attempt = 1; ; attempt++) {
      try {
        // The tree first: the page daemon does not leave tasks that still depend on it.
        await this.context.runtime.destroy({ name: ref.workload, epoch: ref.to }, this.dirs);
        await this.mover.end();
        await destroyFaultService(this.dirs.store);
        removeDirs(this.dirs);
        // Nobody may ask for a clean-up: the workflow may be gone.
        if (!this.local) await removeSpentVolume(this.context, ref.workload);
        break;
      } catch (error) {
        this.log("error", "sweeping after a refusal failed, trying again", { failure: toFailure(error) });
        if (attempt >= 10)
          return {
            ...outcome,
            failure: {
              ...this.failure,
              code: "E_STUCK",
              message: `${this.failure.message}; and what is left could not be removed: ${toFailure(error).message}`,
            },
          };
        await new Promise((resolve) => setTimeout(resolve, 300 * attempt));
      }
    }
    return outcome;
  }
}

/**
 * From a running tree to one that stands still and is dumped: what a hand-over and a checkpoint do alike. Rounds of memory
 * and files, then FROZEN, criu's dump, and what changed last.
 */
import { FerryError, ferryError, toFailure, type FailureData } from "../../model/failure.js";
import { hasRounds } from "../../model/plan.js";
import { orAbort } from "../level.js";
import { SourceSide } from "./source-side.js";

export abstract class FreezingSide extends SourceSide {
  /** The tree's processes since the freeze: host pid by pid inside. Undefined: it was frozen before this agent came. */
  protected frozen: Promise<Record<string, number>> | undefined;
  /** Own and shared volumes are as they were at the freeze. */
  protected files: Promise<unknown> | undefined;

  /** Take it back, unless it was released. Answers by `result`. */
  cancel(failure: FailureData): void {
    if (this.holdState === "RELEASED" || this.holdState === "GONE") return;
    if (this.undo.signal.aborted) return;
    this.log("info", "told to take it back", { failure });
    this.undo.abort(new FerryError(failure));
  }

  /** Memory in rounds, while it runs; then, in every mode, until a person lets it freeze. The volume follows beside. */
  protected async rounds(signal: AbortSignal): Promise<void> {
    const { steering, volume } = this;
    volume.follow(signal);
    try {
      if (hasRounds(this.input.options.mode)) {
        await this.enter("precopy");
        this.precopy = await this.makeRounds();
        await this.precopy.run(signal);
      }
      await steering.clear(signal, true);
      if (await volume.finish(signal)) await this.precopy?.again(signal);
    } finally {
      volume.stop();
    }
  }

  /** `to`: the epoch that it may be handed over to; its own: it is frozen for a checkpoint. */
  protected async freeze(to: number, signal: AbortSignal): Promise<void> {
    const { runtime } = this.context;
    const { options } = this.input;
    if (signal.aborted) throw signal.reason;
    this.keepFrames();
    await this.enter("freeze");
    this.context.book.demandRoom();
    this.record("FROZEN", { to });
    const limit = options.maxBlackoutMs;
    this.deadline = setTimeout(() => this.cancel(this.tooLong(limit).data), limit);
    this.engine = await runtime.freeze(this.incarnation, this.dirs);
    const { engine } = this;
    const started = await orAbort(
      engine.wait((s) => s.reached["network-lock"] !== undefined, limit + 60_000),
      signal,
    );
    if (started.reached["network-lock"] === undefined) throw await this.dumpFailed(engine);
    this.frozenAt = started.reached["network-lock"];
    this.frames?.linkIsDown();
    await this.enter("dump");
    // The tree stands still: its processes are those that they are, and the rest of the volume goes while criu dumps.
    const frozen = runtime.pids(this.name);
    this.frozen = frozen;
    const volume = frozen.then((pids) => this.mover.request({ verb: "finalSync", pids: Object.values(pids) }, signal));
    volume.catch(() => undefined);
    const shared = this.flushShared();
    shared.catch(() => undefined);
    // So does memory: what changed since the last round is on its way before criu has finished.
    const pages = this.precopy?.last(frozen, signal);
    pages?.catch(() => undefined);
    const held = await orAbort(
      engine.wait((s) => s.reached["post-dump"] !== undefined, limit + 60_000),
      signal,
    );
    if (held.reached["post-dump"] === undefined) throw await this.dumpFailed(engine);
    // Resuming first does not wait for pages, whenever a person says so.
    const unblock = (): Promise<unknown> => this.mover.request({ verb: "cut" }, signal);
    if (pages !== undefined)
      void this.steering.course
        .wait((c) => c.resumeFirst, { signal })
        .then(unblock)
        .catch(() => undefined);
    await pages;
    // The rest of the files goes beside the images; the destination restores when it has both.
    this.files = Promise.all([volume, shared]);
    this.files.catch(() => undefined);
  }

  /** The deadline of the blackout has passed. */
  protected tooLong(limitMs: number): FerryError {
    return ferryError("E_DEADLINE", `the workload was frozen for ${limitMs} ms without being taken over`, {
      side: "source",
      phase: this.timer.phase,
      remedy: "it runs on at the source; a faster link or post-copy shortens the blackout, --max-blackout allows more",
    });
  }

  /** A mover that dies before the end makes going on pointless. */
  protected watchMover(): void {
    const { signal } = this.undo;
    void this.mover
      .wait(() => false, signal)
      .catch((error: unknown) => {
        if (!signal.aborted) this.cancel(toFailure(error, "E_PAGES"));
      });
  }
}

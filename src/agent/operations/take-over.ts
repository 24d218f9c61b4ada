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
import type { Inquiry, ReserveInput, SideOutcome, Token } from "../../model/contract.js";
import { FerryError, ferryError, toFailure, type FailureData } from "../../model/failure.js";
import type { DestinationMoverRequest, DestinationMoverStatus } from "../../model/mover.js";
import type { HoldState } from "../../model/ownership.js";
import type { Phase } from "../../model/phase.js";
import type { Progress } from "../../model/report.js";
import type { EngineHandle, Incarnation } from "../../runtimes/runtime.js";
import { verifyToken } from "../../transfer/link/index.js";
import { destroyFaultService } from "../../transfer/pages/index.js";
import { failpoint } from "../failpoint.js";
import { Level, orAbort } from "../level.js";
import type { ControlHub, ControlTarget, DestinationState } from "./control.js";
import { makeDirs, removeDirs, sideDirs, type SideDirs } from "./dirs.js";
import { MoverSide } from "./mover.js";
import { writeMoverConfig, type NodeContext } from "./node-context.js";
import { PhaseTimer, wallMs } from "./phases.js";

/** Before PREPARED a source that is away this long has gone back: the destination refuses. */
const SOURCE_AWAY_MS = 15_000;
const PREPARE_ATTEMPTS = 5;

export class TakeOver implements ControlTarget {
  readonly result: Promise<SideOutcome>;
  outcome: SideOutcome | undefined;
  private readonly context: NodeContext;
  private readonly input: ReserveInput;
  private readonly local: boolean;
  private readonly hub: ControlHub;
  private readonly dirs: SideDirs;
  private readonly incarnation: Incarnation;
  private readonly timer: PhaseTimer;
  private readonly mover: MoverSide<DestinationMoverStatus, DestinationMoverRequest>;
  private readonly refusal = new AbortController();
  private readonly token = new Level<Token | undefined>(undefined);
  private readonly link: Level<boolean>;
  private armed = false;
  private resumedAt: number | undefined;
  private drainedAt: number | undefined;
  private failure: FailureData | undefined;

  constructor(context: NodeContext, hub: ControlHub, input: ReserveInput, local: boolean) {
    this.context = context;
    this.input = input;
    this.local = local;
    this.hub = hub;
    const { ref, spec } = input;
    this.dirs = sideDirs(context.config.runDir, ref.operation, "destination");
    this.incarnation = { spec, epoch: ref.to };
    this.timer = new PhaseTimer("destination", (phase) => this.log("info", `phase ${phase}`, { phase }));
    makeDirs(this.dirs);
    const config = writeMoverConfig(context, this.dirs, {
      operation: ref.operation,
      workload: ref.workload,
      peer: local ? context.config.node : ref.source,
      side: "destination",
      to: ref.to,
    });
    this.mover = new MoverSide(config, this.dirs, (status) => this.heard(status));
    this.link = new Level(hub.connected(ref.operation));
    hub.register(ref.operation, this);
    this.result = this.run().then((outcome) => {
      this.outcome = outcome;
      hub.publish(ref.operation);
      return outcome;
    });
    this.result.catch((error: unknown) => this.log("error", "take-over broke off", { failure: toFailure(error) }));
  }

  private get holdState(): HoldState | undefined {
    return this.context.book.hold(this.input.ref.workload, this.input.ref.to)?.state;
  }
  private get digest(): string | undefined {
    return this.context.book.hold(this.input.ref.workload, this.input.ref.to)?.digest;
  }
  private log(level: "debug" | "info" | "warn" | "error", message: string, fields: Record<string, unknown> = {}): void {
    const { ref } = this.input;
    this.context.log(level, message, {
      workload: ref.workload,
      operation: ref.operation,
      epoch: ref.to,
      side: "destination",
      ...fields,
    });
  }
  private record(state: HoldState, digest?: string): void {
    const { ref } = this.input;
    this.context.book.record({
      workload: ref.workload,
      epoch: ref.to,
      state,
      operation: ref.operation,
      peer: this.local ? this.context.config.node : ref.source,
      ...(digest === undefined ? {} : { digest }),
    });
    this.hub.publish(ref.operation);
  }
  private heard(status: DestinationMoverStatus): void {
    this.timer.counts(
      {
        sent: status.pages.received * 4096 + status.images.bytes,
        total: status.pages.total * 4096 + status.images.bytes,
      },
      { sent: status.pages.received, total: status.pages.total },
    );
  }

  private async enter(phase: Phase): Promise<void> {
    this.timer.begin(phase);
    await failpoint(`destination.${phase}`);
  }
  progress(): Progress {
    return this.timer.progress();
  }

  // --- what the control link brings -------------------------------------------------------------------------------

  state(): DestinationState {
    const hold = this.holdState;
    return {
      armed: this.armed,
      drained: hold === "OWNER",
      ...(hold === undefined ? {} : { hold }),
      ...(this.digest === undefined ? {} : { digest: this.digest }),
      ...(this.resumedAt === undefined ? {} : { resumedAt: this.resumedAt }),
      ...(this.failure === undefined ? {} : { failure: this.failure }),
    };
  }
  onConnected(connected: boolean): void {
    this.link.set(connected);
  }
  onAbort(failure: FailureData): void {
    this.refuse(
      ferryError("E_CANCELLED", `the source took the workload back: ${failure.message}`, {
        side: "source",
        cause: failure,
      }).data,
    );
  }
  /** A token from the link or from the workflow. Throws E_TOKEN; one that fits is kept. */
  onToken(raw: unknown): void {
    try {
      this.accept(raw);
    } catch (error) {
      this.log("error", "a token was refused", { failure: toFailure(error) });
    }
  }
  accept(raw: unknown): void {
    const { ref } = this.input;
    const state = this.holdState;
    if (state === "TOMBSTONE")
      throw ferryError("E_TOMBSTONED", `epoch ${ref.to} of ${ref.workload} was refused for ever on this node`);
    const { digest } = this;
    if (digest === undefined) {
      throw ferryError(
        "E_TOKEN",
        `nothing was prepared here for epoch ${ref.to} of ${ref.workload}: the token can't be checked`,
      );
    }
    const token = verifyToken(raw, this.context.identity, {
      workload: ref.workload,
      operation: ref.operation,
      to: ref.to,
      source: this.local ? this.context.config.node : ref.source,
      destination: this.context.config.node,
      digest,
    });
    if (this.token.value === undefined) this.token.set(token);
  }

  /** Refuse, unless the token was accepted: then it only goes forward. Answers by `outcome`. */
  refuse(failure: FailureData): void {
    const state = this.holdState;
    if (state === "ACTIVE" || state === "RUNNING" || state === "OWNER") return;
    if (!this.refusal.signal.aborted) this.refusal.abort(new FerryError(failure));
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
      return await this.giveUp(toFailure(error, "E_RESTORE"));
    }
    await this.activate();
    return await this.drain();
  }

  private engine: EngineHandle | undefined;

  /** From reserved to PREPARED. Everything that needs no images is made before they come. */
  private async prepare(again: boolean): Promise<void> {
    const { runtime } = this.context;
    const { signal } = this.refusal;
    const away = this.watchSource();
    try {
      await orAbort(runtime.prepare(this.incarnation, this.dirs), signal);
      if (again) {
        this.engine = runtime.adoptRestore(this.dirs);
        const status = this.engine?.status();
        if (status?.alive === true && status.reached["post-restore"] !== undefined) {
          this.armed = true;
          this.hub.publish(this.input.ref.operation);
          return;
        }
      }
      await orAbort(this.mover.ensure(), signal);
      this.armed = true;
      await this.enter("arm");
      this.hub.publish(this.input.ref.operation);
      const received = await this.mover.wait((s) => s.images.received && (this.local || s.volume.finalDone), signal);
      const { digest } = received.images;
      if (digest === undefined)
        throw ferryError("E_IMAGE_INCOMPLETE", "the images came without a digest", { side: "destination" });
      this.record("RECEIVED", digest);
      await this.enter("restore");
      if (again) await this.mover.request({ verb: "reset" }, signal);
      await this.restoreHeld(signal);
      if (this.input.options.mode !== "postcopy" || this.local) {
        await this.enter("transfer");
        await this.mover.wait((s) => s.pages.allReceived, signal);
      }
      this.record("PREPARED", digest);
    } finally {
      away();
    }
  }

  /** Start criu and wait for the hold. Throws E_RESTORE with criu's own words. */
  private async restoreHeld(signal?: AbortSignal): Promise<void> {
    const engine = await this.context.runtime.restore(this.incarnation, this.dirs);
    this.engine = engine;
    const wait = engine.wait((s) => s.reached["post-restore"] !== undefined, 600_000);
    const status = await (signal === undefined ? wait : orAbort(wait, signal));
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

  /** Refuses when the source stays away before anything was prepared. */
  private watchSource(): () => void {
    let timer: NodeJS.Timeout | undefined;
    let seen = false;
    const stop = new AbortController();
    void (async () => {
      while (!stop.signal.aborted) {
        await this.link.wait((up) => up, { signal: stop.signal });
        seen = true;
        clearTimeout(timer);
        await this.link.wait((up) => !up, { signal: stop.signal });
        timer = setTimeout(() => {
          if (this.holdState === "PREPARED") return;
          this.refuse(
            ferryError(
              "E_LINK_LOST",
              `the source ${this.input.ref.source} was gone for ${SOURCE_AWAY_MS / 1000} s before anything was prepared`,
              {
                side: "destination",
              },
            ).data,
          );
        }, SOURCE_AWAY_MS);
      }
    })().catch(() => undefined);
    return () => {
      void seen;
      clearTimeout(timer);
      stop.abort(new Error("done"));
    };
  }

  /** ACTIVE: let it run. A held copy that was lost is restored again. */
  private async activate(): Promise<void> {
    const { runtime } = this.context;
    const { ref } = this.input;
    for (let attempt = 1; ; attempt++) {
      try {
        if (this.engine === undefined) this.engine = runtime.adoptRestore(this.dirs);
        const status = this.engine?.status();
        const held = status?.alive === true && status.reached["post-restore"] !== undefined;
        const resumed = status?.exitCode === 0;
        if (!held && !resumed) {
          await runtime.destroy({ name: ref.workload, epoch: ref.to }, this.dirs);
          await runtime.prepare(this.incarnation, this.dirs);
          await this.mover.request({ verb: "reset" });
          await this.restoreHeld();
        }
        await this.enter("resume");
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

  private assemble(state: HoldState): SideOutcome {
    const status = this.mover.status;
    const pagesReceived = status?.pages.received ?? 0;
    return {
      state,
      phases: this.timer.all(),
      transfer: {
        bytesSent: pagesReceived * 4096 + (status?.images.bytes ?? 0),
        pagesSent: pagesReceived,
        pagesFaulted: status?.pages.faults ?? 0,
        volumeBytes: status?.volume.bytesReceived ?? 0,
        bandwidthBytesPerSec: 0,
      },
      ...(this.resumedAt === undefined ? {} : { resumedAt: this.resumedAt }),
      ...(this.drainedAt === undefined ? {} : { drainedAt: this.drainedAt }),
      ...(this.failure === undefined ? {} : { failure: this.failure }),
      ...(state === "OWNER" ? { epoch: this.input.ref.to } : {}),
    };
  }

  /** TOMBSTONE first, then sweep: from here on no token is ever accepted for this epoch. */
  private async giveUp(failure: FailureData): Promise<SideOutcome> {
    const { ref } = this.input;
    this.failure = { ...failure, side: failure.side ?? "destination", node: failure.node ?? this.context.config.node };
    this.log("warn", "refused", { failure: this.failure });
    this.record("TOMBSTONE");
    this.timer.end();
    const outcome = this.assemble("TOMBSTONE");
    for (let attempt = 1; ; attempt++) {
      try {
        // The tree first: the page daemon does not leave tasks that still depend on it.
        await this.context.runtime.destroy({ name: ref.workload, epoch: ref.to }, this.dirs);
        await this.mover.end();
        await destroyFaultService(this.dirs.store);
        removeDirs(this.dirs);
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

  inquiry(): Pick<Inquiry, "failure" | "outcome"> {
    return {
      ...(this.failure === undefined ? {} : { failure: this.failure }),
      ...(this.outcome === undefined ? {} : { outcome: this.outcome }),
    };
  }
  dispose(): void {
    this.hub.unregister(this.input.ref.operation, this);
  }
}

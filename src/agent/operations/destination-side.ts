/**
 * What the destination's side of a hand-over is made of: its journal records, mover, control link and phase times, what
 * it accepts (a token, an abort) and what it refuses. The order of things is in take-over.ts.
 */
import { specDigest } from "../../keys/spec-signing.js";
import type { Inquiry, ReserveInput, SideOutcome, Token } from "../../model/contract.js";
import { FerryError, ferryError, toFailure, type FailureData } from "../../model/failure.js";
import type { DestinationMoverRequest, DestinationMoverStatus } from "../../model/mover.js";
import { frameAddress, frameMatch } from "../../host/frame-socket.js";
import { unpackFrames } from "../../host/kept-frames.js";
import { hasOwned, type HoldState } from "../../model/ownership.js";
import { maybeWentHome } from "../../model/settlement.js";
import type { Progress } from "../../model/report.js";
import type { EngineHandle, Incarnation } from "../../runtimes/runtime.js";
import { verifyToken } from "../../transfer/link/index.js";
import { failpoint, type PhaseOf } from "../failpoint.js";
import { Level } from "../level.js";
import { toldAs, type ControlHub, type ControlTarget, type DestinationState } from "./control.js";
import { DestinationFrames } from "./frames.js";
import { makeDirs, sideDirs, type SideDirs } from "./dirs.js";
import { MoverSide } from "./mover.js";
import { receiptOf, writeMoverConfig, type NodeContext } from "./node-context.js";
import { PhaseTimer } from "./phases.js";

/** Before PREPARED a source that is away this long has gone back: the destination refuses. */
const SOURCE_AWAY_MS = 15_000;

export abstract class DestinationSide implements ControlTarget {
  outcome: SideOutcome | undefined;
  protected readonly context: NodeContext;
  protected readonly input: ReserveInput;
  protected readonly local: boolean;
  protected readonly hub: ControlHub;
  protected readonly dirs: SideDirs;
  protected readonly incarnation: Incarnation;
  protected readonly timer: PhaseTimer;
  protected readonly mover: MoverSide<DestinationMoverStatus, DestinationMoverRequest>;
  protected readonly refusal = new AbortController();
  /** It may resume before every page is here. */
  protected readonly resumeFirst: Level<boolean>;
  /** The source has said that it runs the spec of this reservation, or is of a version that does not say it. */
  protected readonly specAgreed = new Level(false);
  protected readonly token = new Level<Pick<Token, "digest"> | undefined>(undefined);
  protected readonly link: Level<boolean>;
  protected readonly frames: DestinationFrames;
  protected armed = false;
  protected wantsImages = false;
  private wasComplete = false;
  protected moverPort: number | undefined;
  protected resumedAt: number | undefined;
  protected drainedAt: number | undefined;
  protected failure: FailureData | undefined;

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
    const match = frameMatch(frameAddress(spec.network));
    this.frames = new DestinationFrames((payload) => unpackFrames(payload, match));
    this.resumeFirst = new Level(input.options.mode === "postcopy" && !local);
    this.link = new Level(hub.connected(ref.operation));
    hub.register(ref.operation, this);
  }

  protected get holdState(): HoldState | undefined {
    return this.context.book.hold(this.input.ref.workload, this.input.ref.to)?.state;
  }
  protected get digest(): string | undefined {
    return this.context.book.hold(this.input.ref.workload, this.input.ref.to)?.digest;
  }
  protected log(
    level: "debug" | "info" | "warn" | "error",
    message: string,
    fields: Record<string, unknown> = {},
  ): void {
    const { ref } = this.input;
    this.context.log(level, message, {
      workload: ref.workload,
      operation: ref.operation,
      epoch: ref.to,
      side: "destination",
      ...fields,
    });
  }
  protected record(state: HoldState, digest?: string): void {
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
  protected heard(status: DestinationMoverStatus): void {
    this.timer.counts(
      {
        sent: status.pages.received * 4096 + status.images.bytes,
        total: status.pages.total * 4096 + status.images.bytes,
      },
      { sent: status.pages.received, total: status.pages.total },
    );
    // The source waits for this word, and for no other change of the counters.
    if (status.pages.allReceived && !this.wasComplete) {
      this.wasComplete = true;
      this.hub.publish(this.input.ref.operation);
    }
  }

  protected async enter(phase: PhaseOf<"destination">): Promise<void> {
    this.timer.begin(phase);
    await failpoint(`destination.${phase}`);
  }
  get workload(): string {
    return this.input.ref.workload;
  }
  progress(): Progress {
    return this.timer.progress();
  }

  // --- what the control link brings -------------------------------------------------------------------------------

  state(): DestinationState {
    const hold = this.holdState;
    return {
      armed: this.armed,
      wantsImages: this.wantsImages,
      complete: hasOwned(hold) || this.mover.status?.pages.allReceived === true,
      ...(this.moverPort === undefined ? {} : { moverPort: this.moverPort }),
      ...(hold === undefined ? {} : { hold: toldAs(hold) }),
      ...(this.digest === undefined ? {} : { digest: this.digest }),
      ...(this.resumedAt === undefined ? {} : { resumedAt: this.resumedAt }),
      ...(this.failure === undefined ? {} : { failure: this.failure }),
    };
  }
  onConnected(connected: boolean): void {
    this.link.set(connected);
  }
  /**
   * Whoever asks for a reservation may name any spec. This node holds it against its policy, and criu restores what runs at
   * the source: so both have to be the same. After RECEIVED that was asked already.
   */
  onSpec(digest: string | undefined): void {
    const { ref, spec } = this.input;
    if (this.specAgreed.value || this.holdState !== "RESERVED") return;
    if (digest === undefined || digest === specDigest(spec)) {
      if (digest === undefined) this.log("warn", `node ${ref.source} does not say its spec: its Ferry is older`);
      this.specAgreed.set(true);
      return;
    }
    const { node } = this.context.config;
    this.refuse(
      ferryError(
        "E_SPEC",
        `node ${node} was asked to take over another spec of ${ref.workload} than the one that runs on node ${ref.source}`,
        {
          side: "destination",
          node,
          workload: ref.workload,
          remedy: "it runs on at the source: migrate with `ferry migrate`, and find out who else asks nodes to reserve",
        },
      ).data,
    );
  }
  onResumeFirst(): void {
    if (!this.local) this.resumeFirst.set(true);
  }
  onFrames(payload: Buffer): void {
    this.frames.take(payload);
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

  /**
   * A person says that the source is off: what was prepared runs without its token. Throws E_STATE when something of it
   * is at the source only, or nobody has accepted that the source may have gone home and worked on: without its token
   * only the source knows whether it has.
   */
  async claim(evidence: string, acceptRollback: boolean): Promise<void> {
    const { ref } = this.input;
    // Asked anew: it may be another one since this agent was restarted.
    await this.mover.ensure();
    if (this.token.value !== undefined || this.holdState !== "PREPARED") return;
    if (this.link.value) {
      throw ferryError("E_STATE", `node ${ref.source} is connected right now: it is not off`, {
        side: "destination",
        remedy: "wait: both settle it by themselves",
      });
    }
    const { digest } = this;
    if (digest === undefined || this.mover.status?.pages.allReceived !== true) {
      throw ferryError(
        "E_STATE",
        `pages of ${ref.workload} are at ${ref.source} only: it can't run here without them`,
        {
          side: "destination",
          remedy: `bring ${ref.source} back`,
        },
      );
    }
    if (!acceptRollback) throw maybeWentHome(ref);
    this.log("warn", "claimed by a person's word", { evidence });
    this.token.set({ digest });
  }

  /** Refuse, unless the token was accepted: then it only goes forward. Answers by `outcome`. */
  refuse(failure: FailureData): void {
    const state = this.holdState;
    if (state === "ACTIVE" || state === "RUNNING" || state === "OWNER") return;
    if (this.refusal.signal.aborted) return;
    this.log("info", "told to refuse", { failure });
    this.refusal.abort(new FerryError(failure));
  }

  /** Refuses when the source stays away before anything was prepared. */
  protected watchSource(): () => void {
    let timer: NodeJS.Timeout | undefined;
    const stop = new AbortController();
    void (async () => {
      while (!stop.signal.aborted) {
        await this.link.wait((up) => up, { signal: stop.signal });
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
      clearTimeout(timer);
      stop.abort(new Error("done"));
    };
  }

  protected assemble(state: HoldState): SideOutcome {
    const status = this.mover.status;
    const receipt = this.local ? undefined : receiptOf(this.context, this.input.ref);
    const pagesReceived = status?.pages.received ?? 0;
    const frames = this.frames.counts();
    const clockStepMs = this.timer.clockStep();
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
      ...(clockStepMs === undefined ? {} : { clockStepMs }),
      ...(frames === undefined ? {} : { frames }),
      ...(this.resumedAt === undefined ? {} : { resumedAt: this.resumedAt }),
      ...(this.drainedAt === undefined ? {} : { drainedAt: this.drainedAt }),
      ...(this.failure === undefined ? {} : { failure: this.failure }),
      ...(state === "OWNER" ? { epoch: this.input.ref.to } : {}),
      ...(receipt === undefined ? {} : { receipt }),
    };
  }

  inquiry(): Pick<Inquiry, "failure" | "outcome"> {
    return {
      ...(this.failure === undefined ? {} : { failure: this.failure }),
      ...(this.outcome === undefined ? {} : { outcome: this.outcome }),
    };
  }
  dispose(): void {
    this.frames.close();
    this.hub.unregister(this.input.ref.operation, this);
  }

  protected engine: EngineHandle | undefined;
}

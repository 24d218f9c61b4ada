/**
 * What the source's side of a hand-over is made of: its journal records, mover, control link, phase times, and the steps
 * that are tried again until they work. The order of things is in hand-over.ts.
 */
import { specDigest } from "../../keys/spec-signing.js";
import type { HandOverInput, OperationRef, Inquiry, SideOutcome, Token } from "../../model/contract.js";
import { FerryError, ferryError, toFailure, type FailureData } from "../../model/failure.js";
import type { SourceMoverRequest, SourceMoverStatus } from "../../model/mover.js";
import type { HoldState } from "../../model/ownership.js";
import type { Phase } from "../../model/phase.js";
import type { ClockOffset, Progress } from "../../model/report.js";
import type { EngineHandle, Incarnation } from "../../runtimes/runtime.js";
import type { SteerCommand, Steered } from "../../model/steering.js";
import type { WorkloadSpec } from "../../model/workload.js";
import { signToken } from "../../transfer/link/index.js";
import { failpoint, type Failpoint, type PhaseOf } from "../failpoint.js";
import { ControlDialer, peerFailure } from "./control.js";
import { makeDirs, sideDirs, type SideDirs } from "./dirs.js";
import { SourceFrames } from "./frames.js";
import { MoverSide } from "./mover.js";
import { writeMoverConfig, type NodeContext } from "./node-context.js";
import { PhaseTimer } from "./phases.js";
import { sharedVolumeDir } from "../policy.js";
import { frozenMemoryBytes } from "../preflight/memory.js";
import { flushShared } from "../shared-volumes.js";
import { Rounds } from "./rounds.js";
import { Steering } from "./steering.js";
import { Traffic } from "./traffic.js";
import { VolumeFollower } from "./volume-follower.js";

/** The last pass of the volume begins at most so long after the one before it. */
const LAST_PASS_COVERS_MS = 3500;
/** In this time before the rounds are expected to end, nothing else is begun. */
const NEARLY_DONE_MS = 1500;

export interface HandOverOptions {
  /** Restore here, on the node itself: criu was lost in the hold (design section 4.6). Images are there already. */
  local?: boolean;
  /** Called when criu was lost: restores locally and answers how that ended. */
  restoreLocally?: (input: HandOverInput, why: FailureData) => Promise<SideOutcome>;
  /** Refuses what an earlier local restore of this operation has left, and waits until it is swept. */
  refuseLocally?: (ref: OperationRef) => Promise<void>;
}

export abstract class SourceSide {
  outcome: SideOutcome | undefined;
  protected readonly context: NodeContext;
  protected readonly input: HandOverInput;
  protected readonly options: HandOverOptions;
  protected readonly peer: string;
  protected readonly dirs: SideDirs;
  protected readonly incarnation: Incarnation;
  protected readonly timer: PhaseTimer;
  private readonly traffic = new Traffic();
  protected readonly mover: MoverSide<SourceMoverStatus, SourceMoverRequest>;
  protected readonly control: ControlDialer;
  protected readonly undo = new AbortController();
  protected readonly steering: Steering;
  protected readonly volume: VolumeFollower;
  protected precopy: Rounds | undefined;
  /** Of the tree, as it was before the freeze. */
  protected size = { memoryBytes: 0, processes: 0 };
  /** Of these, what only moves while it is frozen: it goes with the images. */
  protected frozenBytes = 0;
  protected engine: EngineHandle | undefined;
  protected frozenAt: number | undefined;
  /** Of the destination. */
  protected clock: ClockOffset | undefined;
  protected frames: SourceFrames | undefined;
  protected failure: FailureData | undefined;
  protected deadline: NodeJS.Timeout | undefined;

  constructor(context: NodeContext, input: HandOverInput, spec: WorkloadSpec, options: HandOverOptions = {}) {
    this.context = context;
    this.input = input;
    this.options = options;
    const { ref } = input;
    this.peer = options.local === true ? context.config.node : ref.destination;
    this.dirs = sideDirs(context.config.runDir, ref.operation, "source");
    this.incarnation = { spec, epoch: ref.epoch };
    this.timer = new PhaseTimer("source", (phase) => this.log("info", `phase ${phase}`, { phase }));
    makeDirs(this.dirs);
    const config = writeMoverConfig(context, this.dirs, {
      operation: ref.operation,
      workload: ref.workload,
      peer: this.peer,
      side: "source",
      to: ref.to,
      bandwidthBytesPerSec: input.options.bandwidthBytesPerSec,
    });
    const { book } = context;
    // A local restore is this node's own, nobody steers it.
    const kept = options.local === true ? undefined : book.course(ref.operation);
    this.steering = new Steering(input.options, kept, (course) => book.recordCourse(ref.operation, course));
    // The mover's own configuration has the limit that was asked for at first.
    this.mover = new MoverSide<SourceMoverStatus, SourceMoverRequest>(
      config,
      this.dirs,
      (status) => this.heard(status),
      () => ({ verb: "limit", bandwidthBytesPerSec: this.steering.course.value.bandwidthBytesPerSec ?? null }),
    );
    this.control = new ControlDialer(context, ref, this.peer, input.reservation.agent, specDigest(spec));
    this.volume = new VolumeFollower({
      course: this.steering.course,
      pass: async () => this.mover.request({ verb: "presync", pids: await this.hostPids() }),
      cut: () => this.mover.request({ verb: "cut" }),
      busy: () => !this.steering.held && (this.precopy?.progress()?.etaMs ?? Infinity) < NEARLY_DONE_MS,
      failed: (error) => this.undo.abort(error),
    });
  }

  protected get holdState(): HoldState | undefined {
    return this.context.book.hold(this.input.ref.workload, this.input.ref.epoch)?.state;
  }
  protected get name(): { name: string; epoch: number } {
    return { name: this.input.ref.workload, epoch: this.input.ref.epoch };
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
      epoch: ref.epoch,
      side: "source",
      ...fields,
    });
  }
  protected record(state: HoldState, more: { to?: number; digest?: string } = {}): void {
    const { ref } = this.input;
    this.context.book.record({
      workload: ref.workload,
      epoch: ref.epoch,
      state,
      operation: ref.operation,
      peer: this.peer,
      ...more,
    });
  }
  protected heard(status: SourceMoverStatus): void {
    this.traffic.heard(status, performance.now());
    this.precopy?.heard(status);
    const { bytes, pages } = this.traffic.amounts();
    this.timer.counts(bytes, pages);
  }
  get workload(): string {
    return this.input.ref.workload;
  }
  /** The next phase, of those that every such operation has. */
  protected abstract enter(phase: PhaseOf<"source"> & PhaseOf<"checkpoint">): Promise<void>;
  protected async begin(phase: Phase, point: Failpoint): Promise<void> {
    this.timer.begin(phase);
    await failpoint(point);
  }
  progress(): Progress {
    const precopy = this.precopy?.progress();
    return { ...this.timer.progress(), ...(precopy === undefined ? {} : { precopy }) };
  }

  /** Throws E_STATE. */
  steer(command: SteerCommand): Steered {
    const steered = this.steering.take(command, this.timer.phase, this.holdState !== "OWNER");
    this.log("info", `steered: ${steered.message}`, { command });
    return steered;
  }

  protected async makeRounds(): Promise<Rounds> {
    const { runtime, costs } = this.context;
    const { memoryBytes, processes } = await runtime.observe(this.name);
    this.size = { memoryBytes, processes };
    this.frozenBytes = await frozenMemoryBytes(await this.hostPids());
    return new Rounds({
      options: this.input.options,
      steering: this.steering,
      request: (request) => this.mover.request(request),
      pids: () => runtime.pids(this.name),
      throttle: (percent) => runtime.throttle(this.incarnation, percent),
      fixedMs: () => {
        const fixedMs = costs.fixedMs(this.workload, this.size.memoryBytes, this.size.processes);
        return fixedMs + this.volumeMs(fixedMs);
      },
      frozenBytes: this.frozenBytes,
      log: (message, fields) => this.log("info", message, fields),
    });
  }

  /** What the last pass of the volume adds to the blackout: it goes beside criu's dump, what is longer counts. */
  private volumeMs(fixedMs: number): number {
    const last = this.mover.status?.volume.last;
    if (last === undefined || last.sinceMs === 0) return 0;
    const expected = last.durationMs * Math.min(1, LAST_PASS_COVERS_MS / last.sinceMs);
    return Math.max(0, expected - fixedMs / 2);
  }

  /** Best effort: without it peers send again what they send in the blackout. */
  protected keepFrames(): void {
    if (this.input.options.keepFrames === false) return;
    const warn = (message: string, fields: Record<string, unknown>): void => this.log("warn", message, fields);
    try {
      const keeper = this.context.runtime.keepFrames(this.incarnation);
      this.frames = new SourceFrames(keeper, (payload) => this.control.frames(payload), warn);
    } catch (error) {
      warn("frames that come in the blackout are not kept", { failure: toFailure(error) });
    }
  }

  /** It was taken back: what was kept for the destination is delivered here. */
  protected putFramesBack(): void {
    try {
      this.frames?.putBack(this.context.runtime.frameDoor(this.incarnation));
    } catch (error) {
      this.log("warn", "kept frames could not be delivered: peers send them again", { failure: toFailure(error) });
    }
  }

  /** Experience for the next forecast: what the blackout cost besides pages. */
  protected learn(resumedAt: number | undefined): void {
    const rounds = this.precopy?.report();
    const status = this.mover.status?.precopy;
    if (resumedAt === undefined || this.frozenAt === undefined || rounds === undefined || status === undefined) return;
    const blackoutMs = resumedAt - (this.clock?.offsetMs ?? 0) - this.frozenAt;
    const first = rounds.rounds[0];
    const bandwidth = first === undefined || first.sendMs < 20 ? undefined : (first.sentBytes * 1000) / first.sendMs;
    const last = rounds.rounds.at(-1);
    const pages = this.steering.course.value.resumeFirst ? 0 : (last?.sentBytes ?? 0);
    const copyMs = bandwidth === undefined ? 0 : ((pages + this.frozenBytes) * 1000) / bandwidth;
    const { costs } = this.context;
    const fixedMs = costs.fixedMs(this.workload, this.size.memoryBytes, this.size.processes);
    costs.learn(
      { workload: this.workload, peer: this.peer },
      {
        // A person's break in the blackout, or another node's clock, is no experience.
        ...(blackoutMs > 0 && blackoutMs < 30_000
          ? { fixedMs: Math.max(1, blackoutMs - copyMs - this.volumeMs(fixedMs)) }
          : {}),
        ...(bandwidth === undefined || this.input.options.bandwidthBytesPerSec !== undefined
          ? {}
          : { bandwidthBytesPerSec: bandwidth }),
      },
      this.size.memoryBytes,
      this.size.processes,
    );
  }

  protected makeToken(digest: string): Token {
    const { ref } = this.input;
    const known = this.context.book.token(ref.operation, ref.to);
    // the same word again, with the certificate of today: that of then may have been replaced or revoked
    if (known !== undefined) return signToken(known, this.context.identity);
    const token = signToken(
      {
        workload: ref.workload,
        operation: ref.operation,
        from: ref.epoch,
        to: ref.to,
        source: this.context.config.node,
        destination: this.peer,
        digest,
      },
      this.context.identity,
    );
    this.context.book.recordToken(token);
    return token;
  }

  protected destinationRefused(failure: FailureData | undefined): FerryError {
    return new FerryError(
      failure === undefined
        ? { code: "E_RESTORE", message: `node ${this.peer} refused to take over`, side: "destination", node: this.peer }
        : peerFailure("destination", this.peer, failure),
    );
  }

  /** For the volume passes: files that these have mapped or open for writing are compared by content. */
  protected async hostPids(): Promise<number[]> {
    return Object.values(await this.context.runtime.pids(this.name));
  }

  /** Shared volumes: what the workload has written must be on the storage, not in this node's caches. */
  protected async flushShared(): Promise<void> {
    const shared = (this.incarnation.spec.volumes ?? []).filter(({ kind }) => kind === "shared");
    const { config } = this.context;
    if (shared.length > 0) await flushShared(shared.map(({ name }) => sharedVolumeDir(name, config.policyFile)));
  }

  /** The workload stays here: with all of its CPU time, if that can be had. The rounds have tried before. */
  protected async unthrottle(): Promise<void> {
    try {
      await this.precopy?.lift();
    } catch (error) {
      this.log("error", "its CPU time is still limited: the clean-up tries again", { failure: toFailure(error) });
    }
  }

  protected async dumpFailed(engine: EngineHandle): Promise<FerryError> {
    return ferryError("E_DUMP", `criu could not dump ${this.input.ref.workload}`, {
      side: "source",
      node: this.context.config.node,
      phase: "dump",
      evidence: await engine.evidence(),
      remedy: "the workload runs on; the lines above are criu's reason",
    });
  }

  protected async insist(what: string, step: () => Promise<void>): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await step();
        return;
      } catch (error) {
        this.failure = ferryError("E_STUCK", `${what} failed, trying again: ${toFailure(error).message}`, {
          side: "source",
          cause: toFailure(error),
        }).data;
        this.log("error", this.failure.message, { failure: this.failure });
        if (attempt >= 20 || this.holdState === "SUPERSEDED") throw new FerryError(this.failure);
        await new Promise((resolve) => setTimeout(resolve, Math.min(5000, 200 * attempt)));
      }
    }
  }

  /** Like insist, but a lost criu (phase "dump") is an answer, not a reason to try again. */
  protected async insistUnlessLost(step: () => Promise<void>): Promise<void> {
    let lost: FerryError | undefined;
    await this.insist("taking the workload back", async () => {
      try {
        await step();
      } catch (error) {
        if (error instanceof FerryError && error.code === "E_DUMP" && error.data.phase === "dump") {
          lost = error;
          return;
        }
        throw error;
      }
    });
    if (lost !== undefined) throw lost;
  }

  protected assemble(): SideOutcome {
    const precopy = this.precopy?.report();
    const clockStepMs = this.timer.clockStep();
    return {
      state: this.holdState ?? "OWNER",
      phases: this.timer.all(),
      transfer: this.traffic.transfer(precopy?.rounds),
      ...(precopy === undefined ? {} : { precopy }),
      ...(this.clock === undefined ? {} : { clock: this.clock }),
      ...(clockStepMs === undefined ? {} : { clockStepMs }),
      ...(this.frames === undefined ? {} : { frames: this.frames.counts() }),
      resumedFirst: this.steering.course.value.resumeFirst,
      ...(this.frozenAt === undefined ? {} : { frozenAt: this.frozenAt }),
      ...(this.failure === undefined ? {} : { failure: this.failure }),
    };
  }

  inquiry(): Pick<Inquiry, "failure" | "outcome" | "progress"> {
    return {
      ...(this.failure === undefined ? {} : { failure: this.failure }),
      ...(this.outcome === undefined ? { progress: this.progress() } : { outcome: this.outcome }),
    };
  }
}

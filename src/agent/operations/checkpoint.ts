/**
 * Taking a checkpoint of a workload that runs here.
 *
 *   OWNER(e) -> approach: the sink, files while it runs -> rounds of memory
 *   -> FROZEN(e -> e): link down, tree held, last of the files, images, pages -> the sink has all of it
 *   -> taken back: OWNER(e) -> stored while it runs
 *   or (`stop`) stored while it is held -> STOPPED(e) -> killed
 *
 * Whatever fails before the checkpoint is stored: it is taken back, and runs on. The mover is a migration's; the sink
 * (checkpoints/sink) stands where the destination's mover would. Both outlive this agent, and so does what they gathered.
 */
import { existsSync } from "node:fs";
import type { HandOverInput, Saved, SaveInput, SideOutcome } from "../../model/contract.js";
import { ferryError, FerryError, toFailure, type FailureData } from "../../model/failure.js";
import type { SinkRequest, SinkStatus } from "../../model/mover.js";
import { runningHold } from "../../model/ownership.js";
import type { WorkloadSpec } from "../../model/workload.js";
import { describeCheckpoint } from "../../checkpoints/describe.js";
import { demandPacks, type Manifest, type Store } from "../../store/index.js";
import { needSpace } from "../../transfer/images/receive.js";
import type { Program } from "../../transfer/mover/client.js";
import { failpoint, type PhaseOf } from "../failpoint.js";
import { orAbort } from "../level.js";
import { ownMemoryBytes } from "../preflight/memory.js";
import { gone, inShort, notHere, notWhole, saidOf, wasCut } from "./checkpoint-words.js";
import { makeDirs, removeDirs, sideDirs, type SideDirs } from "./dirs.js";
import { FreezingSide } from "./freezing-side.js";
import { MoverSide } from "./mover.js";
import { shadowDir, writeMoverConfig, type NodeContext } from "./node-context.js";
import { wallMs } from "./phases.js";

/** One that is to be let go may stay frozen this long until all of it is gathered. */
const STOPPED_WITHIN_MS = 3_600_000;
/** Rounds go on until no more than this is expected; then, or when they stop getting shorter, it freezes. */
const DOWNTIME_MS = 300;
const MAX_ROUNDS = 10;
/** A sink that dies while it stores is started again: what it has gathered is there, and so is what it has stored. */
const STORE_TRIES = 3;

export interface CheckpointOptions {
  /** Of the store. */
  session: string;
  storeFile?: string;
  /** What stands in the destination's mover's place. */
  sink: Program;
  /** This node's own view of the store. */
  store: () => Promise<Store>;
  /** An earlier agent has begun this one. */
  again: boolean;
  /** criu was lost in the hold: see HandOvers. */
  restoreLocally: (input: HandOverInput, why: FailureData) => Promise<SideOutcome>;
}

/** A checkpoint as the hand-over that it is up to the commit. */
export const asHandOver = ({ ref, options }: SaveInput, link: { host: string; port: number }): HandOverInput => ({
  ref,
  options: {
    mode: "precopy",
    dryRun: false,
    maxBlackoutMs: options.stop ? STOPPED_WITHIN_MS : options.maxBlackoutMs,
    maxDowntimeMs: Math.min(DOWNTIME_MS, options.maxBlackoutMs),
    maxRounds: MAX_ROUNDS,
  },
  // The sink's port is known when there is one.
  reservation: { agent: link, mover: link },
});

export class Checkpoint extends FreezingSide {
  readonly result: Promise<Saved>;
  saved: Saved | undefined;
  private readonly asked: SaveInput;
  private readonly own: CheckpointOptions;
  private readonly sink: MoverSide<SinkStatus, SinkRequest>;
  private readonly sinkDirs: SideDirs;
  /** Under which it runs: another one after a local restore. */
  private epoch: number;
  private manifest: Manifest | undefined;
  private where = "";
  private frozenMs: number | undefined;

  constructor(context: NodeContext, input: SaveInput, spec: WorkloadSpec, options: CheckpointOptions) {
    const { config } = context;
    super(context, asHandOver(input, { host: config.linkHost, port: config.linkPort }), spec);
    const { ref } = input;
    this.asked = input;
    this.own = options;
    // A local restore that an agent before this one has ended: it runs under another epoch.
    const { book } = context;
    const gone = book.hold(ref.workload, ref.epoch)?.state === "GONE";
    this.epoch = (gone ? runningHold(book.ledger, ref.workload)?.epoch : undefined) ?? ref.epoch;
    this.sinkDirs = sideDirs(config.runDir, ref.operation, "sink");
    makeDirs(this.sinkDirs);
    const sinkConfig = writeMoverConfig(context, this.sinkDirs, {
      operation: ref.operation,
      workload: ref.workload,
      peer: config.node,
      side: "destination",
      to: ref.to,
      sink: {
        ...(options.storeFile === undefined ? {} : { storeFile: options.storeFile }),
        volumeDir: shadowDir(config, ref.workload),
      },
    });
    this.sink = new MoverSide<SinkStatus, SinkRequest>(
      sinkConfig,
      this.sinkDirs,
      (status) => {
        const { stored } = status;
        if (stored !== undefined) this.timer.counts({ sent: stored.bytes, total: stored.total }, { sent: 0, total: 0 });
      },
      undefined,
      options.sink,
    );
    this.result = this.run().then((saved) => {
      this.saved = saved;
      return saved;
    });
    this.result.catch((error: unknown) => this.log("error", "the checkpoint broke off", { failure: toFailure(error) }));
  }

  get operation(): string {
    return this.asked.ref.operation;
  }
  protected override enter(phase: PhaseOf<"checkpoint">): Promise<void> {
    return this.begin(phase, `checkpoint.${phase}`);
  }

  is({ ref, request }: SaveInput): boolean {
    return this.operation === ref.operation && this.asked.request === request;
  }

  /**
   * Frozen, and for this checkpoint. One that another operation holds is none of its business: to let that go would run it
   * beside the copy that it may be handed over to.
   */
  private get held(): boolean {
    const { workload, epoch, operation } = this.asked.ref;
    const hold = this.context.book.hold(workload, epoch);
    return hold?.state === "FROZEN" && hold.operation === operation && hold.to === epoch;
  }

  /** It was, for this checkpoint, and runs on: it is not frozen a second time for one that may be long over. */
  private get wasFrozen(): boolean {
    const { workload, epoch, operation } = this.asked.ref;
    const hold = this.context.book.hold(workload, epoch);
    return this.own.again && hold?.state === "OWNER" && hold.operation === operation;
  }

  private async run(): Promise<Saved> {
    try {
      await this.take();
    } catch (error) {
      // It is stored, and only its tree is left: that is tried again.
      if (this.manifest !== undefined && this.holdState === "STOPPED") throw error;
      await this.rollBack(toFailure(error, "E_DUMP")).catch((failed: unknown) => {
        if (this.holdState !== "STOPPED") throw failed;
        this.failure = toFailure(failed);
      });
    } finally {
      clearTimeout(this.deadline);
      this.frames?.stop();
    }
    await Promise.all([this.mover.end(), this.sink.end()]);
    removeDirs(this.dirs);
    removeDirs(this.sinkDirs);
    this.timer.end();
    const answer = this.answer();
    this.remember(answer);
    return answer;
  }

  /** That there is none, before anybody hears of it: asked again by a call that comes late, it is not begun anew. */
  private remember({ checkpoint, failure }: Saved): void {
    if (checkpoint !== undefined || failure === undefined) return;
    try {
      this.context.book.recordSave({ input: this.asked, failure: inShort(failure) });
    } catch (error) {
      this.log("error", "how the checkpoint ended is not in the journal", { failure: toFailure(error) });
    }
  }

  private async take(): Promise<void> {
    const { stop } = this.asked.options;
    const state = this.holdState;
    if (state === "FROZEN" && !this.held) throw notHere(this.asked.ref, state);
    // The agent before this one died while it took it back: what it has done since is in no checkpoint.
    if (state === "FROZEN" && stop && (await this.ranOn())) throw wasCut();
    // To run on is what a frozen one waits for; only one that was to be let go may be done already.
    if (this.own.again && (stop || state !== "FROZEN") && (await this.isMade())) {
      if (stop && state === "FROZEN") await this.letGo();
      // Let go with it, by an agent that died then; or stopped later, for another reason.
      else if (stop && state === "STOPPED") await this.kill();
      return;
    }
    const freeze = this.own.again ? this.context.runtime.adoptFreeze(this.dirs) : undefined;
    this.frozenAt = freeze?.status().reached["network-lock"];
    if (state === "FROZEN" && !stop) await this.runOn();
    if (this.own.again && (await this.hasGathered())) this.log("info", "all of it was gathered before");
    // Also one that was taken back already, by an agent that died before it could say so.
    else if (state === "FROZEN" || freeze !== undefined || this.wasFrozen) throw wasCut();
    else if (state === "OWNER") await this.gather(this.undo.signal);
    else throw notHere(this.asked.ref, state);
    clearTimeout(this.deadline);
    // Nothing is waited for any more that could call it off.
    this.undo.abort(new Error("all of it is gathered"));
    if (!stop && this.held) {
      await this.enter("resume");
      await this.runOn();
    }
    // What runs is not tracked any more. (What is held is left alone until it is gone.)
    if (this.holdState !== "FROZEN") await this.mover.end();
    await this.enter("store");
    await this.store();
    await failpoint("checkpoint.commit");
    if (stop && this.held) await this.letGo();
  }

  private async ranOn(): Promise<boolean> {
    const { processes, frozen } = await this.context.runtime.observe(this.name);
    return processes > 0 && !frozen;
  }

  /** The machine has lost its power: there is nothing to take back, and nothing that could run. */
  private async isGone(): Promise<boolean> {
    return this.own.again && (await this.context.runtime.observe(this.name)).processes === 0;
  }

  // --- gathering ----------------------------------------------------------------------------------------------------

  private async gather(signal: AbortSignal): Promise<void> {
    const quiet = await this.packets();
    await this.approach(signal);
    await this.rounds(signal);
    await this.demandQuiet(quiet);
    await this.freeze(this.asked.ref.epoch, signal);
    await this.enter("transfer");
    const pids = (await this.frozen) ?? (await this.context.runtime.pids(this.name));
    const sent = await this.mover.request({ verb: "sendImages", pids }, signal);
    await this.files;
    const got = await this.sink.wait((status) => status.complete, signal);
    if (got.images.digest === undefined || got.images.digest !== sent.images.digest) {
      throw ferryError("E_IMAGE_DIGEST", "the sink has other images than were sent", { side: "source" });
    }
    await this.demandQuiet(quiet);
  }

  private async packets(): Promise<number | undefined> {
    if (this.asked.options.ifQuiet !== true) return undefined;
    return (await this.context.runtime.activity(this.name))?.packets;
  }
  /** It was to be let go because nothing came. To run on costs less than to be woken. */
  private async demandQuiet(before: number | undefined): Promise<void> {
    if (before === undefined || ((await this.packets()) === before && this.frames?.any !== true)) return;
    throw ferryError("E_BUSY", "something came for it, or from it, meanwhile: it is not let go", {
      workload: this.workload,
      side: "source",
      remedy: "it runs on; let it go whatever comes: ferry checkpoint --stop",
    });
  }

  /** Both movers (those that an earlier agent has left go on), and the files while it runs. */
  private async approach(signal: AbortSignal): Promise<void> {
    const { config } = this.context;
    await this.enter("arm");
    const pids = await this.hostPids();
    needSpace(this.sinkDirs.store, await ownMemoryBytes(pids), "the workload's pages, until they are stored,", {
      side: "source",
      remedy: "free memory on this node (this is a tmpfs): a checkpoint needs as much as the workload has",
    });
    const [sink] = await orAbort(Promise.all([this.sink.ensure(), this.mover.ensure()]), signal);
    const { port } = sink.status();
    await this.mover.request({ verb: "connect", host: config.linkHost, port }, signal);
    this.watchMover();
    void this.sink
      .wait(() => false, signal)
      .catch((error: unknown) => {
        if (!signal.aborted) this.cancel(toFailure(error, "E_PAGES"));
      });
    await this.enter("presync");
    await this.volume.first(signal);
    await this.flushShared();
  }

  /** An earlier agent got so far that the sink has everything: images and pages are on the tmpfs, files in the shadow. */
  private async hasGathered(): Promise<boolean> {
    if (!existsSync(this.sinkDirs.moverSocket)) return false;
    return (await this.sink.ensure()).status().complete;
  }

  protected override tooLong(limitMs: number): FerryError {
    return ferryError("E_DEADLINE", `the workload was frozen for ${limitMs} ms, and not all of it was gathered`, {
      side: "source",
      phase: this.timer.phase,
      remedy: "it runs on; allow more with --max-blackout, or take the checkpoint when it writes less",
    });
  }

  // --- back ---------------------------------------------------------------------------------------------------------

  private async rollBack(why: FailureData): Promise<void> {
    clearTimeout(this.deadline);
    const { node } = this.context.config;
    this.failure = { ...why, side: why.side ?? "source", node: why.node ?? node, phase: why.phase ?? this.timer.phase };
    this.log("warn", "no checkpoint was taken", { failure: this.failure });
    if (!this.undo.signal.aborted) this.undo.abort(new FerryError(this.failure));
    await this.unthrottle();
    if (this.held) await this.runOn();
  }

  /** OWNER again: under its epoch, or, if criu was lost while it held the tree, a later one. */
  private async runOn(): Promise<void> {
    if (await this.isGone()) {
      this.log("error", "nothing is left of what was frozen for the checkpoint");
      this.record("STOPPED");
      await this.insist("clearing up", () => this.context.runtime.destroy(this.name, this.dirs));
      throw gone(this.workload);
    }
    try {
      await this.insistUnlessLost(() => this.context.runtime.takeBack(this.incarnation, this.dirs));
      this.noteFrozen();
      this.putFramesBack();
      this.record("OWNER");
    } catch (error) {
      const lost = toFailure(error);
      if (lost.phase !== "dump") throw error;
      this.log("warn", "criu was lost in the hold: restoring locally", { failure: lost });
      await this.mover.end();
      const { epoch } = await this.own.restoreLocally(this.input, { ...(this.failure ?? lost), cause: lost });
      this.epoch = epoch ?? runningHold(this.context.book.ledger, this.workload)?.epoch ?? this.epoch;
      this.noteFrozen();
    }
  }

  private noteFrozen(): void {
    if (this.frozenAt !== undefined) this.frozenMs = Math.max(0, wallMs() - this.frozenAt);
  }

  // --- the store ----------------------------------------------------------------------------------------------------

  private async isMade(): Promise<boolean> {
    const store = await this.own.store();
    this.where = store.backend.name;
    this.manifest = await store.made(this.workload, this.own.session);
    return this.manifest !== undefined;
  }

  private async store(): Promise<void> {
    const { spec } = this.incarnation;
    const facts = await saidOf(this.asked, spec, this.frozenAt);
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.sink.request({ verb: "store", session: this.own.session, facts, spec });
        break;
      } catch (error) {
        if (toFailure(error).code !== "E_PAGES" || attempt >= STORE_TRIES) throw error;
        this.log("warn", "the sink was lost while it stored, starting another", { failure: toFailure(error) });
      }
    }
    if (!(await this.isMade())) {
      throw ferryError("E_STORE", "the checkpoint was stored, and can't be found", {
        remedy: "does the sink see another store than the agent? see the configuration of the store",
      });
    }
  }

  /** Its address is held from here on. What came since the freeze is kept for it, and has it woken. */
  private fallAsleep(checkpoint: string): void {
    const { sleepers, book } = this.context;
    book.recordAsleep(this.workload, this.asked.ref.epoch, checkpoint);
    sleepers.hold(this.workload, () => this.frames?.handOn() ?? []);
  }

  /**
   * Its checkpoint is there, with all that it needs: STOPPED first, then the held tree goes. Its files stay. Throws, and
   * there is no checkpoint, when a part of it is missing: what is held is the only copy.
   */
  private async letGo(): Promise<void> {
    const { manifest } = this;
    if (manifest === undefined) throw ferryError("E_INTERNAL", "let go without a checkpoint");
    try {
      await demandPacks(await this.own.store(), manifest);
    } catch (error) {
      this.manifest = undefined;
      throw notWhole(manifest, toFailure(error, "E_STORE"));
    }
    this.noteFrozen();
    if (this.asked.options.wakeOnTraffic === true) this.fallAsleep(manifest.id);
    else this.record("STOPPED", { digest: manifest.id });
    await this.kill();
  }

  private async kill(): Promise<void> {
    await this.enter("release");
    await this.insist("killing the stored copy", () => this.context.runtime.destroy(this.name, this.dirs));
  }

  private answer(): Saved {
    const { manifest, frozenMs } = this;
    const { state = "OWNER", digest } = this.context.book.hold(this.workload, this.epoch) ?? {};
    const asAsked = manifest !== undefined && (state === "STOPPED" || !this.asked.options.stop);
    return {
      state,
      epoch: this.epoch,
      ...(manifest === undefined ? {} : { checkpoint: describeCheckpoint(manifest, this.where, false) }),
      ...(frozenMs === undefined ? {} : { frozenMs }),
      ...(manifest !== undefined && state === "STOPPED" ? { letGo: digest === manifest.id } : {}),
      phases: this.timer.all(),
      rounds: this.precopy?.report()?.rounds.length ?? 0,
      ...(this.failure === undefined || asAsked ? {} : { failure: this.failure }),
    };
  }
}

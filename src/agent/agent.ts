/**
 * The agent's verbs. Each is idempotent: it reads the journal, does what is still missing, and answers what is true.
 * The agent starts nothing that its journal does not own. Hand-overs are in operations/.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type {
  AcknowledgeInput,
  CheckpointRef,
  CheckpointsInput,
  DeliverInput,
  DiffInput,
  Ending,
  HandOverInput,
  IdleInput,
  Idleness,
  Inquiry,
  LogChunk,
  LogsInput,
  NodeAgent,
  Observation,
  OperationRef,
  PinInput,
  PreflightDestinationInput,
  PreflightInput,
  RecoverInput,
  Reservation,
  ReserveInput,
  ResolveInput,
  RestoreInput,
  Saved,
  SaveInput,
  SideOutcome,
  Sleeper,
  SourceFacts,
  StartInput,
  Started,
  SteerInput,
  Step,
  StopInput,
  TakeOverInput,
  WorkloadRef,
} from "../model/contract.js";
import type { Checkpoint, CheckpointDiff, ListedCheckpoint } from "../model/checkpoints.js";
import { ferryError, toFailure, type Side } from "../model/failure.js";
import type { NodeFacts } from "../model/node.js";
import { isOpen, runningHold, type Hold } from "../model/ownership.js";
import { hasRounds, type Finding } from "../model/plan.js";
import { openWorkloadLog, workloadLogSize } from "../host/workload-log.js";
import { tornStart, wholeEnd } from "./letters.js";
import type { Steered } from "../model/steering.js";
import { IdleWatch } from "./idleness.js";
import { Beginnings } from "./beginnings.js";
import { Endings } from "./endings.js";
import type { ControlHub } from "./operations/control.js";
import { Checkpoints } from "./operations/checkpoints.js";
import { sweepOperations } from "./operations/dirs.js";
import { HandOvers } from "./operations/hand-overs.js";
import {
  heldHere,
  keepAside,
  mustBe,
  mustBeHere,
  removeSpentVolume,
  sweepSpent,
  shadowDir,
  specOf,
  volumeDir,
  type NodeContext,
} from "./operations/node-context.js";
import { restoreDirs, sweepRestore } from "./operations/restore-movers.js";
import { Restores } from "./operations/restores.js";
import { isUnfinished, sweepRestored } from "./operations/restoring.js";
import { Settling } from "./operations/settling.js";
import { against, againstDestination } from "./gate.js";
import { loadPolicy } from "./policy.js";
import { checkShared, offerShared } from "./shared-volumes.js";
import { lookAtChanges } from "./preflight/changes.js";
import { collectNodeFacts, preflightDestination, preflightSource } from "./preflight/index.js";

export class FerryAgent implements NodeAgent {
  private readonly context: NodeContext;
  private readonly handOvers: HandOvers;
  private readonly checkpoints: Checkpoints;
  private readonly restores: Restores;
  private readonly settling: Settling;
  private readonly ends: Endings;
  private readonly beginnings: Beginnings;
  private readonly idle: IdleWatch;
  /** One change at a time per workload: start, stop, remove. */
  private readonly locks = new Map<string, Promise<unknown>>();

  constructor(context: NodeContext) {
    this.context = context;
    this.handOvers = new HandOvers(context);
    this.checkpoints = new Checkpoints(context, this.handOvers);
    this.restores = new Restores(context);
    this.settling = new Settling(context, this.handOvers);
    this.ends = new Endings({
      context,
      busy: (workload) => this.locks.has(workload) || this.handOvers.busy(workload) || this.checkpoints.busy(workload),
      locked: (workload, work) => this.locked(workload, work),
    });
    this.idle = new IdleWatch(context);
    this.beginnings = new Beginnings(context, this.ends, (workload, work) => this.locked(workload, work));
  }

  get hub(): ControlHub {
    return this.handOvers.hub;
  }
  private get book(): NodeContext["book"] {
    return this.context.book;
  }

  private async locked<T>(workload: string, work: () => Promise<T>): Promise<T> {
    const before = this.locks.get(workload) ?? Promise.resolve();
    const next = before.catch(() => undefined).then(work);
    this.locks.set(workload, next);
    try {
      return await next;
    } finally {
      if (this.locks.get(workload) === next) this.locks.delete(workload);
    }
  }

  /** The boot rule: the journal was read before anything; go on with what it owns, sweep what it does not. */
  async boot(): Promise<void> {
    const swept = await this.context.runtime.sweep((name, epoch) => {
      const hold = this.book.hold(name, epoch);
      return hold !== undefined && isOpen(hold.state);
    });
    // A throttle never outlives the hand-over that set it.
    for (const name of this.book.workloads()) {
      const hold = runningHold(this.book.ledger, name);
      const spec = this.book.spec(name);
      if (hold === undefined || spec === undefined) continue;
      await this.context.runtime.throttle({ spec, epoch: hold.epoch }, 0).catch((error: unknown) => {
        this.context.log("warn", `the CPU time of ${name} may still be limited`, { failure: toFailure(error) });
      });
    }
    if (swept.length > 0) this.context.log("warn", "swept what the journal does not own", { swept });
    await sweepRestored(this.context);
    await sweepSpent(this.context);
    for (const name of this.book.workloads()) {
      await keepAside(this.context, name);
      await removeSpentVolume(this.context, name);
    }
    await this.checkpoints.goOn();
    this.handOvers.goOn();
    sweepOperations(
      this.context.config.runDir,
      (operation) =>
        this.handOvers.has(operation) || this.checkpoints.has(operation) || isUnfinished(this.context, operation),
    );
    this.ends.start();
    this.context.sleepers.start();
  }

  /** Workloads and operations stay as they are. */
  close(): void {
    this.ends.stop();
    this.idle.close();
    this.context.sleepers.close();
    this.context.store.close();
  }

  endings(): Promise<Ending[]> {
    return Promise.resolve(this.ends.list());
  }
  sleepers({ waitMs }: { waitMs: number }): Promise<Sleeper[]> {
    return this.context.sleepers.wait(waitMs);
  }
  idleWorkload(input: IdleInput): Promise<Idleness> {
    return this.idle.ask(input);
  }

  // --- workloads --------------------------------------------------------------------------------------------------

  async describeNode(): Promise<NodeFacts> {
    const { config } = this.context;
    return collectNodeFacts({
      node: config.node,
      linkHost: config.linkHost,
      linkPort: config.linkPort,
      stateDir: config.stateDir,
      bridge: config.bridge,
      workloads: heldHere(this.context),
    });
  }

  startWorkload({ spec, epoch, operation }: StartInput): Promise<Started> {
    const run = () => this.context.runtime.start({ spec, epoch });
    return this.beginnings.begin({ workload: spec.name, epoch, state: "OWNER", operation }, spec, run);
  }

  async newestCheckpoint({ workload }: WorkloadRef): Promise<Checkpoint | null> {
    return (await this.context.checkpoints.newest(workload)) ?? null;
  }

  async recoverWorkload({ ref, spec, checkpoint: id }: RecoverInput): Promise<Started> {
    mustBe(this.context, "destination", ref);
    const { checkpoints } = this.context;
    const { workload, to: epoch, operation, source: peer } = ref;
    const checkpoint = await checkpoints.newest(workload);
    if (checkpoint?.id !== id) {
      throw ferryError("E_STATE", `checkpoint ${id} of ${workload} is not the newest any more`, {
        workload,
        remedy: "ask again: what is lost is another time then",
      });
    }
    this.context.log("warn", "recovered by a person's word", {
      workload,
      operation,
      epoch,
      lost: peer,
      checkpoint: id,
    });
    const hold: Hold = { workload, epoch, state: "OWNER", operation, peer, digest: id };
    return this.beginnings.begin(hold, spec, () => checkpoints.restore(checkpoint, { spec, epoch }), true);
  }

  saveCheckpoint(input: SaveInput, waitMs: number): Promise<Step<Saved>> {
    return this.checkpoints.save(input, waitMs);
  }
  restoreWorkload({ ref, spec, checkpoint, of, letGoWith, lazy = false }: RestoreInput): Promise<Started> {
    mustBeHere(this.context, "destination", ref);
    const { workload, to: epoch, operation } = ref;
    const what = { incarnation: { spec, epoch }, checkpoint, of, last: ref.epoch, letGoWith, lazy };
    const hold: Hold = { workload, epoch, state: "OWNER", operation, peer: ref.source, digest: checkpoint };
    return this.beginnings.begin(hold, spec, () => this.restores.run(what), true);
  }
  listCheckpoints(input: CheckpointsInput): Promise<ListedCheckpoint[]> {
    return this.context.store.list(input);
  }
  pinCheckpoint(input: PinInput): Promise<void> {
    return this.context.store.pin(input);
  }
  removeCheckpoint(input: CheckpointRef): Promise<void> {
    return this.context.store.remove(input);
  }
  verifyCheckpoint(input: CheckpointRef): Promise<void> {
    return this.context.store.verify(input);
  }
  diffCheckpoints(input: DiffInput): Promise<CheckpointDiff> {
    return this.context.store.diff(input);
  }

  async stopWorkload(input: StopInput): Promise<Observation> {
    const { workload, epoch, graceMs } = input;
    const { runtime } = this.context;
    if (this.restores.callOff(input)) return this.observeWorkload({ schema: input.schema, workload });
    return this.locked(workload, async () => {
      const hold = this.book.hold(workload, epoch);
      if (hold === undefined)
        throw ferryError(
          "E_WORKLOAD_UNKNOWN",
          `node ${this.context.config.node} knows no ${workload} of epoch ${epoch}`,
        );
      if (hold.state === "OWNER") this.book.record({ ...hold, state: "STOPPED" });
      else if (hold.state !== "STOPPED") {
        throw ferryError("E_STATE", `${workload} can't be stopped on this node: its epoch ${epoch} is ${hold.state}`, {
          workload,
        });
      }
      // It sleeps no more: its address may be another's from now on.
      this.book.recordAwake(workload, epoch);
      this.context.sleepers.look();
      await runtime.stop({ name: workload, epoch }, graceMs);
      await runtime.destroy({ name: workload, epoch });
      await sweepRestore(restoreDirs(this.context, workload, epoch));
      return this.observeWorkload({ schema: input.schema, workload });
    });
  }

  removeWorkload(input: WorkloadRef): Promise<void> {
    const { workload } = input;
    return this.locked(workload, async () => {
      const busy = this.book.holds(workload).find((h) => isOpen(h.state));
      if (busy !== undefined) {
        throw ferryError(
          "E_STATE",
          `${workload} can't be removed from node ${this.context.config.node}: its epoch ${busy.epoch} is ${busy.state}`,
          {
            workload,
            remedy: "stop it first",
          },
        );
      }
      this.demandNoCheckpoint(workload);
      for (const hold of this.book.holds(workload))
        await this.context.runtime.destroy({ name: workload, epoch: hold.epoch });
      await rm(volumeDir(this.context.config, workload), { recursive: true, force: true });
      await rm(shadowDir(this.context.config, workload), { recursive: true, force: true });
      this.book.recordForget(workload);
      this.context.sleepers.look();
    });
  }

  async observeWorkload(input: WorkloadRef): Promise<Observation> {
    const { workload } = input;
    const holds = this.book.holds(workload);
    const running =
      runningHold(this.book.ledger, workload) ?? holds.findLast((h) => h.state === "FROZEN" || h.state === "RELEASED");
    const spec = this.book.spec(workload);
    const pages = this.restores.pages(workload);
    const more = { ...(spec === undefined ? {} : { spec }), ...(pages === undefined ? {} : { pages }) };
    const known = { holds, logBytes: workloadLogSize(this.logPath(workload)), ...more };
    if (running === undefined) return { ...known, processes: 0, memoryBytes: 0 };
    const seen = await this.context.runtime.observe({ name: workload, epoch: running.epoch });
    return {
      ...known,
      processes: seen.processes,
      memoryBytes: seen.memoryBytes,
      ...(seen.pid === undefined ? {} : { pid: seen.pid }),
    };
  }

  private logPath(workload: string): string {
    return join(volumeDir(this.context.config, workload), "log", "output.log");
  }

  async readLog(input: LogsInput): Promise<LogChunk> {
    const file = await openWorkloadLog(this.logPath(input.workload));
    if (file === undefined) {
      throw ferryError("E_WORKLOAD_UNKNOWN", `node ${this.context.config.node} has no log of ${input.workload}`, {
        workload: input.workload,
      });
    }
    try {
      const { size } = await file.stat();
      const from = input.offset < 0 ? Math.max(0, size + input.offset) : Math.min(input.offset, size);
      const buffer = Buffer.alloc(Math.min(input.maxBytes, size - from));
      const { bytesRead } = await file.read(buffer, 0, buffer.length, from);
      const read = buffer.subarray(0, bytesRead);
      // The chunk begins and ends between letters: half of one could not be put together again by whoever asks.
      const start = input.offset < 0 && from > 0 ? tornStart(read) : 0;
      const end = wholeEnd(read, from + bytesRead === size);
      return {
        text: read.subarray(start, end).toString("utf8"),
        offset: from + start,
        nextOffset: from + end,
        sizeBytes: size,
      };
    } finally {
      await file.close();
    }
  }

  private demandNoCheckpoint(workload: string): void {
    if (!this.checkpoints.busy(workload)) return;
    throw ferryError("E_BUSY", `a checkpoint of ${workload} is being taken`, {
      workload,
      remedy: "wait until it is stored",
    });
  }

  // --- preflight --------------------------------------------------------------------------------------------------

  async preflightSource(input: PreflightInput): Promise<SourceFacts> {
    const { ref, options } = input;
    const { config } = this.context;
    const spec = specOf(this.context, ref.workload);
    const pids = await this.context.runtime.pids({ name: ref.workload, epoch: ref.epoch });
    const offered = await offerShared(spec, loadPolicy(config.policyFile));
    const found = await preflightSource({
      node: await this.describeNode(),
      spec,
      pids,
      ref,
      options,
      volumeDir: volumeDir(config, ref.workload),
      runDir: config.runDir,
      holds: this.book.holds(ref.workload),
      externalMounts: ["/data", ...(spec.volumes ?? []).map(({ path }) => path)],
    });
    const name = { name: ref.workload, epoch: ref.epoch };
    // After the checks: they would take the tracker's stop for a debugger.
    const looks = options.dryRun || hasRounds(options.mode);
    const changes = looks
      ? await lookAtChanges(() => this.context.runtime.pids(name), options.tracker)
      : { findings: [] };
    const { costs } = this.context;
    const bandwidthBytesPerSec = costs.bandwidthTo(ref.destination);
    return {
      ...found,
      ...(changes.dirty === undefined ? {} : { dirty: changes.dirty }),
      fixedBlackoutMs: costs.fixedMs(ref.workload, found.memoryBytes, found.processes),
      ...(bandwidthBytesPerSec === undefined ? {} : { bandwidthBytesPerSec }),
      findings: [
        ...againstDestination(this.context, ref),
        ...found.findings,
        ...offered.findings,
        ...changes.findings,
        ...this.journalRoom("source"),
      ],
      ...(offered.shared.length === 0 ? {} : { shared: offered.shared }),
    };
  }

  /** A node whose journal has no room for the entries that end an operation begins none. */
  private journalRoom(side: Side): Finding[] {
    try {
      this.book.demandRoom();
      return [];
    } catch (error) {
      const { message, remedy } = toFailure(error);
      return [{ level: "block", check: "journal", side, message, ...(remedy === undefined ? {} : { remedy }) }];
    }
  }

  async preflightDestination(input: PreflightDestinationInput): Promise<Finding[]> {
    const { ref, options, facts } = input;
    const { config } = this.context;
    const allowed = against(this.context, facts.spec, "destination", ref.source);
    const found = await preflightDestination({
      node: await this.describeNode(),
      facts,
      ref,
      options,
      stateDir: config.stateDir,
      runDir: config.runDir,
      bridge: config.bridge,
      holds: this.book.holds(ref.workload),
    });
    return [
      ...allowed,
      ...(await checkShared(facts, loadPolicy(config.policyFile), config.node)),
      ...found,
      ...this.journalRoom("destination"),
    ];
  }

  // --- hand-over --------------------------------------------------------------------------------------------------

  reserve(input: ReserveInput): Promise<Reservation> {
    return this.handOvers.reserve(input);
  }
  takeOver(input: TakeOverInput, waitMs: number): Promise<Step<SideOutcome>> {
    return this.handOvers.takeOver(input, waitMs);
  }
  async handOver(input: HandOverInput, waitMs: number): Promise<Step<SideOutcome>> {
    this.demandNoCheckpoint(input.ref.workload);
    return this.handOvers.handOver(input, waitMs);
  }
  steer(input: SteerInput): Promise<Steered> {
    return Promise.resolve(this.handOvers.steer(input));
  }
  inquire(ref: OperationRef): Promise<Inquiry> {
    return this.settling.inquire(ref);
  }
  burn(ref: OperationRef): Promise<Inquiry> {
    return this.settling.burn(ref);
  }
  refuse(ref: OperationRef): Promise<Inquiry> {
    return this.settling.refuse(ref);
  }
  deliver(input: DeliverInput): Promise<Inquiry> {
    return this.settling.deliver(input);
  }
  acknowledge(input: AcknowledgeInput): Promise<Inquiry> {
    return this.settling.acknowledge(input);
  }
  retake(input: ResolveInput): Promise<Inquiry> {
    return this.settling.retake(input);
  }
  claim(input: ResolveInput): Promise<Inquiry> {
    return this.settling.claim(input);
  }
  supersede(input: AcknowledgeInput): Promise<Inquiry> {
    return this.settling.supersede(input);
  }
  cleanup(ref: OperationRef): Promise<void> {
    return this.settling.cleanup(ref);
  }
}

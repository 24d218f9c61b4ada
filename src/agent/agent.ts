/**
 * The agent's verbs. Each is idempotent: it reads the journal, does what is still missing, and answers what is true.
 * The agent starts nothing that its journal does not own.
 */
import { existsSync, readdirSync } from "node:fs";
import { mkdir, open, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type {
  DeliverInput,
  HandOverInput,
  Inquiry,
  LogChunk,
  LogsInput,
  NodeAgent,
  Observation,
  OperationRef,
  PreflightDestinationInput,
  PreflightInput,
  Reservation,
  ReserveInput,
  SideOutcome,
  SourceFacts,
  StartInput,
  Started,
  Step,
  StopInput,
  TakeOverInput,
  WorkloadRef,
} from "../model/contract.js";
import { FerryError, ferryError, type FailureData } from "../model/failure.js";
import type { NodeFacts } from "../model/node.js";
import { mayRun, runningHold, type Hold } from "../model/ownership.js";
import type { Finding } from "../model/plan.js";
import type { Progress } from "../model/report.js";
import type { WorkloadSpec } from "../model/workload.js";
import { ControlHub } from "./operations/control.js";
import { makeDirs, operationsDir, removeDirs, sideDirs } from "./operations/dirs.js";
import { HandOver, type HandOverOptions } from "./operations/hand-over.js";
import { volumeDir, writeMoverConfig, type NodeContext } from "./operations/node-context.js";
import { MoverSide } from "./operations/mover.js";
import { TakeOver } from "./operations/take-over.js";
import { checkPolicy, loadPolicy } from "./policy.js";
import { collectNodeFacts, preflightDestination, preflightSource } from "./preflight/index.js";

interface Running {
  result: Promise<SideOutcome>;
  outcome: SideOutcome | undefined;
  progress(): Progress;
}

export class FerryAgent implements NodeAgent {
  readonly hub: ControlHub;
  private readonly context: NodeContext;
  private readonly takeOvers = new Map<string, TakeOver>();
  private readonly handOvers = new Map<string, HandOver>();
  /** One change at a time per workload: start, stop, remove. */
  private readonly locks = new Map<string, Promise<unknown>>();

  constructor(context: NodeContext) {
    this.context = context;
    this.hub = new ControlHub(context);
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

  // --- boot -------------------------------------------------------------------------------------------------------

  /** The boot rule: the journal was read before anything; go on with what it owns, sweep what it does not. */
  async boot(): Promise<void> {
    const { runtime, log } = this.context;
    const swept = await runtime.sweep((name, epoch) => {
      const hold = this.book.hold(name, epoch);
      return (
        hold !== undefined &&
        ["OWNER", "FROZEN", "RELEASED", "RESERVED", "RECEIVED", "PREPARED", "ACTIVE", "RUNNING"].includes(hold.state)
      );
    });
    if (swept.length > 0) log("warn", "swept what the journal does not own", { swept });
    for (const record of this.book.operations()) {
      const { ref } = record.input;
      if (record.side === "destination") {
        const state = this.book.hold(ref.workload, ref.to)?.state;
        if (
          state === "RESERVED" ||
          state === "RECEIVED" ||
          state === "PREPARED" ||
          state === "ACTIVE" ||
          state === "RUNNING"
        ) {
          const takeOver = this.ensureTakeOver(record.input, record.local === true);
          if (state === "RESERVED" || state === "RECEIVED") {
            takeOver.refuse(
              ferryError("E_AGENT_DOWN", "the destination's agent was restarted before anything was prepared", {
                side: "destination",
              }).data,
            );
          }
        }
      } else {
        const state = this.book.hold(ref.workload, ref.epoch)?.state;
        if (state === "FROZEN" && record.local === true) {
          // A local restore that was cut: its epoch was refused above; take back again from the frozen tree.
          this.ensureHandOver({ ...record.input }, {});
        } else if (state === "FROZEN" || state === "RELEASED") {
          this.ensureHandOver(record.input, record.local === true ? { local: true } : {});
        }
      }
    }
    this.sweepDirs();
  }

  private sweepDirs(): void {
    const root = operationsDir(this.context.config.runDir);
    if (!existsSync(root)) return;
    for (const operation of readdirSync(root)) {
      if (!this.takeOvers.has(operation) && !this.handOvers.has(operation)) {
        removeDirs(sideDirs(this.context.config.runDir, operation, "source"));
        removeDirs(sideDirs(this.context.config.runDir, operation, "destination"));
        void rm(join(root, operation), { recursive: true, force: true });
      }
    }
  }

  // --- workloads --------------------------------------------------------------------------------------------------

  async describeNode(): Promise<NodeFacts> {
    const { config } = this.context;
    const workloads: NodeFacts["workloads"] = [];
    for (const name of this.book.workloads()) {
      const hold = this.book
        .holds(name)
        .findLast(
          (h) => h.state !== "BURNED" && h.state !== "GONE" && h.state !== "TOMBSTONE" && h.state !== "STOPPED",
        );
      if (hold !== undefined) workloads.push({ name, epoch: hold.epoch, state: hold.state });
    }
    return collectNodeFacts({
      node: config.node,
      linkHost: config.linkHost,
      linkPort: config.linkPort,
      stateDir: config.stateDir,
      workloads,
    });
  }

  startWorkload(input: StartInput): Promise<Started> {
    const { spec, epoch, operation } = input;
    const { runtime } = this.context;
    return this.locked(spec.name, async () => {
      const hold = this.book.hold(spec.name, epoch);
      if (hold?.state === "OWNER" && hold.operation === operation) {
        const seen = await runtime.observe({ name: spec.name, epoch });
        if (seen.processes > 0 && seen.pid !== undefined) return { pid: seen.pid, epoch };
        if (this.book.wasStarted(spec.name, epoch)) {
          throw ferryError("E_START", `${spec.name} was started and has ended`, {
            workload: spec.name,
            remedy: `see \`ferry logs ${spec.name}\``,
          });
        }
      }
      const refused = checkPolicy(spec, loadPolicy()).filter((f) => f.level === "block");
      if (refused.length > 0) {
        throw ferryError(
          "E_POLICY",
          `node ${this.context.config.node} does not allow ${spec.name}: ${refused.map((f) => f.message).join("; ")}`,
          {
            workload: spec.name,
            remedy:
              refused.map((f) => f.remedy).find((r) => r !== undefined) ?? "change the spec, or the node's policy file",
          },
        );
      }
      this.book.record({ workload: spec.name, epoch, state: "OWNER", operation });
      this.book.recordSpec(spec);
      try {
        const started = await runtime.start({ spec, epoch });
        this.book.recordStarted(spec.name, epoch);
        return { pid: started.pid, epoch };
      } catch (error) {
        this.book.record({ workload: spec.name, epoch, state: "STOPPED" });
        throw error;
      }
    });
  }

  stopWorkload(input: StopInput): Promise<Observation> {
    const { workload, epoch, graceMs } = input;
    const { runtime } = this.context;
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
      await runtime.stop({ name: workload, epoch }, graceMs);
      await runtime.destroy({ name: workload, epoch });
      return this.observeWorkload({ schema: input.schema, workload });
    });
  }

  removeWorkload(input: WorkloadRef): Promise<void> {
    const { workload } = input;
    return this.locked(workload, async () => {
      const busy = this.book.holds(workload).find((h) => !["STOPPED", "GONE", "BURNED", "TOMBSTONE"].includes(h.state));
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
      for (const hold of this.book.holds(workload))
        await this.context.runtime.destroy({ name: workload, epoch: hold.epoch });
      await rm(volumeDir(this.context.config, workload), { recursive: true, force: true });
      this.book.recordForget(workload);
    });
  }

  async observeWorkload(input: WorkloadRef): Promise<Observation> {
    const { workload } = input;
    const holds = this.book.holds(workload);
    const running =
      runningHold(this.book.ledger, workload) ?? holds.findLast((h) => h.state === "FROZEN" || h.state === "RELEASED");
    const log = await stat(this.logPath(workload)).catch(() => undefined);
    if (running === undefined) return { holds, processes: 0, memoryBytes: 0, logBytes: log?.size ?? 0 };
    const seen = await this.context.runtime.observe({ name: workload, epoch: running.epoch });
    return {
      holds,
      processes: seen.processes,
      memoryBytes: seen.memoryBytes,
      logBytes: log?.size ?? 0,
      ...(seen.pid === undefined ? {} : { pid: seen.pid }),
    };
  }

  private logPath(workload: string): string {
    return join(volumeDir(this.context.config, workload), "log", "output.log");
  }

  async readLog(input: LogsInput): Promise<LogChunk> {
    const path = this.logPath(input.workload);
    const file = await open(path, "r").catch(() => undefined);
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
      return {
        text: buffer.subarray(0, bytesRead).toString("utf8"),
        offset: from,
        nextOffset: from + bytesRead,
        sizeBytes: size,
      };
    } finally {
      await file.close();
    }
  }

  // --- preflight --------------------------------------------------------------------------------------------------

  private specOf(workload: string): WorkloadSpec {
    const spec = this.book.spec(workload);
    if (spec === undefined) {
      throw ferryError("E_WORKLOAD_UNKNOWN", `node ${this.context.config.node} knows no workload ${workload}`, {
        workload,
      });
    }
    return spec;
  }

  async preflightSource(input: PreflightInput): Promise<SourceFacts> {
    const { ref, options } = input;
    const { config } = this.context;
    const spec = this.specOf(ref.workload);
    const pids = await this.context.runtime.pids({ name: ref.workload, epoch: ref.epoch });
    return preflightSource({
      node: await this.describeNode(),
      spec,
      pids,
      ref,
      options,
      volumeDir: volumeDir(config, ref.workload),
      runDir: config.runDir,
      holds: this.book.holds(ref.workload),
    });
  }

  async preflightDestination(input: PreflightDestinationInput): Promise<Finding[]> {
    const { ref, options, facts } = input;
    const { config } = this.context;
    const policy = checkPolicy(facts.spec, loadPolicy()).map((f): Finding => ({ ...f, side: "destination" }));
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
    return [...policy, ...found];
  }

  // --- hand-over --------------------------------------------------------------------------------------------------

  private mustBe(role: "source" | "destination", ref: OperationRef): void {
    if (ref[role] !== this.context.config.node) {
      throw ferryError(
        "E_REQUEST",
        `this is node ${this.context.config.node}, the operation's ${role} is ${ref[role]}`,
      );
    }
    if (ref.source === ref.destination)
      throw ferryError("E_SAME_NODE", `${ref.workload} is already on node ${ref.source}`);
  }

  async reserve(input: ReserveInput): Promise<Reservation> {
    this.mustBe("destination", input.ref);
    return this.reserveFor(input, false);
  }

  private async reserveFor(input: ReserveInput, local: boolean): Promise<Reservation> {
    const { ref, spec } = input;
    const { config } = this.context;
    const hold = this.book.hold(ref.workload, ref.to);
    if (hold !== undefined && hold.state !== "RESERVED") {
      throw ferryError(
        hold.state === "TOMBSTONE" ? "E_TOMBSTONED" : "E_STALE_EPOCH",
        `epoch ${ref.to} of ${ref.workload} is already ${hold.state} on node ${config.node}`,
      );
    }
    if (hold !== undefined && hold.operation !== ref.operation) {
      throw ferryError(
        "E_STALE_EPOCH",
        `epoch ${ref.to} of ${ref.workload} is reserved for operation ${hold.operation}`,
      );
    }
    this.book.recordOperation({ side: "destination", input, ...(local ? { local } : {}) });
    this.book.record({
      workload: ref.workload,
      epoch: ref.to,
      state: "RESERVED",
      operation: ref.operation,
      peer: local ? config.node : ref.source,
    });
    this.book.recordSpec(spec);
    const dirs = sideDirs(config.runDir, ref.operation, "destination");
    makeDirs(dirs);
    if (!local) await mkdir(volumeDir(config, ref.workload), { recursive: true, mode: 0o700 });
    const mover = writeMoverConfig(this.context, dirs, {
      operation: ref.operation,
      workload: ref.workload,
      peer: local ? config.node : ref.source,
      side: "destination",
    });
    const side = new MoverSide(mover, dirs);
    const client = await side.ensure();
    const status = client.status();
    if (status.side !== "destination")
      throw ferryError("E_INTERNAL", "the destination's mover says that it is a source");
    const { port } = status;
    client.close();
    return { agent: { host: config.linkHost, port: config.linkPort }, mover: { host: config.linkHost, port } };
  }

  private ensureTakeOver(input: ReserveInput, local: boolean): TakeOver {
    const { operation } = input.ref;
    const known = this.takeOvers.get(operation);
    if (known !== undefined) return known;
    const takeOver = new TakeOver(this.context, this.hub, input, local);
    this.takeOvers.set(operation, takeOver);
    takeOver.result.catch(() => {
      // It broke off (stuck): the next time it is asked it tries again.
      takeOver.dispose();
      this.takeOvers.delete(operation);
    });
    return takeOver;
  }

  private ensureHandOver(input: HandOverInput, options: HandOverOptions): HandOver {
    const { operation, workload } = input.ref;
    const known = this.handOvers.get(operation);
    if (known !== undefined) return known;
    const handOver = new HandOver(this.context, input, this.specOf(workload), {
      ...options,
      restoreLocally: (original, why) => this.restoreLocally(original, why),
    });
    this.handOvers.set(operation, handOver);
    handOver.result.catch(() => this.handOvers.delete(operation));
    return handOver;
  }

  private static async step(running: Running, waitMs: number): Promise<Step<SideOutcome>> {
    const pending = Symbol("pending");
    let timer: NodeJS.Timeout | undefined;
    const first = await Promise.race([
      running.result,
      new Promise<typeof pending>((resolve) => {
        timer = setTimeout(() => resolve(pending), waitMs);
      }),
    ]).finally(() => clearTimeout(timer));
    return first === pending ? { done: false, progress: running.progress() } : { done: true, result: first };
  }

  async takeOver(input: TakeOverInput, waitMs: number): Promise<Step<SideOutcome>> {
    const { ref } = input;
    this.mustBe("destination", ref);
    const record = this.book.operation("destination", ref.operation);
    if (record === undefined || record.side !== "destination" || record.input.ref.to !== ref.to) {
      throw ferryError(
        "E_STATE",
        `nothing was reserved on node ${this.context.config.node} for operation ${ref.operation}, epoch ${ref.to}`,
      );
    }
    return FerryAgent.step(this.ensureTakeOver(record.input, false), waitMs);
  }

  async handOver(input: HandOverInput, waitMs: number): Promise<Step<SideOutcome>> {
    const { ref } = input;
    this.mustBe("source", ref);
    const known = this.handOvers.get(ref.operation);
    if (known !== undefined) return FerryAgent.step(known, waitMs);
    const hold = this.book.hold(ref.workload, ref.epoch);
    if (hold === undefined || !["OWNER", "FROZEN", "RELEASED", "GONE"].includes(hold.state)) {
      throw ferryError(
        "E_STALE_EPOCH",
        `node ${this.context.config.node} does not hold epoch ${ref.epoch} of ${ref.workload} (${hold?.state ?? "unknown"})`,
      );
    }
    if (hold.state !== "OWNER" && hold.operation !== ref.operation) {
      throw ferryError("E_BUSY", `${ref.workload} is in the hands of operation ${hold.operation}`);
    }
    const burned = this.book.hold(ref.workload, ref.to);
    if (burned?.state === "BURNED" && (hold.state === "OWNER" || hold.state === "GONE")) {
      const running = runningHold(this.book.ledger, ref.workload);
      return {
        done: true,
        result: {
          state: "OWNER",
          phases: [],
          transfer: { bytesSent: 0, pagesSent: 0, pagesFaulted: 0, volumeBytes: 0, bandwidthBytesPerSec: 0 },
          failure: ferryError("E_BURNED", `epoch ${ref.to} was burned: ${ref.workload} stays here`, { side: "source" })
            .data,
          ...(running === undefined ? {} : { epoch: running.epoch }),
        },
      };
    }
    const busy = [...this.handOvers.values()].find((h) => h.workload === ref.workload && h.outcome === undefined);
    if (busy !== undefined) throw ferryError("E_BUSY", `${ref.workload} is being handed over by another operation`);
    this.book.recordOperation({ side: "source", input });
    return FerryAgent.step(this.ensureHandOver(input, {}), waitMs);
  }

  /** criu died in the hold: restore on this node from the dumped images and the frozen tree's own pages. */
  private async restoreLocally(input: HandOverInput, why: FailureData): Promise<SideOutcome> {
    const { ref } = input;
    const { node } = this.context.config;
    const to = this.book.highest(ref.workload) + 1;
    const local: OperationRef = { ...ref, to, source: node, destination: node };
    const old = this.takeOvers.get(ref.operation);
    old?.dispose();
    this.takeOvers.delete(ref.operation);
    removeDirs(sideDirs(this.context.config.runDir, ref.operation, "destination"));
    const options = { ...input.options, mode: "cold" as const, maxBlackoutMs: 600_000 };
    const reserve: ReserveInput = {
      ref: local,
      options,
      spec: this.specOf(ref.workload),
      memoryBytes: 0,
      volumeBytes: 0,
    };
    const reservation = await this.reserveFor(reserve, true);
    const takeOver = this.ensureTakeOver(reserve, true);
    const handOverInput: HandOverInput = { ref: local, options, reservation };
    this.book.recordOperation({ side: "source", input: handOverInput, local: true });
    const handOver = new HandOver(this.context, handOverInput, this.specOf(ref.workload), { local: true });
    const [taken, given] = await Promise.allSettled([takeOver.result, handOver.result]);
    takeOver.dispose();
    this.takeOvers.delete(ref.operation);
    if (given.status === "rejected") throw given.reason;
    if (taken.status === "rejected") throw taken.reason;
    if (given.value.state !== "GONE") throw new FerryError(given.value.failure ?? why);
    await this.context.runtime.destroy({ name: ref.workload, epoch: ref.epoch });
    return { ...given.value, state: "OWNER", epoch: to, failure: why };
  }

  // --- settling ---------------------------------------------------------------------------------------------------

  async inquire(ref: OperationRef): Promise<Inquiry> {
    const { node } = this.context.config;
    const holds = this.book.holds(ref.workload);
    const seen = await this.observeWorkload({ schema: ref.schema, workload: ref.workload });
    const base = { holds, processes: seen.processes };
    if (node === ref.source) {
      const token = this.book.token(ref.operation, ref.to);
      const state = this.sourceState(ref);
      return {
        ...base,
        ...(state === undefined ? {} : { state }),
        ...(token === undefined ? {} : { token }),
        ...this.handOvers.get(ref.operation)?.inquiry(),
      };
    }
    const state = this.book.hold(ref.workload, ref.to)?.state;
    return { ...base, ...(state === undefined ? {} : { state }), ...this.takeOvers.get(ref.operation)?.inquiry() };
  }

  /** The source's word on this hand-over. After a local restore the old epoch is GONE and yet nothing was handed over. */
  private sourceState(ref: OperationRef): Hold["state"] | undefined {
    const hold = this.book.hold(ref.workload, ref.epoch);
    if (this.book.hold(ref.workload, ref.to)?.state === "BURNED") {
      const running = runningHold(this.book.ledger, ref.workload);
      if (running !== undefined && mayRun(running.state)) return "OWNER";
    }
    return hold?.state;
  }

  async burn(ref: OperationRef): Promise<Inquiry> {
    this.mustBe("source", ref);
    const hold = this.book.hold(ref.workload, ref.epoch);
    const running = this.handOvers.get(ref.operation);
    if (hold === undefined || hold.state === "RELEASED" || hold.state === "GONE") return this.inquire(ref);
    if (running !== undefined && running.outcome === undefined) {
      running.cancel(ferryError("E_CANCELLED", "the migration was cancelled", { side: "source" }).data);
      await Promise.race([
        running.result.catch(() => undefined),
        new Promise((resolve) => setTimeout(resolve, 20_000)),
      ]);
    } else if (hold.state === "FROZEN") {
      const record = this.book.operation("source", ref.operation);
      if (record?.side === "source") await this.ensureHandOver(record.input, {}).result.catch(() => undefined);
    }
    if (
      this.book.hold(ref.workload, ref.epoch)?.state === "OWNER" &&
      this.book.hold(ref.workload, ref.to) === undefined
    ) {
      this.book.record({
        workload: ref.workload,
        epoch: ref.to,
        state: "BURNED",
        operation: ref.operation,
        peer: ref.destination,
      });
    }
    return this.inquire(ref);
  }

  async refuse(ref: OperationRef): Promise<Inquiry> {
    this.mustBe("destination", ref);
    const hold = this.book.hold(ref.workload, ref.to);
    if (hold !== undefined && ["ACTIVE", "RUNNING", "OWNER"].includes(hold.state)) return this.inquire(ref);
    const record = this.book.operation("destination", ref.operation);
    if (hold === undefined) {
      // It never happened here, and now it never will.
      this.book.record({
        workload: ref.workload,
        epoch: ref.to,
        state: "TOMBSTONE",
        operation: ref.operation,
        peer: ref.source,
      });
    } else if (hold.state !== "TOMBSTONE" && record?.side === "destination") {
      const takeOver = this.ensureTakeOver(record.input, false);
      takeOver.refuse(ferryError("E_CANCELLED", "the migration was called off", { side: "destination" }).data);
      await Promise.race([
        takeOver.result.catch(() => undefined),
        new Promise((resolve) => setTimeout(resolve, 20_000)),
      ]);
    }
    return this.inquire(ref);
  }

  async deliver(input: DeliverInput): Promise<Inquiry> {
    const { ref, token } = input;
    this.mustBe("destination", ref);
    const record = this.book.operation("destination", ref.operation);
    const hold = this.book.hold(ref.workload, ref.to);
    if (record?.side !== "destination" || hold === undefined) {
      throw ferryError("E_TOKEN", `nothing was reserved on this node for operation ${ref.operation}`);
    }
    if (!["RUNNING", "OWNER", "ACTIVE"].includes(hold.state)) this.ensureTakeOver(record.input, false).accept(token);
    return this.inquire(ref);
  }

  async cleanup(ref: OperationRef): Promise<void> {
    const { config } = this.context;
    const { node } = config;
    const side = node === ref.source ? "source" : "destination";
    if (side === "source") {
      const hold = this.book.hold(ref.workload, ref.epoch);
      const state = this.sourceState(ref);
      if (hold?.state === "GONE" && state === "GONE" && runningHold(this.book.ledger, ref.workload) === undefined) {
        await this.context.runtime.destroy({ name: ref.workload, epoch: ref.epoch });
        await rm(volumeDir(config, ref.workload), { recursive: true, force: true });
      }
      if (state === "RELEASED" || state === "FROZEN") {
        throw ferryError("E_STATE", `${ref.workload} is ${state} on node ${node}: the hand-over is not settled yet`);
      }
      this.handOvers.delete(ref.operation);
    } else {
      const state = this.book.hold(ref.workload, ref.to)?.state;
      if (state !== undefined && !["OWNER", "TOMBSTONE", "GONE", "STOPPED"].includes(state)) {
        throw ferryError("E_STATE", `${ref.workload} is ${state} on node ${node}: the hand-over is not settled yet`);
      }
      if (state === "TOMBSTONE") {
        await this.context.runtime.destroy({ name: ref.workload, epoch: ref.to });
        if (this.book.holds(ref.workload).every((h) => ["TOMBSTONE", "GONE", "BURNED"].includes(h.state))) {
          await rm(volumeDir(config, ref.workload), { recursive: true, force: true });
        }
      }
      this.takeOvers.get(ref.operation)?.dispose();
      this.takeOvers.delete(ref.operation);
    }
    removeDirs(sideDirs(config.runDir, ref.operation, side));
  }
}

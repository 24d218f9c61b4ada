/** The agent of one simulated node: the verbs of NodeAgent over a SimulatedWorld, with the faults that were ordered. */
import type {
  Inquiry,
  LogChunk,
  NodeAgent,
  Observation,
  OperationRef,
  SideOutcome,
  SourceFacts,
  Step,
} from "../../model/contract.js";
import { FerryError, ferryError, type Side } from "../../model/failure.js";
import { forget, holdsOf, isOpen, mayRefuse, mayRun, openHold } from "../../model/ownership.js";
import { RECOVERY } from "../../model/names.js";
import { maybeWentHome } from "../../model/settlement.js";
import type { NodeFacts } from "../../model/node.js";
import type { Finding } from "../../model/plan.js";
import { burnHere, progressOf, pump, receiptOf, recordOf, refuseHere, remember, takeBack, tokenOf } from "./engine.js";
import { pumpSave, simulatedCheckpoints, storeVerbs } from "./checkpoints.js";
import type { SimulatedWorld, Verb } from "./world.js";

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export interface SimulatedAgent extends NodeAgent {
  /** Findings that the next preflights on this node report. */
  readonly findings: Finding[];
  /** What its preflights as a source find out besides: by default no dirty rate. */
  facts: Partial<SourceFacts>;
  /** Starts again after `world.crash`: reads the journal and goes on with what is open. */
  restart(): void;
}

export function createSimulatedAgent(world: SimulatedWorld, name: string): SimulatedAgent {
  const node = world.node(name);
  const checkpoints = simulatedCheckpoints(world, node);
  const findings: Finding[] = [];
  const refs = new Map<string, OperationRef>();

  const down = (): FerryError => ferryError("E_AGENT_DOWN", `the agent of ${name} does not answer`, { node: name });

  /** One call: meets the ordered fault, if any. */
  const call = async <Result>(
    verb: Verb,
    workload: string | undefined,
    effect: () => Result | Promise<Result>,
  ): Promise<Result> => {
    world.calls.push({ node: name, verb, ...(workload === undefined ? {} : { workload }) });
    if (!node.up) throw down();
    const { life } = node;
    const fault = world.meet(name, verb, workload);
    const failure = fault?.failure === undefined ? down() : new FerryError(fault.failure);
    if (fault?.when === "hang") await pause(fault.hangMs ?? 60_000);
    if (fault?.when === "before") throw failure;
    await pause(1);
    if (!node.up || node.life !== life) throw down();
    const result = await effect();
    if (fault?.when === "after") throw failure;
    return result;
  };

  const observation = (workload: string): Observation => {
    const trees = node.trees.filter((tree) => tree.workload === workload);
    const spec = node.specs.get(workload);
    return {
      holds: holdsOf(node.ledger, workload),
      processes: trees.length,
      memoryBytes: trees.length * 4096,
      logBytes: 0,
      ...(spec === undefined ? {} : { spec }),
    };
  };

  const inquiry = (ref: OperationRef): Inquiry => {
    const side: Side = ref.source === name ? "source" : "destination";
    const record = node.records.get(ref.operation);
    const hold = node.hold(ref.workload, side === "source" ? ref.epoch : ref.to);
    return {
      ...(hold === undefined ? {} : { state: hold.state }),
      holds: holdsOf(node.ledger, ref.workload),
      processes: node.trees.filter((tree) => tree.workload === ref.workload).length,
      ...(side === "source" && record?.token !== undefined ? { token: record.token } : {}),
      ...(side === "destination" && hold?.state === "OWNER" ? { receipt: receiptOf(ref) } : {}),
      ...(side === "source" && node.hold(ref.workload, ref.to)?.state === "FENCED"
        ? { receipt: { ...receiptOf(ref), epoch: ref.epoch, owner: name } }
        : {}),
      ...(record?.failure === undefined ? {} : { failure: record.failure }),
      ...(record?.outcome === undefined ? {} : { outcome: record.outcome }),
      ...(record?.asked === true && record.outcome === undefined ? { progress: progressOf(side, node, ref) } : {}),
    };
  };

  const ensure = async (side: Side, verb: Verb, ref: OperationRef, waitMs: number): Promise<Step<SideOutcome>> => {
    const until = Date.now() + waitMs;
    do {
      const outcome = await call(verb, ref.workload, () => {
        // As the real one: a call that comes when all is over and cleaned up makes nothing anew.
        const over = node.records.get(ref.operation)?.outcome;
        if (over !== undefined && node.cleaned.has(ref.operation)) return over;
        node.litter.add(ref.operation);
        refs.set(ref.operation, ref);
        const record = recordOf(node, ref);
        if (record.outcome === undefined) pump(world, side, ref);
        return record.outcome;
      });
      if (outcome !== undefined) return { done: true, result: outcome };
      await pause(5);
    } while (Date.now() < until);
    return { done: false, progress: progressOf(side, node, ref) };
  };

  const facts = (): NodeFacts => ({
    node: name,
    version: "simulated",
    linkHost: "127.0.0.1",
    linkPort: 1,
    kernel: "simulated",
    arch: "simulated",
    criuVersion: "none",
    cpus: 1,
    memoryTotalBytes: 2 ** 30,
    memoryAvailableBytes: 2 ** 30,
    diskAvailableBytes: 2 ** 30,
    bootId: "simulated",
    workloads: [...node.ledger.keys()].flatMap((workload) => {
      const hold = openHold(holdsOf(node.ledger, workload));
      const ip = node.specs.get(workload)?.network.ip;
      return hold === undefined
        ? []
        : [{ name: workload, epoch: hold.epoch, state: hold.state, ...(ip !== undefined && { ip }) }];
    }),
  });

  const agent: SimulatedAgent = {
    findings,
    facts: {},
    restart: () => {
      node.up = true;
      for (const ref of refs.values()) pump(world, ref.source === name ? "source" : "destination", ref);
      for (const save of node.saves.values()) pumpSave(world, node, save);
    },
    endings: () => call("endings", undefined, () => []),
    sleepers: async ({ waitMs }) => {
      const wanted = (): boolean => [...node.asleep.values()].some((each) => each.wanted);
      for (const until = Date.now() + waitMs; node.up && !wanted() && Date.now() < until;) await pause(5);
      return call("sleepers", undefined, () =>
        [...node.asleep].map(([workload, each]) => ({ workload, disputed: false, ...each })),
      );
    },
    idleWorkload: ({ workload, epoch }) =>
      call("idleWorkload", workload, () => {
        if (node.hold(workload, epoch)?.state !== "OWNER") {
          throw ferryError("E_STATE", `${workload} does not run on ${name} under epoch ${epoch}`, { node: name });
        }
        const idleMs = node.idleMs.get(workload) ?? 0;
        return { packetsMs: idleMs, cpuMs: idleMs };
      }),
    describeNode: () => call("describeNode", undefined, facts),
    startWorkload: ({ spec, epoch, operation }) =>
      call("startWorkload", spec.name, () => {
        const { name: workload } = spec;
        if (node.hold(workload, epoch)?.operation !== operation) {
          node.journal({ workload, epoch, state: "OWNER", operation });
        }
        node.specs.set(workload, spec);
        world.set(node, { workload, epoch, state: "running" });
        return { pid: 1, epoch };
      }),
    newestCheckpoint: ({ workload }) =>
      call("newestCheckpoint", workload, async () => (await checkpoints.newest(workload)) ?? null),
    recoverWorkload: ({ ref, spec, checkpoint: id }) =>
      call("recoverWorkload", ref.workload, async () => {
        const { workload, to: epoch, operation, source: peer } = ref;
        const checkpoint = await checkpoints.newest(workload);
        if (checkpoint?.id !== id) throw ferryError("E_STATE", `checkpoint ${id} is not the newest any more`);
        if (node.hold(workload, epoch)?.operation !== operation) {
          node.journal({ workload, epoch, state: "OWNER", operation, peer, digest: id, letRun: true });
        }
        return { ...(await checkpoints.restore(checkpoint, { spec, epoch })), epoch };
      }),
    ...storeVerbs(world, node, call),
    stopWorkload: ({ workload, epoch, callOff }) =>
      call("stopWorkload", workload, () => {
        if (callOff === true) {
          node.calledOff.add(workload);
          return observation(workload);
        }
        if (node.hold(workload, epoch)?.state === "OWNER") node.journal({ workload, epoch, state: "STOPPED" });
        if (node.asleep.get(workload)?.epoch === epoch) node.asleep.delete(workload);
        world.drop(node, workload, epoch);
        return observation(workload);
      }),
    removeWorkload: ({ workload }) =>
      call("removeWorkload", workload, () => {
        if (holdsOf(node.ledger, workload).some((hold) => mayRun(hold.state))) {
          throw ferryError("E_STATE", `${workload} runs on ${name}`, { node: name });
        }
        node.ledger = forget(node.ledger, workload);
        node.asleep.delete(workload);
        node.specs.delete(workload);
      }),
    observeWorkload: ({ workload }) => call("observeWorkload", workload, () => observation(workload)),
    readLog: ({ workload, offset }) =>
      call("readLog", workload, (): LogChunk => {
        const text = `log of ${workload} on ${name}\n`;
        const from = offset < 0 ? Math.max(0, text.length + offset) : Math.min(offset, text.length);
        return { text: text.slice(from), offset: from, nextOffset: text.length, sizeBytes: text.length };
      }),
    preflightSource: ({ ref }) =>
      call("preflightSource", ref.workload, (): SourceFacts => {
        const spec = node.specs.get(ref.workload);
        if (spec === undefined)
          throw ferryError("E_WORKLOAD_UNKNOWN", `${name} has no ${ref.workload}`, { node: name });
        return {
          findings: findings.filter((f) => f.side === "source"),
          node: facts(),
          spec,
          memoryBytes: 4096,
          volumeBytes: 0,
          processes: 1,
          threads: 1,
          cpuFlags: [],
          files: [],
          ...agent.facts,
        };
      }),
    preflightDestination: ({ ref }) =>
      call("preflightDestination", ref.workload, () => findings.filter((f) => f.side === "destination")),
    reserve: ({ ref, spec }) =>
      call("reserve", ref.workload, () => {
        const state = node.hold(ref.workload, ref.to)?.state;
        if (state === "TOMBSTONE") {
          throw ferryError("E_TOMBSTONED", `${name} has refused epoch ${ref.to}`, { node: name });
        }
        // One that comes late, when the hand-over has ended, begins nothing.
        if (state !== undefined && state !== "RESERVED") {
          throw ferryError("E_STALE_EPOCH", `epoch ${ref.to} is already ${state} on ${name}`, { node: name });
        }
        if (state === undefined) {
          node.journal({
            workload: ref.workload,
            epoch: ref.to,
            state: "RESERVED",
            operation: ref.operation,
            peer: ref.source,
          });
        }
        node.specs.set(ref.workload, spec);
        node.litter.add(ref.operation);
        return { agent: { host: "127.0.0.1", port: 1 }, mover: { host: "127.0.0.1", port: 2 } };
      }),
    takeOver: (input, waitMs) => {
      remember(recordOf(node, input.ref), input);
      return ensure("destination", "takeOver", input.ref, waitMs);
    },
    handOver: (input, waitMs) => {
      remember(recordOf(node, input.ref), input);
      return ensure("source", "handOver", input.ref, waitMs);
    },
    inquire: (ref) => call("inquire", ref.workload, () => inquiry(ref)),
    burn: (ref) =>
      call("burn", ref.workload, () => {
        const state = node.hold(ref.workload, ref.epoch)?.state;
        if (state === "OWNER" || state === "FROZEN") {
          burnHere(node, ref);
          takeBack(world, node, ref);
        }
        return inquiry(ref);
      }),
    refuse: (ref) =>
      call("refuse", ref.workload, () => {
        const state = node.hold(ref.workload, ref.to)?.state;
        if (state === undefined || mayRefuse(state)) {
          refuseHere(world, node, ref);
        }
        return inquiry(ref);
      }),
    steer: ({ ref, command }) =>
      call("steer", ref.workload, () => ({
        message: `${command.do} was taken`,
        paused: command.do === "pause",
        held: command.do === "hold",
        maxDowntimeMs: command.do === "max-downtime" ? command.ms : 1000,
        ...(command.do === "bandwidth" && command.bytesPerSec !== null
          ? { bandwidthBytesPerSec: command.bytesPerSec }
          : {}),
      })),
    deliver: ({ ref, token }) =>
      call("deliver", ref.workload, () => {
        recordOf(node, ref).token = token;
        pump(world, "destination", ref);
        return inquiry(ref);
      }),
    acknowledge: ({ ref, receipt }) =>
      call("acknowledge", ref.workload, () => {
        if (receipt.operation !== ref.operation || receipt.epoch !== ref.to || receipt.owner !== ref.destination) {
          throw ferryError("E_TOKEN", "the receipt is of another hand-over", { node: name });
        }
        recordOf(node, ref).acknowledged = true;
        pump(world, "source", ref);
        return inquiry(ref);
      }),
    retake: ({ ref }) =>
      call("retake", ref.workload, () => {
        if (node.hold(ref.workload, ref.epoch)?.state === "RELEASED") {
          const { workload, operation, destination: peer } = ref;
          node.journal({ workload, epoch: ref.to, state: "FENCED", operation, peer });
          node.journal({ workload, epoch: ref.epoch, state: "FROZEN" });
          delete recordOf(node, ref).token;
          takeBack(world, node, ref);
        }
        return inquiry(ref);
      }),
    claim: ({ ref, acceptRollback }) =>
      call("claim", ref.workload, () => {
        if (acceptRollback !== true && recordOf(node, ref).token === undefined) throw maybeWentHome(ref);
        recordOf(node, ref).token = tokenOf(ref);
        pump(world, "destination", ref);
        return inquiry(ref);
      }),
    supersede: ({ ref }) =>
      call("supersede", ref.workload, () => {
        const epoch = ref.source === name ? ref.epoch : ref.to;
        const state = node.hold(ref.workload, epoch)?.state;
        if (ref.source === name && RECOVERY.test(ref.operation)) {
          for (const hold of holdsOf(node.ledger, ref.workload)) {
            if (hold.epoch >= ref.to || hold.epoch === epoch || !mayRun(hold.state)) continue;
            node.journal({ workload: ref.workload, epoch: hold.epoch, state: "SUPERSEDED" });
            world.drop(node, ref.workload, hold.epoch);
          }
        }
        if (ref.source === name && state === undefined) {
          node.journal({ workload: ref.workload, epoch, state: "TOMBSTONE", operation: ref.operation });
        } else if (state === undefined || mayRefuse(state)) {
          refuseHere(world, node, ref);
        } else if (isOpen(state)) {
          node.journal({ workload: ref.workload, epoch, state: "SUPERSEDED" });
          world.drop(node, ref.workload, epoch);
        }
        return inquiry(ref);
      }),
    cleanup: (ref) =>
      call("cleanup", ref.workload, () => {
        // A call that is still on its way must not begin what is over.
        if (ref.source === name && node.hold(ref.workload, ref.epoch)?.state === "OWNER") burnHere(node, ref);
        node.litter.delete(ref.operation);
        node.cleaned.add(ref.operation);
        refs.delete(ref.operation);
      }),
  };
  return agent;
}

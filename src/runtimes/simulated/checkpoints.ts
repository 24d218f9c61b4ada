/** The checkpoints of a simulated world: one store that every node reads. */
import { byAge, byEpoch, isBroken } from "../../model/checkpoint-choice.js";
import type { Checkpoint, CheckpointSource, ListedCheckpoint, StoredCheckpoint } from "../../model/checkpoints.js";
import type { CheckpointRef, NodeAgent, RestoreInput, SaveInput, Saved, Started } from "../../model/contract.js";
import { ferryError, toFailure } from "../../model/failure.js";
import { holdsOf, openHold } from "../../model/ownership.js";
import type { Progress } from "../../model/report.js";
import type { SimulatedNode, SimulatedWorld } from "./world.js";

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const MIB = 2 ** 20;

/** What was saved last, or what a test has put there. */
function newestOf(world: SimulatedWorld, workload: string): Checkpoint | undefined {
  const put = world.checkpoints.get(workload);
  const saved = storedOf(world, workload).sort(byEpoch).at(-1);
  if (put === undefined || saved === undefined) return put ?? saved;
  return saved.epoch > put.epoch || (saved.epoch === put.epoch && saved.takenAt >= put.takenAt) ? saved : put;
}

const storedOf = (world: SimulatedWorld, workload: string): StoredCheckpoint[] =>
  world.stored.filter((each): each is StoredCheckpoint => !isBroken(each) && each.workload === workload).sort(byAge);

export const simulatedCheckpoints = (world: SimulatedWorld, node: SimulatedNode): CheckpointSource => ({
  newest: (workload) => Promise.resolve(newestOf(world, workload)),
  restore: ({ id, workload }, { spec, epoch }) => {
    if (newestOf(world, workload)?.id !== id) {
      return Promise.reject(ferryError("E_RESTORE", `checkpoint ${id} is gone`, { workload, node: node.name }));
    }
    node.specs.set(workload, spec);
    world.set(node, { workload, epoch, state: "running" });
    return Promise.resolve({ pid: 1 });
  },
});

/** One that is being made, or was: outlives the agent. */
export interface SimulatedSave {
  input: SaveInput;
  startedAt: number;
  frozenAt?: number;
  /** In the store: the same operation makes it once. */
  made?: StoredCheckpoint;
  result?: Saved;
}

const idOf = (world: SimulatedWorld, at: number): string => {
  world.saves += 1;
  const time = new Date(at)
    .toISOString()
    .replace(/\.\d+Z$/, "Z")
    .replaceAll(/[-:]/g, "");
  return `${time}-${String(world.saves).padStart(4, "0")}`;
};

function commit(world: SimulatedWorld, node: SimulatedNode, { ref, options }: SaveInput): StoredCheckpoint {
  const before = storedOf(world, ref.workload).at(-1);
  // Frozen now, and never at the same millisecond as another one: the order of two is not left to chance.
  const takenAt = Math.max(Date.now(), (before?.takenAt ?? 0) + 1);
  const made: StoredCheckpoint = {
    id: idOf(world, takenAt),
    workload: ref.workload,
    epoch: ref.epoch,
    takenAt,
    where: "the simulated store",
    node: node.name,
    runtime: "simulated",
    criuVersion: "none",
    kernel: "simulated",
    arch: "simulated",
    cpu: "simulated",
    reason: options.reason,
    requestedBy: options.requestedBy,
    labels: options.labels,
    ...(before === undefined ? {} : { parent: before.id }),
    pinned: false,
    dataBytes: 96 * MIB,
    newBytes: before === undefined ? 40 * MIB : 4 * MIB,
  };
  world.stored.push(made);
  return made;
}

/** As the agent's own loop: looks at its journal, takes the next step, looks again. A restarted agent begins it anew. */
async function saveLoop(world: SimulatedWorld, node: SimulatedNode, save: SimulatedSave, life: number): Promise<void> {
  const { ref, options } = save.input;
  const { workload, epoch, to, operation } = ref;
  const alive = (): boolean => node.life === life && node.up;
  const end = (state: Saved["state"], more: Partial<Saved>): void => {
    save.result = {
      state,
      epoch,
      phases: (["precopy", "freeze", "dump", "transfer"] as const).map((name, i) => ({
        name,
        side: "source",
        startedAt: save.startedAt + i,
        durationMs: 1,
      })),
      rounds: 2,
      ...(save.frozenAt === undefined ? {} : { frozenMs: Date.now() - save.frozenAt }),
      ...more,
    };
  };
  if (node.hold(workload, epoch)?.state === "OWNER") {
    await world.reach("save:rounds", workload);
    await pause(world.phaseMs);
    if (!alive()) return;
    if (node.hold(workload, epoch)?.state !== "OWNER") {
      end(node.hold(workload, epoch)?.state ?? "STOPPED", {
        failure: { code: "E_STATE", message: `${workload} was stopped meanwhile`, node: node.name },
      });
      return;
    }
    save.frozenAt = Date.now();
    node.journal({ workload, epoch, state: "FROZEN", operation, peer: node.name, to });
    world.set(node, { workload, epoch, state: "frozen" });
  }
  await world.reach("save:frozen", workload);
  await pause(world.phaseMs);
  if (!alive()) return;
  if (options.ifQuiet === true && node.disturbed.has(workload)) {
    node.journal({ workload, epoch: to, state: "BURNED", operation, peer: node.name });
    node.journal({ workload, epoch, state: "OWNER" });
    world.set(node, { workload, epoch, state: "running" });
    end("OWNER", { failure: { code: "E_BUSY", message: "something came for it", node: node.name } });
    return;
  }
  const checkpoint = (save.made ??= commit(world, node, save.input));
  await world.reach("save:stored", workload);
  if (!alive()) return;
  if (node.hold(workload, to) === undefined) {
    node.journal({ workload, epoch: to, state: "BURNED", operation, peer: node.name });
  }
  node.journal({ workload, epoch, state: "OWNER" });
  if (options.stop) {
    node.journal({ workload, epoch, state: "STOPPED", digest: checkpoint.id });
    if (options.wakeOnTraffic === true) node.asleep.set(workload, { epoch, wanted: node.disturbed.has(workload) });
    world.drop(node, workload, epoch);
    end("STOPPED", { checkpoint, letGo: true });
  } else {
    world.set(node, { workload, epoch, state: "running" });
    end("OWNER", { checkpoint });
  }
}

const loops = new Set<string>();
/** Starts its loop unless it runs already in this life of the agent. */
export function pumpSave(world: SimulatedWorld, node: SimulatedNode, save: SimulatedSave): void {
  const key = `${node.name}/${node.life}/${save.input.ref.operation}`;
  if (save.result !== undefined || loops.has(key)) return;
  loops.add(key);
  void saveLoop(world, node, save, node.life).finally(() => loops.delete(key));
}

const progressOf = (node: SimulatedNode, { input: { ref } }: SimulatedSave): Progress => ({
  phase: node.hold(ref.workload, ref.epoch)?.state === "FROZEN" ? "transfer" : "precopy",
  side: "source",
  bytesSent: 96 * MIB,
  bytesTotal: 128 * MIB,
  pagesSent: 0,
  pagesTotal: 0,
  rateBytesPerSec: 48 * MIB,
  at: Date.now(),
});

function begin(world: SimulatedWorld, node: SimulatedNode, input: SaveInput): SimulatedSave {
  const { ref } = input;
  const known = node.saves.get(ref.operation);
  if (known?.input.request === input.request) return known;
  if (known !== undefined) {
    throw ferryError("E_BUSY", `${ref.workload} is in the hands of operation ${ref.operation}`, {
      workload: ref.workload,
      node: node.name,
    });
  }
  if (node.hold(ref.workload, ref.epoch)?.state !== "OWNER") {
    throw ferryError("E_STATE", `${ref.workload} does not run on ${node.name} under epoch ${ref.epoch}`, {
      workload: ref.workload,
      node: node.name,
    });
  }
  const save: SimulatedSave = { input, startedAt: Date.now() };
  node.saves.set(ref.operation, save);
  pumpSave(world, node, save);
  return save;
}

function restoreHere(
  world: SimulatedWorld,
  node: SimulatedNode,
  { ref, spec, checkpoint: id, of }: RestoreInput,
): Started {
  const { workload, to: epoch, operation, source: peer } = ref;
  if (node.hold(workload, epoch)?.operation === operation && node.hold(workload, epoch)?.state === "OWNER") {
    // Journaled, and its agent died before anything ran: it goes on.
    if (!world.running(workload).includes(node.name)) world.set(node, { workload, epoch, state: "running" });
    return { pid: 1, epoch };
  }
  if (!world.stored.some((each) => each.id === id && each.workload === of && !isBroken(each))) {
    throw ferryError("E_CHECKPOINT_UNKNOWN", `there is no checkpoint ${id} of ${of}`, {
      workload: of,
      node: node.name,
    });
  }
  const open = openHold(holdsOf(node.ledger, workload));
  if (open !== undefined) {
    throw ferryError("E_STATE", `${node.name} holds epoch ${open.epoch} of ${workload} as ${open.state}`, {
      workload,
      node: node.name,
    });
  }
  node.journal({ workload, epoch, state: "OWNER", operation, peer, digest: id, letRun: true });
  node.specs.set(workload, spec);
  node.asleep.delete(workload);
  world.set(node, { workload, epoch, state: "running" });
  return { pid: 1, epoch };
}

function find(world: SimulatedWorld, { workload, checkpoint: id }: CheckpointRef): ListedCheckpoint {
  const found = world.stored.find((each) => each.workload === workload && each.id === id);
  if (found === undefined) {
    throw ferryError("E_CHECKPOINT_UNKNOWN", `there is no checkpoint ${id} of ${workload}`, { workload });
  }
  return found;
}

function whole(world: SimulatedWorld, ref: CheckpointRef): StoredCheckpoint {
  const found = find(world, ref);
  if (isBroken(found)) throw ferryError(found.failure.code, found.failure.message, { workload: ref.workload });
  return found;
}

type StoreVerbs = Pick<
  NodeAgent,
  | "saveCheckpoint"
  | "restoreWorkload"
  | "listCheckpoints"
  | "pinCheckpoint"
  | "removeCheckpoint"
  | "verifyCheckpoint"
  | "diffCheckpoints"
>;
/** One call of a verb: meets the ordered fault, if any. */
type Call = <Result>(
  verb: keyof StoreVerbs,
  workload: string | undefined,
  effect: () => Result | Promise<Result>,
) => Promise<Result>;

/** The verbs of the agent that have to do with the store. */
export function storeVerbs(world: SimulatedWorld, node: SimulatedNode, call: Call): StoreVerbs {
  const inStore = <Result>(
    verb: keyof StoreVerbs,
    workload: string | undefined,
    effect: () => Result | Promise<Result>,
  ) =>
    call(verb, workload, () => {
      if (node.hasStore) return effect();
      throw ferryError("E_NO_CHECKPOINT", `node ${node.name} has no store for checkpoints`, {
        node: node.name,
        remedy: "start its agent with --store FILE",
      });
    });
  return {
    saveCheckpoint: async (input, waitMs) => {
      const until = Date.now() + waitMs;
      for (;;) {
        const save = await inStore("saveCheckpoint", input.ref.workload, () => begin(world, node, input));
        if (save.result !== undefined) return { done: true, result: save.result };
        if (Date.now() >= until) return { done: false, progress: progressOf(node, save) };
        await pause(5);
      }
    },
    restoreWorkload: (input) =>
      inStore("restoreWorkload", input.ref.workload, async () => {
        const { life } = node;
        await world.reach("restore:begun", input.ref.workload);
        if (!node.up || node.life !== life) {
          throw ferryError("E_AGENT_DOWN", `the agent of ${node.name} was killed`, { node: node.name });
        }
        world.restores.push(input);
        if (node.calledOff.delete(input.ref.workload)) {
          throw ferryError("E_CANCELLED", `the restore of ${input.ref.workload} was called off`, { node: node.name });
        }
        return restoreHere(world, node, input);
      }),
    listCheckpoints: ({ workload }) =>
      inStore("listCheckpoints", workload, () =>
        world.stored.filter((each) => workload === undefined || each.workload === workload),
      ),
    pinCheckpoint: (input) =>
      inStore("pinCheckpoint", input.workload, () => {
        whole(world, input).pinned = input.pinned;
      }),
    removeCheckpoint: (input) =>
      inStore("removeCheckpoint", input.workload, () => {
        const found = find(world, input);
        if (!isBroken(found) && found.pinned) {
          throw ferryError("E_STATE", `checkpoint ${found.id} of ${found.workload} is pinned`, {
            workload: found.workload,
            remedy: `ferry checkpoints unpin ${found.workload} ${found.id}`,
          });
        }
        world.stored.splice(world.stored.indexOf(found), 1);
      }),
    verifyCheckpoint: (input) => inStore("verifyCheckpoint", input.workload, () => void whole(world, input)),
    diffCheckpoints: (input) =>
      inStore("diffCheckpoints", input.workload, () => {
        const [before, after] = [whole(world, input), whole(world, { ...input, checkpoint: input.with })];
        const sizes = { before: before.dataBytes, after: after.dataBytes };
        return { streams: [{ name: "memory/1", kind: "memory", ...sizes, changed: after.newBytes }] };
      }),
  };
}

/** One that can't be read, for tests. */
export const broken = (workload: string, id: string): ListedCheckpoint => ({
  id,
  workload,
  failure: toFailure(ferryError("E_STORE_CORRUPT", `${id}: its digest is not the one that was signed`)),
});

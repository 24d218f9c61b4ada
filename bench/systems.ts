/** Ferry and its peers behind one interface: start a workload on node-a, move it to node-b, end it. */
import { existsSync, linkSync, rmSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describeFailure, FerryError, toFailure } from "../src/model/failure.js";
import type { MigrateOptions, Mode } from "../src/model/plan.js";
import { dumpMsOf, parseEvents, restoreMsOf } from "./criu-log.js";
import type { Move, System } from "./model.js";
import { NODES, PEER_IP, PEER_MAC, type NodeName, type Stage } from "./stage.js";
import { watchFerry } from "./watch.js";

export interface Subject {
  ip: string;
  /** From node-a to node-b. Throws with the reason when it did not arrive. */
  move(): Promise<Move>;
  /** Leaves nothing of it behind, also after a failure. */
  end(): Promise<void>;
}

export interface Mover {
  /** Once, before its first workload; throws when it can't run here. */
  prepare?(stage: Stage): Promise<void>;
  start(stage: Stage, command: readonly string[]): Promise<Subject>;
  finish?(stage: Stage): Promise<void>;
}

const SOURCE: NodeName = "node-a";
const DESTINATION: NodeName = "node-b";
const PORT = 7600;
const MOVE_WITHIN_MS = 180_000;
const script = (name: string): string => `/opt/ferry/bench/peers/${name}.sh`;

// --- Ferry ---------------------------------------------------------------------------------------------------------

let workloads = 0;

const ferry = (mode: Mode, options: Partial<MigrateOptions> = {}): Mover => ({
  async start(stage, command) {
    workloads += 1;
    const name = `bench-${workloads}`;
    const workload = await stage.client.workloads.run({ name, node: SOURCE, command: [...command] });
    const { spec } = await workload.status();
    return {
      ip: spec.network.ip.replace(/\/.*$/, ""),
      async move() {
        const watch = await watchFerry(stage, SOURCE, DESTINATION);
        const report = await (await workload.migrate({ to: DESTINATION, mode, ...options })).result();
        const seen = await watch.stop();
        if (report.outcome !== "moved") {
          const why = report.failure === undefined ? report.reasons : describeFailure(report.failure);
          throw new Error(`${report.outcome}: ${why.join("; ")}`);
        }
        const { totalMs, blackoutMs, residualMs, rounds, pagesSent, phases } = report;
        const notes = report.precopy === undefined ? [] : [report.precopy.tracker, report.precopy.decision];
        return {
          totalMs,
          ...(blackoutMs === null ? {} : { blackoutMs }),
          ...(residualMs === null ? {} : { residualMs }),
          rounds,
          pagesSent,
          phases,
          notes,
          ...seen,
        };
      },
      async end() {
        // At once: the first process of a PID namespace does not hear SIGTERM unless it listens for it.
        await workload.stop({ graceMs: 0 });
        await workload.remove({ force: true });
      },
    };
  },
});

// --- peers -----------------------------------------------------------------------------------------------------------

/** Runs both halves: the destination's listens before the source's begins. */
async function bothHalves(
  stage: Stage,
  take: readonly string[],
  give: readonly string[],
  env: Record<string, string> = {},
): Promise<{
  totalMs: number;
  events: Record<string, number>;
  source: Record<string, number>;
  destination: Record<string, number>;
}> {
  const started = performance.now();
  const options = { timeoutMs: MOVE_WITHIN_MS, env };
  const taking = stage.on(DESTINATION, ["bash", ...take], options);
  taking.catch(() => undefined);
  await untilListening(stage, taking);
  const source = parseEvents((await stage.on(SOURCE, ["bash", ...give], options)).stdout);
  const destination = parseEvents((await taking).stdout);
  const totalMs = performance.now() - started;
  return { totalMs, events: { ...source, ...destination }, source, destination };
}

async function untilListening(stage: Stage, taking: Promise<unknown>): Promise<void> {
  const table = await stage.path(DESTINATION, "proc/1/net/tcp");
  const port = `:${PORT.toString(16).toUpperCase().padStart(4, "0")} `;
  const end = performance.now() + 10_000;
  const listens = (): boolean =>
    readFileSync(table, "utf8")
      .split("\n")
      .some((line) => line.includes(port) && line.includes(" 0A "));
  while (!listens()) {
    if (performance.now() > end) {
      await Promise.race([taking, Promise.resolve()]);
      throw new Error(`nobody listens on ${DESTINATION} after 10 s`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const destinationIp = (stage: Stage): string => ipOf(stage, DESTINATION);
const ipOf = (stage: Stage, node: NodeName): string => stage.lab.hosts.find((host) => host.name === node)?.ip ?? "";

async function network(stage: Stage): Promise<void> {
  for (const node of NODES) {
    await stage.on(node, ["bash", script("criu"), "clear"]);
    await stage.on(node, ["bash", script("criu"), "prepare", PEER_IP, PEER_MAC]);
  }
}

const criuByHand = (kind: "cold" | "lazy"): Mover => ({
  async start(stage, command) {
    await network(stage);
    const at = script("criu");
    const env = { CRIU_VERBOSE: kind === "lazy" ? "1" : "0" };
    await stage.on(SOURCE, ["bash", at, "start", "-", ...command], { env });
    return {
      ip: PEER_IP,
      async move() {
        const self = ipOf(stage, SOURCE);
        const [take, give] =
          kind === "cold"
            ? [
                [at, "take-cold", String(PORT)],
                [at, "dump-cold", destinationIp(stage), String(PORT)],
              ]
            : [
                [at, "take-lazy", self, String(PORT)],
                [at, "dump-lazy", self, destinationIp(stage), String(PORT)],
              ];
        const { totalMs, events, source, destination } = await bothHalves(stage, take, give, env);
        const move: Move = { totalMs, events };
        const { "network-lock": locked } = source;
        const { "post-resume": resumed } = destination;
        if (locked !== undefined && resumed !== undefined) move.blackoutMs = resumed - locked;
        if (kind === "lazy") {
          if (resumed !== undefined && destination["drained"] !== undefined) {
            move.residualMs = Math.max(0, destination["drained"] - resumed);
          }
          const log = async (node: NodeName, name: string): Promise<string> =>
            readFileSync(await stage.path(node, join("run/peer/images", name)), "utf8");
          const dumpMs = dumpMsOf(await log(SOURCE, "dump.log"));
          const restoreMs = restoreMsOf(await log(DESTINATION, "restore.log"));
          if (dumpMs !== undefined && restoreMs !== undefined) move.criu = { dumpMs, restoreMs };
        }
        return move;
      },
      async end() {
        for (const node of NODES) await stage.on(node, ["bash", at, "clear"]);
      },
    };
  },
});

const runcByHand: Mover = {
  async prepare(stage) {
    for (const node of NODES) await stage.on(node, ["bash", script("runc"), "prepare"], { timeoutMs: 120_000 });
  },
  async start(stage, command) {
    await network(stage);
    const at = script("runc");
    const cgroup = (node: NodeName): string => `/${stage.lab.cgroup}/${node}/runc`;
    await stage.on(SOURCE, ["bash", at, "start", cgroup(SOURCE), ...command]);
    return {
      ip: PEER_IP,
      async move() {
        const { totalMs, events } = await bothHalves(
          stage,
          [at, "take", String(PORT), cgroup(DESTINATION), ...command],
          [at, "give", destinationIp(stage), String(PORT)],
        );
        return { totalMs, events };
      },
      async end() {
        for (const node of NODES) {
          await stage.on(node, ["bash", at, "clear"]);
          await stage.on(node, ["bash", script("criu"), "clear"]);
        }
      },
    };
  },
  async finish(stage) {
    for (const node of NODES) await stage.on(node, ["bash", script("runc"), "end"]);
  },
};

const podman = (pre: boolean): Mover => ({
  async prepare(stage) {
    const image = "var/lib/ferry/peer-image.tar";
    const args = (node: NodeName): Promise<unknown> =>
      stage.on(node, ["bash", script("podman"), "prepare", stage.lab.prefix, `/${image}`], { timeoutMs: 180_000 });
    // One makes the image, the other one loads the very same; the next podman finds it there.
    await args(SOURCE);
    const copy = await stage.path(DESTINATION, image);
    if (!existsSync(copy)) linkSync(await hostFile(stage, SOURCE), await hostFile(stage, DESTINATION));
    await args(DESTINATION);
    if (pre) await probePreCheckpoint(stage);
  },
  async start(stage, command) {
    const at = script("podman");
    const env = (node: NodeName): Record<string, string> => ({
      CGROUP_PARENT: `/${stage.lab.cgroup}/${node}/podman`,
    });
    await stage.on(SOURCE, ["bash", at, "start", PEER_IP, PEER_MAC, ...command], { env: env(SOURCE) });
    return {
      ip: PEER_IP,
      async move() {
        const { totalMs, events } = await bothHalves(
          stage,
          [at, "take", String(PORT)],
          [at, "give", destinationIp(stage), String(PORT), ...(pre ? ["pre"] : [])],
          env(DESTINATION),
        );
        return { totalMs, events };
      },
      async end() {
        for (const node of NODES) await stage.on(node, ["bash", at, "clear"]);
      },
    };
  },
  async finish(stage) {
    for (const node of NODES) await stage.on(node, ["bash", script("podman"), "end"]);
    for (const node of NODES) rmSync(await hostFile(stage, node), { force: true });
  },
});

/** The nodes' /var/lib/ferry is a directory of this machine: a file can be in two of them. */
const hostFile = async (stage: Stage, node: NodeName): Promise<string> =>
  join(stage.lab.directory, "hosts", node, "lib", "peer-image.tar");

/** Its pre-checkpoint is criu's pre-dump, which needs the kernel's soft-dirty bit. */
async function probePreCheckpoint(stage: Stage): Promise<void> {
  const { stdout, stderr } = await stage.on(SOURCE, ["criu", "check", "--feature", "mem_dirty_track"], { allow: [1] });
  if (`${stdout}${stderr}`.includes("mem_dirty_track is supported")) return;
  throw new Error(
    "its pre-checkpoint needs the kernel's soft-dirty bit (criu check --feature mem_dirty_track says no)",
  );
}

export const MOVERS: Record<System, Mover> = {
  "ferry-precopy": ferry("precopy"),
  "ferry-precopy-bare": ferry("precopy", { keepFrames: false }),
  "ferry-hybrid": ferry("hybrid"),
  "ferry-postcopy": ferry("postcopy"),
  "ferry-cold": ferry("cold"),
  "criu-cold": criuByHand("cold"),
  "criu-lazy": criuByHand("lazy"),
  podman: podman(false),
  "podman-pre": podman(true),
  runc: runcByHand,
};

/** Why something failed, in a line. */
export const reasonOf = (error: unknown): string =>
  (error instanceof FerryError ? describeFailure(toFailure(error)).join("; ") : String(error)).slice(0, 800);

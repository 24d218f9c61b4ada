/** What the lab keeps running: Temporal and the relays, an agent and a worker per node; each under a keeper (keep.sh). */
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { ferryError } from "../../src/model/failure.js";
import { setprivArgs, SETPRIV } from "../../src/model/privileges.js";
import { SEARCH_ATTRIBUTES } from "../../src/model/names.js";
import { cgroupPath, cgroupPids } from "./cgroups.js";
import { STORE_CONFIG } from "./checkpoints.js";
import { enterArgs, findHost, labScript, NODE_PATH, WORKER_UID } from "./hosts.js";
import { isAlive, logDir, runDir, startTicks, type LabHost, type LabState, type ProcessRef } from "./state.js";

export const FRONTEND_PORT = 7233;
export const UI_PORT = 8233;
export const LINK_PORT = 7400;
/** On a node whose agent has a clock of its own: "+3600" or "-3600". */
export const CLOCK_FILE = "/run/ferry-clock";

/** What costs 100 ms per task hop by default (docs/decisions): the queues are polled 20 times a second per shard. */
const DYNAMIC_CONFIG = [
  "history.transferProcessorMaxPollRPS=2000",
  "history.timerProcessorMaxPollRPS=2000",
  "history.visibilityProcessorMaxPollRPS=2000",
  "matching.numTaskqueueReadPartitions=1",
  "matching.numTaskqueueWritePartitions=1",
];

export interface LabService {
  /** `machine` for what runs beside the lab's hosts. */
  host: string;
  name: "temporal" | "relay" | "agent" | "worker";
  command: string[];
}

const relayJs = join(import.meta.dirname, "relay.js");
const tcp = (host: string, port: number): string => `tcp:${host}:${port}`;
/** Relays find their sockets in the working directory: a unix path may be 107 bytes long only. */
const relay = (lab: LabState, routes: unknown, ...more: string[]): string[] =>
  ["env", `--chdir=${runDir(lab)}`, process.execPath, relayJs, JSON.stringify(routes)].concat(more);

function temporalServices(lab: LabState): LabService[] {
  const inside = `${lab.prefix}.1`;
  const { temporal } = lab;
  if (temporal.how === "none") return [];
  if (temporal.how === "address") {
    const route = { name: "frontend", listen: tcp(inside, FRONTEND_PORT), connect: "unix:frontend.sock" };
    const out = { name: "frontend", listen: "unix:frontend.sock", connect: `tcp:${temporal.address}` };
    return [
      { host: "machine", name: "relay", command: relay(lab, [out]) },
      { host: "switch", name: "relay", command: relay(lab, [route]) },
    ];
  }
  const names = [
    { name: "frontend", port: FRONTEND_PORT },
    { name: "ui", port: UI_PORT },
  ];
  const near = names.map(({ name, port }) => ({ name, listen: `unix:${name}.sock`, connect: tcp(inside, port) }));
  const far = names.map(({ name, port }) => ({ name, listen: tcp("127.0.0.1", port), connect: `unix:${name}.sock` }));
  const server = [
    ["env", `HOME=${join(lab.directory, "temporal")}`, temporal.binary, "server", "start-dev"],
    ["--ip", "0.0.0.0", "--port", String(FRONTEND_PORT), "--ui-ip", inside, "--ui-port", String(UI_PORT)],
    ["--db-filename", join(lab.directory, "temporal", "temporal.db"), "--log-level", "warn", "--log-format", "json"],
    SEARCH_ATTRIBUTES.flatMap((name) => ["--search-attribute", `${name}=Keyword`]),
    DYNAMIC_CONFIG.flatMap((value) => ["--dynamic-config-value", value]),
  ].flat(2);
  return [
    { host: "switch", name: "temporal", command: server },
    { host: "switch", name: "relay", command: relay(lab, near) },
    { host: "machine", name: "relay", command: relay(lab, far, "ports.json") },
  ];
}

/**
 * Tests of faults set an agent's wall clock (there is no namespace for it): ahead or back by the seconds that are in the
 * file, from its next look on. Its monotonic clock stays as it is, and what it starts has the machine's clock.
 */
const ownClock = (): string[] =>
  process.env["FERRY_LAB_CLOCKS"] === undefined
    ? []
    : [
        "/usr/bin/env",
        `LD_PRELOAD=/usr/lib/${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu/faketime/libfaketime.so.1`,
        `FAKETIME_TIMESTAMP_FILE=${CLOCK_FILE}`,
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "FAKETIME_DISABLE_SHM=1",
      ];

function nodeServices(lab: LabState, node: LabHost): LabService[] {
  const ferry = ["/opt/node/bin/node", "/opt/ferry/bin/ferry.js"];
  const agent = [
    [SETPRIV, setprivArgs("agent"), "--", ...ownClock()],
    [ferry, "agent", "--node", node.name, "--state", "/var/lib/ferry", "--run", "/run/ferry"],
    ["--socket", "/run/ferry/agent.sock", "--socket-gid", String(WORKER_UID), "--bridge", "br0"],
    ["--cgroup-parent", `${lab.cgroup}/${node.name}`],
    ["--link-host", node.ip, "--link-port", String(LINK_PORT), "--tls-dir", "/etc/ferry"],
    ["--store", process.env["FERRY_LAB_STORE"] ?? STORE_CONFIG],
  ].flat(2);
  const unprivileged = [
    [SETPRIV, "--reuid", String(WORKER_UID), "--regid", String(WORKER_UID), "--clear-groups"],
    [setprivArgs("worker"), "--"],
  ].flat(2);
  const worker = [
    [unprivileged, ferry, "worker", "--node", node.name, "--agent-socket", "/run/ferry/agent.sock"],
    ["--address", `${lab.prefix}.1:${FRONTEND_PORT}`],
  ].flat(2);
  return [
    { host: node.name, name: "agent", command: agent },
    ...(lab.temporal.how === "none" ? [] : [{ host: node.name, name: "worker" as const, command: worker }]),
  ];
}

/** Every service of this lab, in the order of their start. */
export function labServices(lab: LabState): LabService[] {
  const nodes = lab.services ? lab.hosts.filter((host) => host.kind === "node") : [];
  return [...temporalServices(lab), ...nodes.flatMap((node) => nodeServices(lab, node))];
}

interface Place {
  cgroup: string;
  /** Seen from where the keeper runs, and from this machine. */
  pidFile: string;
  hostPidFile: string;
  log: string;
  hostLog: string;
  enter: string[];
}

function placeOf(lab: LabState, service: LabService): Place {
  const { host: where, name } = service;
  const hostLog = join(
    logDir(lab),
    where === "machine" || where === "switch" ? `${where}.${name}.log` : `${where}.${name}.log`,
  );
  if (where === "machine") {
    const cgroup = cgroupPath(lab, "machine.services", name);
    const pidFile = join(runDir(lab), `machine.${name}.pid`);
    return {
      cgroup,
      pidFile,
      hostPidFile: pidFile,
      log: hostLog,
      hostLog,
      enter: ["sh", labScript("in-cgroup.sh"), cgroup],
    };
  }
  const host = findHost(lab, where);
  const [sh, args] = enterArgs(lab, host, name);
  const common = { cgroup: cgroupPath(lab, `${where}.services`, name), hostLog, enter: [sh, ...args] };
  if (host.kind === "switch") {
    const pidFile = join(runDir(lab), `switch.${name}.pid`);
    return { ...common, pidFile, hostPidFile: pidFile, log: hostLog };
  }
  const pidFile = `/run/ferry-lab/${name}.pid`;
  const root = `/proc/${host.init?.pid ?? 0}/root`;
  return { ...common, pidFile, hostPidFile: `${root}${pidFile}`, log: `/var/log/ferry/${where}.${name}.log` };
}

/** The process that a pid file names, as this machine sees it; undefined when it is gone. */
async function locate(pidFile: string, cgroup: string): Promise<ProcessRef | undefined> {
  const [pid, ticks] = (await readFile(pidFile, "utf8").catch(() => "")).trim().split(" ");
  if (pid === undefined || ticks === undefined) return undefined;
  for (const candidate of await cgroupPids(cgroup)) {
    if ((await startTicks(candidate)) !== ticks) continue;
    const status = await readFile(`/proc/${candidate}/status`, "utf8").catch(() => "");
    if (/^NSpid:.*\s(\d+)$/m.exec(status)?.[1] === pid) return { pid: candidate, ticks };
  }
  return undefined;
}

export interface ServiceProcesses {
  keeper?: ProcessRef;
  main?: ProcessRef;
  log: string;
}

/** The keeper and the service itself, as this machine sees them. */
export async function findService(lab: LabState, service: LabService): Promise<ServiceProcesses> {
  const log = join(logDir(lab), `${service.host}.${service.name}.log`);
  if (service.host !== "machine" && !(await isAlive(findHost(lab, service.host).init))) return { log };
  const { hostPidFile, cgroup } = placeOf(lab, service);
  const keeper = await locate(`${hostPidFile}.keeper`, cgroup);
  const main = await locate(hostPidFile, cgroup);
  return { log, ...(keeper === undefined ? {} : { keeper }), ...(main === undefined ? {} : { main }) };
}

/** Starts the service's keeper if it is not there; a service that outlived its keeper is adopted. */
export async function startService(lab: LabState, service: LabService): Promise<boolean> {
  if ((await findService(lab, service)).keeper !== undefined) return false;
  const place = placeOf(lab, service);
  const keeper = ["setsid", "--fork", "sh", labScriptFor(service), place.pidFile, place.log, ...service.command];
  const [file = "sh", ...args] = [...place.enter, ...keeper];
  const code = await new Promise<number | null>((resolve, reject) => {
    const env = {
      PATH: NODE_PATH,
      LC_ALL: "C.UTF-8",
      HOME: "/root",
      // Tests of faults stop agents at chosen points (src/agent/failpoint.ts).
      ...(process.env["FERRY_LAB_FAILPOINTS"] === undefined ? {} : { FERRY_FAILPOINTS: "/run/ferry-failpoints" }),
      // The benchmark looks into the event loops of agents, workers and movers (bench/loop-probe.ts).
      ...(process.env["FERRY_LAB_NODE_OPTIONS"] === undefined || !["agent", "worker"].includes(service.name)
        ? {}
        : { NODE_OPTIONS: process.env["FERRY_LAB_NODE_OPTIONS"] }),
    };
    const child = spawn(file, args, { stdio: "ignore", env, cwd: "/" });
    child.once("error", reject);
    child.once("exit", resolve);
  });
  if (code !== 0) {
    throw ferryError("E_START", `the keeper of ${service.host}'s ${service.name} could not be started`, {
      node: service.host,
      evidence: { command: [file, ...args], ...(code === null ? {} : { exitCode: code }) },
      remedy: "ferry lab down, then ferry lab up",
    });
  }
  return true;
}

/** On a node Ferry is at /opt/ferry. */
const labScriptFor = ({ host }: LabService): string =>
  host === "machine" || host === "switch" ? labScript("keep.sh") : "/opt/ferry/deploy/lab/keep.sh";

/** Bringing a lab up. Again is fine: what is missing or dead is started, what runs is left alone. */
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { cgroup2Root } from "../../src/host/checks-system.js";
import { ferryError } from "../../src/model/failure.js";
import { cacheDir } from "../setup/cache.js";
import { rootfsPath } from "../setup/rootfs.js";
import { findTemporal } from "../setup/temporal.js";
import { destroyCgroups, makeCgroups } from "./cgroups.js";
import { makeCheckpointStore } from "./checkpoints.js";
import { awaitPortGone, findHost, makeAuthority, makePrograms, startHost, wireHost, wireSwitch } from "./hosts.js";
import { agentReady, temporalAddresses, temporalReady, workerReady } from "./ready.js";
import { labFailure, labProblems } from "./requirements.js";
import { labServices, startService, type LabService } from "./services.js";
import {
  defaultStateDir,
  isAlive,
  newLabId,
  openStateDir,
  readLab,
  withLabLock,
  writeLab,
  type LabHost,
  type LabState,
} from "./state.js";

export interface LabUpOptions {
  /** State directory (default: defaultStateDir()). */
  state?: string;
  /** How many nodes (default 2, or as many as there are). A lab that is up gets more, never fewer. */
  nodes?: number;
  /** Network of the nodes, a /24 such as 10.77.0.0/24; two labs may have the same. */
  subnet?: string;
  /** Agents and workers on the nodes (default true). */
  services?: boolean;
  /** A Temporal server (default true). */
  temporal?: boolean;
  /** Root file system of the nodes (default: the one that set-up made). */
  rootfs?: string;
  /** Gets a line about each part as it comes up. */
  log?: (line: string) => void;
}

const MAX_NODES = 32;
const FIRST_NODE_OCTET = 11;
const CLIENT_OCTET = 9;

/** node-a to node-z, then node-27 and so on. */
export const nodeName = (index: number): string =>
  `node-${index < 26 ? String.fromCharCode("a".charCodeAt(0) + index) : index + 1}`;

function parsePrefix(subnet: string): string {
  const match = /^((?:\d{1,3}\.){2}\d{1,3})\.0\/24$/.exec(subnet);
  const octets = match?.[1]?.split(".") ?? [];
  if (octets.length !== 3 || octets.some((octet) => Number(octet) > 255 || String(Number(octet)) !== octet)) {
    throw ferryError("E_REQUEST", `${JSON.stringify(subnet)} is not a network for a lab`, {
      remedy: "give a /24 such as 10.77.0.0/24",
    });
  }
  return octets.join(".");
}

function addNodes(lab: LabState, count: number): void {
  for (let index = lab.hosts.filter((host) => host.kind === "node").length; index < count; index++) {
    const octet = FIRST_NODE_OCTET + index;
    lab.hosts.push({ name: nodeName(index), kind: "node", octet, ip: `${lab.prefix}.${octet}` });
  }
}

async function newLab(directory: string, options: LabUpOptions): Promise<LabState> {
  const problems = await labProblems(directory);
  if (problems.length > 0) throw labFailure(problems);
  const cache = cacheDir();
  const rootfs = options.rootfs ?? rootfsPath(cache);
  if (!existsSync(rootfs)) {
    throw ferryError("E_STATE", `the node root file system is not there (${rootfs})`, { remedy: "npm run setup" });
  }
  let temporal: LabState["temporal"] = { how: "none" };
  if (options.temporal ?? true) {
    const found = await findTemporal(cache);
    if (found === undefined)
      throw ferryError("E_STATE", "there is no Temporal server yet", { remedy: "npm run setup" });
    temporal = found.how === "address" ? found : { how: "binary", binary: found.binary };
  }
  const prefix = parsePrefix(options.subnet ?? "10.77.0.0/24");
  const id = newLabId();
  return {
    schema: 1,
    id,
    createdAt: new Date().toISOString(),
    phase: "starting",
    directory,
    prefix,
    cgroup: `ferry-${id}`,
    cgroupRoot: (await cgroup2Root()) ?? "/sys/fs/cgroup",
    rootfs,
    services: options.services ?? true,
    temporal,
    hosts: [
      { name: "switch", kind: "switch", octet: 1, ip: `${prefix}.1` },
      { name: "client", kind: "client", octet: CLIENT_OCTET, ip: `${prefix}.${CLIENT_OCTET}` },
    ],
  };
}

/**
 * Brings the lab up and waits until every part answers.
 * @throws FerryError E_REQUEST (options), E_STATE (set-up has not run), E_TOOL (the machine can't), E_START (a part does
 * not come up; what did come up stays, for a second try or for labDown)
 */
export async function labUp(options: LabUpOptions = {}): Promise<LabState> {
  const directory = resolve(options.state ?? defaultStateDir());
  const count = options.nodes;
  if (count !== undefined && (!Number.isInteger(count) || count < 1 || count > MAX_NODES)) {
    throw ferryError("E_REQUEST", `a lab has 1 to ${MAX_NODES} nodes, not ${count}`);
  }
  await openStateDir(directory);
  return withLabLock(directory, async () => {
    const lab = (await readLab(directory)) ?? (await newLab(directory, options));
    if (options.services === true) lab.services = true;
    const nodes = lab.hosts.filter((host) => host.kind === "node").length;
    addNodes(lab, Math.max(nodes, count ?? (nodes === 0 ? 2 : nodes)));
    lab.phase = "starting";
    await writeLab(lab);
    await bringUp(lab, options.log ?? (() => undefined));
    return lab;
  });
}

async function bringUp(lab: LabState, log: (line: string) => void): Promise<void> {
  const started = performance.now();
  const say = (line: string): void => log(`${line} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  for (const folder of ["hosts", "run", "logs", "temporal"]) {
    await mkdir(join(lab.directory, folder), { recursive: true, mode: 0o700 });
  }
  const nodes = lab.hosts.filter((host) => host.kind === "node");
  await makeCgroups(lab);
  await startHosts(lab);
  say(`${nodes.length} nodes and a client on ${lab.prefix}.0/24`);

  const services = await startServices(lab, labServices(lab));
  const addresses = await temporalAddresses(lab);
  if (addresses !== undefined) {
    lab.address = addresses.address;
    if (addresses.uiUrl !== undefined) lab.uiUrl = addresses.uiUrl;
    await writeLab(lab);
  }
  await awaitServices(lab, services, say);
  lab.phase = "up";
  await writeLab(lab);
}

/** Starts and wires every host that is not there. */
async function startHosts(lab: LabState): Promise<void> {
  const [hub, ...others] = lab.hosts;
  if (hub === undefined) throw ferryError("E_INTERNAL", "a lab without a switch");
  if (!(await isAlive(hub.init))) {
    // With the switch every wire is gone: nothing on the hosts can reach anything any more.
    await Promise.all(others.filter((host) => host.init !== undefined).map((host) => stopHost(lab, host)));
  }
  await makePrograms(lab);
  if (others.some((host) => host.kind === "node")) {
    await makeAuthority(lab);
    await makeCheckpointStore(lab);
  }
  const fresh = (await Promise.all(lab.hosts.map(async (host) => ((await startHost(lab, host)) ? [host] : [])))).flat();
  await writeLab(lab);
  if (fresh.includes(hub)) await wireSwitch(lab);
  await Promise.all(
    fresh.map(async (host) => {
      if (host === hub) return;
      if (!fresh.includes(hub)) await awaitPortGone(lab, host);
      await wireHost(lab, host);
    }),
  );
}

/** Ends everything on a host, as a power cut would; its disk stays. */
export async function stopHost(lab: LabState, host: LabHost): Promise<void> {
  if (host.kind === "node") await destroyCgroups(lab, host.name);
  await destroyCgroups(lab, `${host.name}.services`);
  delete host.init;
  delete host.netns;
}

/** One host with its services, brought back after stopHost. */
export async function bringBack(lab: LabState, host: LabHost): Promise<void> {
  await makeCgroups(lab);
  await startHosts(lab);
  const mine = labServices(lab).filter((service) => service.host === host.name);
  const services = await startServices(lab, mine);
  await awaitServices(lab, services, () => undefined);
  await writeLab(lab);
}

/** A service, and since when (Unix milliseconds) it runs if it was started just now. */
type Started = LabService & { since: number };

const startServices = (lab: LabState, services: readonly LabService[]): Promise<Started[]> =>
  Promise.all(
    services.map(async (service) => {
      const now = Date.now();
      return { ...service, since: (await startService(lab, service)) ? now : 0 };
    }),
  );

async function awaitServices(lab: LabState, services: readonly Started[], say: (line: string) => void): Promise<void> {
  const each = (name: LabService["name"], wait: (host: LabHost, since: number) => Promise<void>): Promise<void[]> =>
    Promise.all(
      services
        .filter((service) => service.name === name)
        // Clocks of a server elsewhere may differ from ours.
        .map(({ host, since }) => wait(findHost(lab, host), lab.temporal.how === "address" ? 0 : since)),
    );
  const agents = each("agent", (host) => agentReady(lab, host));
  // Both are awaited: a failure of one must not leave the other's rejection unheard.
  const temporal = (async () => {
    if (lab.address === undefined) return;
    const connection = await temporalReady(lab, lab.address);
    try {
      say(`Temporal at ${lab.address}${lab.uiUrl === undefined ? "" : `, its UI at ${lab.uiUrl}`}`);
      await each("worker", (host, since) => workerReady(lab, connection, host, since));
    } finally {
      await connection.close();
    }
  })();
  const results = await Promise.allSettled([agents, temporal]);
  for (const result of results) if (result.status === "rejected") throw result.reason;
  if (lab.services) say("agents and workers answer");
}

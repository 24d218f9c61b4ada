/** What of a lab is there and what answers, read from the machine now. */
import { Connection } from "@temporalio/client";
import { resolve } from "node:path";
import { findService, labServices, type LabService } from "./services.js";
import { agentSocket, socketAnswers, workerPolls } from "./ready.js";
import { defaultStateDir, isAlive, readLab, type LabHost, type LabState } from "./state.js";

export type PartState = "up" | "down";
export interface ServiceStatus {
  name: string;
  host: string;
  /** up: it runs and, where that can be asked, it answers. */
  state: PartState;
  pid?: number;
  /** The keeper that would start it again. */
  keeper: PartState;
  log: string;
}
export interface HostStatus {
  name: string;
  kind: LabHost["kind"];
  ip: string;
  state: PartState;
  /** Its pid 1 as this machine sees it. */
  pid?: number;
}
export interface LabStatus {
  /** partial: something is missing; `ferry lab up` starts it again. */
  state: "up" | "partial" | "down";
  directory: string;
  id?: string;
  createdAt?: string;
  address?: string;
  uiUrl?: string;
  hosts: HostStatus[];
  services: ServiceStatus[];
}

async function serviceStatus(
  lab: LabState,
  service: LabService,
  connection: Connection | undefined,
): Promise<ServiceStatus> {
  const { keeper, main, log } = await findService(lab, service);
  const host = lab.hosts.find((candidate) => candidate.name === service.host);
  const answers = async (): Promise<boolean> => {
    if (service.name === "agent" && host !== undefined) return socketAnswers(agentSocket(host));
    if (service.name === "temporal") return connection !== undefined;
    if (service.name === "worker") return connection !== undefined && (await workerPolls(connection, service.host));
    return true;
  };
  return {
    name: service.name,
    host: service.host,
    state: main !== undefined && (await answers().catch(() => false)) ? "up" : "down",
    ...(main === undefined ? {} : { pid: main.pid }),
    keeper: keeper === undefined ? "down" : "up",
    log,
  };
}

/** Never throws because a part is broken; throws only when lab.json can't be read. */
export async function labStatus(options: { state?: string } = {}): Promise<LabStatus> {
  const directory = resolve(options.state ?? defaultStateDir());
  const lab = await readLab(directory);
  if (lab === undefined) return { state: "down", directory, hosts: [], services: [] };
  const connection =
    lab.address === undefined
      ? undefined
      : await Connection.connect({ address: lab.address, connectTimeout: "2s" }).catch(() => undefined);
  try {
    const services = await Promise.all(labServices(lab).map((service) => serviceStatus(lab, service, connection)));
    const hosts = await Promise.all(
      lab.hosts.map(async ({ name, kind, ip, init }): Promise<HostStatus> => {
        const alive = await isAlive(init);
        return {
          name,
          kind,
          ip,
          state: alive ? "up" : "down",
          ...(alive && init !== undefined ? { pid: init.pid } : {}),
        };
      }),
    );
    const whole =
      [...hosts, ...services].every((part) => part.state === "up") && services.every((s) => s.keeper === "up");
    return {
      state: whole ? "up" : hosts.some((host) => host.state === "up") ? "partial" : "down",
      directory,
      id: lab.id,
      createdAt: lab.createdAt,
      ...(lab.address === undefined ? {} : { address: lab.address }),
      ...(lab.uiUrl === undefined ? {} : { uiUrl: lab.uiUrl }),
      hosts,
      services,
    };
  } finally {
    await connection?.close();
  }
}

/** Temporal's addresses on this machine, from the state file alone; undefined when there is no lab (or no server in it). */
export async function labAddress(state?: string): Promise<{ address: string; uiUrl?: string } | undefined> {
  const lab = await readLab(resolve(state ?? defaultStateDir()));
  if (lab?.address === undefined) return undefined;
  return { address: lab.address, ...(lab.uiUrl === undefined ? {} : { uiUrl: lab.uiUrl }) };
}

/** The status as lines for people. */
export async function labStatusLines(options: { state?: string } = {}): Promise<string[]> {
  const status = await labStatus(options);
  if (status.id === undefined) return [`no lab in ${status.directory}`];
  const row = (name: string, state: string, more: string): string => `  ${name.padEnd(20)} ${state.padEnd(5)} ${more}`;
  return [
    `lab ${status.id} is ${status.state} (${status.directory})`,
    ...(status.address === undefined
      ? []
      : [`Temporal ${status.address}${status.uiUrl === undefined ? "" : `, UI ${status.uiUrl}`}`]),
    ...status.hosts.map((host) =>
      row(host.name, host.state, `${host.ip}${host.pid === undefined ? "" : `  pid ${host.pid}`}`),
    ),
    ...status.services.map((service) =>
      row(
        `${service.host} ${service.name}`,
        service.state,
        `${service.pid === undefined ? "" : `pid ${service.pid}  `}${service.keeper === "up" ? "" : "no keeper  "}${service.log}`,
      ),
    ),
  ];
}

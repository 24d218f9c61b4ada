/** Breaking a lab on purpose: what tests of faults use. */
import { resolve } from "node:path";
import { ferryError } from "../../src/model/failure.js";
import { findHost, setPort } from "./hosts.js";
import { findService, labServices } from "./services.js";
import { defaultStateDir, requireLab, withLabLock, writeLab, type LabHost, type LabState } from "./state.js";
import { bringBack, stopHost } from "./up.js";

async function withNode(
  state: string | undefined,
  name: string,
  work: (lab: LabState, host: LabHost) => Promise<void>,
): Promise<void> {
  const directory = resolve(state ?? defaultStateDir());
  await requireLab(directory);
  await withLabLock(directory, async () => {
    const lab = await requireLab(directory);
    await work(lab, findHost(lab, name));
    await writeLab(lab);
  });
}

/** A power cut: every process of the node dies at once, its memory and tmpfs are gone, its disk stays. */
export const labKillNode = (state: string | undefined, name: string): Promise<void> => withNode(state, name, stopHost);

/** Switches a node on again (with a new boot id) and waits until its agent and worker answer. */
export const labStartNode = (state: string | undefined, name: string): Promise<void> =>
  withNode(state, name, bringBack);

/** Pulls a host's cable out of the switch, or plugs it in again. */
export const labLink = (state: string | undefined, name: string, to: "up" | "down"): Promise<void> =>
  withNode(state, name, (lab, host) => setPort(lab, host, to));

/** Pid (as this machine sees it) of a service or of its keeper; undefined when it does not run. */
export async function labServicePid(
  state: string | undefined,
  host: string,
  name: "temporal" | "relay" | "agent" | "worker",
  which: "main" | "keeper" = "main",
): Promise<number | undefined> {
  const lab = await requireLab(resolve(state ?? defaultStateDir()));
  const service = labServices(lab).find((candidate) => candidate.host === host && candidate.name === name);
  if (service === undefined) throw ferryError("E_REQUEST", `the lab has no ${name} on ${host}`);
  return (await findService(lab, service))[which]?.pid;
}

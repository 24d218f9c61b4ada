/** What a running lab's state file says of where Temporal and its UI are. */
import { readLab, requireLab, defaultStateDir, type LabState } from "../../deploy/lab/state.js";
import { resolve } from "node:path";
import { ferryError } from "../model/failure.js";
import type { CliIo } from "./io.js";

/** The lab's directory: the one given, else the default of this environment. */
export const labDir = (given: string | undefined, env: CliIo["env"]): string =>
  given === undefined ? defaultStateDir({ ...env }) : resolve(given);

async function running(directory: string): Promise<LabState> {
  if ((await readLab(directory)) === undefined) {
    throw ferryError("E_STATE", `no lab is running (none in ${directory}), and no --address was given`, {
      remedy: "start one: ferry lab up; or name another: --lab DIR, or a Temporal server: --address HOST:PORT",
    });
  }
  return requireLab(directory);
}

const missing = (what: string, directory: string): Error =>
  ferryError("E_STATE", `the lab in ${directory} has no ${what}: it is not up, or was started without Temporal`, {
    remedy: "bring it up (again is harmless): ferry lab up; then look: ferry lab status",
  });

/** Temporal's frontend of the lab. Throws E_STATE when there is no lab or no address. */
export async function labAddress(given: string | undefined, env: CliIo["env"]): Promise<string> {
  const directory = labDir(given, env);
  const { address } = await running(directory);
  if (address === undefined) throw missing("address of Temporal", directory);
  return address;
}

/** URL of the lab's web UI. */
export async function labUi(given: string | undefined, env: CliIo["env"]): Promise<string> {
  const directory = labDir(given, env);
  const { uiUrl } = await running(directory);
  if (uiUrl === undefined) throw missing("web UI", directory);
  return uiUrl;
}

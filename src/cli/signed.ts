/** Files of signed specs, as `ferry sign` writes them and `ferry run --signed` reads them. */
import { readFileSync } from "node:fs";
import type { RunRequest } from "../client/types.js";
import { ferryError, toFailure } from "../model/failure.js";
import { isSpec, specProblems } from "../model/spec-check.js";
import type { WorkloadSpec } from "../model/workload.js";

/** Throws E_REQUEST when it can't be read, E_SPEC with every problem, E_SIGNATURE when nobody signed it. */
export function readSigned(file: string): WorkloadSpec {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw ferryError("E_REQUEST", `the signed spec ${file} can't be read: ${toFailure(error).message}`, {
      remedy: "name a file that ferry sign has written",
    });
  }
  if (!isSpec(value)) {
    throw ferryError("E_SPEC", `${file} is not a spec: ${specProblems(value).join("; ")}`, {
      remedy: "name a file that ferry sign has written",
    });
  }
  if (value.signature === undefined) {
    throw ferryError("E_SIGNATURE", `the spec in ${file} is not signed`, { remedy: "let it be signed: ferry sign" });
  }
  return value;
}

/** Asks for exactly this spec. */
export function requestOfSpec({ network, ...spec }: WorkloadSpec, node: string): RunRequest {
  const { ip, mac, gateway } = network;
  return { ...spec, node, ip, mac, ...(gateway === undefined ? {} : { gateway }) };
}

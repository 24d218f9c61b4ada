/** The spec that a checked request comes to, once its address is known. */
import type { WorkloadSpec } from "../model/workload.js";
import { macOf } from "./addresses.js";
import type { checkRun } from "./requests.js";

/** @param ip with prefix length. @param mac where the request names none; default: made from the address */
export function specFrom(checked: ReturnType<typeof checkRun>, ip: string, mac?: string): WorkloadSpec {
  const { memoryBytes, cpus } = checked.limits ?? {};
  return {
    name: checked.name,
    runtime: checked.runtime ?? "process",
    command: checked.command,
    env: checked.env ?? {},
    dir: checked.dir ?? "/data",
    user: checked.user ?? "root",
    limits: {
      ...(memoryBytes === undefined ? {} : { memoryBytes }),
      ...(cpus === undefined ? {} : { cpus }),
    },
    ...(checked.volumes === undefined || checked.volumes.length === 0 ? {} : { volumes: checked.volumes }),
    ...(checked.onNodeLoss === undefined ? {} : { onNodeLoss: checked.onNodeLoss }),
    network: {
      ip,
      mac: checked.mac ?? mac ?? macOf(ip),
      ...(checked.gateway === undefined ? {} : { gateway: checked.gateway }),
    },
    ...(checked.signature === undefined ? {} : { signature: checked.signature }),
  };
}

/** Addresses of workloads; and whose one is, by the journals of the nodes: also of what is frozen or in doubt, which answers nobody. */
import type { FailureData } from "./failure.js";
import type { NodeFacts } from "./node.js";
import type { WorkloadSpec } from "./workload.js";

/** Without the prefix length. */
export const bareIp = (ip: string): string => ip.split("/")[0] ?? ip;

/** Why a workload of this spec can't run anywhere: something else on `node` has its address. `held`: open holds of that node. */
export function addressProblem(
  { name, network }: Pick<WorkloadSpec, "name" | "network">,
  node: string,
  held: NodeFacts["workloads"],
): FailureData | undefined {
  const address = bareIp(network.ip);
  const holder = held.find((one) => one.name !== name && one.ip !== undefined && bareIp(one.ip) === address);
  if (holder === undefined) return undefined;
  return {
    code: "E_IP_CONFLICT",
    message: `${name} can't run with the address ${address}: it is that of ${holder.name}, which ${node} holds as ${holder.state} (epoch ${holder.epoch})`,
    workload: name,
    node,
    remedy: `give another one with --ip, or stop ${holder.name} first`,
  };
}

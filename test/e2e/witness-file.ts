/** A file in the /data of a workload that has to stay as it is wherever the workload goes. */
import { labRun } from "../../deploy/lab/index.js";
import type { E2eLab } from "./support.js";

const pathOf = (workload: string): string => `/var/lib/ferry/volumes/${workload}/data/witness.bin`;

export async function writeWitnessFile(e2e: E2eLab, node: string, workload: string, megabytes: number): Promise<void> {
  await labRun(e2e.state, node, ["dd", "if=/dev/urandom", `of=${pathOf(workload)}`, "bs=1M", `count=${megabytes}`], {});
}

export const witnessFileDigest = async (e2e: E2eLab, node: string, workload: string): Promise<string> =>
  (await labRun(e2e.state, node, ["sha256sum", pathOf(workload)], {})).stdout;

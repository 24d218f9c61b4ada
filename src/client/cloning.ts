/** Clones: new workloads from one checkpoint, each with a name, an address and a MAC of its own. */
import type { WorkflowExecutionInfo } from "@temporalio/client";
import { bareIp } from "../model/address.js";
import { chooseCheckpoint } from "../model/checkpoint-choice.js";
import type { ListedCheckpoint } from "../model/checkpoints.js";
import { FerryError, toFailure, type FailureData } from "../model/failure.js";
import { UPDATE, type Restored, type RestoreRequest, type WorkloadInput } from "../model/messages.js";
import type { WorkloadSpec } from "../model/workload.js";
import { macOf } from "./addresses.js";
import { asking } from "./failures.js";
import { askNode, demandNode, type Context } from "./nodes.js";
import { checkClone } from "./requests-checkpoints.js";
import { addressFor, addressesOf, demandFree, entityOf, existing } from "./starting.js";
import type { CloneRequest, WorkloadHandle } from "./types.js";

/** Files are brought to the node before they run. */
const CLONE_TIMEOUT_MS = 3_600_000;
/** So many at once: each reads all of the same files. */
const AT_ONCE = 4;

interface Workloads {
  get: (name: string) => WorkloadHandle;
  running: () => Promise<WorkflowExecutionInfo[]>;
}

/** Same spec; what says who it is, is its own. A signature is of the first one only. */
function specOf(of: WorkloadSpec, name: string, ip: string): WorkloadSpec {
  const { signature: _, ...spec } = of;
  return { ...spec, name, network: { ...spec.network, ip, mac: macOf(ip) } };
}

export function clones(
  context: Context,
  { get, running }: Workloads,
): (request: CloneRequest) => Promise<WorkloadHandle[]> {
  const { client, address } = context;

  const one = (spec: WorkloadSpec, node: string, request: RestoreRequest): Promise<Restored> =>
    asking({ address, doing: `clone ${spec.name} on ${node}` }, () =>
      client.withDeadline(Date.now() + CLONE_TIMEOUT_MS, () =>
        client.workflow.executeUpdateWithStart<(input: WorkloadInput) => Promise<unknown>, Restored, [RestoreRequest]>(
          UPDATE.restore,
          { startWorkflowOperation: entityOf(spec, node, "restoring"), args: [request] },
        ),
      ),
    );

  return async (request) => {
    const asked = checkClone(request);
    const { of, names, ips = [], off, lazy } = asked;
    const source = await get(of).status();
    const node = asked.node ?? source.node;
    await demandNode(context, node);
    const listed = await askNode<ListedCheckpoint[]>(context, node, { ask: "checkpoints", workload: of });
    const { id } = chooseCheckpoint(of, listed, {
      ...(asked.checkpoint !== undefined && { checkpoint: asked.checkpoint }),
      ...(asked.at !== undefined && { at: asked.at.getTime() }),
      epoch: source.epoch,
    });
    // All addresses before the first one is begun.
    const taken = addressesOf(await running(), names);
    const specs: WorkloadSpec[] = [];
    for (const [i, name] of names.entries()) {
      const before = await existing(get(name));
      const ip = await addressFor(context, { name, node, ip: ips[i] }, before?.spec.network.ip, taken);
      demandFree(taken, ip);
      taken.set(bareIp(ip), name);
      specs.push(specOf(source.spec, name, ip));
    }
    const failed = new Map<string, FailureData>();
    for (let from = 0; from < specs.length; from += AT_ONCE) {
      await Promise.all(
        specs.slice(from, from + AT_ONCE).map(async (spec) => {
          try {
            await one(spec, node, {
              node,
              clone: { spec, of },
              checkpoint: id,
              ...(off !== undefined && { off }),
              ...(lazy !== undefined && { lazy }),
            });
          } catch (error) {
            failed.set(spec.name, toFailure(error));
          }
        }),
      );
    }
    const [first] = failed.values();
    if (first === undefined) return names.map(get);
    if (names.length === 1) throw new FerryError(first);
    const run = names.filter((name) => !failed.has(name));
    throw new FerryError({
      code: first.code,
      message: `${failed.size} of ${names.length} clones of ${of} do not run: ${[...failed.keys()].join(", ")}${run.length === 0 ? "" : `; these do: ${run.join(", ")}`}`,
      workload: of,
      node,
      cause: first,
      remedy: first.remedy ?? "see why, then clone it again under the names that are missing",
    });
  };
}

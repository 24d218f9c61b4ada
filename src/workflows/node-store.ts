/** Questions about checkpoints to a node: they go through its entity, so that no workload's history grows with them. */
import { proxyActivities } from "@temporalio/workflow";
import type { CheckpointDiff, ListedCheckpoint } from "../model/checkpoints.js";
import { CONTRACT_SCHEMA, type NodeActivities } from "../model/contract.js";
import { DEFAULT_TUNING, type AskRequest, type StoreRequest } from "../model/messages.js";
import { nodeTaskQueue } from "../model/names.js";
import { beaten } from "./calls.js";

/** Reading all of a large checkpoint takes long; every worker has always beaten while it waits. */
const LONGEST_MS = 3_600_000;
const STORE_MS = 60_000;

export type StoreAnswer = ListedCheckpoint[] | CheckpointDiff | null;

const ASKS: Record<StoreRequest["ask"], true> = {
  checkpoints: true,
  pin: true,
  removeCheckpoint: true,
  verify: true,
  diff: true,
};
export const isStoreRequest = (request: AskRequest): request is StoreRequest => Object.hasOwn(ASKS, request.ask);

/** @param scheduleToStartTimeout a node that does not take it within this long is out of reach */
export async function askStore(
  node: string,
  request: StoreRequest,
  scheduleToStartTimeout: number,
): Promise<StoreAnswer> {
  const options = {
    taskQueue: nodeTaskQueue(node),
    scheduleToStartTimeout,
    startToCloseTimeout: STORE_MS,
    retry: { maximumAttempts: 1 },
    summary: `${request.ask} @ ${node}`,
  };
  const there =
    request.ask === "verify"
      ? proxyActivities<NodeActivities>({
          ...options,
          startToCloseTimeout: LONGEST_MS,
          heartbeatTimeout: DEFAULT_TUNING.heartbeatMs,
        })
      : beaten<NodeActivities>(options);
  const schema = CONTRACT_SCHEMA;
  switch (request.ask) {
    case "checkpoints":
      return there.listCheckpoints({
        schema,
        ...(request.workload === undefined ? {} : { workload: request.workload }),
      });
    case "diff":
      return there.diffCheckpoints({ ...named(request), with: request.with });
    case "pin":
      await there.pinCheckpoint({ ...named(request), pinned: request.pinned });
      break;
    case "removeCheckpoint":
      await there.removeCheckpoint(named(request));
      break;
    case "verify":
      await there.verifyCheckpoint(named(request));
      break;
  }
  return null;
}

const named = ({ workload, checkpoint }: { workload: string; checkpoint: string }) => ({
  schema: CONTRACT_SCHEMA,
  workload,
  checkpoint,
});

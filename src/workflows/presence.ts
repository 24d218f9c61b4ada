/**
 * How the entity of a node learns whether it is there: one long activity on the node's own queue, whose worker asks the
 * agent and heartbeats. While all is well that is a handful of events in the history in six hours. When the node is away
 * the next watch waits in its queue, so that its return is seen at once, and a node that is lost costs nothing.
 */
import { ActivityCancellationType, CancellationScope, proxyActivities, sleep } from "@temporalio/workflow";
import type { NodeActivities } from "../model/contract.js";
import { nodeTaskQueue } from "../model/names.js";
import { heard, missed, patienceMs, type Presence, type Watch } from "../model/presence.js";
import { isSilence, nobodyThere, tryAsk } from "./calls.js";

/** One watch of a node that is up. */
const LONG_MS = 6 * 3_600_000;
/** A watch that fails for a reason of its own is not begun again at once. */
const PAUSE_MS = 60_000;

export interface Watched {
  readonly name: string;
  readonly watch: () => Watch;
  presence: () => Presence;
  /** `back`: it was there without a break for as long as is asked for. */
  tell: (presence: Presence, back: boolean) => void;
}

/** For ever: ends with its workflow. */
export const keepWatch = (node: Watched): Promise<void> =>
  CancellationScope.nonCancellable(async () => {
    for (;;) {
      const watch = node.watch();
      const before = node.presence();
      const { failure } = await tryAsk(node.name, () => look(node.name, before, watch));
      const now = Date.now();
      if (failure === undefined) {
        node.tell(heard(before, now), true);
        continue;
      }
      const agentOnly = failure.code === "E_AGENT_DOWN";
      const problem = agentOnly ? "its worker answers, its agent does not" : failure.message;
      node.tell(missed(before, watch, now, problem, nobodyThere(failure)), false);
      if (!isSilence(failure)) await sleep(PAUSE_MS);
    }
  });

function look(node: string, presence: Presence, watch: Watch): Promise<void> {
  const up = presence.state === "up";
  const scheduleToStartTimeout = patienceMs(presence, watch, Date.now());
  const there = proxyActivities<NodeActivities>({
    taskQueue: nodeTaskQueue(node),
    summary: up ? `is ${node} there?` : `is ${node} back?`,
    cancellationType: ActivityCancellationType.ABANDON,
    ...(scheduleToStartTimeout === undefined ? {} : { scheduleToStartTimeout }),
    startToCloseTimeout: LONG_MS * 4,
    heartbeatTimeout: watch.silentAfterMs / 2,
    // A worker that is started again takes it once more; whether there is one is the first time-out's matter.
    retry: { initialInterval: 500, backoffCoefficient: 2, maximumInterval: "5 s" },
  });
  return there.watchNode({
    forMs: up ? LONG_MS : watch.steadyMs,
    everyMs: watch.silentAfterMs / 8,
    ...(up ? { awayMs: watch.silentAfterMs } : {}),
  });
}

/**
 * The entity `workload/<name>`: one workflow per workload, alive as long as the workload.
 *
 *   (nothing) --start--> starting --> running --migrate--> migrating --> running (here or there)
 *                                     running --stop--> stopping --> stopped --start--> starting
 *                                     running --checkpoint--> checkpointing --> running | checkpointed (with --stop)
 *   stopped, exited, failed, checkpointed, (nothing: a clone) --restore--> restoring --> running (from a checkpoint)
 *   running, and its node is lost --recover--> recovering --> running (elsewhere, from a checkpoint)
 *   migrating, checkpointing, restoring --> in-doubt (migrating: or stuck) --> running; see docs/checkpoints.md
 *         any of rest --remove--> removed (the workflow completes)
 *
 * One operation at a time: `status.operation` names it. Validators are synchronous and refuse what can't be; a refused
 * update leaves nothing in the history. Handlers run non-cancellable: cancelling the entity is no way to end a
 * workload, `remove` is.
 */
import {
  CancellationScope,
  allHandlersFinished,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  defineUpdate,
  patched,
  setHandler,
} from "@temporalio/workflow";
import {
  DEFAULT_TUNING,
  QUERY,
  SIGNAL,
  UPDATE,
  type CheckpointRequest,
  type EndedNews,
  type MigrateRequest,
  type OperationNews,
  type OperationStarted,
  type Recovered,
  type RecoverRequest,
  type RemoveRequest,
  type Restored,
  type RestoreRequest,
  type StartRequest,
  type StopRequest,
  type WorkloadInput,
} from "../model/messages.js";
import type { WorkloadStatus } from "../model/workload.js";
import { acceptInput } from "./accept.js";
import { Entity } from "./entity.js";
import { measure } from "./length.js";
import * as may from "./may.js";

type Uncancelled = <Result>(handler: () => Promise<Result>) => Promise<Result>;
const uncancelled: Uncancelled = (handler) => CancellationScope.nonCancellable(handler);

export async function workload(input: WorkloadInput): Promise<WorkloadStatus | undefined> {
  acceptInput("workload", input);
  const long = measure(input.tuning, "entity");
  const entity = new Entity(input);
  const open = (): may.Open => ({ attempted: entity.attempted, unanswered: entity.checkpoints.unanswered });
  setHandler(defineQuery<WorkloadStatus>(QUERY.status), () => may.known(input.name, entity.status));
  setHandler(defineQuery<OperationStarted | null>(QUERY.lastMigration), () => entity.lastMigration ?? null);
  setHandler(defineQuery<OperationStarted | null>(QUERY.lastCheckpoint), () => entity.checkpoints.last ?? null);
  setHandler(defineSignal<[OperationNews]>(SIGNAL.operation), (news) => entity.heard(news));
  setHandler(defineSignal<[EndedNews]>(SIGNAL.ended), (news) => entity.hasEnded(news));
  setHandler(
    defineUpdate<WorkloadStatus, [StartRequest]>(UPDATE.start),
    (ask) => uncancelled(() => entity.start(ask)),
    {
      validator: (ask) => may.start(input.name, entity.status, ask),
    },
  );
  setHandler(
    defineUpdate<OperationStarted, [MigrateRequest]>(UPDATE.migrate),
    (ask) => uncancelled(() => entity.migrate(ask)),
    { validator: (ask) => may.migrate(input.name, entity.status, ask, open()) },
  );
  setHandler(defineUpdate<void, []>(UPDATE.cancel), () => uncancelled(() => entity.cancel()), {
    validator: () => may.cancel(input.name, entity.status),
  });
  setHandler(defineUpdate<WorkloadStatus, [StopRequest]>(UPDATE.stop), (ask) => uncancelled(() => entity.stop(ask)), {
    validator: (ask) => may.stop(input.name, entity.status, ask, open()),
  });
  setHandler(
    defineUpdate<Recovered, [RecoverRequest]>(UPDATE.recover),
    (ask) => uncancelled(() => entity.recover(ask)),
    { validator: (ask) => may.recover(input.name, entity.status, ask, open()) },
  );
  setHandler(
    defineUpdate<OperationStarted, [CheckpointRequest]>(UPDATE.checkpoint),
    (ask) => uncancelled(() => entity.checkpoints.checkpoint(ask)),
    { validator: (ask) => may.checkpoint(input.name, entity.status, ask, open()) },
  );
  setHandler(
    defineUpdate<Restored, [RestoreRequest]>(UPDATE.restore),
    (ask) => uncancelled(() => entity.checkpoints.restore(ask)),
    { validator: (ask) => may.restore(input.name, entity.status, ask, open()) },
  );
  setHandler(defineUpdate<void, [RemoveRequest]>(UPDATE.remove), (ask) => uncancelled(() => entity.remove(ask)), {
    validator: (ask) => may.remove(input.name, entity.status, ask, open()),
  });

  if (input.carried === undefined && patched("an empty entity ends")) {
    // A first start that was refused leaves nothing in the history: this workflow would be of no workload, for ever.
    const { scheduleToStartMs } = { ...DEFAULT_TUNING, ...input.tuning };
    if (!(await uncancelled(() => condition(() => entity.status !== undefined, scheduleToStartMs)))) return undefined;
  }
  // At one moment: a handler that is waited for apart could leave the entity with an operation under way.
  await uncancelled(() => condition(() => (entity.ended || (entity.idle && long())) && allHandlersFinished()));
  const carried = entity.carried();
  if (!entity.ended && carried !== undefined) {
    await continueAsNew<typeof workload>({ name: input.name, carried, ...(input.tuning && { tuning: input.tuning }) });
  }
  return entity.status;
}

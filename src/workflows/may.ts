/** What may be asked of a workload in which state. Pure and synchronous; throws the refusal with what to do next. */
import { checkpointProblems, restoreProblems } from "../model/checkpoint-check.js";
import type { OperationRef } from "../model/contract.js";
import type { FailureData } from "../model/failure.js";
import {
  isDown,
  type CheckpointRequest,
  type MigrateRequest,
  type RecoverRequest,
  type RemoveRequest,
  type RestoreRequest,
  type Sleep,
  type StartRequest,
  type StopRequest,
  type Unanswered,
} from "../model/messages.js";
import { nameProblem } from "../model/names.js";
import {
  migrateProblems,
  recoverProblems,
  removeProblems,
  startProblems,
  stopProblems,
} from "../model/request-check.js";
import { sameSpec } from "../model/spec-signature.js";
import type { WorkloadStatus } from "../model/workload.js";
import { refuseUnless } from "./accept.js";
import { failure } from "./calls.js";

type Status = WorkloadStatus | undefined;
/** What is not settled, although no operation is under way. */
export interface Open {
  /** Attempts to recover or restore it whose answer was lost: each may run it. */
  attempted: readonly OperationRef[];
  /** A checkpoint whose node did not say how it ended. */
  unanswered: Unanswered | undefined;
}

const refuse = (name: string, data: Omit<FailureData, "workload">): never => {
  throw failure({ ...data, workload: name });
};

export function known(name: string, status: Status): WorkloadStatus {
  if (status !== undefined) return status;
  throw failure({
    code: "E_WORKLOAD_UNKNOWN",
    message: `there is no workload ${name}`,
    workload: name,
    remedy: "see which workloads there are: ferry ps",
  });
}

/** A name that is one, but not a valid one, has a code of its own. */
function nodeName(name: string, ask: object | null | undefined, field: string): void {
  const node: unknown = Object.entries(ask ?? {}).find(([key]) => key === field)?.[1];
  const bad = typeof node === "string" ? nameProblem("node", node) : undefined;
  if (bad !== undefined) refuse(name, { code: "E_NAME", message: bad });
}

/** One operation at a time. */
function free(name: string, status: Status, what: string): WorkloadStatus {
  const sure = known(name, status);
  if (sure.operation !== undefined) {
    refuse(name, {
      code: "E_BUSY",
      message: `can't ${what} ${name} now: ${sure.operation} is under way (${sure.state})`,
      remedy: `wait for it, or cancel a migration with: ferry cancel ${name}`,
    });
  }
  return sure;
}

export function start(name: string, status: Status, ask: StartRequest): void {
  nodeName(name, ask, "node");
  refuseUnless(`the request to start ${name}`, startProblems(ask));
  if (ask.spec.name !== name) {
    refuse(name, { code: "E_REQUEST", message: `the spec is of ${JSON.stringify(ask.spec.name)}, not of ${name}` });
  }
  if (status === undefined) return;
  const sure = free(name, status, "start");
  const same = sure.node === ask.node && sameSpec(sure.spec, ask.spec);
  const startable = isDown(sure.state) && sure.state !== "removed";
  // It never ran: another command, or another node, is a new try.
  if (sure.state === "failed") return;
  if (same && (sure.state === "running" || startable)) return;
  refuse(name, {
    code: "E_WORKLOAD_EXISTS",
    message: `${name} exists already: ${sure.state} on ${sure.node}${same ? "" : sure.node === ask.node ? ", with another spec" : ""}`,
    remedy: `choose another name, or remove it first: ferry rm ${name}${startable ? "" : " --force"}`,
  });
}

/** Its last attempt to come to run somewhere, or its last checkpoint, has no end yet. */
function answered(name: string, { attempted, unanswered }: Open): void {
  const [attempt] = attempted;
  if (attempt !== undefined) {
    const verb = attempt.operation.startsWith(`${name}.restore.`) ? "restore" : "recover";
    refuse(name, {
      code: "E_STATE",
      message: `${name} may run on ${attempt.destination}: the answer to ${attempt.operation} was lost`,
      remedy: `ask again: ferry ${verb} ${name} --node ${attempt.destination}`,
    });
  }
  if (unanswered !== undefined) {
    const { operation, source } = unanswered.ref;
    refuse(name, {
      code: "E_STATE",
      message: `nobody knows yet how ${operation} ended: ${source} does not answer`,
      node: source,
      remedy: `bring ${source} back, it is asked as soon as it is there; if it is lost for good: ferry fence ${source}, then ferry recover ${name}`,
    });
  }
}

export function migrate(name: string, status: Status, ask: MigrateRequest, open: Open): void {
  nodeName(name, ask, "to");
  refuseUnless(`the request to migrate ${name}`, migrateProblems(ask));
  const sure = free(name, status, "migrate");
  answered(name, open);
  if (sure.state !== "running" && sure.state !== "in-doubt") {
    refuse(name, {
      code: "E_STATE",
      message: `${name} is ${sure.state}: only a running workload can migrate`,
      remedy: `see its state: ferry inspect ${name}`,
    });
  }
  if (sure.node === ask.to) {
    refuse(name, {
      code: "E_SAME_NODE",
      message: `${name} is on ${ask.to} already: source and destination are the same node`,
      node: ask.to,
      remedy: "name another node: ferry nodes",
    });
  }
}

export function recover(name: string, status: Status, ask: RecoverRequest, open: Open): void {
  nodeName(name, ask, "node");
  refuseUnless(`the request to recover ${name}`, recoverProblems(ask));
  const sure = known(name, status);
  if (sure.operation !== undefined && (sure.state === "in-doubt" || sure.state === "stuck")) {
    refuse(name, {
      code: "E_BUSY",
      message: `${name} can't be recovered: ${sure.operation} is ${sure.state}, and a side of it may still have the workload`,
      remedy: `decide that first: ferry resolve ${name} --keep source|destination`,
    });
  }
  free(name, status, "recover");
  const { attempted, unanswered } = open;
  const [attempt] = attempted;
  // Nothing of it ran when it was asked for: there is no lost node that runs it.
  if (attempt?.operation.startsWith(`${name}.restore.`) === true) answered(name, open);
  if (sure.state !== "running" && attempt === undefined && unanswered === undefined) {
    refuse(name, {
      code: "E_STATE",
      message: `${name} is ${sure.state}: only what ran on a node that is lost can be recovered`,
      remedy: `see its state: ferry inspect ${name}`,
    });
  }
  if (sure.node === ask.node) {
    refuse(name, {
      code: "E_SAME_NODE",
      message: `${name} was on ${ask.node}: it is recovered on another node than the one that was lost`,
      node: ask.node,
      remedy: "name another node: ferry nodes",
    });
  }
}

export function checkpoint(name: string, status: Status, ask: CheckpointRequest, open: Open): void {
  refuseUnless(`the request for a checkpoint of ${name}`, checkpointProblems(ask));
  const sure = free(name, status, "checkpoint");
  answered(name, open);
  if (sure.state !== "running") {
    refuse(name, {
      code: "E_STATE",
      message: `${name} is ${sure.state}: only what runs can be saved`,
      remedy: `see its state: ferry inspect ${name}`,
    });
  }
}

export function restore(name: string, status: Status, ask: RestoreRequest, open: Open): void {
  nodeName(name, ask, "node");
  refuseUnless(`the request to restore ${name}`, restoreProblems(ask));
  const { clone } = ask;
  if (clone !== undefined && clone.spec.name !== name) {
    refuse(name, { code: "E_REQUEST", message: `the spec is of ${JSON.stringify(clone.spec.name)}, not of ${name}` });
  }
  if (clone !== undefined && status === undefined && ask.dryRun !== true) return;
  const sure = free(name, status, "restore");
  const again = open.attempted[0]?.operation.startsWith(`${name}.restore.`) === true;
  if (ask.wake !== undefined) sleeps(name, sure, ask.wake, open.attempted[0]);
  if (clone !== undefined && !(sameSpec(clone.spec, sure.spec) && (again || sure.state === "failed"))) {
    refuse(name, {
      code: "E_WORKLOAD_EXISTS",
      message: `${name} exists already: ${sure.state} on ${sure.node}`,
      remedy: `choose another name for the clone, or remove it first: ferry rm ${name}`,
    });
  }
  if (again) return;
  answered(name, open);
  if (!isDown(sure.state)) {
    refuse(name, {
      code: "E_STATE",
      message: `${name} is ${sure.state} on ${sure.node}: only what does not run is restored`,
      node: sure.node,
      remedy: `stop it first: ferry stop ${name}; or run a second one from it: ferry clone ${name} --as NAME`,
    });
  }
}

/** What came for it comes too late where it was woken, stopped or removed meanwhile; or its wake was begun, and nobody knows its end. */
function sleeps(name: string, { state, node, epoch }: WorkloadStatus, wake: Sleep, attempt?: OperationRef): void {
  if (state === "sleeping" && node === wake.node && epoch === wake.epoch) return;
  if (state === "in-doubt" && attempt?.destination === wake.node && attempt.epoch === wake.epoch) return;
  refuse(name, {
    code: "E_STATE",
    message: `${name} does not sleep on ${wake.node} under epoch ${wake.epoch}: it is ${state} on ${node}, epoch ${epoch}`,
    node: wake.node,
  });
}

export function cancel(name: string, status: Status): void {
  const sure = known(name, status);
  if (sure.operation?.startsWith(`${name}.checkpoint.`) === true) {
    refuse(name, {
      code: "E_STATE",
      message: `a checkpoint is not called back: ${sure.operation} ends by itself, and ${name} is frozen no longer than was asked for`,
      remedy: `watch it: ferry inspect ${name}`,
    });
  }
  if (sure.operation?.startsWith(`${name}.restore.`) === true) return;
  if (sure.operation?.startsWith(`${name}.migrate.`) !== true) {
    refuse(name, {
      code: "E_STATE",
      message: `${name} has no migration or restore under way that could be cancelled (it is ${sure.state})`,
      remedy: `see its state: ferry inspect ${name}`,
    });
  }
}

export function stop(name: string, status: Status, ask: StopRequest, open: Open): void {
  refuseUnless(`the request to stop ${name}`, stopProblems(ask));
  settledOnly(name, free(name, status, "stop"), open);
}

/** Where a checkpoint has no end, its node is known all the same: it is asked, and says no if it can't. */
function settledOnly(name: string, sure: WorkloadStatus, open: Open): void {
  if (open.unanswered !== undefined) return;
  if (open.attempted[0]?.operation.startsWith(`${name}.restore.`) === true) answered(name, open);
  if (sure.state === "in-doubt" || sure.state === "stuck") {
    refuse(name, {
      code: "E_STATE",
      message: `${name} is ${sure.state}: nobody knows yet on which node it runs`,
      remedy: "bring the nodes back first; a new migration settles it: ferry migrate",
    });
  }
}

export function remove(name: string, status: Status, ask: RemoveRequest, open: Open): void {
  refuseUnless(`the request to remove ${name}`, removeProblems(ask));
  const sure = free(name, status, "remove");
  settledOnly(name, sure, open);
  if ((sure.state === "running" || sure.state === "in-doubt") && !ask.force) {
    refuse(name, {
      code: "E_STATE",
      message: sure.state === "running" ? `${name} is running on ${sure.node}` : `${name} may run on ${sure.node}`,
      remedy: `stop it first (ferry stop ${name}), or stop and remove: ferry rm --force ${name}`,
    });
  }
}

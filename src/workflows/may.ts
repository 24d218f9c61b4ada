/** What may be asked of a workload in which state. Pure and synchronous; throws the refusal with what to do next. */
import type { FailureData } from "../model/failure.js";
import type { MigrateRequest, RemoveRequest, StartRequest, StopRequest } from "../model/messages.js";
import { nameProblem } from "../model/names.js";
import { migrateProblems, removeProblems, startProblems, stopProblems } from "../model/request-check.js";
import type { WorkloadSpec, WorkloadStatus } from "../model/workload.js";
import { refuseUnless } from "./accept.js";
import { failure } from "./calls.js";

type Status = WorkloadStatus | undefined;

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

/** Equal whatever the order of keys. */
const canonical = (value: unknown): string =>
  JSON.stringify(value, (_key, part: unknown) =>
    typeof part === "object" && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
export const sameSpec = (a: WorkloadSpec, b: WorkloadSpec): boolean => canonical(a) === canonical(b);

export function start(name: string, status: Status, ask: StartRequest): void {
  nodeName(name, ask, "node");
  refuseUnless(`the request to start ${name}`, startProblems(ask));
  if (ask.spec.name !== name) {
    refuse(name, { code: "E_REQUEST", message: `the spec is of ${JSON.stringify(ask.spec.name)}, not of ${name}` });
  }
  if (status === undefined) return;
  const sure = free(name, status, "start");
  const same = sure.node === ask.node && sameSpec(sure.spec, ask.spec);
  const startable = sure.state === "stopped" || sure.state === "exited" || sure.state === "failed";
  // It never ran: another command, or another node, is a new try.
  if (sure.state === "failed") return;
  if (same && (sure.state === "running" || startable)) return;
  refuse(name, {
    code: "E_WORKLOAD_EXISTS",
    message: `${name} exists already: ${sure.state} on ${sure.node}${same ? "" : sure.node === ask.node ? ", with another spec" : ""}`,
    remedy: `choose another name, or remove it first: ferry rm ${name}${startable ? "" : " --force"}`,
  });
}

export function migrate(name: string, status: Status, ask: MigrateRequest): void {
  nodeName(name, ask, "to");
  refuseUnless(`the request to migrate ${name}`, migrateProblems(ask));
  const sure = free(name, status, "migrate");
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

export function cancel(name: string, status: Status): void {
  const sure = known(name, status);
  if (sure.operation?.startsWith(`${name}.migrate.`) !== true) {
    refuse(name, {
      code: "E_STATE",
      message: `${name} has no migration under way that could be cancelled (it is ${sure.state})`,
      remedy: `see its state: ferry inspect ${name}`,
    });
  }
}

export function stop(name: string, status: Status, ask: StopRequest): void {
  refuseUnless(`the request to stop ${name}`, stopProblems(ask));
  settledOnly(name, free(name, status, "stop"));
}

function settledOnly(name: string, sure: WorkloadStatus): void {
  if (sure.state === "in-doubt" || sure.state === "stuck") {
    refuse(name, {
      code: "E_STATE",
      message: `${name} is ${sure.state}: nobody knows yet on which node it runs`,
      remedy: "bring the nodes back first; a new migration settles it: ferry migrate",
    });
  }
}

export function remove(name: string, status: Status, ask: RemoveRequest): void {
  refuseUnless(`the request to remove ${name}`, removeProblems(ask));
  const sure = free(name, status, "remove");
  settledOnly(name, sure);
  if (sure.state === "running" && !ask.force) {
    refuse(name, {
      code: "E_STATE",
      message: `${name} is running on ${sure.node}`,
      remedy: `stop it first (ferry stop ${name}), or stop and remove: ferry rm --force ${name}`,
    });
  }
}

/** `ferry ps`, `ferry inspect` and `ferry nodes` in words. Pure: data in, lines out. */
import type { NodeListing, WorkloadInspection, WorkloadListing } from "../../client/types.js";
import { describeHold } from "./holds.js";
import type { Observation } from "../../model/contract.js";
import { isDown } from "../../model/messages.js";
import type { Away, Presence } from "../../model/presence.js";
import type { WorkloadState, WorkloadStatus } from "../../model/workload.js";
import { formatAge, formatBytes, formatCommand, plural } from "./format.js";
import { scheduleLine } from "./schedules.js";
import { paint, padEnd, printable, type Paint, type Style } from "./style.js";
import { renderTable, type Cell } from "./table.js";

const STATE_PAINT: Partial<Record<WorkloadState, Paint>> = {
  running: "green",
  migrating: "cyan",
  recovering: "cyan",
  checkpointing: "cyan",
  restoring: "cyan",
  checkpointed: "yellow",
  sleeping: "yellow",
  starting: "cyan",
  stopping: "cyan",
  exited: "yellow",
  failed: "red",
  "in-doubt": "red",
  stuck: "red",
};

const stateCell = (state: WorkloadState, exitCode?: number): Cell => {
  const color = STATE_PAINT[state];
  const text = exitCode === undefined ? state : `${state} (${exitCode})`;
  return color === undefined ? { text } : { text, paint: color };
};

/** One row of `ferry ps`: the listing, and the status where the entity answered. */
export interface PsRow {
  listing: WorkloadListing;
  status?: WorkloadStatus;
  /** Of its node, when that is not there. */
  away?: Away;
}

/** On a node that is not there, what it says of itself is of before. */
const rowState = ({ listing, status, away }: PsRow): Cell => {
  const state = status?.state ?? listing.state;
  const cell = stateCell(state, status?.exitCode);
  return away === undefined || isDown(state) ? cell : { text: `${cell.text}, node ${away}`, paint: "red" };
};

export function renderPs(rows: readonly PsRow[], now: number, style: Style): string[] {
  if (rows.length === 0) {
    return ["no workloads; start one: ferry run redis --node node-a -- redis-server --save ''"];
  }
  const sorted = [...rows].sort((a, b) => a.listing.name.localeCompare(b.listing.name));
  return renderTable(
    [
      { title: "NAME" },
      { title: "NODE" },
      { title: "STATE" },
      { title: "RUNTIME" },
      { title: "IP" },
      { title: "EPOCH", align: "right" },
      { title: "SINCE", align: "right" },
      { title: "COMMAND" },
    ],
    sorted.map(({ listing, status, away }) => [
      listing.name,
      status?.node ?? listing.node,
      rowState({ listing, ...(status && { status }), ...(away && { away }) }),
      listing.runtime,
      status?.spec.network.ip ?? "-",
      status === undefined ? "-" : String(status.epoch),
      formatAge(listing.startedAt.getTime(), now),
      status === undefined ? "-" : formatCommand(status.spec.command),
    ]),
    style,
  );
}

const since = (presence: Presence | undefined): string =>
  presence === undefined || presence.state === "up"
    ? ""
    : ` (${presence.state} since ${new Date(presence.since).toISOString()}: it may still run its workloads)`;

export function renderNodes(nodes: readonly NodeListing[], style: Style): string[] {
  if (nodes.length === 0) return ["no nodes; bring the lab up: ferry lab up, or start one: ferry node --name NAME"];
  // The table shows what such a node last said of itself; why it says nothing now stands below.
  const problems = nodes
    .filter(({ facts, problem }) => facts !== undefined && problem !== undefined)
    .map(
      ({ name, problem, presence }) => `${paint(style, "red", name)}: ${printable(problem ?? "")}${since(presence)}`,
    );
  const table = renderTable(
    [
      { title: "NODE" },
      { title: "STATE" },
      { title: "WORKLOADS", align: "right" },
      { title: "CPUS", align: "right" },
      { title: "MEMORY FREE", align: "right" },
      { title: "DISK FREE", align: "right" },
      { title: "CRIU" },
      { title: "KERNEL" },
      { title: "LINK" },
    ],
    [...nodes]
      .sort((a, b) => a.name.localeCompare(b.name))
      .map(({ name, reachable, facts, problem, fence, presence }) => {
        const away = presence === undefined || presence.state === "up" ? "not usable" : presence.state;
        const state: Cell = reachable
          ? { text: "up", paint: "green" }
          : { text: fence === undefined ? away : "fenced", paint: "red" };
        if (facts === undefined) return [name, state, "-", "-", "-", "-", "-", "-", problem ?? "-"];
        return [
          name,
          state,
          String(facts.workloads.length),
          String(facts.cpus),
          formatBytes(facts.memoryAvailableBytes),
          formatBytes(facts.diskAvailableBytes),
          facts.criuVersion,
          facts.kernel,
          `${facts.linkHost}:${facts.linkPort}`,
        ];
      }),
    style,
  );
  return [...table, ...problems];
}

const pair = (style: Style, key: string, value: string): string =>
  `  ${paint(style, "dim", padEnd(key, 10))} ${printable(value)}`;

/** Of a restore. */
export function describePages({ total, inPlace, runs }: NonNullable<Observation["pages"]>): string {
  const share = total === 0 ? 0 : Math.floor((100 * inPlace) / total);
  const how = runs ? "it runs already, and needs the store until all are" : "it does not run yet";
  return `${formatBytes(inPlace * 4096)} of ${formatBytes(total * 4096)} (${share} %) are in place: ${how}`;
}

const BY_THE_CLOCK = { protect: "protected", "scale-down": "let go", idle: "when idle", wake: "woken" } as const;

export function renderInspection(
  { status, observation, problem, schedules = [] }: WorkloadInspection,
  style: Style,
  now = Date.now(),
): string[] {
  const { spec } = status;
  const limits = [
    ...(spec.limits.memoryBytes === undefined ? [] : [`memory ${formatBytes(spec.limits.memoryBytes)}`]),
    ...(spec.limits.cpus === undefined ? [] : [`cpu ${spec.limits.cpus}`]),
  ];
  const { ip, mac, gateway } = spec.network;
  const state = stateCell(status.state, status.exitCode);
  const lines = [
    paint(style, "bold", status.name),
    `  ${paint(style, "dim", padEnd("state", 10))} ${state.paint === undefined ? state.text : paint(style, state.paint, state.text)}`,
    pair(style, "node", status.node),
    pair(style, "epoch", String(status.epoch)),
    pair(style, "runtime", status.runtime),
    pair(style, "command", formatCommand(spec.command)),
    pair(style, "runs as", `${spec.user} in ${spec.dir}`),
    pair(style, "network", `${ip}, ${mac}${gateway === undefined ? "" : `, gateway ${gateway}`}`),
    ...(spec.volumes ?? []).map(({ name, path, kind }) => pair(style, "volume", `${name} at ${path}, ${kind}`)),
    pair(style, "limits", limits.length === 0 ? "none" : limits.join(", ")),
  ];
  const env = Object.entries(spec.env);
  if (env.length > 0) lines.push(pair(style, "env", env.map(([key, value]) => `${key}=${value}`).join(" ")));
  if (status.lastCheckpoint !== undefined) {
    const { id, takenAt } = status.lastCheckpoint;
    lines.push(pair(style, "saved", `${id}, taken ${new Date(takenAt).toISOString()}`));
  }
  for (const schedule of schedules) lines.push(pair(style, BY_THE_CLOCK[schedule.kind], scheduleLine(schedule, now)));
  if (status.operation !== undefined) lines.push(pair(style, "operation", `${status.operation} is under way`));
  if (status.problem !== undefined) lines.push(pair(style, "problem", status.problem));
  if (observation !== undefined) {
    const root = observation.pid === undefined ? "" : `, root pid ${observation.pid} on ${status.node}`;
    lines.push(
      pair(style, "processes", `${plural(observation.processes, "process", "processes")}${root}`),
      pair(style, "memory", formatBytes(observation.memoryBytes)),
      pair(style, "log", formatBytes(observation.logBytes)),
    );
    if (observation.pages !== undefined) lines.push(pair(style, "pages", describePages(observation.pages)));
    if (observation.holds.length > 0) {
      lines.push(`  ${paint(style, "dim", `journal of ${status.node}`)}`);
      lines.push(...observation.holds.map((hold) => `    ${printable(describeHold(hold))}`));
    }
  }
  if (problem !== undefined) lines.push(pair(style, "node says", problem));
  return lines;
}

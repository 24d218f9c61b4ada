/** What changed between two checkpoints, in words. Pure: data in, lines out. */
import type { CheckpointDiff, FileDiff, FilesDiff, ProcessDiff } from "../../model/checkpoints.js";
import { formatBytes, plural } from "./format.js";
import { paint, printable, type Style } from "./style.js";
import { renderTable } from "./table.js";

export function renderDiff(diff: CheckpointDiff, style: Style): string[] {
  const { streams, processes, files, sockets, notes = [] } = diff;
  // Memory and files are said below, where they could be told apart.
  const apart = (name: string): boolean =>
    (processes !== undefined && name.startsWith("memory/")) || (files !== undefined && name.startsWith("volume/"));
  return [
    ...(processes === undefined ? [] : renderProcesses(processes, style)),
    ...(files === undefined ? [] : renderFiles(files, style)),
    ...(sockets === undefined ? [] : renderSockets(sockets, style)),
    ...renderStreams(streams, apart, style),
    ...notes.map((note) => `note: ${printable(note)}`),
  ];
}

const title = (style: Style, text: string): string => paint(style, "bold", text);
const MARKS = { added: "+", removed: "-", changed: "~", metadata: "~", same: " " } as const;

function renderProcesses({ list, more }: NonNullable<CheckpointDiff["processes"]>, style: Style): string[] {
  const told = list.filter(({ change }) => change !== "same");
  const same = list.length - told.length;
  const head = `memory: ${formatBytes(told.reduce((sum, { changed }) => sum + changed, 0))} changed in ${plural(told.length, "process", "processes")}${same === 0 ? "" : `, ${same} the same`}${more === 0 ? "" : `, ${more} more not listed`}`;
  return [title(style, head), ...told.flatMap(renderProcess)];
}

function renderProcess({ pid, name, change, before, after, changed, areas, moreAreas }: ProcessDiff): string[] {
  const size = change === "removed" ? before : after;
  return [
    printable(`  ${MARKS[change]} ${pid} ${name}: ${formatBytes(changed)} of ${formatBytes(size)}`),
    ...areas.map(({ start, end, kind, changed: bytes }) =>
      printable(`      ${formatBytes(bytes)} of the ${kind === "anonymous" ? "area" : kind} ${start}-${end}`),
    ),
    ...(moreAreas === 0 ? [] : [`      and in ${plural(moreAreas, "more area", "more areas")}`]),
  ];
}

function renderFiles(files: FilesDiff, style: Style): string[] {
  const { added, removed, changed, metadata, same, list, more } = files;
  const sizes = ({ change, type, before, after, changed: bytes }: FileDiff): string => {
    if (change === "added") return formatBytes(after);
    if (change === "removed") return formatBytes(before);
    if (change === "metadata") return "owner, mode, times or attributes";
    if (type.endsWith(" link")) return "leads elsewhere";
    return `${formatBytes(bytes)} of ${formatBytes(after)}${before === after ? "" : `, was ${formatBytes(before)}`}`;
  };
  return [
    title(
      style,
      `files: ${added} added, ${removed} removed, ${changed} changed, ${metadata} with other attributes, ${same} the same`,
    ),
    ...list.map((file) => printable(`  ${MARKS[file.change]} ${file.name} (${file.type}): ${sizes(file)}`)),
    ...(more === 0 ? [] : [`  and ${plural(more, "more", "more")}`]),
  ];
}

function renderSockets({ list, more, same }: NonNullable<CheckpointDiff["sockets"]>, style: Style): string[] {
  return [
    title(
      style,
      `sockets: ${list.filter(({ change }) => change === "added").length} added, ${list.filter(({ change }) => change === "removed").length} removed, ${same} the same`,
    ),
    ...list.map(({ change, protocol, state, local, remote }) =>
      printable(`  ${MARKS[change]} ${protocol} ${state} ${local}${remote === undefined ? "" : ` - ${remote}`}`),
    ),
    ...(more === 0 ? [] : [`  and ${plural(more, "more", "more")}`]),
  ];
}

function renderStreams(streams: CheckpointDiff["streams"], apart: (name: string) => boolean, style: Style): string[] {
  const changed = streams.filter((stream) => stream.changed > 0 || stream.before !== stream.after);
  const sum = changed.reduce((total, stream) => total + stream.changed, 0);
  const rest = streams.length - changed.length;
  const last = `${formatBytes(sum)} changed in ${plural(changed.length, "stream")}${rest === 0 ? "" : `, ${plural(rest, "stream is", "streams are")} the same`}`;
  const others = changed.filter(({ name }) => !apart(name));
  if (others.length === 0) return [last];
  return [
    ...renderTable(
      [
        { title: "KIND" },
        { title: "BEFORE", align: "right" },
        { title: "AFTER", align: "right" },
        { title: "CHANGED", align: "right" },
        { title: "NAME" },
      ],
      [...others]
        .sort((a, b) => b.changed - a.changed)
        .map(({ name, kind, before, after, changed: bytes }) => [
          kind,
          formatBytes(before),
          formatBytes(after),
          formatBytes(bytes),
          name,
        ]),
      style,
    ),
    last,
  ];
}

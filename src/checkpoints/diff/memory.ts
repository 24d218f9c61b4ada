/** Processes and their own memory in two checkpoints: who is there, and where how much has changed. */
import type { CheckpointDiff, ProcessDiff } from "../../model/checkpoints.js";
import type { CheckpointReader, StreamDiff } from "../../store/index.js";
import { parsePstree } from "../../transfer/images/criu.js";
import { parseOwnAreas, parseTaskName, type NamedArea } from "../../transfer/images/describe.js";
import { imageStream, memoryStream } from "../format.js";
import { contentOf } from "./content.js";

/** Bounds of the answer, and of what is read for it. */
const MOST_PROCESSES = 200;
const MOST_AREAS = 10;

const BLOCK = 4096;

interface Process {
  pid: number;
  name: string;
  areas: NamedArea[];
  bytes: number;
}

/** Changed bytes of each area; blocks come in order. */
class AreaCount {
  readonly areas: NamedArea[];
  readonly changed: number[];
  #at = 0;

  constructor(areas: NamedArea[]) {
    this.areas = areas;
    this.changed = areas.map(() => 0);
  }

  count(offset: number): void {
    while (this.#at < this.areas.length && (this.areas[this.#at]?.end ?? 0) <= offset) this.#at += 1;
    const area = this.areas[this.#at];
    if (area !== undefined && area.start <= offset) this.changed[this.#at] = (this.changed[this.#at] ?? 0) + BLOCK;
  }
}

export class MemoryDiff {
  readonly #before: Map<number, Process>;
  readonly #after: Map<number, Process>;
  readonly #counts = new Map<string, AreaCount>();
  readonly #streams = new Map<string, StreamDiff>();

  private constructor(before: Map<number, Process>, after: Map<number, Process>) {
    this.#before = before;
    this.#after = after;
    for (const [pid, { areas }] of [...before, ...after]) this.#counts.set(memoryStream(pid), new AreaCount(areas));
  }

  static async open(before: CheckpointReader, after: CheckpointReader): Promise<MemoryDiff> {
    return new MemoryDiff(await processesOf(before), await processesOf(after));
  }

  /** A block that differs. */
  seen(stream: string, offset: number): void {
    this.#counts.get(stream)?.count(offset);
  }

  add(stream: StreamDiff): void {
    this.#streams.set(stream.stream, stream);
  }

  result(): NonNullable<CheckpointDiff["processes"]> {
    const pids = [...new Set([...this.#before.keys(), ...this.#after.keys()])].toSorted((a, b) => a - b);
    const all = pids.map((pid) => this.#process(pid));
    // Those that say something come first where not all have room.
    const told = all.filter(({ change }) => change !== "same");
    const list = [...told, ...all.filter(({ change }) => change === "same")].slice(0, MOST_PROCESSES);
    return { list: list.toSorted((a, b) => a.pid - b.pid), more: all.length - list.length };
  }

  #process(pid: number): ProcessDiff {
    const [before, after] = [this.#before.get(pid), this.#after.get(pid)];
    const stream = this.#streams.get(memoryStream(pid));
    const count = this.#counts.get(memoryStream(pid));
    const areas = (count?.areas ?? [])
      .map(({ start, end, kind }, at) => ({ start, end, kind, changed: count?.changed[at] ?? 0 }))
      .filter(({ changed }) => changed > 0)
      .toSorted((a, b) => b.changed - a.changed);
    const changed = stream?.changedBytes ?? 0;
    return {
      pid,
      name: after?.name ?? before?.name ?? "",
      change: before === undefined ? "added" : after === undefined ? "removed" : changed > 0 ? "changed" : "same",
      before: before?.bytes ?? 0,
      after: after?.bytes ?? 0,
      changed,
      areas: areas.slice(0, MOST_AREAS).map(({ start, end, kind, changed: bytes }) => ({
        start: start.toString(16),
        end: end.toString(16),
        kind,
        changed: bytes,
      })),
      moreAreas: Math.max(0, areas.length - MOST_AREAS),
    };
  }
}

/** By pid. Of more than a few hundred only what their streams say. */
async function processesOf(reader: CheckpointReader): Promise<Map<number, Process>> {
  const tree = parsePstree("pstree.img", await contentOf(reader, imageStream("pstree.img")));
  const names = new Map(reader.streams.map((stream) => [stream.name, stream]));
  const found = new Map<number, Process>();
  for (const { pid } of tree.toSorted((a, b) => a.pid - b.pid)) {
    const [core, mm] = [`core-${pid}.img`, `mm-${pid}.img`];
    const look = found.size < MOST_PROCESSES;
    const image = (name: string): Promise<Buffer> => contentOf(reader, imageStream(name));
    const has = (name: string): boolean => look && names.has(imageStream(name));
    found.set(pid, {
      pid,
      name: has(core) ? parseTaskName(core, await image(core)) : "",
      areas: has(mm) ? parseOwnAreas(mm, await image(mm)) : [],
      bytes: names.get(memoryStream(pid))?.dataBytes ?? 0,
    });
  }
  return found;
}

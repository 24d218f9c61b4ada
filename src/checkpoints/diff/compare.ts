/** What changed between two checkpoints of a workload: streams, and what that means for memory, files and sockets. */
import type { CheckpointDiff } from "../../model/checkpoints.js";
import { toFailure } from "../../model/failure.js";
import { diffCheckpoints, type CheckpointReader, type Store } from "../../store/index.js";
import { VOLUME_META } from "../volume.js";
import { diffFiles } from "./files.js";
import { MemoryDiff } from "./memory.js";
import { diffSockets } from "./sockets.js";

const MOST_STREAMS = 1000;
/** Who asks waits: after this long no more files are looked at. */
const FILES_MS = 20_000;

/** @throws FerryError of the store. What of it is not understood is left out, and noted. */
export async function compareCheckpoints(
  store: Store,
  before: CheckpointReader,
  after: CheckpointReader,
  filesMs = FILES_MS,
): Promise<CheckpointDiff> {
  const notes: string[] = [];
  /** Images of another criu are no reason to say nothing at all. */
  const attempt = async <T>(what: string, work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await work();
    } catch (error) {
      const { code, message } = toFailure(error);
      if (code === "E_STORE" || code === "E_STORE_KEY") throw error;
      notes.push(`${what} can't be compared: ${message}`);
      return undefined;
    }
  };

  const memory = await attempt("processes", () => MemoryDiff.open(before, after));
  const streams: CheckpointDiff["streams"] = [];
  for await (const found of diffCheckpoints(before, after, store.packs, (name, at) => memory?.seen(name, at))) {
    const { stream: name, kind, bytesBefore, bytesAfter, changedBytes: changed } = found;
    memory?.add(found);
    streams.push({ name, kind, before: bytesBefore, after: bytesAfter, changed });
  }
  const sockets = await attempt("sockets", () => diffSockets(before, after));
  const has = (reader: CheckpointReader): boolean => reader.streams.some(({ name }) => name === VOLUME_META);
  const compared =
    has(before) && has(after)
      ? await attempt("files", () => diffFiles(store, before, after, Date.now() + filesMs))
      : undefined;
  if (compared?.cut === true) notes.push("not all files were looked at: there are too many for one answer");
  if (streams.length > MOST_STREAMS) {
    notes.push(`${streams.length} streams have changed; these are the ${MOST_STREAMS} where most has`);
    streams.sort((a, b) => b.changed - a.changed).splice(MOST_STREAMS);
  }
  return {
    streams,
    ...(memory === undefined ? {} : { processes: memory.result() }),
    ...(compared === undefined ? {} : { files: compared.files }),
    ...(sockets === undefined ? {} : { sockets }),
    ...(notes.length === 0 ? {} : { notes }),
  };
}

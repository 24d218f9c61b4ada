/**
 * Files in two checkpoints, by name. Headers are read, of contents only where they lie: tar has sorted both archives, so they
 * are gone through side by side and none of them has to be kept in mind.
 */
import { ferryError } from "../../model/failure.js";
import type { FileDiff, FilesDiff } from "../../model/checkpoints.js";
import { BlockIds, differingBlocks, type CheckpointReader, type Store } from "../../store/index.js";
import { listTar, type ListedEntry } from "../tar-split.js";
import { bytesOf, VOLUME_DATA, VOLUME_META } from "../volume.js";

const MOST_FILES = 200;
/** Of these, those where nothing but owner, mode, times or attributes have changed. */
const MOST_METADATA = 50;
const BLOCK = 4096;

interface Entry extends ListedEntry {
  /** Where its content begins in `volume/data`. */
  offset: number;
}

async function* entriesOf(reader: CheckpointReader): AsyncGenerator<Entry> {
  const meta = bytesOf(reader, VOLUME_META);
  let offset = 0;
  try {
    const input = {
      meta: async (bytes: number): Promise<Buffer> => {
        const data = await meta.take(bytes);
        if (data.length === bytes) return data;
        throw ferryError("E_STORE_CORRUPT", "the archive of the files is cut");
      },
    };
    for await (const entry of listTar(input)) {
      yield { ...entry, offset };
      offset += Math.ceil(entry.contentBytes / BLOCK) * BLOCK;
    }
  } finally {
    await meta.close();
  }
}

/** As tar sorts: by the names in each directory, what is in one right behind it. */
function compareParts(a: readonly string[], b: readonly string[]): number {
  for (let at = 0; at < a.length && at < b.length; at += 1) {
    const [x = "", y = ""] = [a[at], b[at]];
    if (x !== y) return x < y ? -1 : 1;
  }
  return a.length - b.length;
}

const nameOf = ({ parts }: Entry): string =>
  Buffer.from(parts.join("/") || ".", "latin1")
    .toString("utf8")
    .slice(0, 1000);
const typeOf = ({ entry }: Entry): string => entry.type;

/** @param until no more is looked at after this, by Date.now(); `cut` says that it came to that */
export async function diffFiles(
  store: Store,
  before: CheckpointReader,
  after: CheckpointReader,
  until: number,
): Promise<{ files: FilesDiff; cut: boolean }> {
  const files: FilesDiff = { added: 0, removed: 0, changed: 0, metadata: 0, same: 0, list: [], more: 0 };
  let metadata = 0;
  const note = (file: FileDiff): void => {
    files[file.change] += 1;
    const room = file.change !== "metadata" || metadata < MOST_METADATA;
    if (file.change === "metadata") metadata += 1;
    if (room && files.list.length < MOST_FILES) files.list.push(file);
    else files.more += 1;
  };
  const ids = new BlockIds(store.packs);
  const contentOf = (reader: CheckpointReader, { offset, contentBytes }: Entry) =>
    reader.places(VOLUME_DATA, offset, contentBytes);
  const alone = (entry: Entry, change: "added" | "removed"): void => {
    const sizes =
      change === "added" ? { before: 0, after: entry.contentBytes } : { before: entry.contentBytes, after: 0 };
    note({
      name: nameOf(entry),
      change,
      type: typeOf(entry),
      ...sizes,
      changed: Math.ceil(entry.contentBytes / BLOCK) * BLOCK,
    });
  };
  const both = async (old: Entry, now: Entry): Promise<void> => {
    const [a, b] = [await contentOf(before, old), await contentOf(after, now)];
    const blocks = await differingBlocks(a, old.offset / BLOCK, b, now.offset / BLOCK, ids);
    const other =
      blocks > 0 ||
      old.contentBytes !== now.contentBytes ||
      old.entry.type !== now.entry.type ||
      old.entry.link !== now.entry.link;
    if (!other && old.headers.equals(now.headers)) {
      files.same += 1;
      return;
    }
    note({
      name: nameOf(now),
      change: other ? "changed" : "metadata",
      type: typeOf(now),
      before: old.contentBytes,
      after: now.contentBytes,
      changed: blocks * BLOCK,
    });
  };

  const [olds, nows] = [entriesOf(before), entriesOf(after)];
  let cut = false;
  try {
    let [old, now] = [await olds.next(), await nows.next()];
    while (old.done !== true || now.done !== true) {
      if (Date.now() > until) {
        cut = true;
        break;
      }
      const order = old.done === true ? 1 : now.done === true ? -1 : compareParts(old.value.parts, now.value.parts);
      if (old.done !== true && now.done !== true && order === 0) await both(old.value, now.value);
      else if (old.done !== true && order < 0) alone(old.value, "removed");
      else if (now.done !== true) alone(now.value, "added");
      if (order <= 0) old = await olds.next();
      if (order >= 0) now = await nows.next();
    }
  } finally {
    await olds.return(undefined);
    await nows.return(undefined);
  }
  return { files, cut };
}

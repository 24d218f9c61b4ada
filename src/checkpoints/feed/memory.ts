/** The memory of a checkpoint, by slot: what a frozen tree is to the source of a migration. */
import { setTimeout as sleep } from "node:timers/promises";
import { ferryError, toFailure, type FailureData } from "../../model/failure.js";
import type { CheckpointReader, Store } from "../../store/index.js";
import { PAGE_SIZE, type AreaTable } from "../../transfer/pages/api.js";
import { areaIndex, type PageReader } from "../../transfer/pages/source.js";
import { memoryStream } from "../format.js";

const FIRST_PAUSE_MS = 200;
const MAX_PAUSE_MS = 5000;

export interface Patience {
  away: (failure: FailureData) => void;
  /** Is it the store, what is at its place? */
  isThere: () => Promise<boolean>;
}

/** A directory that is not mounted lacks every object, as a damaged store lacks one: that one has its settings. */
export async function isThere({ backend }: Store): Promise<boolean> {
  try {
    return (await backend.stat("store.json")) !== undefined;
  } catch {
    return false;
  }
}

/**
 * Goes on asking a store that is away: a workload may run already that waits for what is in there. Only what can't become
 * right by itself is thrown.
 */
export async function whileAway<T>(work: () => Promise<T>, { away, isThere: there }: Patience): Promise<T> {
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(MAX_PAUSE_MS, pause * 2)) {
    try {
      return await work();
    } catch (error) {
      const failure = toFailure(error);
      if (failure.code !== "E_STORE" && (failure.code !== "E_STORE_CORRUPT" || (await there()))) throw error;
      away(failure);
      await sleep(pause);
    }
  }
}

/**
 * @throws FerryError E_STORE_CORRUPT when a task has pages to bring back and the checkpoint no memory of it
 */
export function openMemory(table: AreaTable, reader: CheckpointReader, patience: Patience): PageReader {
  const known = new Set(reader.streams.filter(({ kind }) => kind === "memory").map(({ name }) => name));
  for (const { vpid } of table.areas) {
    if (known.has(memoryStream(vpid))) continue;
    throw ferryError("E_STORE_CORRUPT", `the checkpoint's images name memory of task ${vpid}, and there is none of it`);
  }
  return {
    areas: table.areas,
    async read(slot, pages, into) {
      const reads: Promise<void>[] = [];
      let index = areaIndex(table.areas, slot);
      for (let at = slot; at < slot + pages; index += 1) {
        const area = table.areas[index];
        if (area === undefined || at < area.slot) throw ferryError("E_PAGES", `slot ${at} is in no area`);
        const count = Math.min(area.slot + area.pages, slot + pages) - at;
        const offset = Number(area.start) + (at - area.slot) * PAGE_SIZE;
        const place = (at - slot) * PAGE_SIZE;
        const read = () => reader.read(memoryStream(area.vpid), offset, count * PAGE_SIZE);
        reads.push(whileAway(read, patience).then((data) => void data.copy(into, place)));
        at += count;
      }
      await Promise.all(reads);
    },
  };
}

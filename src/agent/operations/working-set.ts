/** What a restored workload has touched first is kept beside its checkpoint: the next restore brings it first. */
import { mergeRuns, touchedRuns } from "../../checkpoints/working-set.js";
import { toFailure } from "../../model/failure.js";
import { keepWorkingSet, readWorkingSet, type Store, type TouchedRun } from "../../store/index.js";
import { readTouched } from "../../transfer/pages/index.js";
import { readTable } from "../../transfer/pages/table.js";
import type { NodeContext } from "./node-context.js";

/**
 * `dir`: of the page store, which is read before this returns. Resolves with the runs that are kept; 0: nothing new.
 * @throws FerryError of the store, E_PAGES; only a hint is lost
 */
export function keepTouched({ store }: NodeContext, dir: string, of: string, checkpoint: string): Promise<number> {
  let now: TouchedRun[];
  try {
    now = touchedRuns(readTable(dir), readTouched(dir));
  } catch (error) {
    return Promise.reject(error instanceof Error ? error : new Error(String(error)));
  }
  return store.open().then((opened) => keep(opened, of, checkpoint, now));
}

async function keep(store: Store, of: string, checkpoint: string, now: TouchedRun[]): Promise<number> {
  const before = await readWorkingSet(store, of, checkpoint).catch((error: unknown) => {
    if (toFailure(error).code === "E_STORE") throw error;
    // One that can't be used is written anew.
    return undefined;
  });
  const runs = mergeRuns(before?.runs ?? [], now);
  if (runs.length === 0 || (before?.own === true && runs.length === before.runs.length)) return 0;
  await keepWorkingSet(store, of, checkpoint, runs);
  return runs.length;
}

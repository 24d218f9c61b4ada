/**
 * Which checkpoints of a workload may go: by count, age and size. Pure. What is pinned, and the newest, always stay; so do
 * those that can't be read, which a person should look at.
 */
import { byAge, byEpoch, isBroken } from "./checkpoint-choice.js";
import type { ListedCheckpoint, StoredCheckpoint } from "./checkpoints.js";

/** What a checkpoint must meet to stay. At least one is given; each alone is reason enough to go. */
export interface Retention {
  /** So many of the newest stay. */
  keep?: number;
  /** Older ones go, milliseconds. */
  olderThanMs?: number;
  /** The oldest go until all together have added no more than this to the store. */
  maxBytes?: number;
}

export interface Pruned {
  checkpoint: StoredCheckpoint;
  /** In words. */
  why: string;
}

/** Oldest first. `now`: Unix milliseconds. */
export function prunable(listed: readonly ListedCheckpoint[], retention: Retention, now: number): Pruned[] {
  const all = listed.filter((each): each is StoredCheckpoint => !isBroken(each)).sort(byAge);
  // By the clocks, and by the epochs: clocks may be wrong, and a workload may have the name of an earlier one.
  const newest = [all.at(-1), all.toSorted(byEpoch).at(-1)];
  const mayGo = all.filter((each) => !newest.includes(each) && !each.pinned);
  const go = new Map<StoredCheckpoint, string>();
  const { keep, olderThanMs, maxBytes } = retention;
  if (keep !== undefined) {
    const kept = new Set(all.slice(Math.max(0, all.length - Math.max(1, keep))));
    for (const each of mayGo) if (!kept.has(each)) go.set(each, `not one of the newest ${Math.max(1, keep)}`);
  }
  if (olderThanMs !== undefined) {
    for (const each of mayGo) if (!go.has(each) && now - each.takenAt > olderThanMs) go.set(each, "too old");
  }
  if (maxBytes !== undefined) {
    let total = all.filter((each) => !go.has(each)).reduce((sum, each) => sum + each.newBytes, 0);
    for (const each of mayGo) {
      if (total <= maxBytes) break;
      if (go.has(each)) continue;
      go.set(each, "all together are too large");
      total -= each.newBytes;
    }
  }
  return all.flatMap((checkpoint) => {
    const why = go.get(checkpoint);
    return why === undefined ? [] : [{ checkpoint, why }];
  });
}

/** Which of the checkpoints of a workload is meant: by id, by its beginning, by time, or the newest (of the last epoch). Pure. */
import type { BrokenCheckpoint, ListedCheckpoint, StoredCheckpoint } from "./checkpoints.js";
import { ferryError, type FerryError } from "./failure.js";
import { cut } from "./words.js";

export const isBroken = (listed: ListedCheckpoint): listed is BrokenCheckpoint => "failure" in listed;

/** Oldest first, by when it was taken; ids begin with the time and break ties. */
export const byAge = (a: StoredCheckpoint, b: StoredCheckpoint): number =>
  a.takenAt - b.takenAt || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0);

/**
 * Oldest first, by the epoch under which it ran, then by age. A later epoch ran later, whatever a node's clock says, and
 * whenever a node that had been given up has stored what it still ran.
 */
export const byEpoch = (a: StoredCheckpoint, b: StoredCheckpoint): number => a.epoch - b.epoch || byAge(a, b);

export interface Wanted {
  /** Id, or the only one that begins with this. */
  checkpoint?: string;
  /** The newest that was taken until then, Unix milliseconds: by the clocks alone, of whatever epoch. */
  at?: number;
  /** The last that it has run under: one of a later epoch is of another workload that had its name, and taken only if there is no other. */
  epoch?: number;
}

const MOST_NAMED = 5;
const named = (ids: readonly string[]): string =>
  ids.length <= MOST_NAMED
    ? ids.join(", ")
    : `${ids.slice(0, MOST_NAMED).join(", ")} and ${ids.length - MOST_NAMED} more`;

const unknown = (workload: string, message: string, remedy: string): FerryError =>
  ferryError("E_CHECKPOINT_UNKNOWN", message, { workload, remedy });

/** The one with that id, or the only one whose id begins so. @throws E_CHECKPOINT_UNKNOWN that lists what fits */
export function byPrefix<Listed extends { id: string; workload: string }>(
  workload: string,
  listed: readonly Listed[],
  prefix: string,
): Listed {
  const mine = listed.filter((each) => each.workload === workload);
  const exact = mine.find(({ id }) => id === prefix);
  if (exact !== undefined) return exact;
  const fits = prefix === "" ? [] : mine.filter(({ id }) => id.startsWith(prefix));
  const [only, another] = fits;
  if (only !== undefined && another === undefined) return only;
  const look = `see which there are: ferry checkpoints ls ${workload}`;
  throw only === undefined
    ? unknown(workload, `there is no checkpoint ${JSON.stringify(cut(prefix, 60))} of ${workload}`, look)
    : unknown(workload, `${prefix} is the beginning of ${named(fits.map(({ id }) => id))}`, "give more of it");
}

/** @throws E_NO_CHECKPOINT, E_CHECKPOINT_UNKNOWN, or what is wrong with the one that was asked for */
export function chooseCheckpoint(
  workload: string,
  listed: readonly ListedCheckpoint[],
  { checkpoint, at, epoch }: Wanted,
): StoredCheckpoint {
  const mine = listed.filter((each) => each.workload === workload);
  const whole = mine.filter((each): each is StoredCheckpoint => !isBroken(each)).sort(byAge);
  if (checkpoint !== undefined) {
    const found = byPrefix(workload, mine, checkpoint);
    if (!isBroken(found)) return found;
    throw ferryError(found.failure.code, `checkpoint ${found.id} of ${workload} can't be used`, {
      workload,
      cause: found.failure,
      remedy: `take another one: ferry checkpoints ls ${workload}`,
    });
  }
  const own = whole.filter((each) => epoch === undefined || each.epoch <= epoch);
  const newest =
    at === undefined
      ? (own.length > 0 ? own : whole).sort(byEpoch).at(-1)
      : whole.findLast(({ takenAt }) => takenAt <= at);
  if (newest !== undefined) return newest;
  const [oldest] = whole;
  if (oldest === undefined) {
    const broken = mine.length === 0 ? "" : ` that can be read (${mine.length} can't)`;
    throw ferryError("E_NO_CHECKPOINT", `there is no checkpoint of ${workload}${broken}`, {
      workload,
      remedy: `make one while it runs: ferry checkpoint ${workload}`,
    });
  }
  throw unknown(
    workload,
    `no checkpoint of ${workload} was taken by then: the oldest is ${oldest.id}`,
    `see which there are: ferry checkpoints ls ${workload}`,
  );
}

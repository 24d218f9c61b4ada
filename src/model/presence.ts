/**
 * Is a node there? What its entity makes of the watch that runs on the node itself: up, silent, lost, with hysteresis on
 * both ways. Pure. It is for people, and for what they decide: a silent node may well run its workloads, so nothing is
 * ever started elsewhere because of it.
 */

export const PRESENCES = ["up", "silent", "lost"] as const;
export interface Presence {
  state: (typeof PRESENCES)[number];
  /** Since when it is in `state`, Unix milliseconds. */
  since: number;
  /** When it was heard of last, as far as is known: at most `silentAfterMs` too late. */
  heardAt: number;
  /** What is not there, in words. */
  problem?: string;
}

/** When a node is taken for what. Milliseconds. */
export interface Watch {
  /** Nobody has heard of it for this long: silent. */
  silentAfterMs: number;
  /** Nobody has heard of it for this long: lost. */
  lostAfterMs: number;
  /** It is up again when it has been there for this long without a break. */
  steadyMs: number;
}
export const DEFAULT_WATCH: Watch = { silentAfterMs: 20_000, lostAfterMs: 60_000, steadyMs: 5_000 };

/** Shortest and longest that may be configured. */
const MIN_MS = 100;
const MAX_MS = 7 * 24 * 3_600_000;

/** What is wrong with a configured watch, in words. */
export function watchProblems(watch: Partial<Watch>): string[] {
  const { silentAfterMs, lostAfterMs, steadyMs } = { ...DEFAULT_WATCH, ...watch };
  const range = Object.entries({ silentAfterMs, lostAfterMs, steadyMs }).flatMap(([name, ms]) =>
    typeof ms === "number" && ms >= MIN_MS && ms <= MAX_MS
      ? []
      : [`${name} must be milliseconds from ${MIN_MS} to ${MAX_MS}, got ${JSON.stringify(ms)}`],
  );
  if (range.length > 0) return range;
  return lostAfterMs > silentAfterMs
    ? []
    : [`a node is lost after it was silent: ${lostAfterMs} ms must be more than the ${silentAfterMs} ms of silence`];
}

/** What a person should know of a node, in one word; the value of its FerryState. */
export const nodeWord = (node: { online: boolean; fence?: unknown; presence?: Presence }): string => {
  if (node.fence !== undefined) return "fenced";
  if (node.presence !== undefined && node.presence.state !== "up") return node.presence.state;
  return node.online ? "online" : "offline";
};
/** Words of nodes that are not there. */
export const AWAY = ["silent", "lost", "fenced"] as const;
export type Away = (typeof AWAY)[number];

export const firstSeen = (now: number): Presence => ({ state: "up", since: now, heardAt: now });

/** It was there for as long as it was asked to be. */
export const heard = ({ state, since }: Presence, now: number): Presence => ({
  state: "up",
  since: state === "up" ? since : now,
  heardAt: now,
});

/** The watch broke off, or nobody took it. `gone`: nobody is there at all, not even its worker. */
export function missed(before: Presence, watch: Watch, now: number, problem: string, gone: boolean): Presence {
  const heardAt = before.state === "up" ? Math.max(before.heardAt, now - watch.silentAfterMs) : before.heardAt;
  const state = gone && before.state !== "up" && now - heardAt >= watch.lostAfterMs ? "lost" : "silent";
  // Once it is lost, only being there again changes that.
  if (before.state === "lost") return { ...before, problem };
  const since = state === before.state ? before.since : state === "silent" ? heardAt : now;
  return { state, since, heardAt, problem };
}

/** How long the next watch may wait for the node's worker to take it; undefined: for as long as it takes. */
export function patienceMs({ state, heardAt }: Presence, watch: Watch, now: number): number | undefined {
  if (state === "up") return watch.silentAfterMs / 2;
  if (state === "lost") return undefined;
  return Math.max(heardAt + watch.lostAfterMs - now, 1);
}

/** At most so many reads at once: a tree with a hundred thousand descriptors must not use up the agent's own. */
const MOST = 64;
let running = 0;
const waiting: (() => void)[] = [];

/** Runs `work` when fewer than 64 others run. Never nest it: the outer ones would wait for the inner ones. */
export async function limited<T>(work: () => Promise<T>): Promise<T> {
  if (running >= MOST) await new Promise<void>((resolve) => waiting.push(resolve));
  else running += 1;
  try {
    return await work();
  } finally {
    // The place goes straight to the next one, so that the count never runs over.
    const next = waiting.shift();
    if (next === undefined) running -= 1;
    else next();
  }
}

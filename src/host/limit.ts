/** A function that does its work when fewer than `most` others run. Never nest it: the outer ones would wait for the inner ones. */
export function atMost(most: number): <T>(work: () => Promise<T>) => Promise<T> {
  let running = 0;
  const waiting: (() => void)[] = [];
  return async (work) => {
    if (running >= most) await new Promise<void>((resolve) => waiting.push(resolve));
    else running += 1;
    try {
      return await work();
    } finally {
      // The place goes straight to the next one, so that the count never runs over.
      const next = waiting.shift();
      if (next === undefined) running -= 1;
      else next();
    }
  };
}

/** At most so many reads at once: a tree with a hundred thousand descriptors must not use up the agent's own. */
export const limited = atMost(64);

/** Ctrl-C as a promise: commands race their work against it and say what goes on without them. */
export interface Interrupt {
  /** Resolves at the first SIGINT, SIGTERM or SIGHUP. */
  readonly asked: Promise<"interrupt">;
  readonly happened: () => boolean;
  release(): void;
}

export function onInterrupt(): Interrupt {
  let resolve: (value: "interrupt") => void = () => undefined;
  let happened = false;
  const asked = new Promise<"interrupt">((done) => {
    resolve = done;
  });
  const listener = (): void => {
    happened = true;
    resolve("interrupt");
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, listener);
  return {
    asked,
    happened: () => happened,
    release() {
      for (const signal of signals) process.off(signal, listener);
    },
  };
}

/** Waits `ms`, or until interrupted. */
export async function pause(ms: number, interrupt: Interrupt): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  await Promise.race([
    new Promise<void>((done) => {
      timer = setTimeout(done, ms);
    }),
    interrupt.asked,
  ]);
  clearTimeout(timer);
}

/** A value that others wait on by level, never by edge: a condition that already holds resolves at once. */
import { ferryError } from "../model/failure.js";

interface Waiter<T> {
  until: (value: T) => boolean;
  resolve: (value: T) => void;
  stop: () => void;
}

export interface WaitOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Rejects with E_DEADLINE naming `what` after this long. */
  timeoutMs?: number;
  what?: string;
}

export class Level<T> {
  private current: T;
  private readonly waiters = new Set<Waiter<T>>();

  constructor(initial: T) {
    this.current = initial;
  }
  get value(): T {
    return this.current;
  }
  set(value: T): void {
    this.current = value;
    for (const waiter of this.waiters) {
      if (waiter.until(value)) {
        waiter.stop();
        waiter.resolve(value);
      }
    }
  }
  update(change: Partial<T>): void {
    this.set({ ...this.current, ...change });
  }
  wait(until: (value: T) => boolean, options: WaitOptions = {}): Promise<T> {
    const { signal, timeoutMs, what = "a state" } = options;
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(asError(signal.reason));
        return;
      }
      if (until(this.current)) {
        resolve(this.current);
        return;
      }
      const onAbort = (): void => {
        waiter.stop();
        reject(asError(signal?.reason));
      };
      const timer =
        timeoutMs === undefined
          ? undefined
          : setTimeout(() => {
              waiter.stop();
              reject(ferryError("E_DEADLINE", `${what} was not reached within ${timeoutMs} ms`));
            }, timeoutMs);
      const waiter: Waiter<T> = {
        until,
        resolve,
        stop: () => {
          this.waiters.delete(waiter);
          clearTimeout(timer);
          signal?.removeEventListener("abort", onAbort);
        },
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.waiters.add(waiter);
    });
  }
}

const asError = (reason: unknown): Error => (reason instanceof Error ? reason : new Error(String(reason)));

/** `promise`, or the signal's reason as soon as it is aborted. The promise itself goes on. */
export function orAbort<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(asError(signal.reason));
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

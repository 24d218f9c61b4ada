/**
 * Retries of requests to Temporal that know when the connection is about to be closed. The SDK's own go on by a timer after
 * that, and their next attempt throws where nobody can catch it ("Channel has been shut down"): the user's process ends.
 */
import { defaultGrpcRetryOptions, makeGrpcRetryInterceptor, type ConnectionOptions } from "@temporalio/client";

/** So long at most does closing wait for an attempt that is due already. */
const LONGEST_PAUSE_MS = 1_000;
/** From the moment an attempt is due until it has begun. */
const BEGUN_MS = 50;

export interface Retries {
  interceptors: NonNullable<ConnectionOptions["interceptors"]>;
  /** No more of them; resolves when none is waiting for its turn. At once when all goes well. */
  end(): Promise<void>;
}

export function retries(): Retries {
  const usual = defaultGrpcRetryOptions();
  const ended = new AbortController();
  let lastDue = 0;
  const interceptor = makeGrpcRetryInterceptor({
    retryableDecider: (attempt, status) => !ended.signal.aborted && usual.retryableDecider(attempt, status),
    delayFunction: (attempt, status) => {
      const pauseMs = Math.min(usual.delayFunction(attempt, status), LONGEST_PAUSE_MS);
      lastDue = Math.max(lastDue, performance.now() + pauseMs);
      return pauseMs;
    },
  });
  return {
    interceptors: [interceptor],
    async end() {
      ended.abort();
      const leftMs = lastDue + BEGUN_MS - performance.now();
      if (leftMs > 0) await new Promise((resolve) => setTimeout(resolve, leftMs));
    },
  };
}

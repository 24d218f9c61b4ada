/**
 * One retry layer for S3: a server that is restarted, a connection that is cut, "slow down". The SDK's own is turned
 * off: two would multiply.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { FerryError, ferryError } from "../model/failure.js";

interface ServiceError {
  name?: string;
  message?: string;
  code?: string;
  $metadata?: { httpStatusCode?: number };
}

export const statusOf = (error: unknown): number | undefined => (error as ServiceError).$metadata?.httpStatusCode;

/** The server is away or busy, or the way to it: worth asking again. Everything else is an answer. */
export function isTransient(error: unknown): boolean {
  const { name = "", code = "" } = error as ServiceError;
  const status = statusOf(error);
  if (name === "SlowDown" || name === "RequestTimeout" || name === "RequestTimeTooSkewed") return true;
  // An answer that was cut while its body was read has a status, and an error of the socket all the same.
  if (/^(ECONN|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|EAI_AGAIN|ERR_STREAM|UND_ERR)/.test(code)) return true;
  if (name === "TimeoutError" || name === "AbortError") return true;
  // 409: another conditional request for the same name is under way.
  return status === undefined ? code !== "" : status >= 500 || status === 429 || status === 409;
}

/**
 * Calls `work` until it answers, with growing pauses (0.1 to 2 s, half of them random), for at most `patienceMs`.
 * @param attempt counted from 0
 * @throws FerryError E_STORE with the last answer
 */
export async function withPatience<T>(
  doing: string,
  patienceMs: number,
  work: (attempt: number) => Promise<T>,
): Promise<T> {
  const started = performance.now();
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await work(attempt);
    } catch (error) {
      if (error instanceof FerryError) throw error;
      const pauseMs = Math.min(2000, 100 * 2 ** attempt) * (0.5 + Math.random() / 2);
      if (!isTransient(error) || performance.now() - started + pauseMs > patienceMs) throw storeProblem(doing, error);
      await sleep(pauseMs);
    }
  }
}

export function storeProblem(doing: string, error: unknown): FerryError {
  const { name = "Error", message = "", code } = error as ServiceError;
  const status = statusOf(error);
  const words = [name, code, status === undefined ? undefined : `status ${status}`].filter(
    (word) => word !== undefined,
  );
  return ferryError("E_STORE", `${doing} failed: ${message === "" ? "no answer" : message} (${words.join(", ")})`, {
    remedy:
      status === 401 || status === 403
        ? "check the access key, its secret and its rights on the bucket"
        : status === 404
          ? "check the bucket's name and the access key; Ferry makes no buckets"
          : "check that the S3 service is up and reached from this node, then try again: what was stored is kept",
  });
}

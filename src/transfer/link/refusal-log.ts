/** Refused connections in a log, bounded: a flood must not fill the tmpfs or the disk that the log lies on. */
import type { FailureData } from "../../model/failure.js";

const PER_MINUTE = 20;

/** For `onRefused`: the first twenty of a minute one by one, the others as a number with the next that is told. */
export function refusalLog(
  log: (level: "warn", message: string, fields: Record<string, unknown>) => void,
  nowMs: () => number = () => performance.now(),
): (failure: FailureData, from: string) => void {
  let since = Number.NEGATIVE_INFINITY;
  let told = 0;
  let unsaid = 0;
  return (failure, from) => {
    if (nowMs() - since >= 60_000) {
      since = nowMs();
      told = 0;
    }
    if (told >= PER_MINUTE) {
      unsaid += 1;
      return;
    }
    told += 1;
    log("warn", "connection refused", { failure, from, ...(unsaid === 0 ? {} : { notTold: unsaid }) });
    unsaid = 0;
  };
}

/** The node's wall clock, finer than `Date.now()`: what hooks write with `date +%s.%N`, by the same clock. */
import koffi from "koffi";

const CLOCK_REALTIME = 0;

type Gettime = (clock: number, time: Buffer) => number;
let gettime: Gettime | undefined;
const time = Buffer.alloc(16);

/**
 * Unix milliseconds with fractions. Not `performance.timeOrigin + performance.now()`: that one keeps the error which the
 * clock had when this process was started, and agents run for months.
 */
export function realtimeMs(): number {
  // As the process itself calls it: by name, not out of one library.
  gettime ??= koffi.load(null).func("int clock_gettime(int clock, _Out_ void *time)") as Gettime;
  if (gettime(CLOCK_REALTIME, time) !== 0) return Date.now();
  return Number(time.readBigInt64LE(0)) * 1000 + Number(time.readBigInt64LE(8)) / 1e6;
}

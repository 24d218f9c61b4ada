/** A token bucket for bytes; the rate may change while others wait. */
import { setTimeout as sleep } from "node:timers/promises";

/** Bytes that may go at once after a pause, in seconds of the rate. */
const BURST_SECONDS = 0.05;
/** Longest sleep, so that a raised limit is noticed soon. */
const MAX_SLEEP_MS = 100;

export class Limiter {
  #rate: number | undefined;
  #tokens = 0;
  #at = performance.now();

  constructor(bytesPerSec?: number) {
    this.#rate = bytesPerSec;
  }

  /** undefined: no limit. */
  set(bytesPerSec: number | undefined): void {
    this.#rate = bytesPerSec;
    this.#tokens = 0;
    this.#at = performance.now();
  }

  /** Counts bytes that can't wait (faults): others pay for them. */
  spend(bytes: number): void {
    if (this.#rate !== undefined) this.#tokens -= bytes;
  }

  /** Resolves when so many bytes may be sent. */
  async take(bytes: number): Promise<void> {
    if (this.#rate === undefined) return;
    this.#tokens -= bytes;
    for (;;) {
      const rate = this.#rate;
      if (rate === undefined) return;
      const now = performance.now();
      this.#tokens = Math.min(this.#tokens + ((now - this.#at) / 1000) * rate, rate * BURST_SECONDS);
      this.#at = now;
      if (this.#tokens >= 0) return;
      await sleep(Math.min(MAX_SLEEP_MS, Math.ceil((-this.#tokens / rate) * 1000)));
    }
  }
}

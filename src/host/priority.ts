/** Scheduling priority of this process' first thread, for as long as somebody waits for it. */
import { getPriority, setPriority } from "node:os";

export class Priority {
  readonly #usual: number;
  #raised = false;
  /** A kernel or a container that does not allow it is not asked again. */
  #allowed = true;

  constructor() {
    this.#usual = getPriority();
  }

  get raised(): boolean {
    return this.#raised;
  }

  /** `by` steps above the usual one (nice values), or the usual one again. Not being allowed to is no failure. */
  raise(by: number): void {
    if (by > 0 === this.#raised || !this.#allowed) return;
    try {
      setPriority(Math.max(-20, this.#usual - by));
      this.#raised = by > 0;
    } catch {
      this.#allowed = false;
    }
  }
}

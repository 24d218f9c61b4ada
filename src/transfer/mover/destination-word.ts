/** What the destination has said on the present control session: what it has, or why it refuses. A level, for whoever waits. */
import { ferryError, FerryError, type FailureData } from "../../model/failure.js";
import type { Frame, LinkSession } from "../link/index.js";
import type { FrameMeta } from "./messages.js";
import { parseMeta } from "./process.js";

export interface DestinationWordOptions {
  /** Whose word it is, in what is thrown. */
  from: Partial<FailureData>;
  /** It takes no more pages. */
  onPagesRefused: (failure: FailureData) => void;
}

export class DestinationWord {
  state: FrameMeta<"state"> | undefined;
  refused: FailureData | undefined;
  readonly #options: DestinationWordOptions;
  #waiter: (() => void) | undefined;

  constructor(options: DestinationWordOptions) {
    this.#options = options;
  }

  /** Another session: nothing was said on it yet. */
  begin(): void {
    this.state = undefined;
    this.refused = undefined;
    this.#waiter = undefined;
  }

  /** A frame of the control session. Throws E_FRAME. */
  hear({ type, meta }: Frame): void {
    if (type === "state") this.state = parseMeta("state", meta);
    else if (type === "refused") {
      const { what, failure } = parseMeta("refused", meta);
      this.refused = failure;
      if (what === "pages") this.#options.onPagesRefused(failure);
    } else throw ferryError("E_FRAME", `control frame ${type} was not expected`);
    this.wake();
  }

  /** The session may be lost: whoever waits looks again. */
  wake(): void {
    this.#waiter?.();
  }

  /** Until `enough` says so. Throws its refusal, or E_LINK_LOST. */
  async wait(session: LinkSession, enough: () => boolean): Promise<void> {
    while (!enough()) {
      if (this.refused !== undefined) throw new FerryError({ ...this.refused, ...this.#options.from });
      if (session.closed) throw ferryError("E_LINK_LOST", "the link was lost while the images were sent");
      await new Promise<void>((resolve) => (this.#waiter = resolve));
    }
  }
}

/**
 * The source's three sessions to the destination's mover: control (images, answers), bulk (pages, volume) and fault
 * (pages somebody waits for). They come and go together; once they were up, a loss is answered by dialing again,
 * without end: how long a broken link may last is the agent's decision (its deadline), not the mover's.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ferryError, FerryError, toFailure, type FailureData } from "../../model/failure.js";
import { dialLink, type Hello, type LinkIdentity, type LinkSession } from "../link/index.js";

export interface Sessions {
  control: LinkSession;
  bulk: LinkSession;
  fault: LinkSession;
}

const FIRST_WAIT_MS = 50;
const MAX_WAIT_MS = 2000;
/** Sessions that lasted this long are dialed again at once. */
const STEADY_MS = 2000;
/** A first connection that does not come about within this time is an answer, in milliseconds. */
const CONNECT_TIMEOUT_MS = 10_000;
/** Worth another try while connecting for the first time. */
const AGAIN = new Set(["E_LINK_LOST", "E_STREAM_SHORT"]);

export interface LinksOptions {
  identity: LinkIdentity;
  peer: string;
  hello: Omit<Hello, "purpose">;
  /** Called in the turn in which the sessions came: register frame listeners there. */
  onUp: (sessions: Sessions) => void;
  onDown: (sessions: Sessions, failure: FailureData | undefined) => void;
  log: (message: string, fields?: object) => void;
}

interface Waiter {
  resolve: (sessions: Sessions) => void;
  reject: (error: Error) => void;
}

export class Links {
  readonly #options: LinksOptions;
  #address: { host: string; port: number } | undefined;
  #sessions: Sessions | undefined;
  #running = false;
  #everUp = false;
  #closed = false;
  #last: FailureData | undefined;
  #waiting: Waiter[] = [];

  constructor(options: LinksOptions) {
    this.#options = options;
  }

  get sessions(): Sessions | undefined {
    return this.#sessions;
  }

  /** Resolves when the sessions are up. Rejects with why not: at once when the other end refuses, else after 10 s. */
  async connect(host: string, port: number): Promise<void> {
    const same = this.#address?.host === host && this.#address.port === port;
    this.#address = { host, port };
    if (!same && this.#sessions !== undefined) this.#cut(this.#sessions, undefined);
    const up = this.ready();
    if (!this.#running) void this.#run();
    const timeout = new AbortController();
    try {
      await Promise.race([
        up,
        sleep(CONNECT_TIMEOUT_MS, undefined, { signal: timeout.signal }).then(() => {
          const why = this.#last;
          throw ferryError("E_LINK_LOST", `the destination's mover at ${host}:${port} does not answer`, {
            side: "source",
            phase: "reserve",
            ...(why === undefined ? {} : { cause: why }),
          });
        }),
      ]);
    } finally {
      timeout.abort();
      up.catch(() => undefined);
    }
  }

  /** The sessions, now or when they are up again. */
  ready(): Promise<Sessions> {
    const sessions = this.#sessions;
    if (sessions !== undefined) return Promise.resolve(sessions);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Resolves when these sessions, one of which has ended, are known to be lost. */
  async lost(sessions: Sessions): Promise<void> {
    if (this.#sessions !== sessions) return;
    await new Promise<void>((resolve) => sessions.control.onClose(() => resolve()));
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#settle((waiter) => waiter.reject(ferryError("E_CANCELLED", "the mover was told to exit")));
    const sessions = this.#sessions;
    this.#sessions = undefined;
    if (sessions !== undefined) {
      await Promise.all([sessions.control.close(), sessions.bulk.close(), sessions.fault.close()]);
    }
  }

  #settle(how: (waiter: Waiter) => void): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const waiter of waiting) how(waiter);
  }

  async #run(): Promise<void> {
    this.#running = true;
    let waitMs = FIRST_WAIT_MS;
    while (!this.#closed && this.#address !== undefined) {
      try {
        const { lost } = await this.#dial(this.#address);
        const upAt = performance.now();
        await lost;
        // Sessions that come and go at once are no better than none: two dialers could take them from each other for ever.
        if (performance.now() - upAt > STEADY_MS) waitMs = FIRST_WAIT_MS;
        else waitMs = await this.#pause(waitMs);
      } catch (error) {
        this.#last = toFailure(error, "E_LINK_LOST");
        this.#options.log("link: could not connect", { failure: this.#last });
        if (!this.#everUp && !AGAIN.has(this.#last.code)) {
          const failure = this.#last;
          this.#settle((waiter) => waiter.reject(new FerryError(failure)));
          break;
        }
        waitMs = await this.#pause(waitMs);
      }
    }
    this.#running = false;
  }

  /** Returns the next pause, in milliseconds. */
  async #pause(waitMs: number): Promise<number> {
    await sleep(waitMs);
    return Math.min(MAX_WAIT_MS, waitMs * 2);
  }

  /** Resolves when the sessions are up, with a promise of their loss. */
  async #dial({ host, port }: { host: string; port: number }): Promise<{ lost: Promise<void> }> {
    const { identity, peer, hello } = this.#options;
    const dial = (purpose: Hello["purpose"]): Promise<LinkSession> =>
      dialLink({ identity, host, port, peer, hello: { ...hello, purpose } });
    const dials = await Promise.allSettled([dial("control"), dial("bulk"), dial("fault")]);
    const up = dials.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
    const [control, bulk, fault] = up;
    if (control === undefined || bulk === undefined || fault === undefined || this.#closed) {
      for (const session of up) session.destroy();
      const failed = dials.find((result) => result.status === "rejected");
      throw failed?.reason ?? ferryError("E_CANCELLED", "the mover was told to exit");
    }
    const sessions = { control, bulk, fault };
    this.#sessions = sessions;
    this.#everUp = true;
    this.#last = undefined;
    const lost = new Promise<void>((resolve) => {
      for (const session of up) {
        session.onClose((failure) => {
          this.#cut(sessions, failure);
          resolve();
        });
      }
    });
    this.#options.onUp(sessions);
    this.#settle((waiter) => waiter.resolve(sessions));
    return { lost };
  }

  /** One of them is lost: so are the others. */
  #cut(sessions: Sessions, failure: FailureData | undefined): void {
    if (this.#sessions !== sessions) return;
    this.#sessions = undefined;
    for (const session of [sessions.control, sessions.bulk, sessions.fault]) session.destroy();
    this.#options.onDown(sessions, failure);
  }
}

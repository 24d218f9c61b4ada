/** One stream of the bulk session at the source: an rsync client and its server, or a look at the destination's volume. */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { ferryError } from "../../model/failure.js";
import type { LinkSession } from "../link/index.js";
import type { FrameMeta } from "../mover/messages.js";
import { collectLines, startClient, type LookKind, type PassEnd, type PassKind, type RsyncClient } from "./rsync.js";
import { whatItDoes } from "./touched.js";

/** After the client has ended, this long for the server's own words, in milliseconds. */
const LAST_WORDS_MS = 1000;
const LOOK_MS = 500;
/** In one and the same open call at so many looks in a row: no file takes so long. */
const OPENING_LOOKS = 4;
/** At so many looks nothing has come, nothing has gone, and nothing was computed here. */
const STILL_LOOKS = 120;

export type Exit = FrameMeta<"volume-exit">;
/** Waits until so many bytes may be sent. */
export type Take = (bytes: number) => Promise<void>;

export interface VolumeStream {
  readonly session: LinkSession;
  readonly stream: number;
  readonly bytes: number;
  received(data: Buffer): Promise<void> | undefined;
  /** The server has ended, after everything that it said. */
  farEndEnded(exit: Exit): void;
  end(): void;
}

/** One rsync client and the stream to its server. Its server's first words are held back until it is run ("armed"). */
export class Pass implements VolumeStream {
  readonly session: LinkSession;
  readonly stream: number;
  readonly #client: RsyncClient;
  readonly #lines: string[];
  readonly #ended: Promise<{ code: number | null; signal: string | null }>;
  readonly #serverEnded: Promise<Exit>;
  #serverExit: (exit: Exit) => void = () => undefined;
  #farEnded = false;
  #held: Buffer[] | undefined = [];
  #bytesReceived = 0;
  bytes = 0;
  alive = true;

  constructor(
    session: LinkSession,
    { stream, kind, gentle }: { stream: number; kind: PassKind; gentle: boolean },
    dir: string,
    take: Take,
  ) {
    this.session = session;
    this.stream = stream;
    this.#client = startClient(kind, gentle, dir);
    const { child, wire, list, errors } = this.#client;
    this.#lines = collectLines(errors);
    wire.on("error", () => undefined);
    list?.on("error", () => undefined);
    this.#serverEnded = new Promise((resolve) => (this.#serverExit = resolve));
    this.#ended = new Promise((resolve, reject) => {
      child.once("error", (error) => {
        this.alive = false;
        reject(
          ferryError("E_TOOL", `rsync could not be started: ${error.message}`, { remedy: "install rsync on the node" }),
        );
      });
      child.once("close", (code, signal) => resolve({ code, signal }));
      child.once("exit", () => {
        this.alive = false;
        // cat, which feeds rsync, still holds the socket
        wire.destroy();
      });
    });
    this.#ended.catch(() => undefined);
    void this.#pump(take, { stream, kind, gentle });
  }

  async #pump(take: Take, open: FrameMeta<"volume-open">): Promise<void> {
    const { stream } = this;
    try {
      await this.session.send("volume-open", open);
      for await (const chunk of this.#client.wire as AsyncIterable<Buffer>) {
        await take(chunk.length);
        await this.session.send("volume-data", { stream }, chunk);
        this.bytes += chunk.length;
      }
    } catch {
      // the session or the pipe is gone: the client's end, or the loss of the session, is what counts
    }
    if (!this.session.closed) await this.session.send("volume-eof", { stream }).catch(() => undefined);
  }

  async received(data: Buffer): Promise<void> {
    this.#bytesReceived += data.length;
    if (this.#held !== undefined) this.#held.push(data);
    else await this.#write(data);
  }

  async #write(data: Buffer): Promise<void> {
    if (this.#client.wire.writable && !this.#client.wire.write(data)) {
      await Promise.race([once(this.#client.wire, "drain"), once(this.#client.wire, "close")]).catch(() => undefined);
    }
  }

  /** The client sees the end of its connection. */
  farEndEnded(exit: Exit): void {
    this.#serverExit(exit);
    this.#farEnded = true;
    if (this.#held === undefined) this.#client.wire.end();
  }

  /** Lets an armed client begin, with its list if it takes one, and waits for its end. */
  async run(list?: Buffer): Promise<PassEnd> {
    const held = this.#held ?? [];
    this.#held = undefined;
    // A few bytes: not waited for, so that nothing that arrives meanwhile overtakes them.
    for (const data of held) this.#client.wire.write(data);
    if (this.#farEnded) this.#client.wire.end();
    this.#client.list?.end(list ?? "");
    const { code, signal } = await this.#ended;
    const server = code === 0 ? undefined : await Promise.race([this.#serverEnded, sleep(LAST_WORDS_MS)]);
    return { exitCode: code, signal, lines: this.#lines, serverLines: server === undefined ? [] : server.lines };
  }

  /**
   * A file may become a pipe after rsync has looked at it: then rsync waits for somebody to write into it, maybe for ever.
   * Such a pass is ended, and one in which nothing goes on at all. Answers whether it was, when the pass has ended.
   */
  async endWhenStuck(): Promise<boolean> {
    let opens: string | undefined;
    let [opening, still] = [0, 0];
    let seen = "";
    while (this.alive && opening < OPENING_LOOKS && still < STILL_LOOKS) {
      await Promise.race([sleep(LOOK_MS), this.#ended.catch(() => undefined)]);
      const now = whatItDoes(this.#client.child.pid ?? 0);
      opening = now.opens !== undefined && now.opens === opens ? opening + 1 : 0;
      opens = now.opens;
      const state = `${now.ticks} ${this.bytes} ${this.#bytesReceived}`;
      still = state === seen ? still + 1 : 0;
      seen = state;
    }
    if (!this.alive) return false;
    this.end();
    return true;
  }

  /** Until the server has ended, too: then nobody writes to the destination's volume any more. */
  async quiet(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.session.onClose(() => resolve()));
    if (!this.session.closed) await Promise.race([this.#serverEnded, closed]);
  }

  end(): void {
    this.#client.child.kill("SIGKILL");
    this.#client.wire.destroy();
  }
}

/** A question about the destination's volume, and its answer. */
export class Look implements VolumeStream {
  readonly session: LinkSession;
  readonly stream: number;
  readonly bytes = 0;
  /** What it says; undefined: it could not say, or the session was lost. */
  readonly answer: Promise<Buffer | undefined>;
  readonly #said: Buffer[] = [];
  #done: (answer: Buffer | undefined) => void = () => undefined;

  constructor(session: LinkSession, open: { stream: number; kind: LookKind; gentle: boolean }) {
    this.session = session;
    this.stream = open.stream;
    this.answer = new Promise((resolve) => (this.#done = resolve));
    session.send("volume-open", open).catch(() => this.end());
  }

  received(data: Buffer): undefined {
    // the session lends it
    this.#said.push(Buffer.from(data));
  }

  farEndEnded({ exitCode }: Exit): void {
    this.#done(exitCode === 0 ? Buffer.concat(this.#said) : undefined);
  }

  end(): void {
    this.#done(undefined);
  }
}

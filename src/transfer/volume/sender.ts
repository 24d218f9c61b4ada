/**
 * The source's end of the volume: passes of rsync through the bulk session. The server of the next pass is started
 * beforehand and its first bytes are held back ("armed"), so that starting two programs does not lie in the blackout.
 */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { FerryError, ferryError } from "../../model/failure.js";
import type { LinkSession } from "../link/index.js";
import type { FrameMeta } from "../mover/messages.js";
import {
  collectLines,
  passFailure,
  passOk,
  startClient,
  type PassEnd,
  type PassKind,
  type RsyncClient,
} from "./rsync.js";
import { Suspects } from "./suspects.js";

/** After the client has ended, this long for the server's own words, in milliseconds. */
const LAST_WORDS_MS = 1000;

type Exit = FrameMeta<"volume-exit">;

/** One rsync client and the stream to its server. */
class Pass {
  readonly kind: PassKind;
  readonly listed: boolean;
  readonly session: LinkSession;
  readonly stream: number;
  readonly #client: RsyncClient;
  readonly #lines: string[];
  readonly #ended: Promise<{ code: number | null; signal: string | null }>;
  readonly #serverEnded: Promise<Exit>;
  #serverExit: (exit: Exit) => void = () => undefined;
  #farEnded = false;
  #held: Buffer[] | undefined = [];
  bytes = 0;
  alive = true;

  constructor(session: LinkSession, stream: number, kind: PassKind, listed: boolean, dir: string, take: Take) {
    this.session = session;
    this.stream = stream;
    this.kind = kind;
    this.listed = listed;
    this.#client = startClient(kind, listed, dir);
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
    void this.#pump(take);
  }

  async #pump(take: Take): Promise<void> {
    try {
      await this.session.send("volume-open", { stream: this.stream, kind: this.kind, listed: this.listed });
      for await (const chunk of this.#client.wire as AsyncIterable<Buffer>) {
        await take(chunk.length);
        await this.session.send("volume-data", { stream: this.stream }, chunk);
        this.bytes += chunk.length;
      }
    } catch {
      // the session or the pipe is gone: the client's end, or the loss of the session, is what counts
    }
    if (!this.session.closed) await this.session.send("volume-eof", { stream: this.stream }).catch(() => undefined);
  }

  async received(data: Buffer): Promise<void> {
    if (this.#held !== undefined) this.#held.push(data);
    else await this.#write(data);
  }

  async #write(data: Buffer): Promise<void> {
    if (this.#client.wire.writable && !this.#client.wire.write(data)) {
      await Promise.race([once(this.#client.wire, "drain"), once(this.#client.wire, "close")]).catch(() => undefined);
    }
  }

  /** The server has ended, after everything that it said: the client sees the end of its connection. */
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

  end(): void {
    this.#client.child.kill("SIGKILL");
    this.#client.wire.destroy();
  }
}

/** Waits until so many bytes may be sent. */
export type Take = (bytes: number) => Promise<void>;

export interface VolumeSenderOptions {
  dir: string;
  take: Take;
  /** The bulk session, as soon as there is one; rejects when there will be none. */
  session: () => Promise<LinkSession>;
  onChange: (urgent: boolean) => void;
  log: (message: string, fields?: object) => void;
}

export class VolumeSender {
  readonly #options: VolumeSenderOptions;
  readonly #suspects = new Suspects();
  readonly #passes = new Map<number, Pass>();
  readonly #armed = new Map<string, Pass>();
  #nextStream = 1;
  #bytesBefore = 0;
  #busy: Promise<void> = Promise.resolve();
  passes = 0;
  finalDone = false;

  constructor(options: VolumeSenderOptions) {
    this.#options = options;
  }

  get bytesSent(): number {
    let sum = this.#bytesBefore;
    for (const pass of this.#passes.values()) sum += pass.bytes;
    return sum;
  }

  /** A new bulk session is up: the destination hears again what it may have missed. */
  attach(session: LinkSession): void {
    if (this.finalDone) void session.send("volume-final", {}).catch(() => undefined);
  }

  /** The bulk session is lost, and the passes that used it. */
  detach(session: LinkSession): void {
    for (const pass of this.#passes.values()) {
      if (pass.session === session) this.#drop(pass);
    }
  }

  received(type: "volume-data" | "volume-exit", meta: { stream: number }, payload: Buffer): Promise<void> | undefined {
    const pass = this.#passes.get(meta.stream);
    if (type === "volume-data") return pass?.received(payload);
    pass?.farEndEnded(meta as Exit);
    return undefined;
  }

  /** One whole pass while the workload runs. Starts again when the link was lost in between. Throws E_VOLUME, E_NO_SPACE. */
  presync(pids: readonly number[] | undefined): Promise<void> {
    return this.#alone(async () => {
      this.finalDone = false;
      this.#suspects.passStarts(pids);
      await this.#pass("tree", false, undefined, true);
      void this.#arm();
    });
  }

  /** The exact pass: nothing runs that could write. Throws E_VOLUME, E_NO_SPACE. */
  finalSync(pids: readonly number[] | undefined): Promise<void> {
    return this.#alone(async () => {
      if (this.finalDone) return;
      const everything = this.#suspects.everything();
      this.#suspects.passStarts(pids);
      const whole = everything ?? this.#suspects.everything();
      const listing = whole === undefined ? this.#suspects.list(this.#options.dir) : undefined;
      listing?.catch(() => undefined);
      const start = performance.now();
      await this.#pass("tree", false, undefined, false);
      const tree = performance.now();
      const list = await listing;
      if (list === undefined) await this.#pass("content", false, undefined, false);
      else if (list.length > 0) await this.#pass("content", true, list, false);
      this.#options.log("volume: final pass", {
        treeMs: Math.round(tree - start),
        contentMs: Math.round(performance.now() - tree),
        compared: whole ?? `${list?.reduce((sum, byte) => (byte === 0 ? sum + 1 : sum), 0) ?? 0} files`,
      });
      this.finalDone = true;
      this.#disarm();
      const session = await this.#options.session();
      await session.send("volume-final", {}).catch(() => undefined);
      this.#options.onChange(true);
    });
  }

  close(): void {
    for (const pass of this.#passes.values()) pass.end();
  }

  /** Passes never overlap: requests wait for each other. */
  #alone(work: () => Promise<void>): Promise<void> {
    const turn = this.#busy.then(work);
    this.#busy = turn.catch(() => undefined);
    return turn;
  }

  async #pass(kind: PassKind, listed: boolean, list: Buffer | undefined, running: boolean): Promise<void> {
    for (;;) {
      const session = await this.#options.session();
      const key = `${kind} ${listed}`;
      const armed = this.#armed.get(key);
      this.#armed.delete(key);
      const pass =
        armed !== undefined && armed.alive && armed.session === session && !session.closed
          ? armed
          : this.#open(session, kind, listed);
      const end = await pass.run(list);
      const lost = session.closed;
      this.#drop(pass);
      if (passOk(end, running)) {
        this.passes += 1;
        this.#options.onChange(true);
        return;
      }
      if (!lost) throw passFailure(end, running ? "presync" : "transfer");
      this.#options.log("volume: the link was lost in a pass, starting it again");
    }
  }

  #open(session: LinkSession, kind: PassKind, listed: boolean): Pass {
    const stream = this.#nextStream++;
    const take: Take = async (bytes) => {
      await this.#options.take(bytes);
      this.#options.onChange(false);
    };
    const pass = new Pass(session, stream, kind, listed, this.#options.dir, take);
    this.#passes.set(stream, pass);
    return pass;
  }

  #drop(pass: Pass): void {
    if (!this.#passes.delete(pass.stream)) return;
    this.#bytesBefore += pass.bytes;
    pass.end();
  }

  async #arm(): Promise<void> {
    this.#disarm();
    try {
      const session = await this.#options.session();
      this.#armed.set("tree false", this.#open(session, "tree", false));
      const listed = this.#suspects.everything() === undefined;
      this.#armed.set(`content ${listed}`, this.#open(session, "content", listed));
    } catch (error) {
      this.#options.log("volume: could not arm", {
        problem: error instanceof FerryError ? error.message : String(error),
      });
    }
  }

  #disarm(): void {
    for (const pass of this.#armed.values()) this.#drop(pass);
    this.#armed.clear();
  }
}

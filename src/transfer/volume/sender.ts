/**
 * The source's end of the volume: passes through the bulk session, again and again while the workload runs, and once when
 * it stands still. A pass compares by content what may have changed since the last whole one (suspects.ts), and only that;
 * with nothing suspect there is nothing to do. What the last pass needs is started beforehand ("armed"), so that starting
 * programs does not lie in the blackout.
 */
import { FerryError, toFailure } from "../../model/failure.js";
import type { LinkSession } from "../link/index.js";
import { Look, Pass, type Exit, type Take, type VolumeStream } from "./pass.js";
import { passFailure, passResult, REFUSALS, type LookKind, type PassKind } from "./rsync.js";
import { Suspects, type Changes, type Mark } from "./suspects.js";
import type { Entry } from "./walk.js";

/** A pass beside the running workload, which may be cut. Undefined where it stands for one: the last pass, which may not. */
interface Running {
  pass?: Pass;
  cut: boolean;
  /** The workload was in its way: what was suspect stays so. */
  partial: boolean;
  /** There will be no other attempt at a first pass: what rsync refuses now, it will always refuse. */
  last: boolean;
}

const wasCut = (running: Running | undefined): boolean => running?.cut === true;

const sum = (files: readonly Entry[]): number => files.reduce((total, { bytes }) => total + bytes, 0);

/** The first pass is tried so often when the workload is in its way. */
const MOST_ATTEMPTS = 3;
const ARMED: readonly PassKind[] = ["in-place", "tree"];

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
  readonly #suspects: Suspects;
  readonly #streams = new Map<number, VolumeStream>();
  readonly #armed = new Map<PassKind, Pass>();
  /** Files of several names on the destination, as they were after the last pass; undefined: not known. */
  #linked: ReadonlySet<string> | undefined;
  /** The session that was looked at last, and what the destination's machine called its boot. */
  #known: { session?: LinkSession; boot?: string } = {};
  #nextStream = 1;
  #bytesBefore = 0;
  #busy: Promise<void> = Promise.resolve();
  #running: Running | undefined;
  passes = 0;
  finalDone = false;
  /** See SourceMoverStatus. */
  last = { comparedBytes: 0, durationMs: 0, sinceMs: 0 };

  constructor(options: VolumeSenderOptions) {
    this.#options = options;
    this.#suspects = new Suspects(options.dir);
  }

  get bytesSent(): number {
    let total = this.#bytesBefore;
    for (const { bytes } of this.#streams.values()) total += bytes;
    return total;
  }

  /** A new bulk session is up: the destination hears again what it may have missed. */
  attach(session: LinkSession): void {
    if (this.finalDone) void session.send("volume-final", {}).catch(() => undefined);
  }

  /** The bulk session is lost, and the streams that used it. */
  detach(session: LinkSession): void {
    for (const stream of this.#streams.values()) {
      if (stream.session === session) this.#drop(stream);
    }
  }

  received(type: "volume-data" | "volume-exit", meta: { stream: number }, payload: Buffer): Promise<void> | undefined {
    const stream = this.#streams.get(meta.stream);
    if (type === "volume-data") return stream?.received(payload);
    stream?.farEndEnded(meta as Exit);
    return undefined;
  }

  /**
   * One pass while the workload runs, beside it. Starts again when the link was lost in between; answers when it is done,
   * or cut. Throws E_VOLUME, E_NO_SPACE.
   */
  presync(pids: readonly number[] | undefined): Promise<void> {
    return this.#alone(async () => {
      this.finalDone = false;
      for (let attempt = 1; attempt <= MOST_ATTEMPTS; attempt += 1) {
        const running: Running = { cut: false, partial: false, last: attempt === MOST_ATTEMPTS };
        this.#running = running;
        try {
          await this.#whole(pids, running);
        } finally {
          this.#running = undefined;
        }
        if (running.cut) return;
        if (this.#suspects.known) break;
      }
      await this.#arm();
    });
  }

  /** The pass under way while the workload runs ends soon; what it has brought stays. */
  cut(): void {
    if (this.#running === undefined) return;
    this.#running.cut = true;
    this.#running.pass?.end();
  }

  /** The exact pass: nothing runs that could write. Throws E_VOLUME, E_NO_SPACE. */
  finalSync(pids: readonly number[] | undefined): Promise<void> {
    return this.#alone(async () => {
      if (this.finalDone) return;
      await this.#whole(pids, undefined);
      this.finalDone = true;
      this.#disarm();
      const session = await this.#options.session();
      await session.send("volume-final", {}).catch(() => undefined);
      this.#options.onChange(true);
    });
  }

  close(): void {
    this.#suspects.disarm();
    for (const stream of this.#streams.values()) stream.end();
  }

  /** Passes never overlap: requests wait for each other. */
  #alone(work: () => Promise<void>): Promise<void> {
    const turn = this.#busy.then(work);
    this.#busy = turn.catch(() => undefined);
    return turn;
  }

  /** Everything that may have changed since the last whole pass. `running`: until it is cut. */
  async #whole(pids: readonly number[] | undefined, running: Running | undefined): Promise<void> {
    const gentle = running !== undefined;
    const start = performance.now();
    await this.#sameBoot(gentle);
    const mark = await this.#suspects.mark(pids, !gentle);
    let said: object = { compared: "nothing: no file was there" };
    let last = { comparedBytes: 0, sinceMs: 0 };
    if (gentle && !this.#suspects.known && (await this.#look("files", gentle))?.length === 0) {
      // Nothing is there that could be mistaken for the same.
      this.#linked = undefined;
      await this.#pass("tree", undefined, running);
    } else {
      const changes = await this.#changes(mark, running);
      if (changes === undefined) return;
      said = await this.#send(changes, running);
      if (changes.sinceMs > 0) last = { comparedBytes: sum(changes.files), sinceMs: changes.sinceMs };
    }
    if (wasCut(running)) return;
    if (!(await this.#sameBoot(gentle))) return this.#whole(pids, running);
    if (running?.partial === true) {
      this.#options.log("volume: pass, to be done again", said);
      return;
    }
    this.#suspects.completed(mark);
    if (gentle) this.#linked ??= await this.#links(gentle);
    this.passes += 1;
    this.last = { ...last, durationMs: last.sinceMs === 0 ? 0 : performance.now() - start };
    this.#options.log(gentle ? "volume: pass" : "volume: final pass", {
      ...said,
      durationMs: Math.round(performance.now() - start),
    });
    this.#options.onChange(true);
  }

  /** After a new connection: is it the same machine, not started anew? Else what it had may be lost, and is forgotten. */
  async #sameBoot(gentle: boolean): Promise<boolean> {
    for (;;) {
      const session = await this.#options.session();
      if (session === this.#known.session) return true;
      const boot = (await this.#look("boot", gentle))?.toString("latin1");
      if (boot === undefined) continue;
      const same = this.#known.boot === undefined || this.#known.boot === boot;
      this.#known = { session, boot };
      if (!same) {
        this.#suspects.forget();
        this.#linked = undefined;
        return false;
      }
    }
  }

  async #changes(mark: Mark, running: Running | undefined): Promise<Changes | undefined> {
    try {
      return await this.#suspects.changes(mark, running !== undefined);
    } catch (error) {
      // Directories that move under it are too much for find.
      if (running === undefined) throw error;
      this.#options.log("volume: pass, to be done again", { failure: toFailure(error) });
      return undefined;
    }
  }

  async #send({ files, structure, everything }: Changes, running: Running | undefined): Promise<object> {
    const gentle = running !== undefined;
    if (files.length > 0) this.#linked ??= await this.#links(gentle);
    const linked = this.#linked;
    const alone = ({ links, path }: Entry): boolean => links === 1 && linked?.has(path) === false;
    const single = files.filter((file) => alone(file));
    const others = files.filter((file) => !alone(file));
    const tree = structure || others.length > 0;
    if (tree) this.#linked = undefined;
    if (single.length > 0) await this.#pass("in-place", single, running);
    if (others.length > 0) await this.#pass("anew", others, running);
    // Last, since building files anew moves the times of directories.
    if (tree) await this.#pass("tree", undefined, running);
    return {
      inPlace: single.length,
      anew: others.length,
      tree,
      bytes: sum(files),
      ...(everything === undefined ? {} : { everything }),
    };
  }

  async #links(gentle: boolean): Promise<ReadonlySet<string> | undefined> {
    const answer = await this.#look("links", gentle);
    return answer === undefined ? undefined : new Set(answer.toString("latin1").split("\0"));
  }

  async #look(kind: LookKind, gentle: boolean): Promise<Buffer | undefined> {
    const session = await this.#options.session();
    const look = new Look(session, { stream: this.#nextStream++, kind, gentle });
    this.#streams.set(look.stream, look);
    if (session.closed) look.end();
    try {
      return await look.answer;
    } finally {
      this.#drop(look);
    }
  }

  async #pass(kind: PassKind, files: readonly Entry[] | undefined, running: Running | undefined): Promise<void> {
    const gentle = running !== undefined;
    const list = files && Buffer.from(files.map(({ path }) => `${path}\0`).join(""), "latin1");
    for (;;) {
      const session = await this.#options.session();
      if (wasCut(running)) return;
      const armed = gentle ? undefined : this.#armed.get(kind);
      const pass =
        armed !== undefined && armed.alive && armed.session === session && !session.closed
          ? armed
          : this.#open(session, kind, gentle);
      if (armed !== undefined) this.#armed.delete(kind);
      if (running !== undefined) running.pass = pass;
      const [end, stuck] = await Promise.all([pass.run(list), gentle && pass.endWhenStuck()]);
      const lost = session.closed;
      const cut = wasCut(running);
      if (end.exitCode !== 0) await pass.quiet();
      this.#drop(pass);
      const result = stuck ? "partial" : passResult(end, gentle);
      if (cut || result === "done") {
        this.#options.onChange(true);
        return;
      }
      if (!lost && result === "partial" && running !== undefined && !(running.last && REFUSALS.has(end.exitCode))) {
        running.partial = true;
        this.#options.log(`volume: pass ${kind} was disturbed`, { lines: end.lines.slice(-5) });
        this.#options.onChange(true);
        return;
      }
      if (!lost) throw passFailure(end, kind, gentle ? "presync" : "transfer");
      this.#options.log("volume: the link was lost in a pass, starting it again");
    }
  }

  #open(session: LinkSession, kind: PassKind, gentle: boolean): Pass {
    const take: Take = async (bytes) => {
      await this.#options.take(bytes);
      this.#options.onChange(false);
    };
    const pass = new Pass(session, { stream: this.#nextStream++, kind, gentle }, this.#options.dir, take);
    this.#streams.set(pass.stream, pass);
    return pass;
  }

  #drop(stream: VolumeStream): void {
    if (!this.#streams.delete(stream.stream)) return;
    this.#bytesBefore += stream.bytes;
    stream.end();
  }

  async #arm(): Promise<void> {
    this.#suspects.arm();
    try {
      const session = await this.#options.session();
      for (const kind of ARMED) {
        const armed = this.#armed.get(kind);
        if (armed?.alive === true && armed.session === session) continue;
        if (armed !== undefined) this.#drop(armed);
        this.#armed.set(kind, this.#open(session, kind, false));
      }
    } catch (error) {
      this.#options.log("volume: could not arm", {
        problem: error instanceof FerryError ? error.message : String(error),
      });
    }
  }

  #disarm(): void {
    this.#suspects.disarm();
    for (const pass of this.#armed.values()) this.#drop(pass);
    this.#armed.clear();
  }
}

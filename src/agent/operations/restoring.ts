/**
 * Running a workload from a checkpoint. The journal owns it already; nothing else of it is open here.
 *
 *   files -> images -> restored, held in post-restore -> pages -> the hold is released -> link up -> every page in place
 *   (lazy: the hold is released at once)
 *
 * An ordinary destination's mover takes in what the feed (checkpoints/feed) gives it from the store, as if that were the
 * source of a migration. It runs when every page is here and was checked, or after a while, if the store is slow: then what
 * it touches comes first. Answered when nothing of it depends on the store any more. An agent that dies meanwhile finds
 * both processes at it when the same is asked again.
 */
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { AddressClaim } from "../../host/address-claim.js";
import { bareIp } from "../../model/address.js";
import type { CheckpointSource } from "../../model/checkpoints.js";
import { ferryError, toFailure, type FerryError } from "../../model/failure.js";
import { hasResumed, type EngineHandle, type Incarnation } from "../../runtimes/runtime.js";
import { verifyImages } from "../../transfer/images/verify.js";
import { failpoint } from "../failpoint.js";
import type { NodeContext } from "./node-context.js";
import { demandRestorable, didNothingLater } from "./restore-check.js";
import { RESTORE_KIND, restoreDirs, RestoreMovers, sweepRestore, type RestoreDirs } from "./restore-movers.js";
import { RestoredFiles } from "./restored-files.js";
import { keepTouched } from "./working-set.js";

/** Pages that come within this time are all there, and checked, before it runs; not waited for where it is to run at once. */
const PAGES_FIRST_MS = 5000;
const RESTORE_MS = 600_000;
const AGAIN_MS = 200;
const ATTEMPTS = 3;
/** There from before it is let run. */
const RELEASED = "released";

export interface RestoreWhat {
  incarnation: Pick<Incarnation, "spec" | "epoch">;
  checkpoint: string;
  /** Whose it is. */
  of: string;
  /** Epoch under which it ran last; missing: nobody knows what it did after the checkpoint. */
  last?: number;
  /** The checkpoint that it was let go with, if nothing of it has run since, as the workflow knows it. */
  letGoWith?: string | undefined;
  /** It runs before its pages are here: what it touches comes first. */
  lazy?: boolean;
}

export class Restoring {
  private readonly context: NodeContext;
  private readonly what: RestoreWhat;
  private readonly name: string;
  private readonly epoch: number;
  private readonly dirs: RestoreDirs;
  private readonly files: RestoredFiles;
  /** Held from before its files are brought until its own link is up. */
  private address: AddressClaim | undefined;
  private claiming: Promise<AddressClaim> | undefined;
  /** It was let go here to sleep, and nothing has run since. */
  private slept = false;
  private movers: RestoreMovers | undefined;
  private givenUp: FerryError | undefined;
  /** Every page is in place. */
  private isDone = false;

  constructor(context: NodeContext, what: RestoreWhat) {
    this.context = context;
    this.what = what;
    this.name = what.incarnation.spec.name;
    this.epoch = what.incarnation.epoch;
    this.dirs = restoreDirs(context, this.name, this.epoch);
    this.files = new RestoredFiles(context.config, this.name, this.epoch);
  }

  private get released(): string {
    return join(this.dirs.mover.root, RELEASED);
  }
  private log(level: "info" | "warn" | "error", message: string, fields: Record<string, unknown> = {}): void {
    const { checkpoint } = this.what;
    this.context.log(level, message, { workload: this.name, epoch: this.epoch, checkpoint, ...fields });
  }

  /**
   * success: it runs, every page is in place, or (pid 0) it has ended by itself since; `done` once that is journaled.
   * failure: nothing of it is left but files.
   */
  async run(): Promise<{ pid: number; done: () => Promise<void> }> {
    try {
      return await this.bring();
    } finally {
      await this.claiming?.catch(() => undefined);
      this.address?.close();
    }
  }

  private async bring(): ReturnType<Restoring["run"]> {
    let { incarnation }: { incarnation: Incarnation } = this.what;
    const before = this.hasRun();
    if (!before) await this.sweep();
    let brought = before;
    for (let attempt = 1; ; attempt += 1) {
      // They open the checkpoint while its files are brought back.
      const movers = await this.startMovers();
      try {
        if (!brought) {
          incarnation = await this.bringFiles();
          brought = true;
        }
        if (!before) {
          await this.restoreHeld(movers, incarnation);
          await this.release(movers, incarnation);
        } else movers.take();
        await this.drain(movers, incarnation);
        movers.broken.throwIfAborted();
        this.isDone = true;
        this.keepWorkingSet();
        const { pid } = await this.context.runtime.observe({ name: this.name, epoch: this.epoch });
        const done = async (): Promise<void> => {
          await movers.end();
          // One that has only slept: what was here is what is in the checkpoint, and would pile up with every night.
          if (this.slept) await this.files.forget();
        };
        return { pid: pid ?? 0, done };
      } catch (error) {
        movers.stop();
        const failure = toFailure(error, "E_RESTORE");
        const ran = existsSync(this.released);
        // One of the two has died before anything ran.
        const again = !ran && brought && attempt < ATTEMPTS && failure.code === "E_PAGES";
        this.log("error", again ? "it is restored once more" : "it could not be restored", { failure });
        await this.sweep();
        if (again) continue;
        // What it has written itself may be worth a look. What was not replaced stays.
        if (!ran && brought) await this.files.putBack();
        throw error;
      }
    }
  }

  /** How much of its memory is in place; undefined: nothing is known yet. */
  get pages(): { total: number; inPlace: number; runs: boolean } | undefined {
    const pages = this.movers?.mover.status?.pages;
    if (pages === undefined) return undefined;
    return { total: pages.total, inPlace: pages.filled, runs: existsSync(this.released) };
  }

  /** A person does not want it any more: it ends where it stands, and `run` fails. false: it is done, or another one. */
  giveUp(epoch: number): boolean {
    if (epoch !== this.epoch || this.isDone) return false;
    this.givenUp = ferryError("E_CANCELLED", `the restore of ${this.name} was called off`, { workload: this.name });
    this.movers?.giveUp(this.givenUp);
    return true;
  }

  /** For the next time. Nobody waits for it. */
  private keepWorkingSet(): void {
    const { of, checkpoint } = this.what;
    keepTouched(this.context, this.dirs.mover.store, of, checkpoint).then(
      (runs) => this.log("info", "its working set is kept", { runs }),
      (error: unknown) => this.log("warn", "its working set is not kept", { failure: toFailure(error) }),
    );
  }

  /** An earlier attempt has let it run, and its agent has died. It may have ended since: it is not run twice. */
  private hasRun(): boolean {
    if (!existsSync(this.released)) return false;
    const status = this.context.runtime.adoptRestore(this.dirs.mover)?.status();
    return status !== undefined && hasResumed(status);
  }

  private async bringFiles(): Promise<Incarnation> {
    const { incarnation, checkpoint, of, last } = this.what;
    const { config } = this.context;
    const { ip } = incarnation.spec.network;
    const store = await this.context.store.open();
    const reader = await store.read(of, checkpoint);
    try {
      const claiming = AddressClaim.take(config.bridge, bareIp(ip)).then((claim) => (this.address = claim));
      this.claiming = claiming;
      const [before] = await Promise.all([demandRestorable(store, reader, config.node, incarnation.spec), claiming]);
      this.demandAddress();
      const clone = of !== this.name || before.network.ip !== ip;
      this.log("info", "its files are brought back", { of, clone });
      await this.files.bring(reader);
      const holds = this.context.book.holds(this.name);
      const goesOn = !clone && didNothingLater(reader.manifest, this.what, holds);
      const asleep = this.context.book.sleepers().some(({ workload, epoch }) => workload === of && epoch === last);
      this.slept = asleep && goesOn;
      return { ...incarnation, closeConnections: !goesOn };
    } finally {
      await reader.close();
    }
  }

  private demandAddress(): void {
    const taken = this.address?.takenBy;
    if (taken === undefined) return;
    const { ip } = this.what.incarnation.spec.network;
    throw ferryError(
      "E_IP_CONFLICT",
      `${this.name} was not restored: its address ${bareIp(ip)} is in use by ${taken}`,
      {
        workload: this.name,
        remedy: "give another address with --ip, or stop what uses this one",
      },
    );
  }

  private async startMovers(): Promise<RestoreMovers> {
    const { checkpoint, of } = this.what;
    const what = { workload: this.name, epoch: this.epoch, checkpoint: { workload: of, id: checkpoint } };
    const movers = await RestoreMovers.start(this.context, this.dirs, what);
    this.movers = movers;
    if (this.givenUp !== undefined) movers.giveUp(this.givenUp);
    return movers;
  }

  private async restoreHeld(movers: RestoreMovers, incarnation: Incarnation): Promise<void> {
    const { runtime } = this.context;
    const { mover, broken } = movers;
    const dirs = this.dirs.mover;
    broken.throwIfAborted();
    await runtime.prepare(incarnation, dirs);
    movers.take();
    const { images } = await mover.wait((status) => status.images.received, broken);
    if (images.digest === undefined) throw ferryError("E_IMAGE_INCOMPLETE", "the images came without a digest");
    await failpoint("destination.restore");
    const engine = await runtime.restore(incarnation, dirs);
    const unchanged = verifyImages(dirs.images, images.digest);
    unchanged.catch(() => undefined);
    const held = engine.wait((status) => status.reached["post-restore"] !== undefined, RESTORE_MS);
    held.catch(() => undefined);
    const status = await movers.orBroken(held);
    if (status.reached["post-restore"] === undefined) throw await this.refused(engine);
    await unchanged;
    await mover.wait((now) => now.images.claimed, broken);
    if (this.what.lazy === true) return;
    const late = AbortSignal.timeout(PAGES_FIRST_MS);
    try {
      await mover.wait((now) => now.pages.allReceived, AbortSignal.any([broken, late]));
    } catch (error) {
      if (!late.aborted || broken.aborted) throw error;
      this.log("info", "pages are still coming: it runs before they are all here");
    }
  }

  private async refused(engine: EngineHandle): Promise<FerryError> {
    const { node } = this.context.config;
    return ferryError("E_RESTORE", `criu could not restore ${this.name} from ${this.what.checkpoint} on ${node}`, {
      node,
      workload: this.name,
      phase: "restore",
      evidence: await engine.evidence(),
      remedy: "the lines above are criu's reason: mend it here, or restore it on another node",
    });
  }

  private async release({ broken }: RestoreMovers, incarnation: Incarnation): Promise<void> {
    broken.throwIfAborted();
    writeFileSync(this.released, "", { mode: 0o600 });
    await failpoint("destination.resume");
    const hold = this.context.book.hold(this.name, this.epoch);
    if (hold?.state !== "OWNER") {
      throw ferryError(
        "E_STATE",
        `epoch ${this.epoch} of ${this.name} is ${hold?.state ?? "unknown"}: it is not let run`,
      );
    }
    this.demandAddress();
    // From here on nobody can say that nothing of it has run.
    this.context.book.record({ ...hold, letRun: true });
    const { resumedAt } = await this.context.runtime.release(incarnation, this.dirs.mover);
    this.log("info", "it runs", { resumedAt });
  }

  /** Link up, then every page in place, however often a process dies meanwhile. */
  private async drain({ mover, broken }: RestoreMovers, incarnation: Incarnation): Promise<void> {
    const { runtime } = this.context;
    await runtime.openNetwork(incarnation);
    this.address?.close();
    this.context.sleepers.deliver(this.name, () => runtime.frameDoor(incarnation));
    await failpoint("destination.drain");
    for (let empty = 0; ;) {
      try {
        await mover.request({ verb: "fill" }, broken);
        await mover.wait((status) => status.pages.allFilled, broken);
        return;
      } catch (error) {
        broken.throwIfAborted();
        const { processes } = await runtime.observe({ name: this.name, epoch: this.epoch });
        // It may have ended while a process that is at it was started anew: who follows says that nothing is missing.
        if (processes === 0 && (empty += 1) > ATTEMPTS) {
          throw ferryError("E_RESTORE", `${this.name} ended while its pages were still coming`, {
            workload: this.name,
            cause: toFailure(error),
          });
        }
        this.log("warn", "the page traffic broke off and goes on", { failure: toFailure(error) });
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
  }

  /** Whatever an attempt has left, or this one. */
  private async sweep(): Promise<void> {
    // First: what is killed here has not ended by itself.
    rmSync(this.released, { force: true });
    await this.context.runtime.destroy({ name: this.name, epoch: this.epoch }, this.dirs.mover);
    await sweepRestore(this.dirs);
  }
}

const goesOn = ({ book }: NodeContext, workload: string, epoch: number): boolean =>
  book.hold(workload, epoch)?.state === "OWNER" && !book.wasStarted(workload, epoch);

/** Whoever asked for this restore asks again: it goes on then, and its processes are at it. */
export const isUnfinished = (context: NodeContext, operation: string): boolean => {
  const [workload = "", kind, epoch] = operation.split(".");
  return kind === RESTORE_KIND && goesOn(context, workload, Number(epoch));
};

/** Boot: what is left of those that were done, and journaled as started; or that nobody may go on with. */
export async function sweepRestored(context: NodeContext): Promise<void> {
  for (const workload of context.book.workloads()) {
    for (const { epoch } of context.book.holds(workload)) {
      if (!goesOn(context, workload, epoch)) await sweepRestore(restoreDirs(context, workload, epoch));
    }
  }
}

/** What a workload whose node was lost is run from: it has gone on after that. */
export const storedCheckpoints = (context: () => NodeContext): CheckpointSource => ({
  newest: (workload) => context().store.newest(workload),
  restore: ({ id, workload }, incarnation) =>
    new Restoring(context(), { incarnation, checkpoint: id, of: workload }).run(),
});

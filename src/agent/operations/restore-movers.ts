/**
 * The two processes that bring a checkpoint's images and pages back: the feed, which reads the store, and an ordinary
 * destination's mover. Both are on this node, outlive the agent, and are found again.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { ferryError, toFailure, type FerryError } from "../../model/failure.js";
import type {
  DestinationMoverRequest,
  DestinationMoverStatus,
  SourceMoverRequest,
  SourceMoverStatus,
} from "../../model/mover.js";
import { killMover, type Program } from "../../transfer/mover/client.js";
import { destroyFaultService, wantTouched } from "../../transfer/pages/index.js";
import { makeDirs, removeDirs, sideDirs, type SideDirs } from "./dirs.js";
import { orAbort } from "../level.js";
import { MoverSide } from "./mover.js";
import { writeMoverConfig, type NodeContext } from "./node-context.js";

const AGAIN_MS = 200;
const FEED = fileURLToPath(new URL("../../checkpoints/feed/main.js", import.meta.url));

export const RESTORE_KIND = "feed";

export interface RestoreDirs {
  operation: string;
  mover: SideDirs;
  feed: SideDirs;
}

/** Where an incarnation's restore keeps its things: the same for whoever tries again. */
export function restoreDirs(context: NodeContext, workload: string, epoch: number): RestoreDirs {
  const operation = `${workload}.${RESTORE_KIND}.${epoch}`;
  const { runDir } = context.config;
  return {
    operation,
    mover: sideDirs(runDir, operation, "destination"),
    feed: sideDirs(runDir, operation, "source"),
  };
}

/** What an attempt has left. Its tree is dead, or complete: the page daemon does not leave tasks that need it. */
export async function sweepRestore({ mover, feed }: RestoreDirs): Promise<void> {
  for (const dirs of [feed, mover]) if (existsSync(dirs.root)) await killMover(dirs.root);
  if (existsSync(mover.root)) await destroyFaultService(mover.store);
  removeDirs(mover);
  removeDirs(feed);
}

export class RestoreMovers {
  readonly mover: MoverSide<DestinationMoverStatus, DestinationMoverRequest>;
  /** Aborted with what can't become right: nothing is waited for any more. */
  readonly broken: AbortSignal;
  private readonly feed: MoverSide<SourceMoverStatus, SourceMoverRequest>;
  private readonly context: NodeContext;
  private readonly dirs: RestoreDirs;
  private readonly failed = new AbortController();
  private readonly over = new AbortController();
  private readonly awaited: Promise<void>;
  /** Images may come: no sooner than criu stands by, which waits at the name of one. Again is harmless. */
  readonly take: () => void;

  private constructor(
    context: NodeContext,
    dirs: RestoreDirs,
    what: { workload: string; epoch: number; checkpoint: { workload: string; id: string } },
    program: Program,
  ) {
    const { operation } = dirs;
    const common = { operation, workload: what.workload, peer: context.config.node, to: what.epoch };
    this.context = context;
    this.dirs = dirs;
    this.broken = this.failed.signal;
    let take = (): void => undefined;
    this.awaited = new Promise((resolve) => (take = resolve));
    this.take = take;
    this.mover = new MoverSide(writeMoverConfig(context, dirs.mover, { ...common, side: "destination" }), dirs.mover);
    const config = writeMoverConfig(context, dirs.feed, { ...common, side: "source", checkpoint: what.checkpoint });
    this.feed = new MoverSide(config, dirs.feed, undefined, undefined, program);
  }

  /** From now on there is a feed, whatever becomes of it, until `end`. */
  static async start(
    context: NodeContext,
    dirs: RestoreDirs,
    what: { workload: string; epoch: number; checkpoint: { workload: string; id: string } },
  ): Promise<RestoreMovers> {
    makeDirs(dirs.mover);
    makeDirs(dirs.feed);
    wantTouched(dirs.mover.store);
    const program = { main: FEED, env: await context.store.environment() };
    const movers = new RestoreMovers(context, dirs, what, program);
    void movers.keepFeed();
    return movers;
  }

  private async keepFeed(): Promise<void> {
    const { signal } = this.over;
    while (!signal.aborted) {
      try {
        const [mover] = await Promise.all([this.mover.ensure(), this.feed.ensure()]);
        const { port } = mover.status();
        await this.feed.request({ verb: "connect", host: this.context.config.linkHost, port }, signal);
        await orAbort(this.awaited, signal);
        await this.feed.request({ verb: "sendImages", pids: {} }, signal);
        await this.feed.wait(() => false, signal);
      } catch (error) {
        if (signal.aborted) return;
        const failure = toFailure(error);
        // One that has died, or could not reach the other one: again. What it says itself is final.
        if (failure.code !== "E_PAGES" && failure.code !== "E_LINK_LOST") {
          this.failed.abort(error);
          return;
        }
        this.context.log("warn", "the feed is started again", { operation: this.dirs.operation, failure });
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
  }

  /** Waits for that work, but not for longer than there is hope. */
  async orBroken<T>(work: Promise<T>): Promise<T> {
    this.broken.throwIfAborted();
    const stop = new AbortController();
    const ended = new Promise<never>((_, reject) => {
      this.broken.addEventListener("abort", () => reject(this.broken.reason as Error), { signal: stop.signal });
    });
    return Promise.race([work, ended]).finally(() => stop.abort());
  }

  /** Every page is in place: nobody needs them any more. */
  async end(): Promise<void> {
    this.stop();
    await this.feed.end();
    await this.mover.end();
    await sweepRestore(this.dirs);
  }

  /** Nothing is waited for any more. */
  giveUp(why: FerryError): void {
    this.failed.abort(why);
  }

  stop(): void {
    this.over.abort(ferryError("E_CANCELLED", "the restore is over"));
  }
}

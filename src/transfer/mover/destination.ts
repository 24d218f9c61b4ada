/** The destination's mover: takes images, volume and pages in, answers faults from the store, keeps its state on tmpfs. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { FerryError, ferryError, toFailure, type FailureData } from "../../model/failure.js";
import type { DestinationMoverRequest, DestinationMoverStatus, MoverConfig } from "../../model/mover.js";
import { areasDigest, readImageSet, type ImageSet } from "../images/areas.js";
import { ImageReceiver, needSpace } from "../images/receive.js";
import type { Frame, Hello, LinkSession } from "../link/index.js";
import { PAGE_SIZE, type FaultService, type FaultStatus, type PageStore } from "../pages/api.js";
import { createStore, openStore, SpareDaemon, startFaultService, type FaultServiceOptions } from "../pages/index.js";
import { VolumeReceiver } from "../volume/receiver.js";
import { Awaited } from "./awaited.js";
import { loadState, saveState, type DestinationState } from "./destination-state.js";
import type { FrameMeta } from "./messages.js";
import { checkFits, PageIntake, writeAside, writeNow } from "./page-intake.js";
import { parseMeta, type Log } from "./process.js";
import { StageReceiver } from "./stage-receiver.js";

/** criu restore connects to it; the name is criu's. */
const FAULT_SOCKET = "lazy-pages.socket";
/** Runs of missing slots in one answer. */
const MISSING_RUNS = 4096;
/** A peer that does not say goodbye is not waited for longer, in milliseconds. */
const FAREWELL_MS = 500;
/** Who answers faults from the store; a sink has nobody who could have any. */
export interface FaultSide {
  start: (options: FaultServiceOptions) => Promise<FaultService>;
  spare: (storeDir: string, socketPath: string) => SpareDaemon | undefined;
}
const PAGE_DAEMON: FaultSide = {
  start: startFaultService,
  spare: (storeDir, socketPath) => new SpareDaemon(storeDir, socketPath),
};
const NO_FAULTS: FaultStatus = { tasks: 0, unclaimed: 1, faults: 0, filled: 0, allFilled: false };

export class DestinationMover {
  readonly #config: MoverConfig;
  readonly #log: Log;
  readonly #changed: (urgent: boolean) => void;
  readonly #faults: FaultSide;
  readonly #state: DestinationState;
  readonly #images: ImageReceiver;
  readonly #volume: VolumeReceiver;
  readonly #sessions = new Map<Hello["purpose"], LinkSession>();
  /** What comes before the images. */
  readonly #stage: StageReceiver;
  #store: PageStore | undefined;
  #service: FaultService | undefined;
  /** A page daemon that waits for the store, started while nobody waits for it. */
  #spare: SpareDaemon | undefined;
  #failure: FailureData | undefined;
  /** The set of images under way was refused: its remaining pieces are not looked at. */
  #refusing = false;
  /** Images that have arrived and were compared with the manifest; not yet ready. */
  #arrived: { digest: string; set: ImageSet } | undefined;
  /** Images that criu may read; their page store is being made beside it. */
  #readable: { digest: string; bytes: number } | undefined;
  readonly #awaited = new Awaited();

  constructor(config: MoverConfig, log: Log, changed: (urgent: boolean) => void, faults: FaultSide = PAGE_DAEMON) {
    this.#config = config;
    this.#faults = faults;
    this.#log = log;
    this.#changed = changed;
    this.#state = loadState(config.storeDir);
    this.#images = new ImageReceiver(config.imagesDir);
    this.#stage = new StageReceiver(config.storeDir);
    this.#volume = new VolumeReceiver(
      { dir: config.volumeDir, onChange: changed, log: (message, fields) => log("info", message, fields) },
      this.#state.volumeFinal,
    );
  }

  get port(): number {
    return this.#state.port;
  }

  listening(port: number): void {
    this.#state.port = port;
    this.#save();
  }

  /** Goes on where an earlier process of this operation stood. */
  async resume(): Promise<void> {
    if (this.#state.images === undefined) {
      // A store without images that were declared complete belongs to an attempt that was cut short.
      for (const name of ["areas", "pages", "states"]) rmSync(join(this.#config.storeDir, name), { force: true });
      this.#spare = this.#faults.spare(this.#config.storeDir, this.#faultSocket);
      return;
    }
    const store = openStore(this.#config.storeDir);
    if (areasDigest(store.table) !== this.#state.images.areas) {
      throw ferryError(
        "E_IMAGE_DIGEST",
        `the page table in ${this.#config.storeDir} is not the one that was made there`,
      );
    }
    await this.#serve(store);
    if (this.#state.filling) this.#service?.fill();
    this.#log("info", "took over", { received: this.#store?.received, pages: this.#state.images.pages });
  }

  status(): DestinationMoverStatus {
    const faults = this.#service?.status() ?? NO_FAULTS;
    const received = this.#store?.received ?? 0;
    const { images } = this.#state;
    const known = images ?? this.#readable;
    const total = this.#store?.total ?? images?.pages ?? 0;
    const failure =
      faults.failure === undefined
        ? this.#failure
        : { code: "E_PAGES" as const, message: `the page daemon: ${faults.failure}` };
    return {
      side: "destination",
      pid: process.pid,
      port: this.#state.port,
      connected: this.#sessions.size === 3,
      images: {
        received: this.#readable !== undefined || (images !== undefined && this.#service !== undefined),
        claimed: images !== undefined && this.#service !== undefined && faults.unclaimed === 0,
        ...(known === undefined ? {} : { digest: known.digest }),
        bytes: known?.bytes ?? this.#images.bytes,
      },
      volume: {
        bytesReceived: this.#volume.bytesReceived,
        finalDone: this.#volume.finalDone,
        durable: this.#volume.durable,
      },
      pages: {
        total,
        received,
        filled: faults.filled,
        faults: faults.faults,
        allReceived: images !== undefined && this.#store !== undefined && received === total,
        allFilled: faults.allFilled,
      },
      tasks: faults.tasks,
      ...(faults.guardPid === undefined ? {} : { guardPid: faults.guardPid }),
      ...(failure === undefined
        ? {}
        : { failure: { side: "destination" as const, node: this.#config.node, ...failure } }),
    };
  }

  async handle(request: DestinationMoverRequest): Promise<void> {
    switch (request.verb) {
      case "status":
        return;
      case "fill":
        if (this.#service === undefined) throw ferryError("E_STATE", "fill was asked before the images were here");
        this.#state.filling = true;
        this.#save();
        this.#service.fill();
        return;
      case "reset":
        await this.#service?.reset();
        this.#changed(true);
        return;
      case "exit":
        return;
    }
  }

  /** Why this caller gets no session, or undefined. */
  accept(hello: Hello, peer: string): FailureData | undefined {
    const { operation, workload } = this.#config;
    if (peer !== this.#config.peer) {
      return { code: "E_PEER_ID", message: `this mover works with ${this.#config.peer}, not with ${peer}` };
    }
    if (hello.operation !== operation || hello.workload !== workload || hello.to !== (this.#config.to ?? 1)) {
      return { code: "E_REQUEST", message: `this mover works on ${operation}, not on ${hello.operation}` };
    }
    return undefined;
  }

  attach(session: LinkSession): void {
    const { purpose } = session.hello;
    // The source dials again when it has lost the link; this side may not have noticed yet.
    this.#sessions.get(purpose)?.destroy();
    this.#sessions.set(purpose, session);
    session.onClose((failure) => {
      if (this.#sessions.get(purpose) !== session) return;
      this.#sessions.delete(purpose);
      if (purpose === "bulk") this.#volume.close();
      if (failure !== undefined) this.#log("warn", `${purpose} session lost`, { failure });
      this.#changed(true);
    });
    switch (purpose) {
      case "control":
        session.onFrame((frame) => this.#onControl(session, frame));
        void this.#tellState(session).catch(() => undefined);
        break;
      case "bulk":
        this.#volume.attach(session);
        session.onFrame(this.#bulkListener(session));
        break;
      case "fault":
        session.onFrame((frame) => {
          if (frame.type !== "pages") throw ferryError("E_FRAME", `fault frame ${frame.type} was not expected`);
          this.#takePages(parseMeta("pages", frame.meta), frame.payload);
        });
        for (const { slot, pages } of this.#awaited.runs) this.#ask(slot, pages);
        break;
    }
    this.#changed(true);
  }

  async close(): Promise<void> {
    this.#volume.close();
    this.#images.abandon();
    const farewell = Promise.all([...this.#sessions.values()].map((session) => session.close()));
    this.#spare?.end();
    await this.#service?.close();
    await Promise.race([farewell, sleep(FAREWELL_MS)]);
    this.#store?.close();
  }

  async #onControl(session: LinkSession, { type, meta, payload }: Frame): Promise<void> {
    try {
      switch (type) {
        case "images-begin":
          if (this.#state.images !== undefined) throw ferryError("E_IMAGE_DIGEST", "images of this operation are here");
          this.#failure = undefined;
          this.#refusing = false;
          this.#arrived = undefined;
          this.#readable = undefined;
          this.#images.begin(parseMeta(type, meta));
          return;
        case "file":
          if (!this.#refusing) this.#images.piece(parseMeta(type, meta), payload);
          this.#changed(false);
          return;
        case "manifest":
          if (!this.#refusing) this.#allArrived(this.#images.finish(parseMeta(type, meta).files));
          return;
        case "stale":
          if (!this.#refusing) this.#stage.stale(parseMeta(type, meta), payload);
          return;
        case "ready":
          if (!this.#refusing) await this.#ready(parseMeta(type, meta));
          await this.#tellState(session);
          return;
        case "complete":
          this.#log("info", "the source has sent every page");
          return;
        case "refused":
          this.#fail(parseMeta(type, meta).failure);
          return;
        default:
          throw ferryError("E_FRAME", `control frame ${type} was not expected`);
      }
    } catch (error) {
      const failure = toFailure(error, "E_IMAGE_INCOMPLETE");
      if (failure.code === "E_FRAME" || session.closed) throw error;
      this.#refusing = true;
      this.#fail(failure);
      await session.send("refused", { what: "images", failure });
    }
  }

  /** The images are those of the manifest. */
  #allArrived(digest: string): void {
    if (this.#spare?.listening === true) {
      // criu connects, and what it sends waits there: it can begin while they are understood and the store is made.
      this.#readable = { digest, bytes: this.#images.bytes };
      this.#changed(true);
    }
    this.#arrived = { digest, set: readImageSet(this.#config.imagesDir) };
  }

  /** The source has told what it will send for these images: make the store, answer criu. */
  async #ready({ digest, areas, stage }: FrameMeta<"ready">): Promise<void> {
    if (this.#arrived?.digest !== digest) {
      throw ferryError("E_IMAGE_DIGEST", "the manifest is not the one that was announced");
    }
    const { set } = this.#arrived;
    const store = stage === null ? this.#emptyStore(set, areas) : this.#stage.adopt(stage, set.tasks, areas);
    await this.#serve(store);
    this.#state.images = { digest, areas, bytes: this.#images.bytes, pages: store.total };
    this.#save();
    this.#changed(true);
    this.#log("info", "images received", {
      tasks: set.tasks.length,
      pages: store.total,
      staged: store.received,
      bytes: this.#images.bytes,
    });
  }

  #emptyStore({ table, areasDigest }: ImageSet, expected: string): PageStore {
    if (areasDigest !== expected) {
      throw ferryError("E_IMAGE_DIGEST", "the areas in the images are not those that the source has counted");
    }
    this.#stage.drop();
    needSpace(this.#config.storeDir, table.slots * PAGE_SIZE, "the workload's pages");
    return createStore(this.#config.storeDir, table);
  }

  get #faultSocket(): string {
    return join(this.#config.imagesDir, FAULT_SOCKET);
  }

  async #serve(store: PageStore): Promise<void> {
    const service = await this.#faults.start({
      store,
      storeDir: this.#config.storeDir,
      socketPath: this.#faultSocket,
      first: this.#stage.hot,
      ...(this.#spare === undefined ? {} : { spare: this.#spare }),
      log: (message: string, fields?: object) => this.#log("info", `pages: ${message}`, fields),
    });
    this.#store = store;
    this.#service = service;
    service.onMissing((slot, pages) => {
      for (const run of this.#awaited.add({ slot, pages }, (at) => store.has(at))) this.#ask(run.slot, run.pages);
    });
    service.onChange(() => this.#changed(true));
  }

  #ask(slot: number, pages: number): void {
    // Without a session it is asked when there is one again.
    this.#sessions
      .get("fault")
      ?.send("fault", { slot, pages })
      .catch(() => undefined);
  }

  async #tellState(session: LinkSession): Promise<void> {
    const { images } = this.#state;
    if (this.#refusing) return;
    await session.send("state", {
      digest: images?.digest ?? null,
      areas: images?.areas ?? null,
      stage: this.#stage.told,
    });
  }

  #bulkListener(session: LinkSession): (frame: Frame) => Promise<void> {
    const intake = new PageIntake();
    return (frame) => this.#onBulk(session, intake, frame);
  }

  async #onBulk(session: LinkSession, intake: PageIntake, { type, meta, payload, keep }: Frame): Promise<void> {
    switch (type) {
      case "pages": {
        const pages = parseMeta(type, meta);
        const store = this.#storeFor(pages, payload);
        const release = keep?.();
        await intake.take({
          write: () => writeAside(store, pages, payload).finally(release),
          done: () => this.#tookPages(pages),
          credit: (frames) => void session.send("credit", { frames }).catch(() => undefined),
          failed: (failure) => void this.#refusePages(failure),
        });
        return;
      }
      case "stage-begin":
      case "regions":
      case "stage-pages":
        this.#takeStage(type, meta, payload);
        if (type !== "stage-begin") await session.send("staged", { frames: 1 });
        return;
      case "need": {
        const { id } = parseMeta(type, meta);
        // the answer counts everything that was sent before the question
        await intake.settled();
        const store = this.#store;
        if (store === undefined) throw ferryError("E_FRAME", "pages were asked for before the images were here");
        const runs = store.missing(MISSING_RUNS).map(({ slot, pages }) => [slot, pages]);
        await session.send("missing", { id, runs, received: store.received });
        return;
      }
      case "volume-open":
        this.#volume.open(parseMeta(type, meta));
        return;
      case "volume-data":
        await this.#volume.data(parseMeta(type, meta).stream, payload);
        return;
      case "volume-eof":
        this.#volume.eof(parseMeta(type, meta).stream);
        return;
      case "volume-final":
        this.#volume.final();
        this.#state.volumeFinal = true;
        this.#save();
        this.#changed(true);
        return;
      default:
        throw ferryError("E_FRAME", `bulk frame ${type} was not expected`);
    }
  }

  /** Pages that a thread waits for: stored before anything else is looked at. */
  #takePages(pages: FrameMeta<"pages">, payload: Buffer): void {
    const store = this.#storeFor(pages, payload);
    try {
      writeNow(store, pages, payload);
    } catch (error) {
      throw this.#refusePages(toFailure(error, "E_PAGES"));
    }
    this.#tookPages(pages);
  }

  #storeFor(pages: FrameMeta<"pages">, payload: Buffer): PageStore {
    const store = this.#store;
    if (store === undefined || this.#service === undefined) {
      throw ferryError("E_FRAME", "pages came before the images");
    }
    checkFits(pages, payload, store);
    return store;
  }

  /** A full store must not look like a broken link, or the source would send for ever. */
  #refusePages(failure: FailureData): FerryError {
    this.#fail(failure);
    void this.#sessions
      .get("control")
      ?.send("refused", { what: "pages", failure })
      .catch(() => undefined);
    return new FerryError(failure);
  }

  #tookPages({ slot, runs }: FrameMeta<"pages">): void {
    const store = this.#store;
    if (store === undefined) return;
    const pages = runs.reduce((sum, run) => sum + run, 0);
    this.#awaited.came({ slot, pages });
    this.#service?.arrived(slot, pages);
    this.#changed(store.received === store.total);
  }

  #takeStage(type: "stage-begin" | "regions" | "stage-pages", meta: unknown, payload: Buffer): void {
    if (this.#store !== undefined) throw ferryError("E_FRAME", `${type} came after the images`);
    try {
      if (type === "stage-begin") this.#stage.begin(parseMeta(type, meta));
      else if (type === "regions") this.#stage.regions(parseMeta(type, meta));
      else this.#stage.pages(parseMeta(type, meta), payload);
    } catch (error) {
      if (toFailure(error).code === "E_FRAME") throw error;
      this.#stage.drop();
      throw this.#refusePages(toFailure(error, "E_PAGES"));
    }
  }

  #fail(failure: FailureData): void {
    this.#failure = failure;
    this.#log("error", failure.message, { failure });
    this.#changed(true);
  }

  #save(): void {
    saveState(this.#config.storeDir, this.#state);
  }
}

/**
 * The sink of a checkpoint: to the source's mover it is the mover of a destination, and takes images, pages and files in
 * as one; files into a shadow of the volume that is kept between checkpoints. Then it puts everything into the store.
 */
import { ferryError } from "../../model/failure.js";
import type { MoverConfig, SinkRequest, SinkStatus } from "../../model/mover.js";
import { DestinationMover } from "../../transfer/mover/destination.js";
import type { Log } from "../../transfer/mover/process.js";
import { openStore, readStoreConfig } from "../store-config.js";
import { NO_FAULTS } from "./no-faults.js";
import { uploadCheckpoint } from "./upload.js";

type StoreRequest = Extract<SinkRequest, { verb: "store" }>;

export class Sink {
  readonly mover: DestinationMover;
  readonly #config: MoverConfig;
  readonly #log: Log;
  readonly #changed: (urgent: boolean) => void;
  #stored: SinkStatus["stored"];
  #storing: Promise<void> | undefined;

  constructor(config: MoverConfig, log: Log, changed: (urgent: boolean) => void) {
    this.#config = config;
    this.#log = log;
    this.#changed = changed;
    this.mover = new DestinationMover(config, log, changed, NO_FAULTS);
  }

  status(): SinkStatus {
    const status = this.mover.status();
    const { images, pages, volume } = status;
    return {
      ...status,
      complete: images.claimed && pages.allReceived && volume.finalDone,
      ...(this.#stored === undefined ? {} : { stored: this.#stored }),
    };
  }

  /** Resolves when the checkpoint is there. Throws E_STATE when not everything has come; what the store throws. */
  async store(request: StoreRequest): Promise<void> {
    this.#storing ??= this.#store(request);
    try {
      await this.#storing;
    } catch (error) {
      this.#storing = undefined;
      this.#stored = undefined;
      throw error;
    }
  }

  async #store({ session, facts, spec }: StoreRequest): Promise<void> {
    const { storeFile, imagesDir, storeDir, volumeDir } = this.#config;
    if (!this.status().complete) {
      throw ferryError("E_STATE", "not everything of the workload has come: there is nothing to store yet");
    }
    if (storeFile === undefined) throw ferryError("E_INTERNAL", "this sink was told of no store");
    const progress = (bytes: number, total: number): void => {
      this.#stored = { bytes, total, done: false };
      this.#changed(false);
    };
    progress(0, this.status().pages.total * 4096);
    const store = await openStore(await readStoreConfig(storeFile));
    try {
      const gathered = { session, imagesDir, storeDir, volumeDir, said: facts, spec };
      const manifest = await uploadCheckpoint(store, gathered, progress);
      this.#log("info", "the checkpoint is stored", { checkpoint: manifest.id, newBytes: manifest.newBytes });
    } finally {
      store.close();
    }
    this.#stored = { bytes: 0, total: 0, ...this.#stored, done: true };
    this.#changed(true);
  }
}

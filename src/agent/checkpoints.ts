/** The node's view of the store: what is in there, and what a person does with it. */
import { stat } from "node:fs/promises";
import type { CheckpointRef, CheckpointsInput, DiffInput, PinInput } from "../model/contract.js";
import type { BrokenCheckpoint, CheckpointDiff, ListedCheckpoint, StoredCheckpoint } from "../model/checkpoints.js";
import { byEpoch } from "../model/checkpoint-choice.js";
import { FerryError, ferryError, toFailure } from "../model/failure.js";
import { describeCheckpoint } from "../checkpoints/describe.js";
import { compareCheckpoints } from "../checkpoints/diff/compare.js";
import { openStore, readStoreConfig, type StoreConfig } from "../checkpoints/store-config.js";
import { collect, isStoredId, type Store } from "../store/index.js";
import type { Log } from "./operations/node-context.js";

/** The collector looks at the whole store: not after every removal. */
const COLLECT_EVERY_MS = 10 * 60_000;

export interface NodeStoreOptions {
  node: string;
  /** Its configuration; missing: the node keeps no checkpoints. */
  file: string | undefined;
  log: Log;
}

export class NodeStore {
  private readonly options: NodeStoreOptions;
  private opened: { version: string; store: Promise<Store> } | undefined;
  private collecting: NodeJS.Timeout | undefined;

  constructor(options: NodeStoreOptions) {
    this.options = options;
  }

  get file(): string | undefined {
    return this.options.file;
  }

  /**
   * Opened when it is needed, and anew when its configuration has changed: a store that is away does not keep the agent
   * from starting. Throws E_NO_CHECKPOINT when the node has none, E_REQUEST, E_STORE, E_STORE_KEY.
   */
  async open(): Promise<Store> {
    const { file } = this.options;
    if (file === undefined) throw this.none();
    // Who can't be looked at can't be read either: that says why.
    const version = await stat(file).then(
      ({ mtimeMs, size, ino }) => `${mtimeMs} ${size} ${ino}`,
      () => "",
    );
    if (this.opened?.version !== version) {
      const store = readStoreConfig(file).then(openStore);
      const opened = { version, store };
      this.opened = opened;
      // One that was closed ends those who read from it: it is left to the garbage collector.
      store.catch(() => {
        if (this.opened === opened) this.opened = undefined;
      });
    }
    return this.opened.store;
  }

  /** What a process of ours needs in its environment to open it. */
  async environment(): Promise<Record<string, string>> {
    const { file } = this.options;
    if (file === undefined) throw this.none();
    const config: StoreConfig = await readStoreConfig(file);
    const names = [config.key, ...(config.oldKeys ?? [])].flatMap((key) =>
      key !== undefined && "environment" in key ? [key.environment] : [],
    );
    if ("s3" in config) names.push(...Object.keys(process.env).filter((name) => name.startsWith("AWS_")));
    return Object.fromEntries(
      names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
    );
  }

  private none(): FerryError {
    const { node } = this.options;
    return ferryError("E_NO_CHECKPOINT", `node ${node} has no store for checkpoints`, {
      node,
      remedy: "start its agent with --store FILE",
    });
  }

  close(): void {
    clearTimeout(this.collecting);
  }

  // --- verbs ----------------------------------------------------------------------------------------------------

  /** The newest, of the last epoch, that can be believed. One that can't does not stand in the way of the others. */
  async newest(workload: string): Promise<StoredCheckpoint | undefined> {
    const store = await this.open();
    const whole: StoredCheckpoint[] = [];
    for (const one of await store.list(workload)) {
      if ("manifest" in one) whole.push(describeCheckpoint(one.manifest, store.backend.name, false));
      else if (one.failure.code === "E_STORE") throw new FerryError(one.failure);
      else {
        const { id: checkpoint, failure } = one;
        this.options.log("warn", "a checkpoint can't be believed", { workload, checkpoint, failure });
      }
    }
    const newest = whole.sort(byEpoch).at(-1);
    return newest && { ...newest, pinned: await isPinned(store, workload, newest.id) };
  }

  async list({ workload }: CheckpointsInput): Promise<ListedCheckpoint[]> {
    const store = await this.open();
    const names = workload === undefined ? (await store.workloads()).sort() : [workload];
    const all: ListedCheckpoint[] = [];
    for (const name of names) {
      const pinned = new Set<string>();
      for await (const { key } of store.backend.list(`pins/${name}/`)) pinned.add(key.split("/")[2] ?? "");
      for (const one of await store.list(name)) {
        if ("manifest" in one) all.push(describeCheckpoint(one.manifest, store.backend.name, pinned.has(one.id)));
        else all.push({ id: one.id, workload: name, failure: one.failure } satisfies BrokenCheckpoint);
      }
    }
    // Their ids begin with the time.
    return all.sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  async pin({ workload, checkpoint, pinned }: PinInput): Promise<void> {
    const store = await this.open();
    await (pinned ? store.pin(workload, checkpoint) : store.unpin(workload, checkpoint));
  }

  /** Asked again: it is gone. */
  async remove({ workload, checkpoint }: CheckpointRef): Promise<void> {
    const store = await this.open();
    try {
      await store.delete(workload, checkpoint);
    } catch (error) {
      const gone = toFailure(error).code === "E_CHECKPOINT_UNKNOWN" && isStoredId(checkpoint);
      const removed = gone && (await store.backend.stat(`trash/${workload}/${checkpoint}.json`)) !== undefined;
      if (!removed) throw error;
    }
    this.collectSoon(store);
  }

  /** Every byte of every stream. */
  async verify({ workload, checkpoint }: CheckpointRef): Promise<void> {
    const store = await this.open();
    const reader = await store.read(workload, checkpoint);
    try {
      for (const pack of reader.tree.packs) await store.packs.freshIndex(pack);
      for (const { name } of reader.streams) {
        // Reading is checking: a block is not handed out before its digest was looked at.
        for await (const _ of reader.chunks(name));
      }
    } finally {
      await reader.close();
    }
  }

  async diff({ workload, checkpoint, with: later }: DiffInput): Promise<CheckpointDiff> {
    const store = await this.open();
    const before = await store.read(workload, checkpoint);
    try {
      const after = await store.read(workload, later);
      try {
        return await compareCheckpoints(store, before, after);
      } finally {
        await after.close();
      }
    } finally {
      await before.close();
    }
  }

  /** In the background; what it can't do now it does after another removal, or another node does. */
  private collectSoon(store: Store): void {
    this.collecting ??= setTimeout(() => {
      this.collecting = undefined;
      collect(store).then(
        (freed) => this.options.log("info", "collected what no checkpoint needs", { ...freed }),
        (error: unknown) => this.options.log("warn", "nothing was collected", { failure: toFailure(error) }),
      );
    }, COLLECT_EVERY_MS);
    this.collecting.unref();
  }
}

async function isPinned(store: Store, workload: string, id: string): Promise<boolean> {
  return (await store.backend.stat(`pins/${workload}/${id}`)) !== undefined;
}

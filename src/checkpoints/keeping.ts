/**
 * What a person does with a store itself, without a node: out of it and into it as files, looking after it, its keys. For
 * `ferry checkpoints export|import|fsck|rekey|gc --store FILE`; the file is the one that an agent gets.
 */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { link, mkdtemp, open, rename, rm, type FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { Writable } from "node:stream";
import { byPrefix } from "../model/checkpoint-choice.js";
import { ferryError, toFailure } from "../model/failure.js";
import type { Collected, ExportedFile, FsckReport, ImportedFile, Rotation } from "../model/store-report.js";
import {
  ARCHIVE_MAGIC,
  collect,
  exportCheckpoint,
  fsck,
  importCheckpoint,
  loadKey,
  wrongFile,
} from "../store/index.js";
import type { Store } from "../store/index.js";
import { openStore, readStoreConfig } from "./store-config.js";

/** Opens what the file names, and closes it whatever happens. `make`: where there is no store, one is made. */
async function withStore<T>(config: string, make: boolean, use: (store: Store) => Promise<T>): Promise<T> {
  const store = await openStore(await readStoreConfig(config), make);
  try {
    return await use(store);
  } finally {
    store.close();
  }
}

const calledOff = (what: string): Error => ferryError("E_CANCELLED", `${what} was called off`);

export interface ExportRequest {
  /** The store's configuration. */
  config: string;
  workload: string;
  /** Id, or the beginning of one; missing: the newest. */
  checkpoint?: string;
  /** A new file, or a stream. */
  to: string | Writable;
  /** File of another master key that is to open it, instead of the store's own. */
  forKey?: string;
  signal?: AbortSignal;
}

/** The file is there as a whole, or not at all. Throws what the store throws; E_REQUEST, E_NO_SPACE of the file. */
export function exportToFile(request: ExportRequest): Promise<ExportedFile> {
  return withStore(request.config, false, async (store) => {
    const { workload, to, signal } = request;
    const forKey = request.forKey === undefined ? undefined : await loadKey({ from: "file", path: request.forKey });
    const checkpoint = await chosen(store, workload, request.checkpoint);
    const parts = exportCheckpoint(store, workload, checkpoint, forKey === undefined ? {} : { forKey });
    let bytes = 0;
    const counted = async function* (): AsyncGenerator<Buffer> {
      for await (const part of parts) {
        if (signal?.aborted === true) throw calledOff("the export");
        bytes += part.length;
        yield part;
      }
    };
    if (typeof to === "string") await writeWhole(to, counted());
    else await writeStream(to, counted());
    return { workload, checkpoint, file: typeof to === "string" ? to : "-", bytes };
  });
}

async function chosen(store: Store, workload: string, prefix: string | undefined): Promise<string> {
  const ids = await store.ids(workload);
  if (prefix !== undefined) {
    const listed = ids.map((id) => ({ id, workload }));
    return byPrefix(workload, listed, prefix).id;
  }
  const newest = ids.at(-1);
  if (newest !== undefined) return newest;
  throw ferryError("E_CHECKPOINT_UNKNOWN", `there is no checkpoint of ${workload} in ${store.backend.name}`, {
    workload,
    remedy: `make one while it runs: ferry checkpoint ${workload}`,
  });
}

const notWritten = (path: string, error: unknown): Error => {
  const { code, message } = toFailure(error, "E_REQUEST");
  const remedy =
    code === "E_NO_SPACE" ? "free space there, then export again" : "name a new file, in a directory that is there";
  return ferryError(code, `${path} can't be written: ${message}`, { remedy });
};

/** Beside it, then under its name, never over another file. */
async function writeWhole(path: string, parts: AsyncIterable<Buffer>): Promise<void> {
  const aside = `${path}.${randomBytes(4).toString("hex")}.partial`;
  const writing = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      throw notWritten(path, error);
    }
  };
  const file = await writing(() => open(aside, "wx", 0o600));
  try {
    try {
      for await (const part of parts) await writing(() => writeAll(file, part));
      await writing(() => file.sync());
    } finally {
      await file.close();
    }
    await writing(() => toName(aside, path));
  } finally {
    await rm(aside, { force: true });
  }
  await writing(async () => {
    const dir = await open(dirname(path));
    try {
      await dir.sync();
    } finally {
      await dir.close();
    }
  });
}

async function toName(aside: string, path: string): Promise<void> {
  try {
    await link(aside, path);
  } catch (error) {
    // A file system without links, like that of many a stick.
    const { code } = error as { code?: unknown };
    if ((code !== "EPERM" && code !== "EOPNOTSUPP") || existsSync(path)) throw error;
    await rename(aside, path);
  }
}

async function writeAll(file: FileHandle, part: Buffer): Promise<void> {
  for (let at = 0; at < part.length;) at += (await file.write(part, at)).bytesWritten;
}

async function writeStream(stream: Writable, parts: AsyncIterable<Buffer>): Promise<void> {
  const gone = once(stream, "error").then(([error]: unknown[]) => {
    throw notWritten("the output", error);
  });
  gone.catch(() => undefined);
  for await (const part of parts) {
    const written = new Promise<void>((resolve, reject) => {
      stream.write(part, (error) => (error ? reject(notWritten("the output", error)) : resolve()));
    });
    await Promise.race([written, gone]);
  }
}

export interface ImportRequest {
  config: string;
  /** A file that an export has written, or a stream of one. */
  from: string | AsyncIterable<Buffer>;
  /** File of another master key that opens it. */
  key?: string;
  signal?: AbortSignal;
}

/** It is there as a whole, or not at all. Throws what importCheckpoint throws; E_NO_SPACE. */
export function importFromFile({ config, from, key, signal }: ImportRequest): Promise<ImportedFile> {
  return withStore(config, true, async (store) => {
    const more = key === undefined ? [] : [await loadKey({ from: "file", path: key })];
    const options = { keys: more, ...(signal === undefined ? {} : { signal }) };
    if (typeof from === "string") return importCheckpoint(store, from, options);
    // All of it is looked at before anything is stored: it has to lie somewhere meanwhile, encrypted as it came.
    const dir = await mkdtemp(join(tmpdir(), "ferry-import-"));
    try {
      const path = join(dir, "checkpoint");
      await spool(from, path, signal);
      return await importCheckpoint(store, path, options);
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  });
}

async function spool(from: AsyncIterable<Buffer>, path: string, signal: AbortSignal | undefined): Promise<void> {
  const file = await open(path, "wx", 0o600);
  let start = Buffer.alloc(0);
  try {
    for await (const part of from) {
      if (signal?.aborted === true) throw calledOff("the import");
      if (start.length < ARCHIVE_MAGIC.length) {
        start = Buffer.concat([start, part.subarray(0, ARCHIVE_MAGIC.length)]);
        // Something else may have no end.
        // Of other formats more is said later.
        const begin = start.toString("latin1", 0, ARCHIVE_MAGIC.length - 1);
        if (!ARCHIVE_MAGIC.startsWith(begin)) throw wrongFile("it does not begin as one");
      }
      await writeAll(file, part).catch((error: unknown) => {
        throw notWritten(path, error);
      });
    }
  } finally {
    await file.close();
  }
}

export interface FsckRequest {
  config: string;
  /** Only what there is and how large, not every byte. */
  quick?: boolean;
  workload?: string;
  checkpoint?: string;
}

/** Changes nothing in the store. */
export function checkStore({ config, quick, workload, checkpoint }: FsckRequest): Promise<FsckReport> {
  return withStore(config, false, async (store) => {
    const deep = quick !== true;
    if (workload === undefined) return fsck(store, { deep });
    const only = checkpoint === undefined ? workload : `${workload}/${await chosen(store, workload, checkpoint)}`;
    return fsck(store, { deep, only: [only] });
  });
}

/** Wraps every data key with the configuration's `key`; what only `oldKeys` opened is opened by it from then on. */
export const rekeyStore = (config: string, fresh: boolean): Promise<Rotation> =>
  withStore(config, false, (store) => store.ring.rotate(fresh));

export const collectStore = (config: string): Promise<Collected> => withStore(config, false, (store) => collect(store));

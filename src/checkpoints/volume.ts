/**
 * A workload's files in a checkpoint: its volume directory as an archive of GNU tar, taken apart (tar-split.ts) into the
 * streams `volume/meta` and `volume/data`. The content of each file begins at a multiple of the store's blocks, so what did
 * not change since the last checkpoint is found there.
 *
 * tar runs with arguments of our own. Sockets are not in an archive: who is restored makes its own anew.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { run, SYSTEM_PATH } from "../host/exec.js";
import { ferryError, toFailure } from "../model/failure.js";
import type { CheckpointReader, CheckpointWriter, StreamWriter } from "../store/index.js";
import { ByteQueue } from "./byte-queue.js";
import { walkTar, type TarInput, type TarOutput } from "./tar-split.js";

export const VOLUME_META = "volume/meta";
export const VOLUME_DATA = "volume/data";

const BLOCK = 4096;
const ZEROS = Buffer.alloc(256 * 1024);
/** Gathered before it is given to the store, whose blocks it is a multiple of. */
const GATHERED = 256 * BLOCK;
const SYNC_MS = 10 * 60_000;

const ATTRIBUTES = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"] as const;
/** One file system, as migrations have it: what is mounted there belongs to somebody else. */
const CREATE = [
  "--create",
  "--format=posix",
  ...ATTRIBUTES,
  "--sparse",
  "--sort=name",
  "--one-file-system",
  // No times of access, no process's id: unchanged files have unchanged headers.
  "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
] as const;
const EXTRACT = [
  "--extract",
  ...ATTRIBUTES,
  "--same-owner",
  "--same-permissions",
  "--delay-directory-restore",
] as const;

interface Tar {
  child: ChildProcess;
  args: readonly string[];
  /** Its end; never rejects. */
  ended: Promise<{ exitCode: number | null; signal: string | null; lines: string[] }>;
}

function startTar(args: readonly string[], stdin: "ignore" | "pipe"): Tar {
  const child = spawn("tar", args, {
    stdio: [stdin, stdin === "pipe" ? "ignore" : "pipe", "pipe"],
    env: { PATH: SYSTEM_PATH, LC_ALL: "C" },
  });
  const lines: string[] = [];
  let last = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    const parts = (last + text).split("\n");
    last = (parts.pop() ?? "").slice(0, 1000);
    lines.push(...parts);
    lines.splice(0, Math.max(0, lines.length - 8));
  });
  child.stdin?.on("error", () => undefined);
  const ended = new Promise<{ exitCode: number | null; signal: string | null; lines: string[] }>((resolve) => {
    child.once("error", (error) => resolve({ exitCode: null, signal: null, lines: [error.message] }));
    child.once("close", (exitCode, signal) => resolve({ exitCode, signal, lines: [...lines, last].filter((l) => l) }));
  });
  return { child, args, ended };
}

async function endedWell(tar: Tar, doing: string): Promise<void> {
  const { exitCode, signal, lines } = await tar.ended;
  if (exitCode === 0) return;
  const full = lines.some((line) => line.includes("No space left on device"));
  throw ferryError(full ? "E_NO_SPACE" : "E_VOLUME", `${doing}: tar failed`, {
    evidence: {
      command: ["tar", ...tar.args],
      ...(exitCode === null ? {} : { exitCode }),
      ...(signal === null ? {} : { signal }),
      lines,
    },
  });
}

/**
 * Puts all of the directory into the checkpoint. Nobody may change it meanwhile.
 * @throws FerryError E_VOLUME: tar could not read all of it, or something changed
 */
export async function saveVolume(dir: string, writer: CheckpointWriter): Promise<void> {
  const meta = new Gathered(writer.stream(VOLUME_META, { kind: "file" }));
  const data = new Gathered(writer.stream(VOLUME_DATA, { kind: "file" }));
  const tar = startTar([...CREATE, `--directory=${dir}`, "."], "ignore");
  const stdout = tar.child.stdout;
  if (stdout === null) throw ferryError("E_INTERNAL", "tar has no output");
  const queue = new ByteQueue(stdout as AsyncIterable<Buffer>);
  try {
    await walkTar(inputOf(queue, queue), {
      meta: (piece) => meta.add(piece),
      content: (piece) => data.add(piece),
      contentEnd: (bytes) => data.add(ZEROS.subarray(0, padding(bytes))),
    });
    await meta.end();
    await data.end();
  } catch (error) {
    // An archive that is cut comes of tar's end: it said why.
    if (stdout.readableEnded) await endedWell(tar, `reading ${dir}`);
    tar.child.kill("SIGKILL");
    await tar.ended;
    throw error;
  }
  await endedWell(tar, `reading ${dir}`);
}

/**
 * Makes the directory what it was when the checkpoint was taken; what is there is gone then. Done beside it and renamed, so
 * it is the old one or the new one.
 * @throws FerryError E_STORE_CORRUPT, E_STORE, E_VOLUME, E_NO_SPACE; the directory is as it was
 */
export async function restoreVolume(reader: CheckpointReader, dir: string): Promise<void> {
  const aside = `${dir}.restored`;
  await rm(aside, { recursive: true, force: true });
  const fresh = join(aside, "new");
  // Nobody else gets at files before they have their owners.
  await mkdir(aside, { recursive: true, mode: 0o700 });
  await mkdir(fresh, { mode: 0o700 });
  try {
    await extract(reader, fresh);
    await run("sync", ["--file-system", fresh], { timeoutMs: SYNC_MS, code: "E_VOLUME" });
    await rename(dir, join(aside, "old")).catch((error: unknown) => {
      if ((error as { code?: unknown }).code !== "ENOENT") throw error;
    });
    await rename(fresh, dir);
  } finally {
    await rm(aside, { recursive: true, force: true });
  }
}

async function extract(reader: CheckpointReader, dir: string): Promise<void> {
  const [meta, data] = [bytesOf(reader, VOLUME_META), bytesOf(reader, VOLUME_DATA)];
  const tar = startTar([...EXTRACT, `--directory=${dir}`], "pipe");
  const { stdin } = tar.child;
  if (stdin === null) throw ferryError("E_INTERNAL", "tar has no input");
  const write = async (piece: Buffer): Promise<void> => {
    if (stdin.destroyed) throw ferryError("E_VOLUME", "tar has ended before the archive did");
    if (!stdin.write(piece)) await Promise.race([once(stdin, "drain"), once(stdin, "close")]).catch(() => undefined);
  };
  const output: TarOutput = {
    meta: write,
    content: write,
    contentEnd: async (bytes) => {
      const filler = await data.take(padding(bytes));
      if (filler.some((byte) => byte !== 0)) throw ferryError("E_STORE_CORRUPT", "the files' content is not in order");
    },
  };
  try {
    await walkTar(inputOf(meta, data), output);
    // To the end: only then the digest of each has been looked at.
    for await (const piece of data.rest()) {
      throw ferryError("E_STORE_CORRUPT", `${piece.length} bytes of content belong to no file`);
    }
    stdin.end();
  } catch (error) {
    const { code } = toFailure(error);
    stdin.destroy();
    if (code !== "E_VOLUME") tar.child.kill("SIGKILL");
    else await endedWell(tar, "writing the files");
    await tar.ended;
    throw error;
  } finally {
    await meta.close();
    await data.close();
  }
  await endedWell(tar, "writing the files");
}

function inputOf(meta: ByteQueue, content: ByteQueue): TarInput {
  return {
    meta: async (bytes) => {
      const data = await meta.take(bytes);
      if (data.length === bytes) return data;
      throw ferryError("E_STORE_CORRUPT", "the archive of the files is cut");
    },
    content: (bytes) => content.pieces(bytes),
    rest: () => meta.rest(),
  };
}

const padding = (bytes: number): number => (BLOCK - (bytes % BLOCK)) % BLOCK;

/** A stream of the store from start to end, with its zeros. */
export function bytesOf(reader: CheckpointReader, name: string): ByteQueue {
  const { bytes } = reader.stream(name);
  async function* all(): AsyncGenerator<Buffer> {
    let at = 0;
    function* zerosUntil(end: number): Generator<Buffer> {
      while (at < end) {
        const piece = ZEROS.subarray(0, Math.min(ZEROS.length, end - at));
        at += piece.length;
        yield piece;
      }
    }
    for await (const { offset, data } of reader.chunks(name)) {
      yield* zerosUntil(offset);
      at = offset + data.length;
      yield data;
    }
    yield* zerosUntil(bytes);
  }
  return new ByteQueue(all());
}

/** What is written to a stream of the store one after the other, in whole blocks. */
class Gathered {
  readonly #stream: StreamWriter;
  readonly #buffer = Buffer.alloc(GATHERED);
  #filled = 0;
  #offset = 0;

  constructor(stream: StreamWriter) {
    this.#stream = stream;
  }

  async add(piece: Buffer): Promise<void> {
    for (let at = 0; at < piece.length;) {
      const bytes = piece.copy(this.#buffer, this.#filled, at);
      at += bytes;
      this.#filled += bytes;
      if (this.#filled === GATHERED) await this.#flush();
    }
  }

  async end(): Promise<void> {
    await this.#flush();
  }

  async #flush(): Promise<void> {
    if (this.#filled === 0) return;
    await this.#stream.write(this.#offset, this.#buffer.subarray(0, this.#filled));
    this.#offset += this.#filled;
    this.#filled = 0;
  }
}

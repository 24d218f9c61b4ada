/**
 * The store in a local directory: directories of mode 0700, files of mode 0600. An object is written aside, synced and
 * linked to its name, which fails when the name is taken; so it is whole or not there, also after a loss of power.
 */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { link, mkdir, open, readdir, rename, stat, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { FerryError, ferryError, toFailure } from "../model/failure.js";
import { checkKey, noStore, tooShort, type Backend, type ObjectInfo, type Range } from "./backend.js";

/** Where objects lie until they are whole. Not a valid key, so it is never listed. */
const ASIDE = ".aside";

const errno = (error: unknown): unknown => (error as { code?: unknown }).code;

async function syncDir(dir: string): Promise<void> {
  const handle = await open(dir, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** @param make the directory when it is not there; else E_STORE */
export async function localBackend(root: string, make = true): Promise<Backend> {
  const problem = (doing: string, error: unknown): Error => {
    const failure = toFailure(error, "E_STORE");
    return ferryError(failure.code, `${doing} in the store ${root} failed`, {
      cause: failure,
      remedy: failure.remedy ?? "look at the directory, its owner and its disk",
    });
  };
  const attempt = async <T>(doing: string, work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      throw error instanceof FerryError || errno(error) === undefined ? error : problem(doing, error);
    }
  };
  /** Directories are synced from the first one that is new, so that a name in them is as durable as its file. */
  const makeDir = async (dir: string): Promise<void> => {
    const first = await mkdir(dir, { recursive: true, mode: 0o700 });
    if (first === undefined) return;
    for (let at = dir; at !== dirname(first); at = dirname(at)) await syncDir(dirname(at));
  };
  if (make) await attempt("making directories", () => makeDir(join(root, ASIDE)));
  else if (!(await attempt("looking at it", () => isDirectory(root)))) throw noStore(root);

  const pathOf = (key: string): string => {
    checkKey(key);
    return join(root, key);
  };
  /** @returns the path of a synced file that nobody else knows */
  const writeAside = async (body: Buffer): Promise<string> => {
    const aside = join(root, ASIDE, randomBytes(12).toString("hex"));
    const handle = await open(aside, "wx", 0o600);
    try {
      await handle.writeFile(body);
      await handle.sync();
    } catch (error) {
      await unlink(aside).catch(() => undefined);
      throw error;
    } finally {
      await handle.close();
    }
    return aside;
  };

  const backend: Backend = {
    name: root,
    put: (key, body) =>
      attempt(`storing ${key}`, async () => {
        const path = pathOf(key);
        await makeDir(dirname(path));
        const aside = await writeAside(body);
        try {
          await link(aside, path);
        } catch (error) {
          if (errno(error) === "EEXIST") return "exists" as const;
          throw error;
        } finally {
          await unlink(aside);
        }
        await syncDir(dirname(path));
        return "stored" as const;
      }),
    replace: (key, body) =>
      attempt(`storing ${key}`, async () => {
        const path = pathOf(key);
        await makeDir(dirname(path));
        const aside = await writeAside(body);
        await rename(aside, path);
        await syncDir(dirname(path));
      }),
    get: (key, range) => attempt(`reading ${key}`, () => readPart(backend, key, pathOf(key), range)),
    stat: (key) =>
      attempt(`looking at ${key}`, async () => {
        try {
          const { size, mtimeMs } = await stat(pathOf(key));
          return { key, bytes: size, modifiedMs: mtimeMs };
        } catch (error) {
          if (errno(error) === "ENOENT") return undefined;
          throw error;
        }
      }),
    list: (prefix) => walk(root, prefix, attempt),
    delete: (key) =>
      attempt(`deleting ${key}`, async () => {
        const path = pathOf(key);
        try {
          await unlink(path);
          await syncDir(dirname(path));
        } catch (error) {
          if (errno(error) !== "ENOENT") throw error;
        }
      }),
    sweep: (olderThanMs) =>
      attempt("sweeping", async () => {
        for (const name of await readdir(join(root, ASIDE))) {
          const path = join(root, ASIDE, name);
          const info = await stat(path).catch(() => undefined);
          if (info !== undefined && Date.now() - info.mtimeMs > olderThanMs) await unlink(path).catch(() => undefined);
        }
      }),
    close: () => undefined,
  };
  return backend;
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (errno(error) === "ENOENT" || errno(error) === "ENOTDIR") return false;
    throw error;
  }
}

async function readPart(backend: Backend, key: string, path: string, range?: Range): Promise<Buffer | undefined> {
  let handle;
  try {
    handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if (errno(error) === "ENOENT") return undefined;
    throw error;
  }
  try {
    if (range === undefined) return await handle.readFile();
    const body = Buffer.allocUnsafeSlow(range.bytes);
    let got = 0;
    while (got < range.bytes) {
      const { bytesRead } = await handle.read(body, got, range.bytes - got, range.offset + got);
      if (bytesRead === 0) throw tooShort(backend, key, range, got);
      got += bytesRead;
    }
    return body;
  } finally {
    await handle.close();
  }
}

/** Depth first in order of names; only directories that the prefix leads to are read. */
async function* walk(
  root: string,
  prefix: string,
  attempt: <T>(doing: string, work: () => Promise<T>) => Promise<T>,
): AsyncGenerator<ObjectInfo> {
  const visit = async function* (folder: string): AsyncGenerator<ObjectInfo> {
    const entries = await attempt("listing", async () => {
      try {
        return await readdir(join(root, folder), { withFileTypes: true });
      } catch (error) {
        if (errno(error) === "ENOENT") return [];
        throw error;
      }
    });
    for (const entry of entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
      if (entry.name.startsWith(".")) continue;
      const key = folder === "" ? entry.name : `${folder}/${entry.name}`;
      if (entry.isDirectory()) {
        if (`${key}/`.startsWith(prefix) || prefix.startsWith(`${key}/`)) yield* visit(key);
      } else if (key.startsWith(prefix)) {
        const info = await stat(join(root, key)).catch(() => undefined);
        if (info !== undefined) yield { key, bytes: info.size, modifiedMs: info.mtimeMs };
      }
    }
  };
  yield* visit("");
}

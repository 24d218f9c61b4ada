/**
 * Where set-up keeps what is costly to make, outside the tree: the node root file system and the Temporal server.
 * `$FERRY_CACHE`, else `$XDG_CACHE_HOME/ferry`, else /var/cache/ferry for root and ~/.cache/ferry for others
 * (the same order as in setup.mjs, which runs before anything is compiled).
 */
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";

export function cacheDir(env: NodeJS.ProcessEnv = process.env): string {
  if (env["FERRY_CACHE"]) return env["FERRY_CACHE"];
  if (env["XDG_CACHE_HOME"]) return join(env["XDG_CACHE_HOME"], "ferry");
  return process.getuid?.() === 0 ? "/var/cache/ferry" : join(homedir(), ".cache", "ferry");
}

export async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Full path of a program, looked up in PATH and then where root's programs are. */
export async function whichProgram(name: string): Promise<string | undefined> {
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  for (const folder of [...folders, "/usr/local/sbin", "/usr/sbin", "/sbin"]) {
    const path = join(folder, name);
    if (await isExecutable(path)) return path;
  }
  return undefined;
}

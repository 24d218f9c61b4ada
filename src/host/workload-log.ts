/**
 * A workload's log on the node. Its directory is the workload's too, whose root may have put a link, a pipe or a device in
 * the log's place: only a regular file is one, and no link is followed, which would lead into the node.
 */
import { closeSync, constants, fchownSync, lstatSync, openSync, rmSync } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";

const { O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants;

/** For reading; undefined when there is none. The caller closes it. */
export async function openWorkloadLog(path: string): Promise<FileHandle | undefined> {
  const file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch(() => undefined);
  if (file === undefined) return undefined;
  if ((await file.stat()).isFile()) return file;
  await file.close();
  return undefined;
}

/** The log as text from byte `from` on; "" when there is none. */
export async function readWorkloadLog(path: string, from: number): Promise<string> {
  const file = await openWorkloadLog(path);
  if (file === undefined) return "";
  try {
    return (await file.readFile()).subarray(from).toString("utf8");
  } finally {
    await file.close();
  }
}

/** Bytes of the log; 0 when there is none. */
export function workloadLogSize(path: string): number {
  const stats = lstatSync(path, { throwIfNoEntry: false });
  return stats?.isFile() === true ? stats.size : 0;
}

/** Made if need be, and the user's, who may open it again by name. Nothing of the workload runs. */
export function makeWorkloadLog(path: string, { uid, gid }: { uid: number; gid: number }): void {
  if (lstatSync(path, { throwIfNoEntry: false })?.isFile() === false) rmSync(path, { recursive: true });
  const fd = openSync(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o640);
  try {
    fchownSync(fd, uid, gid);
  } finally {
    closeSync(fd);
  }
}

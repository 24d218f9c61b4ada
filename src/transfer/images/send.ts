/** The source's end of the images: every file of the directory that is an image, hashed while it is sent. */
import { createHash } from "node:crypto";
import { closeSync, constants, lstatSync, openSync, readdirSync, readSync } from "node:fs";
import { join } from "node:path";
import { ferryError } from "../../model/failure.js";
import type { LinkSession } from "../link/index.js";
import { imageProblem } from "./criu.js";
import { isImageName, MAX_IMAGE_FILES } from "./names.js";

const PIECE_BYTES = 1024 * 1024;

export interface ManifestEntry {
  name: string;
  size: number;
  sha256: string;
}

/** Digest of a set of images: sha256 hex over name, size and digest of each, in order of names. */
export function manifestDigest(files: readonly ManifestEntry[]): string {
  const hash = createHash("sha256");
  for (const { name, size, sha256 } of files.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
    hash.update(`${name}\0${size}\0${sha256}\n`);
  }
  return hash.digest("hex");
}

/**
 * Sends all images of `dir` over the control session. Returns the manifest's digest and the bytes sent. Throws
 * E_IMAGE_INCOMPLETE when a file changes meanwhile, E_LINK_LOST.
 *
 * They lie on tmpfs and most are some hundred bytes: read on this thread, since each way through another one costs more than
 * the copy, and the blackout waits for all of them.
 */
export async function sendImages(dir: string, session: LinkSession): Promise<{ digest: string; bytes: number }> {
  const names = readdirSync(dir).filter(isImageName).toSorted();
  if (names.length > MAX_IMAGE_FILES) throw ferryError("E_IMAGE_INCOMPLETE", `${names.length} images are too many`);
  const sizes = names.map((name) => {
    const stats = lstatSync(join(dir, name));
    if (!stats.isFile()) throw imageProblem(name, "is not a plain file");
    return stats.size;
  });
  const total = sizes.reduce((sum, size) => sum + size, 0);
  await session.send("images-begin", { files: names.length, bytes: total });
  const files: ManifestEntry[] = [];
  const flow = new Flow();
  for (const [index, name] of names.entries()) files.push(await sendFile(session, dir, name, sizes[index] ?? 0, flow));
  await session.send("manifest", { files });
  return { digest: manifestDigest(files), bytes: total };
}

/** Waits for the link once a MiB; what went wrong with a send that nobody waited for is told by the next. */
class Flow {
  #bytes = 0;
  async add(sent: Promise<void>, bytes: number): Promise<void> {
    this.#bytes += bytes;
    if (this.#bytes < PIECE_BYTES) {
      sent.catch(() => undefined);
      return;
    }
    this.#bytes = 0;
    await sent;
  }
}

async function sendFile(
  session: LinkSession,
  dir: string,
  name: string,
  size: number,
  flow: Flow,
): Promise<ManifestEntry> {
  const fd = openSync(join(dir, name), constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const hash = createHash("sha256");
    let offset = 0;
    do {
      const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, size - offset));
      const bytesRead = readSync(fd, piece, 0, piece.length, offset);
      if (bytesRead === 0 && offset < size) {
        throw ferryError("E_IMAGE_INCOMPLETE", `criu image ${name} became shorter while it was read`, {
          side: "source",
        });
      }
      const read = piece.subarray(0, bytesRead);
      hash.update(read);
      const sent = session.send("file", { name, size, offset }, read);
      offset += bytesRead;
      await flow.add(sent, bytesRead + name.length);
    } while (offset < size);
    return { name, size, sha256: hash.digest("hex") };
  } finally {
    closeSync(fd);
  }
}

/**
 * The destination's end of the images. Nothing that arrives is believed: names of one pattern, new files only, no links
 * followed, counts and sizes bounded, each file and the whole set checked by digest before anybody reads them.
 */
import { createHash, type Hash } from "node:crypto";
import {
  closeSync,
  constants,
  fchmodSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  statfsSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { ferryError, type FerryError, type Side } from "../../model/failure.js";
import { isImageName, MAX_IMAGE_BYTES, MAX_IMAGE_FILES } from "./names.js";
import { manifestDigest, type ManifestEntry } from "./send.js";

const wrong = (message: string): FerryError => ferryError("E_FRAME", `images: ${message}`, { side: "destination" });

/** Throws E_NO_SPACE when the file system of `dir` has less than `bytes` left. */
export function needSpace(dir: string, bytes: number, what: string, say: { remedy?: string; side?: Side } = {}): void {
  const { bavail, bsize } = statfsSync(dir);
  const free = bavail * bsize;
  if (free >= bytes) return;
  const mib = (value: number): string => `${Math.ceil(value / 2 ** 20)} MiB`;
  throw ferryError("E_NO_SPACE", `${what} need ${mib(bytes)}, ${dir} has ${mib(free)} left`, {
    side: "destination",
    phase: "transfer",
    remedy: "free memory on the destination (this is a tmpfs), or migrate to another node",
    ...say,
  });
}

export class ImageReceiver {
  readonly #dir: string;
  #expected: { files: number; bytes: number } | undefined;
  readonly #files = new Map<string, ManifestEntry>();
  #open: { name: string; size: number; offset: number; fd: number; hash: Hash } | undefined;
  bytes = 0;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** A set of images begins; what an earlier, broken attempt left is removed. */
  begin(expected: { files: number; bytes: number }): void {
    if (expected.files > MAX_IMAGE_FILES || expected.bytes > MAX_IMAGE_BYTES) throw wrong("too many or too large");
    this.abandon();
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    if (!lstatSync(this.#dir).isDirectory()) {
      throw ferryError("E_STATE", `${this.#dir} is a symbolic link: images are not put where it leads`, {
        side: "destination",
        phase: "transfer",
        remedy: "somebody else made it: see who may write into the run directory, remove it, and migrate again",
      });
    }
    for (const name of readdirSync(this.#dir)) {
      if (isImageName(name)) rmSync(join(this.#dir, name), { recursive: true });
    }
    needSpace(this.#dir, expected.bytes, "the workload's images");
    this.#expected = expected;
  }

  /** One piece of a file; pieces come in order, an empty file as one empty piece. */
  piece({ name, size, offset }: { name: string; size: number; offset: number }, data: Buffer): void {
    const expected = this.#expected;
    if (expected === undefined) throw wrong(`${name} came before the set began`);
    if (!isImageName(name)) throw wrong("a name that no image has");
    let file = this.#open;
    if (file === undefined) {
      if (offset !== 0 || this.#files.has(name)) throw wrong(`${name} does not start at its beginning, or came twice`);
      if (this.#files.size >= expected.files) throw wrong(`more than the ${expected.files} files that were announced`);
      const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
      const fd = openSync(join(this.#dir, name), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
      fchmodSync(fd, 0o600);
      file = { name, size, offset: 0, fd, hash: createHash("sha256") };
      this.#open = file;
    }
    if (file.name !== name || file.size !== size || file.offset !== offset || offset + data.length > size) {
      throw wrong(`a piece of ${name} at ${offset} that does not follow`);
    }
    if (data.length === 0 && size > 0) throw wrong(`an empty piece of ${name}`);
    if (this.bytes + data.length > expected.bytes)
      throw wrong(`more than the ${expected.bytes} bytes that were announced`);
    for (let done = 0; done < data.length;) done += writeSync(file.fd, data, done);
    file.hash.update(data);
    file.offset += data.length;
    this.bytes += data.length;
    if (file.offset === size) {
      closeSync(file.fd);
      this.#open = undefined;
      this.#files.set(name, { name, size, sha256: file.hash.digest("hex") });
    }
  }

  /** Compares what came with the source's manifest. Returns its digest. Throws E_IMAGE_DIGEST naming the first file that differs. */
  finish(manifest: readonly ManifestEntry[]): string {
    if (this.#expected === undefined || this.#open !== undefined) throw wrong("the manifest came within a file");
    const differs = (name: string, how: string): FerryError =>
      ferryError("E_IMAGE_DIGEST", `criu image ${name} ${how}`, {
        side: "destination",
        phase: "transfer",
        remedy: "nothing was restored from it; migrate again",
      });
    for (const { name, size, sha256 } of manifest) {
      const file = this.#files.get(name);
      if (file === undefined) throw differs(name, "is in the manifest but did not arrive");
      if (file.size !== size || file.sha256 !== sha256) throw differs(name, "is not what the source sent");
    }
    const names = new Set(manifest.map(({ name }) => name));
    for (const name of this.#files.keys()) if (!names.has(name)) throw differs(name, "is not in the manifest");
    if (names.size !== manifest.length) throw wrong("a name is in the manifest twice");
    return manifestDigest(manifest);
  }

  /** Closes what is open; files stay for `begin` to remove. */
  abandon(): void {
    if (this.#open !== undefined) closeSync(this.#open.fd);
    this.#open = undefined;
    this.#expected = undefined;
    this.#files.clear();
    this.bytes = 0;
  }
}

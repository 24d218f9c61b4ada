/**
 * What workloads must not see of the node's root, which they all have below their own: the node's keys, and what else would
 * let somebody become root on it. Root inside a workload reads any file there is.
 *
 * A layer of the overlay of its own, above the node's, with a whiteout for each: nothing is mounted for it, so criu has
 * nothing to save, and each node hides its own, whatever a peer's images say.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";

/** Ferry's keys and policy, and other ways in. */
const HIDDEN = [
  "/etc/ferry",
  "/etc/gshadow",
  "/etc/gshadow-",
  "/etc/shadow",
  "/etc/shadow-",
  "/etc/ssh",
  "/root/.ssh",
  "/var/lib/systemd/random-seed",
];

/**
 * The layer, made if it is not there: a mounted one must not change, so each list has its own.
 * @param more absolute paths besides the usual ones; what lies in a directory that is not there needs no hiding
 */
export function hiddenLayer(runDir: string, more: readonly string[]): string {
  const paths = [...new Set([...HIDDEN, ...more])]
    .flatMap((path) => (existsSync(dirname(path)) ? join(realpathSync(dirname(path)), basename(path)) : []))
    .sort();
  // What lies in something hidden is hidden with it.
  const tops = paths.filter((path) => !paths.some((other) => path.startsWith(`${other}/`)));
  const digest = createHash("sha256").update(tops.join("\n")).digest("hex").slice(0, 16);
  const layer = join(runDir, `hidden-${digest}`);
  if (existsSync(layer)) return layer;
  mkdirSync(runDir, { recursive: true, mode: 0o750 });
  const fresh = mkdtempSync(join(runDir, "hidden.new-"));
  for (const path of tops) {
    likeTheNode(fresh, dirname(path));
    execFileSync("mknod", [join(fresh, path), "c", "0", "0"], { stdio: "pipe" });
  }
  likeTheNode(fresh, "/");
  try {
    renameSync(fresh, layer);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    if (!existsSync(layer)) throw error;
  }
  return layer;
}

/** Directories that both layers have look like the upper one's: so they get the node's owner and mode. */
function likeTheNode(layer: string, path: string): void {
  if (path !== "/") likeTheNode(layer, dirname(path));
  const { mode, uid, gid } = statSync(path);
  const dir = join(layer, path);
  mkdirSync(dir, { recursive: true });
  chownSync(dir, uid, gid);
  chmodSync(dir, mode & 0o7777);
}
